"""Grids of runs: a YAML file, checked as a whole before anything runs, and the runs that it asks for, in their order.

    tasks: {snippets: {n_train: 1000}, cb: {}}   # or names; fields of a run that differ by task
    backbones: [minilm]
    methods: [lp, ft, lp_ft]
    seeds: [101, 102, 103]
    learning_rates: {ft: [5e-5, 1e-4], lp_ft: [2.5e-5, 5e-5]}   # or one list for every method that has a rate
    tuning_seeds: [1]             # with them, `seeds` run at the rate of the best validation accuracy on these
    same_rate: {lp_ft: ft}        # beside its own rate, LP-FT also at FT's
    vary: {head_norm: [1, 5, 25]} # any field of a run; methods that do not use it run once
    settings: {epochs: 3, n_eval: 1000}   # any other field of a run

Only tasks, methods and seeds are needed. A list of such blocks is run in its order; a run that several ask for is one.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lpft_utils.common.errors import ModelError, ParameterError, RunError
from lpft_utils.common.names import nearest
from lpft_utils.common.validation import is_integer, is_number
from lpft_utils.models.backbone_files import resolve_backbone
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import COMMON_FIELDS, RunSpec

FIELDS = {f.name for f in dataclasses.fields(RunSpec)} - {"task", "backbone", "method", "seed", "learning_rate"}
Rates = Mapping[float, tuple[RunSpec, ...]]


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(map(fits, value))


def _mapping_to(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and len(value) > 0 and all(map(fits, value.values()))


def _either(*fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(fit(value) for fit in fits)


_NAMES = _list_of(lambda value: isinstance(value, str))
_RATES = _list_of(lambda value: is_number(value) and value > 0)
_FIELDS = lambda value: isinstance(value, dict)  # noqa: E731
# What is expected of every key, and how it is checked.
_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "tasks": ("a list of names, or fields of a run by name", _either(_NAMES, _mapping_to(_FIELDS))),
    "backbones": ("a list of names", _NAMES),
    "methods": ("a list of names", _NAMES),
    "seeds": ("a list of integers", _list_of(is_integer)),
    "learning_rates": ("a list of positive numbers, or one for each method", _either(_RATES, _mapping_to(_RATES))),
    "tuning_seeds": ("a list of integers", _list_of(is_integer)),
    "same_rate": ("a method for each method", _mapping_to(lambda value: isinstance(value, str))),
    "vary": ("a list of values for each field of a run", _mapping_to(_list_of(lambda value: True))),
    "settings": ("fields of a run", _FIELDS),
}
_NEEDED = ("tasks", "methods", "seeds")


@dataclass(frozen=True)
class Score:
    """What a sweep has to know of a run that is done.

    Attributes:
        key: Its name.
        accuracy: On the validation set: learning rates are chosen by it.
        diverged: Whether training diverged.
        seconds: What it took.
    """

    key: str
    accuracy: float
    diverged: bool
    seconds: float


@dataclass(frozen=True)
class Planned:
    """A run of a grid.

    Attributes:
        spec: The run; its learning rate is to be chosen if there are `rates`.
        rates: The tuning runs of each rate to choose from.
    """

    spec: RunSpec
    rates: Rates = dataclasses.field(default_factory=dict)

    @property
    def tuning(self) -> list[RunSpec]:
        """The runs that have to be there before this one."""
        return [spec for specs in self.rates.values() for spec in specs]

    def settled(self, score: Callable[[RunSpec], Score | None]) -> RunSpec | None:
        """The run at the rate of the best mean validation accuracy; of equal ones, the smallest.

        Args:
            score: Of a run; None if it is not done.

        Returns:
            The run, None if a tuning run is not done. A rate at which one diverged is not chosen.

        Raises:
            RunError: If every rate diverged.
        """
        if not self.rates:
            return self.spec
        means = {}
        for rate, specs in self.rates.items():
            scores = [found for spec in specs if (found := score(spec))]
            if len(scores) < len(specs):
                return None
            if not any(found.diverged for found in scores):
                means[rate] = statistics.fmean(found.accuracy for found in scores)
        if not means:
            raise RunError(
                f"training diverged at every rate ({', '.join(f'{r:g}' for r in self.rates)}); add smaller ones"
            )
        return self.spec.replace(learning_rate=max(means, key=lambda rate: (means[rate], -rate)))


def load_grid(path: Path) -> list[Planned]:
    """Read and check a grid.

    Args:
        path: The YAML file.

    Returns:
        Its runs, each once: blocks, tasks, backbones and seeds in the order of the file, tuning before evaluation, and
        LP, whose features the others share, before what starts from its head.

    Raises:
        ParameterError: If the file cannot be read, or anything in it is wrong; the message lists everything that is.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"{path}: expected a grid in YAML: {error}") from error
    blocks = found if isinstance(found, list) and found else [found]
    planned: dict[Any, Planned] = {}
    problems: dict[str, None] = {}  # each once, in order
    for number, block in enumerate(blocks, 1):
        where = f"block {number}: " if len(blocks) > 1 else ""
        if isinstance(block, dict):
            said = list(_problems(block))
            for one in _runs(_Block(block), said.append):
                planned.setdefault((one.spec.key(""), *(spec.key("") for spec in one.tuning)), one)
        else:
            said = [f"expected keys and values, got {block!r}"]
        problems |= dict.fromkeys(where + problem for problem in said)
    if problems:
        raise ParameterError(f"{path}: nothing was run, since\n- " + "\n- ".join(problems))
    return list(planned.values())


class _Block:
    """What is right of a block."""

    def __init__(self, block: dict[str, Any]) -> None:
        block = {key: value for key, value in block.items() if key in _KEYS and _KEYS[key][1](value)}
        tasks = block.get("tasks", ())
        self.tasks = tasks if isinstance(tasks, dict) else dict.fromkeys(tasks, {})
        self.backbones = block.get("backbones", ["minilm"])
        self.named = block.get("methods", ())
        self.methods = [name for name in METHODS if name in self.named]  # LP comes first
        self.tuned = [name for name in self.methods if METHODS[name].learning_rate is not None]
        rates = block.get("learning_rates", {})
        self.rates = rates if isinstance(rates, dict) else dict.fromkeys(self.tuned, rates)
        self.seeds, self.tuning_seeds = block.get("seeds", [0]), block.get("tuning_seeds", [])
        self.same_rate, self.vary = block.get("same_rate", {}), block.get("vary", {})
        self.settings = block.get("settings", {})
        self.fields = {*self.settings, *(name for fields in self.tasks.values() for name in fields)}


def _problems(block: dict[str, Any]) -> Iterator[str]:
    """Everything that is wrong with a block but what `RunSpec` says about its runs, in words."""
    for key, value in block.items():
        if key not in _KEYS:
            yield f"there is no key {key!r}; {nearest(str(key), _KEYS)}"
        elif not _KEYS[key][1](value):
            yield f"{key}: expected {_KEYS[key][0]}, got {value!r}"
    for key in _NEEDED:
        if key not in block:
            yield f"{key}: expected {_KEYS[key][0]}, got nothing"
    b = _Block(block)
    for method in {*b.named} - {*METHODS}:
        yield f"methods: there is no {method!r}; {nearest(method, METHODS)}"
    for key, names in (
        ("learning_rates", b.rates),
        ("same_rate", {**b.same_rate, **dict.fromkeys(b.same_rate.values())}),
    ):
        for name in {*names} - {*b.tuned}:
            yield f"{key}: {name!r} is no method of this block that has a rate; {nearest(str(name), b.tuned)}"
    for name in (b.fields | {*b.vary}) - FIELDS:
        yield f"a grid sets no field {name!r} of a run; {nearest(str(name), sorted(FIELDS))}"
    for name in b.fields & {*b.vary}:
        yield f"{name}: expected it among the settings or under vary, got both"
    for name in ({*b.vary} & FIELDS) - {*COMMON_FIELDS, *(field for m in b.methods for field in METHODS[m].fields)}:
        yield f"vary: no method of this block uses {name}"
    if both := {*b.seeds} & {*b.tuning_seeds}:
        yield f"tuning_seeds: expected others than the seeds of the evaluation, got {sorted(both)} among both"
    if bool(b.tuning_seeds) != bool(b.rates) and (b.tuning_seeds or b.same_rate):
        yield "tuning_seeds and same_rate need each other and learning_rates to choose from"
    for backbone in b.backbones:
        try:
            resolve_backbone(backbone)
        except ModelError as error:
            yield str(error)


def _runs(b: _Block, say: Callable[[str], None]) -> Iterator[Planned]:
    """The runs of a block; what is wrong with one of them is said."""

    def spec(method: str, seed: int, **changes: Any) -> RunSpec | None:
        fields = {
            k: v for k, v in {**b.settings, **b.tasks[task], **changes}.items() if k in (*FIELDS, "learning_rate")
        }
        try:
            return RunSpec(task=task, backbone=backbone, method=method, seed=seed, **fields)
        except RunError as error:
            say(str(error))

    for task, backbone in itertools.product(b.tasks, b.backbones):  # noqa: B007  `spec` uses them
        candidates: dict[str, Rates] = {}
        for method in b.tuned if b.tuning_seeds else ():
            tried = {r: [spec(method, s, learning_rate=r) for s in b.tuning_seeds] for r in b.rates.get(method, ())}
            candidates[method] = {rate: tuple(filter(None, specs)) for rate, specs in tried.items()}
            yield from (Planned(one) for specs in candidates[method].values() for one in specs)
        for seed, *values in itertools.product(b.seeds, *b.vary.values()):
            varied = dict(zip(b.vary, values, strict=True))
            for method in b.methods:
                used = {k: v for k, v in varied.items() if k in (*COMMON_FIELDS, *METHODS[method].fields)}
                chosen = [candidates.get(name) for name in (method, b.same_rate.get(method))]
                options = [(next(iter(rates)), rates) for rates in chosen if rates]
                for rate, rates in options or [(rate, {}) for rate in b.rates.get(method, [None])]:
                    if one := spec(method, seed, learning_rate=rate, **used):
                        yield Planned(one, rates)


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-4 is a number, and a key that is there twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node.

        Args:
            node: The node.
            deep: As `SafeLoader` has it.

        Returns:
            Values by key.

        Raises:
            YAMLError: If a key is there twice.
        """
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [str(name) for i, name in enumerate(names) if name in names[:i]]:
            raise yaml.YAMLError(f"{', '.join(twice)}: given twice{node.start_mark}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
