"""Sweeps: every run once and in order, retries, tuned rates, interruptions; and their engine of local processes."""

import contextlib
import functools
import os
import signal
import time
from collections import Counter, deque
from pathlib import Path

import pytest
import yaml

from lpft_utils.common.errors import ParameterError
from lpft_utils.runs import engines
from lpft_utils.runs.engines import Answer, Local
from lpft_utils.runs.grid import Planned, Score, load_grid
from lpft_utils.runs.run import run_key
from lpft_utils.runs.schedule import Costs, sweep
from lpft_utils.training.spec import RunSpec

BLOCK = {
    "tasks": {"synthetic": {}}, "backbones": ["tiny"], "methods": ["lp", "ft", "lp_ft"], "seeds": [11, 12],
    "settings": {"n_train": 24, "n_eval": 12, "epochs": 1, "batch_size": 8, "lp": 1.0},
}  # fmt: skip
TUNED = {**BLOCK, "tuning_seeds": [1], "learning_rates": {"ft": [1e-4, 1e-3], "lp_ft": [1e-5, 1e-4]}}


pytestmark = pytest.mark.usefixtures("quick_generator")


@pytest.fixture(scope="module")
def costs() -> Costs:
    return Costs("predictions")


def grid(folder: Path, block) -> list[Planned]:
    (folder / "grid.yml").write_text(yaml.safe_dump(block), encoding="utf-8")
    return load_grid(folder / "grid.yml")


class InTurn:
    """An engine that does one run after another, or several in the order in which they were started."""

    def __init__(self, work, jobs: int = 1) -> None:
        self.work, self.jobs, self.started, self.under_way = work, jobs, [], deque()

    def start(self, spec: RunSpec) -> None:
        assert len(self.under_way) < self.jobs
        self.started.append(spec)
        self.under_way.append(spec)

    def wait(self) -> Answer:
        spec = self.under_way.popleft()
        try:
            return Answer(spec, self.work(spec))
        except Exception as error:
            return Answer(spec, error=repr(error))


def scored(costs: Costs, spec: RunSpec, accuracy: float = 0.5, diverged: bool = False) -> tuple[Score, str]:
    return Score(costs.of(spec).key, accuracy, diverged, 3.0), costs.of(spec).key


def finished(planned, engine, costs, known=None):
    """The report of a sweep and what it collected."""
    collected = []
    return sweep(planned, engine, costs, known or {}, collected.append), collected


# ---- which runs, in which order ----


def test_the_name_of_a_run_is_the_one_it_is_stored_under(costs, tmp_path):
    for one in grid(tmp_path, BLOCK):
        assert costs.of(one.spec).key == run_key(one.spec)


def test_every_run_is_done_once_in_the_order_of_the_grid(costs, tmp_path):
    planned = grid(tmp_path, BLOCK)
    engine = InTurn(functools.partial(scored, costs))
    report, collected = finished(planned, engine, costs)
    assert engine.started == [one.spec for one in planned]
    assert collected == [costs.of(spec).key for spec in engine.started]
    assert (report.done, report.diverged, report.failed) == (6, 0, [])


def test_what_is_known_is_not_run_again(costs, tmp_path):
    planned = grid(tmp_path, BLOCK)
    known = {costs.of(one.spec).key: scored(costs, one.spec)[0] for one in planned[::2]}
    engine = InTurn(functools.partial(scored, costs))
    report, _ = finished(planned, engine, costs, known)
    assert engine.started == [one.spec for one in planned[1::2]] and report.done == 3


@pytest.mark.parametrize("jobs", [1, 3, 50])
def test_evaluation_runs_have_the_chosen_rate_and_other_methods_rates_are_runs_of_their_own(jobs, costs, tmp_path):
    def work(spec):
        best = {"ft": 1e-4, "lp_ft": 1e-5}.get(spec.method)
        return scored(costs, spec, accuracy=0.9 if spec.learning_rate == best else 0.5)

    engine = InTurn(work, jobs)
    report, _ = finished(grid(tmp_path, {**TUNED, "same_rate": {"lp_ft": "ft"}}), engine, costs)
    evaluated = Counter((s.method, s.learning_rate) for s in engine.started if s.seed in (11, 12))
    assert evaluated == {("lp", None): 2, ("ft", 1e-4): 2, ("lp_ft", 1e-5): 2, ("lp_ft", 1e-4): 2}
    assert report.done == len(engine.started) == len(set(engine.started)) == 4 + 8 and not report.failed


def test_methods_tuned_to_the_same_rate_share_their_runs(costs, tmp_path):
    def work(spec):
        return scored(costs, spec, accuracy=0.9 if spec.learning_rate == 1e-4 else 0.5)

    engine = InTurn(work, 2)
    report, _ = finished(grid(tmp_path, {**TUNED, "same_rate": {"lp_ft": "ft"}}), engine, costs)
    assert report.done == len(set(engine.started)) == 4 + 6


# ---- failures ----


def test_a_run_that_fails_once_is_done_after_the_others(costs, tmp_path):
    planned, tries = grid(tmp_path, BLOCK), Counter()

    def work(spec):
        tries[spec] += 1
        if spec == planned[1].spec and tries[spec] == 1:
            raise OSError("a cosmic ray")
        return scored(costs, spec)

    engine = InTurn(work)
    report, collected = finished(planned, engine, costs)
    assert (report.done, report.failed) == (6, []) and len(set(collected)) == 6
    assert engine.started[-1] == planned[1].spec


def test_a_run_that_fails_twice_is_reported_and_the_rest_is_done(costs, tmp_path):
    planned = grid(tmp_path, BLOCK)

    def work(spec):
        if spec == planned[1].spec:
            raise OSError("No space left on device")
        return scored(costs, spec)

    report, collected = finished(planned, InTurn(work), costs)
    assert report.done == len(collected) == 5
    ((spec, reason),) = report.failed
    assert spec == planned[1].spec and "No space left on device" in reason


def test_no_rate_is_chosen_where_a_tuning_run_failed(costs, tmp_path):
    def work(spec):
        if (spec.method, spec.learning_rate) == ("ft", 1e-3):
            raise ValueError("broken")
        return scored(costs, spec)

    engine = InTurn(work)
    report, _ = finished(grid(tmp_path, TUNED), engine, costs)
    assert not [s for s in engine.started if s.method == "ft" and s.seed in (11, 12)]
    assert [s.method for s in engine.started if s.seed == 11] == ["lp", "lp_ft"]
    assert len(report.failed) == 3 and sum("cannot be chosen" in reason for _, reason in report.failed) == 2


def test_diverged_runs_are_counted_and_their_rates_not_chosen(costs, tmp_path):
    def work(spec):
        return scored(
            costs, spec, accuracy=0.9 if spec.learning_rate == 1e-3 else 0.5, diverged=spec.learning_rate == 1e-3
        )

    engine = InTurn(work)
    report, _ = finished(grid(tmp_path, TUNED), engine, costs)
    assert {s.learning_rate for s in engine.started if s.method == "ft" and s.seed == 11} == {1e-4}
    assert report.diverged == 1 and not report.failed


def test_a_run_on_other_data_is_no_result(costs, tmp_path):
    report, collected = finished(grid(tmp_path, BLOCK)[:1], InTurn(lambda s: (Score("other", 1, False, 1), "")), costs)
    assert collected == [] and "got other: other data or weights" in report.failed[0][1]


@pytest.mark.parametrize("after", range(0, 12, 3))
def test_an_interrupted_sweep_goes_on_where_it_was(after, costs, tmp_path):
    planned, known, collected = grid(tmp_path, TUNED), {}, []

    def work(spec):
        if len(known) == after:
            raise KeyboardInterrupt
        return scored(costs, spec)

    def collect(key):
        collected.append(key)
        known[key] = Score(key, 0.5, False, 3.0)

    with pytest.raises(KeyboardInterrupt):
        sweep(planned, InTurn(work), costs, {}, collect)
    assert len(known) == after
    report, rest = finished(planned, InTurn(functools.partial(scored, costs)), costs, known)
    whole = finished(planned, InTurn(functools.partial(scored, costs)), costs)[1]
    assert sorted(collected + rest) == sorted(whole) and report.done == len(whole) - after


# ---- checks and estimates ----


def test_all_tasks_and_backbones_that_cannot_be_used_are_named_before_anything_runs(costs, tmp_path):
    (tmp_path / "empty").mkdir()
    block = {
        **BLOCK,
        "tasks": {"synthetic": {}, "synthetc": {}, "zynthetic": {}},
        "backbones": [str(tmp_path / "empty")],
    }
    with pytest.raises(ParameterError) as caught:
        costs.check(grid(tmp_path, block))
    said = str(caught.value)
    assert "'synthetc'" in said and "'zynthetic'" in said and "Cannot load the tokenizer" in said
    assert said.count("\n- ") == 3


def test_forecast_counts_what_is_stored_and_what_is_known(costs, tmp_path):
    planned = grid(tmp_path, BLOCK)
    known = {costs.of(planned[0].spec).key: scored(costs, planned[0].spec)[0]}
    (tmp_path / costs.of(planned[1].spec).key).mkdir()
    text = costs.forecast(planned, known, tmp_path, 2)
    assert "6 runs: 2 done, 4 to do" in text and "2 lp_ft on synthetic, tiny" in text and "with 2 at a time" in text
    everything = {costs.of(one.spec).key: scored(costs, one.spec)[0] for one in planned}
    assert "6 runs: 6 done, 0 to do" in costs.forecast(planned, everything, tmp_path, 2)


def test_estimate_is_in_proportion_to_tokens_and_follows_runs_that_are_done(costs):
    short, long = (RunSpec(task="synthetic", backbone="minilm", method="ft", n_train=n, n_eval=1) for n in (50, 200))
    both = [Planned(short), Planned(long)]
    seconds = costs.seconds(both, {})
    assert (seconds(long) - 2) / (seconds(short) - 2) == pytest.approx(4, rel=0.1)
    # 50 texts × 10 epochs; a text of the generator has 5 to 60 words: between 0.3 and 60 s at 1.1 ms a token
    assert 500 * 5 * 1.1e-3 < seconds(short) - 2 < 500 * 100 * 1.1e-3
    took = {costs.of(short).key: Score(costs.of(short).key, 0.5, False, 102.0)}
    assert costs.seconds(both, took)(short) == pytest.approx(102)
    assert costs.seconds(both, took)(long) == pytest.approx(2 + 100 * costs.of(long).tokens / costs.of(short).tokens)


def test_a_backbone_of_base_size_takes_eight_times_as_long(costs, monkeypatch):
    spec = RunSpec(task="synthetic", backbone="minilm", method="ft", n_train=50, n_eval=1)
    small = costs.seconds([Planned(spec)], {})(spec)
    monkeypatch.setattr(costs, "_size", lambda backbone: (12, 768, 50265))
    assert (costs.seconds([Planned(spec)], {})(spec) - 2) / (small - 2) == pytest.approx(8)


# ---- processes ----


def trivial(spec: RunSpec, marks: Path) -> tuple[Score, int]:
    """A run that marks when it is done, and does what its batch size says."""
    count = len(list(marks.glob(f"{spec.seed}-*")))
    (marks / f"{spec.seed}-{count}").touch()
    if spec.batch_size == 9 or (spec.batch_size == 8 and count == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.batch_size == 7:
        raise ValueError("expected 8, got 7")
    return Score(str(spec.seed), 0.5, False, 0.0), os.getpid()


class Named:
    """Costs of runs that are named by their seeds."""

    def __init__(self) -> None:
        self.of = lambda spec: type("Cost", (), {"key": str(spec.seed), "tokens": 1.0})

    def seconds(self, planned, scores):
        return lambda spec: 1.0


def test_processes_that_die_are_replaced_and_what_they_did_is_done_again(tmp_path):
    sizes = {0: 1, 1: 8, 2: 9, 3: 7, 4: 1, 5: 1}
    planned = [Planned(RunSpec(task="cb", method="ft", seed=s, batch_size=b)) for s, b in sizes.items()]
    engine = Local(functools.partial(trivial, marks=tmp_path), jobs=2)
    with contextlib.closing(engine):
        report, processes = finished(planned, engine, Named())
    assert report.done == 4 and os.getpid() not in processes
    reasons = {spec.seed: reason for spec, reason in report.failed}
    assert "exit code -9" in reasons.pop(2) and reasons.pop(3) == "ValueError: expected 8, got 7" and not reasons
    assert Counter(path.name.partition("-")[0] for path in tmp_path.iterdir()) == {
        "0": 1,
        "1": 2,
        "2": 2,
        "3": 2,
        "4": 1,
        "5": 1,
    }


def asleep(spec: RunSpec, marks: Path) -> None:
    (marks / str(os.getpid())).touch()
    time.sleep(600)


def test_an_engine_that_is_closed_leaves_no_process(tmp_path):
    engine = Local(functools.partial(asleep, marks=tmp_path), jobs=1)
    engine.start(RunSpec(task="cb", method="ft"))
    end = time.monotonic() + 120
    while not list(tmp_path.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    (mark,) = tmp_path.iterdir()
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.name), 0)


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ParameterError, match=r"pip install 'lpft-utils\[ray\]'"):
        engines.Ray(trivial)
