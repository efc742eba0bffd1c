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
from lpft_utils.runs.engines import Engine
from lpft_utils.runs.grid import Planned, Score
from lpft_utils.runs.run import load_data
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import RunSpec

# Training MiniLM takes about this long for each token on one core, evaluation a third; other backbones go by L H².
SECONDS_PER_TOKEN, MINILM = 1.1e-3, 6 * 384**2
TOKENS_PER_WORD = 1.35
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

        self._keep, self._load = keep, functools.lru_cache(2)(load_task)
        self.of, self._data, self._config = map(functools.cache, (self._cost, self._tokens, load_config))
        self._tokenizer, self._identity = load_tokenizer, functools.cache(folder_fingerprint)

    def check(self, planned: Iterable[Planned]) -> None:
        """Load all that the runs need but weights.

        Args:
            planned: The runs.

        Raises:
            ParameterError: If a backbone or task cannot be used; the message lists them.
        """
        problems: dict[str, None] = {}
        planned = list(planned)
        checks = [(self._tokenizer, name) for name in dict.fromkeys(one.spec.backbone for one in planned)]
        for load, what in [*checks, *((self.of, one.spec) for one in planned)]:
            try:
                load(what)  # pyright: ignore[reportArgumentType]
            except LpftError as error:
                problems[str(error)] = None
        if problems:
            raise ParameterError("nothing was run, since\n- " + "\n- ".join(problems))

    def seconds(self, planned: Sequence[Planned], scores: Mapping[str, Score]) -> dict[RunSpec, float]:
        """Estimated seconds of a core by run: as long for each token as runs of the same backbone took.

        Args:
            planned: Runs.
            scores: Of runs that are done, by name.

        Returns:
            Seconds by `Planned.spec`, 0 for what is done.
        """
        rates: dict[str, list[float]] = {}
        for spec in (one.spec for one in planned):
            if found := scores.get(self.of(spec).key):
                rates.setdefault(spec.backbone, []).append(found.seconds / self.of(spec).tokens)
        for backbone in {one.spec.backbone for one in planned} - {*rates}:
            config = self._config(backbone).get_text_config()
            rates[backbone] = [SECONDS_PER_TOKEN * config.num_hidden_layers * config.hidden_size**2 / MINILM]
        rate = {backbone: statistics.median(found) for backbone, found in rates.items()}
        costs = {one.spec: self.of(one.spec) for one in planned}
        return {s: 0 if cost.key in scores else rate[s.backbone] * cost.tokens for s, cost in costs.items()}

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
        seconds = self.seconds(planned, scores)
        done = [one for one in planned if not seconds[one.spec] or (store / self.of(one.spec).key).exists()]
        todo = [one for one in planned if one not in done]
        counts = Counter(f"{one.spec.method} on {one.spec.task}, {one.spec.backbone}" for one in todo)
        hours = [seconds[one.spec] / 3600 for one in todo]
        megabytes = sum(self.of(one.spec).bytes for one in todo) / 1e6
        wall = f", {max(sum(hours) / jobs, *hours):.2g} hours with {jobs} at a time" if jobs and hours else ""
        return "\n".join(
            [f"{len(planned)} runs: {len(done)} done, {len(todo)} to do"]
            + [f"  {n:4} {what}" for what, n in counts.items()]
            + [f"about {sum(hours):.2g} core-hours{wall}, and {megabytes:.2g} MB"]
        )

    def _cost(self, spec: RunSpec) -> Cost:
        data = {name: getattr(spec, name) for name in ("task", "ood", "n_train", "n_eval", "label_noise", "seed")}
        fingerprint, tokens, n, C = self._data(RunSpec(method="lp", max_length=spec.max_length, **data))
        trained = METHODS[spec.method].learning_rate is not None
        epochs = spec.epochs if trained else 0
        total = tokens["train"] * epochs + (sum(tokens.values()) * (1 + trained) + tokens["validation"] * epochs) / 3
        size = SUMMARY_BYTES + (self._keep != "summary") * n * (4 * C + 8)
        if self._keep == "all":
            config = self._config(spec.backbone).get_text_config()
            H, L = config.hidden_size, config.num_hidden_layers
            size += 8 * n * H + 4 * trained * (12 * L * H**2 + config.vocab_size * H)
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
    planned: Sequence[Planned], engine: Engine, costs: Costs, known: Mapping[str, Score],
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
    waiting, under_way = list(planned), {}
    seconds = costs.seconds(planned, known)

    def score(spec: RunSpec) -> Score | None:
        return scores.get(costs.of(spec).key)

    def following() -> Planned | None:
        """The first run that waits for nothing, at its rate; what is done, or cannot be done, is dropped."""
        for one in list(waiting):
            try:
                if any(failures[spec] > 1 for spec in one.tuning):
                    raise RunError("its learning rate cannot be chosen, since tuning runs failed")
                spec = one.settled(score)
            except RunError as error:
                report.failed.append((one.spec, str(error)))
                spec = None
                waiting.remove(one)
            if spec:
                waiting.remove(one)
                if not score(spec) and failures[spec] < 2 and spec not in under_way:
                    return Planned(spec)

    with tqdm(total=sum(seconds.values()), disable=not progress, smoothing=0, bar_format=_BAR) as bar:
        while True:
            while len(under_way) < engine.jobs and (one := following()):
                under_way[one.spec] = one
                engine.start(one.spec)
            if not under_way:
                return report
            spec, result, error = engine.wait()
            one = under_way.pop(spec)
            if result and result[0].key != costs.of(spec).key:
                error = (
                    f"it was done as {result[0].key}, not as {costs.of(spec).key}: on other data or another backbone"
                )
            if error:
                failures[spec] += 1
                if failures[spec] < 2:
                    waiting.append(one)
                else:
                    report.failed.append((spec, error))
            else:
                scores[result[0].key] = result[0]
                report.done += 1
                report.diverged += result[0].diverged
                collect(result[1])
            bar.n = bar.total - sum(seconds.get(one.spec, 0) for one in (*waiting, *under_way.values()))
            bar.set_postfix_str(f"{report.done} runs done, {len(waiting) + len(under_way)} to go")
