"""A sweep: the runs of a grid, each once, on an engine; what they will cost, and how far they are."""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lpft_utils.common.errors import LpftError, ParameterError, RunError
from lpft_utils.data.tasks import load_task
from lpft_utils.models.backbone_files import folder_fingerprint
from lpft_utils.runs.engines import Local, Ray
from lpft_utils.runs.grid import Planned, Score
from lpft_utils.runs.run import load_data
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import RunSpec

# Training MiniLM takes about this long for each token on one core, evaluation a third; other backbones go by L H².
SECONDS_PER_TOKEN, MINILM = 1.1e-3, 6 * 384**2
TOKENS_PER_WORD = 1.35
SECONDS_PER_RUN = 2  # to load a backbone and to fit a head
SUMMARY_BYTES = 20_000
_BAR = "{percentage:3.0f}%|{bar}| {postfix} [{elapsed}, about {remaining} left]"


@dataclass(frozen=True)
class Cost:
    """What a run is called and needs.

    Attributes:
        key: Its name.
        tokens: Tokens of its training; those that are evaluated count as a third.
        bytes: On disk.
    """

    key: str
    tokens: float
    bytes: float


@dataclass
class Report:
    """What a sweep did: how many runs, how many of them diverged, and which failed or could not begin, and why."""

    done: int = 0
    diverged: int = 0
    failed: list[tuple[RunSpec, str]] = field(default_factory=list)


class Costs:
    """The costs of runs, each computed once from its data, which are loaded but not tokenised."""

    def __init__(self, keep: str) -> None:
        """Compute nothing yet.

        Args:
            keep: How much of a run is stored, one of `store.KEPT`.
        """
        from lpft_utils.models.backbones import load_config, load_tokenizer

        def size(backbone: str) -> tuple[int, int, int]:
            config = load_config(backbone).get_text_config()
            return config.num_hidden_layers, config.hidden_size, config.vocab_size

        self._keep, self._load, self._tokenizer = keep, functools.lru_cache(2)(load_task), load_tokenizer
        self.of, self._data = functools.cache(self._cost), functools.cache(self._tokens)
        self._size, self._identity = functools.cache(size), functools.cache(folder_fingerprint)

    def check(self, planned: Iterable[Planned]) -> None:
        """Load all that the runs need but weights.

        Args:
            planned: The runs.

        Raises:
            ParameterError: If a backbone or task cannot be used; the message lists them.
        """
        specs = [one.spec for one in planned]
        backbones = dict.fromkeys(spec.backbone for spec in specs)
        checks: list[tuple[Callable[[Any], Any], Any]] = [(self._tokenizer, name) for name in backbones]
        problems: dict[str, None] = {}
        for load, what in [*checks, *((self.of, spec) for spec in specs)]:
            try:
                load(what)
            except LpftError as error:
                problems[str(error)] = None
        if problems:
            raise ParameterError("nothing was run, since\n- " + "\n- ".join(problems))

    def seconds(self, planned: Sequence[Planned], scores: Mapping[str, Score]) -> Callable[[RunSpec], float]:
        """Estimates of what runs take, after what runs of the same backbone took, or after its size.

        Args:
            planned: Runs.
            scores: Of runs that are done, by name.

        Returns:
            From a run to seconds of a core.
        """
        took: dict[str, list[float]] = {}
        for spec in {one.spec for one in planned}:
            if found := scores.get(self.of(spec).key):
                took.setdefault(spec.backbone, []).append((found.seconds - SECONDS_PER_RUN) / self.of(spec).tokens)
        rate = {backbone: max(0.0, statistics.median(found)) for backbone, found in took.items()}
        for backbone in {one.spec.backbone for one in planned} - {*rate}:
            layers, width, _ = self._size(backbone)
            rate[backbone] = SECONDS_PER_TOKEN * layers * width**2 / MINILM
        return lambda spec: SECONDS_PER_RUN + rate[spec.backbone] * self.of(spec).tokens

    def forecast(
        self, planned: Sequence[Planned], scores: Mapping[str, Score], store: Path, jobs: int | None = None
    ) -> str:
        """What a sweep would do, and what it would take.

        Args:
            planned: The runs.
            scores: Of runs that are done, by name.
            store: Where runs are stored.
            jobs: Runs at the same time, if that is known.

        Returns:
            Text of several lines.
        """
        keys = {one.spec: self.of(one.spec).key for one in planned}
        todo = [one.spec for one in planned if not (keys[one.spec] in scores or (store / keys[one.spec]).exists())]
        hours = [self.seconds(planned, scores)(spec) / 3600 for spec in todo]
        counts = Counter(f"{spec.method} on {spec.task}, {spec.backbone}" for spec in todo)
        wall = f", {max(sum(hours) / jobs, *hours):.2g} hours with {jobs} at a time" if jobs and hours else ""
        return "\n".join([
            f"{len(planned)} runs: {len(planned) - len(todo)} done, {len(todo)} to do",
            *(f"  {n:4} {what}" for what, n in counts.items()),
            f"about {sum(hours):.2g} core-hours{wall}, and {sum(self.of(spec).bytes for spec in todo) / 1e6:.2g} MB",
        ])  # fmt: skip

    def _cost(self, spec: RunSpec) -> Cost:
        data = {name: getattr(spec, name) for name in ("task", "ood", "n_train", "n_eval", "label_noise", "seed")}
        fingerprint, tokens, n, C = self._data(RunSpec(method="lp", max_length=spec.max_length, **data))
        trained = METHODS[spec.method].learning_rate is not None
        epochs = spec.epochs if trained else 0
        total = tokens["train"] * epochs + (sum(tokens.values()) * (1 + trained) + tokens["validation"] * epochs) / 3
        size = SUMMARY_BYTES + (self._keep != "summary") * n * (4 * C + 8)
        if self._keep == "all":
            L, H, vocabulary = self._size(spec.backbone)
            size += 8 * n * H + 4 * trained * (12 * L * H**2 + vocabulary * H)
        return Cost(spec.key(fingerprint + self._identity(spec.backbone)), total, size)

    def _tokens(self, data: RunSpec) -> tuple[str, dict[str, float], int, int]:
        """Fingerprint, about how many tokens are in each split, number of texts and of classes."""
        task = load_data(data, self._load)
        tokens = {
            name: sum(min(data.max_length, 2 + TOKENS_PER_WORD * len(" ".join(text).split())) for text in split.texts)
            for name, split in task.splits.items()
        }
        return task.fingerprint, tokens, sum(map(len, task.splits.values())), task.n_classes


def sweep(
    planned: Sequence[Planned], engine: Local | Ray, costs: Costs, known: Mapping[str, Score],
    collect: Callable[[Any], None], *, progress: bool = False,
) -> Report:  # fmt: skip
    """Do every run of a grid that is not done.

    A run that fails is tried once more after all others. Whatever fails, the rest goes on.

    Args:
        planned: The runs, tuning before what depends on it.
        engine: Where they are done; its work returns a `Score` and something for `collect`.
        costs: Of the runs, as checked.
        known: Scores of runs that are done, by name: these are not run again.
        collect: Called with what came with a score.
        progress: Whether to show how far it is and the time left.

    Returns:
        What was done.
    """
    scores, report, failures = dict(known), Report(), Counter()
    under_way: set[RunSpec] = set()
    seconds = costs.seconds(planned, known)

    def score(spec: RunSpec) -> Score | None:
        return scores.get(costs.of(spec).key)

    def following() -> RunSpec | None:
        """The first run that waits for nothing, at its rate; what is done, or cannot be done, is dropped."""
        for one in list(waiting):
            try:
                if any(failures[spec] > 1 for spec in one.tuning):
                    raise RunError("its learning rate cannot be chosen, since tuning runs failed")
                spec = one.settled(score)
            except RunError as error:
                report.failed.append((one.spec, str(error)))
                waiting.remove(one)
                continue
            if spec:
                waiting.remove(one)
                if not score(spec) and failures[spec] < 2 and spec not in under_way:
                    return spec

    waiting = [one for one in planned if one.rates or not score(one.spec)]
    with tqdm(
        total=sum(seconds(one.spec) for one in waiting), disable=not progress, smoothing=0, bar_format=_BAR
    ) as bar:
        while True:
            while len(under_way) < engine.jobs and (spec := following()):
                under_way.add(spec)
                engine.start(spec)
            bar.set_postfix_str(f"{report.done} runs done, {len(waiting) + len(under_way)} to go")
            if not under_way:
                return report
            spec, result, error = engine.wait()
            under_way.remove(spec)
            if result and result[0].key != costs.of(spec).key:
                error = (
                    f"expected the run {costs.of(spec).key}, got {result[0].key}: other data or weights where it ran"
                )
            if error:
                failures[spec] += 1
                if failures[spec] < 2:
                    waiting.append(Planned(spec))
                else:
                    report.failed.append((spec, error))
                continue
            scores[result[0].key] = result[0]
            report.done += 1
            report.diverged += result[0].diverged
            bar.update(seconds(spec))
            collect(result[1])
