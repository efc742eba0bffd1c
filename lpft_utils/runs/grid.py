"""Grids of runs: a YAML file, checked as a whole before anything runs, and the runs that it asks for, in their order.

    tasks: {snippets: {n_train: 1000}, cb: {}}   # with the fields of a run that differ by task
    backbones: [minilm]
    methods: [lp, ft, lp_ft]
    seeds: [101, 102, 103]
    learning_rates: {ft: [5e-5, 1e-4], lp_ft: [2.5e-5, 5e-5]}
    tuning_seeds: [1]                            # `seeds` run at the rate of the best validation accuracy on these
    same_rate: {lp_ft: ft}                       # LP-FT also at FT's rate
    vary: {head_norm: [1, 5, 25]}                # any field of a run; a method that does not use it runs once
    settings: {epochs: 3, n_eval: 1000}          # any other field of a run

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
from types import SimpleNamespace
from typing import Any

import yaml

from lpft_utils.common.errors import ModelError, ParameterError, RunError
from lpft_utils.common.names import nearest
from lpft_utils.common.validation import is_integer, is_number
from lpft_utils.models.backbone_files import resolve_backbone
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import COMMON_FIELDS, RunSpec

FIELDS = {f.name for f in dataclasses.fields(RunSpec)} - {"task", "backbone", "method", "seed", "learning_rate"}
Check = Callable[[Any], bool]
Rates = Mapping[float, tuple[RunSpec, ...]]


def _list_of(fits: Check) -> Check:
    return lambda value: isinstance(value, list) and value != [] and all(map(fits, value))


def _by_name(fits: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(isinstance(k, str) and fits(v) for k, v in value.items())


_NAMES, _INTEGERS = _list_of(lambda v: isinstance(v, str)), _list_of(is_integer)
_RATES, _FIELDS = _list_of(lambda v: is_number(v) and v > 0), _by_name(lambda v: True)
# By key: what is expected, how it is checked, and what it is where nothing, or nothing right, is given.
_KEYS: dict[str, tuple[str, Check, Any]] = {
    "tasks": ("fields of a run by task, such as {cb: {}, rte: {n_train: 1000}}", _by_name(_FIELDS), {}),
    "backbones": ("a list of names", _NAMES, ["minilm"]),
    "methods": ("a list of names", _NAMES, []),
    "seeds": ("a list of integers", _INTEGERS, [0]),
    "learning_rates": ("a list of positive numbers by method", _by_name(_RATES), {}),
    "tuning_seeds": ("a list of integers", _INTEGERS, []),
    "same_rate": ("a method by method", _by_name(lambda v: isinstance(v, str)), {}),
    "vary": ("a list of values by field of a run", _by_name(_list_of(lambda v: True)), {}),
    "settings": ("fields of a run", _FIELDS, {}),
}


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


def load_grid(path: Path, *, usable: bool = True) -> list[Planned]:
    """Read and check a grid.

    Args:
        path: The YAML file.
        usable: Whether its backbones must be there: who reads its results needs none.

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
            said = list(_problems(block, usable))
            for one in _runs(_right(block), said.append):
                planned.setdefault((one.spec.key(""), *(spec.key("") for spec in one.tuning)), one)
        else:
            said = [f"expected keys and values, got {block!r}"]
        problems |= dict.fromkeys(where + problem for problem in said)
    if problems:
        raise ParameterError(f"{path}: nothing was run, since\n- " + "\n- ".join(problems))
    return list(planned.values())


def _right(block: dict[str, Any]) -> Any:
    """What is right of a block, by key."""
    given = {key: block.get(key) for key in _KEYS}
    return SimpleNamespace(**{k: v if _KEYS[k][1](v) else _KEYS[k][2] for k, v in given.items()})


def _problems(block: dict[str, Any], usable: bool) -> Iterator[str]:
    """Everything that is wrong with a block but what `RunSpec` says about its runs, in words."""
    b = _right(block)
    for key in [*block, *(key for key in ("tasks", "methods", "seeds") if not block.get(key))]:
        if key not in _KEYS:
            yield f"there is no key {key!r}; {nearest(str(key), _KEYS)}"
        elif not block.get(key) or not _KEYS[key][1](block[key]):
            yield f"{key}: expected {_KEYS[key][0]}, got {block.get(key, 'nothing')!r}"
    tuned = [name for name in b.methods if name in METHODS and METHODS[name].learning_rate is not None]
    fields = {*b.settings, *(name for of_task in b.tasks.values() for name in of_task)}
    used = {*COMMON_FIELDS, *(field for name in b.methods if name in METHODS for field in METHODS[name].fields)}
    for key, names, known in (
        ("methods", b.methods, METHODS), ("learning_rates", b.learning_rates, tuned),
        ("same_rate", [*b.same_rate, *b.same_rate.values()], tuned), ("settings, tasks", fields, FIELDS),
        ("vary", b.vary, used & FIELDS),
    ):  # fmt: skip
        for name in names:
            if name not in known:
                yield f"{key}: {name!r} cannot be here; {nearest(str(name), sorted(known))}"
    for name in fields & {*b.vary}:
        yield f"vary: {name} is among the settings as well; expected it in one place"
    if both := {*b.seeds} & {*b.tuning_seeds}:
        yield f"tuning_seeds: expected others than the seeds of the evaluation, got {sorted(both)} in both"
    if (b.tuning_seeds or b.same_rate) and not (b.tuning_seeds and b.learning_rates):
        yield "tuning_seeds, learning_rates: expected both where a rate is to be chosen (or taken from another method)"
    for backbone in b.backbones if usable else ():
        try:
            resolve_backbone(backbone)
        except ModelError as error:
            yield str(error)


def _runs(b: Any, say: Callable[[str], None]) -> Iterator[Planned]:
    """The runs of a block; what is wrong with one of them is said."""

    def spec(method: str, seed: int, **changes: Any) -> RunSpec | None:
        given = {**b.settings, **b.tasks[task], **changes}
        fields = {k: v for k, v in given.items() if k in (*FIELDS, "learning_rate")}
        try:
            return RunSpec(task=task, backbone=backbone, method=method, seed=seed, **fields)
        except RunError as error:
            say(str(error))

    methods = [name for name in METHODS if name in b.methods]  # LP comes first
    for task, backbone in itertools.product(b.tasks, b.backbones):  # noqa: B007  `spec` uses them
        candidates: dict[str, Rates] = {}
        for method in methods if b.tuning_seeds else ():
            rates = b.learning_rates.get(method, ())
            tried = {rate: [spec(method, seed, learning_rate=rate) for seed in b.tuning_seeds] for rate in rates}
            candidates[method] = {rate: tuple(filter(None, specs)) for rate, specs in tried.items()}
            yield from (Planned(one) for specs in candidates[method].values() for one in specs)
        for seed, *values in itertools.product(b.seeds, *b.vary.values()):
            varied = dict(zip(b.vary, values, strict=True))
            for method in methods:
                used = {k: v for k, v in varied.items() if k in FIELDS & {*COMMON_FIELDS, *METHODS[method].fields}}
                chosen = [candidates.get(name) for name in (method, b.same_rate.get(method))]
                options = [(next(iter(rates)), rates) for rates in chosen if rates]
                for rate, rates in options or [(rate, {}) for rate in b.learning_rates.get(method, [None])]:
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
