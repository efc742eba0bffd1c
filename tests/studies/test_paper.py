"""The paper's experiments: what they are, what the store has of them, and the figures drawn from them."""

import dataclasses

import pytest
from click.testing import CliRunner
from conftest import ROOT

from lpft_utils import cli
from lpft_utils.common.errors import LpftError, ParameterError, RunError
from lpft_utils.figures.paper import FIGURES, paper_figure
from lpft_utils.results.paper_tables import measured
from lpft_utils.runs import execute
from lpft_utils.runs.profiles import PROFILES, get_profile
from lpft_utils.runs.run import run
from lpft_utils.runs.schedule import Costs
from lpft_utils.runs.store import find
from lpft_utils.studies import paper
from lpft_utils.training.spec import RunSpec

N_RUNS = {"methods": 10, "LP by gradient descent": 2, "head norm": 4}


@pytest.fixture(scope="module", autouse=True)
def smaller():
    """A smoke profile with fewer texts and norms."""
    with pytest.MonkeyPatch.context() as patch:
        small = dataclasses.replace(PROFILES["smoke"], task="synthetic", norms=(0.5, 5.0), n_kernel=8)
        patch.setitem(small.settings, "n_train", 32)
        patch.setitem(PROFILES, "smoke", small)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run store in which the smoke profile's experiments were interrupted after LP, and then finished."""
    store = tmp_path_factory.mktemp("paper") / "runs"
    (setting,) = paper.settings("smoke")
    for seed in setting.seeds:
        run(setting.spec("lp", seed=seed), store=store)
    before = paper.plan_table([setting], store)
    assert list(before["runs"]) == [*N_RUNS.values(), 2] and list(before["stored"]) == [2, 0, 0, 0]
    trained, train = [], execute.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "train", lambda spec, *more: trained.append(spec) or train(spec, *more))
        assert paper.run_every([setting], store) == {}
    assert len(trained) == sum(N_RUNS.values()) - 2, "what was stored is not trained again"
    return store


def test_when_all_is_stored_nothing_is_left_to_do(store):
    shown = paper.plan_table(paper.settings("smoke"), store).set_index("for")
    assert list(shown["stored"]) == list(shown["runs"]) and dict(shown["runs"].iloc[:3]) == N_RUNS
    assert list(shown["hours"].iloc[:3]) == ["0.0"] * 3


def test_stored_experiments_are_found_without_training(store, monkeypatch):
    monkeypatch.setattr(execute, "train", lambda *a: pytest.fail("a run was trained"))
    found = paper.stored(*paper.settings("smoke"), store)
    assert {method: len(runs) for method, runs in found.runs.items()} == dict.fromkeys(paper.PAPER_METHODS, 2)
    assert {m: list(curve) for m, curve in found.sweep.items()} == {"lp_ft": [0.5, 5.0]}
    assert len(found.descents) == len(found.kernels) == 2
    frame = measured([found])
    assert {"accuracy", "FT ratio", "rank of F"} <= set(frame["metric"]) and set(frame["task"]) == {"synthetic"}


def test_every_figure_of_the_paper_is_drawn_and_says_what_is_missing(store, tmp_path):
    (setting,) = paper.settings("smoke")
    for number in FIGURES:
        figure = paper_figure(number, {"synthetic": paper.stored(setting, store)})
        assert len(figure.axes) >= 1 and any(axes.has_data() for axes in figure.axes)
        note = figure.get_suptitle()
        assert note == ("missing: the other head’s sweep, synthetic" if number in (3, 10, 11) else "")
        nothing = paper_figure(number, {"synthetic": paper.stored(setting, tmp_path)})
        assert nothing.get_suptitle().startswith("missing: ") and not any(axes.has_data() for axes in nothing.axes)
    with pytest.raises(ParameterError, match="figure: expected one of 1, 2, .* 11, got 12"):
        paper_figure(12, {})


def test_both_curves_of_the_sweep_have_their_line_at_the_unscaled_norm(tmp_path):
    sizes = {"n_train": 24, "n_eval": 12, "epochs": 1, "batch_size": 8}
    spec = RunSpec(task="synthetic", backbone="tiny", learning_rate=1e-3, lp=1.0, **sizes)
    curves = {
        m: {f: [run(spec.replace(method=m, head_factor=f), store=tmp_path)] for f in (0.5, 2.0)}
        for m in ("ft", "lp_ft")
    }
    found = paper.Experiments(get_profile("smoke"), {}, [], curves, [])
    panel = paper_figure(11, {"synthetic": found}).axes[0]
    dashed = [
        line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--" and len(line.get_xdata()) == 2
    ]
    norms = [curve[0.5][0].history["head_norm"].iloc[0] / 0.5 for curve in curves.values()]
    assert dashed == pytest.approx(norms) and norms[0] == pytest.approx(curves["ft"][2.0][0].metrics["head_norm_init"])


def test_experiments_of_the_paper_are_its_tasks_seeds_and_factors():
    by_task = {setting.task: paper.specs(setting) for setting in paper.settings("gpu")}
    assert len(by_task) == 10 and all(len(found["methods"]) == 25 for found in by_task.values())
    assert {task: len(found["head norm"]) for task, found in by_task.items() if found["head norm"]} == {
        "amazon": 2 * 8 * 3, "cb": 2 * 8 * 5, "rte": 2 * 8 * 5,
    }  # fmt: skip
    assert {spec.method for spec in by_task["cb"]["head norm"]} == {"lora", "lp_lora"}
    assert {task for task, found in by_task.items() if found["LP by gradient descent"]} == {"cb", "rte"}
    rates = {s.method: (s.batch_size, s.learning_rate) for s in by_task["cb"]["methods"] if s.method != "lp"}
    assert rates["lp_ft"] == (8, 5e-6) and rates["ft"] == (16, 5e-5), "LP-FT has its own rate"


def test_estimate_is_that_of_a_sweep_and_unknown_where_the_data_are_not(tmp_path, monkeypatch):
    (setting,) = paper.settings("smoke")
    shown = paper.plan_table([setting], tmp_path).set_index("for").loc["methods"]
    specs, costs = paper.specs(setting)["methods"], Costs("all")
    seconds = [2 + 1.1e-3 * 2 * 32**2 / (6 * 384**2) * costs.of(spec).tokens for spec in specs]
    assert shown["hours"] == f"{sum(seconds) / 3600:.1f}" != "unknown"
    assert shown["GB"] == f"{sum(costs.of(spec).bytes for spec in specs) / 1e9:.1f}"
    monkeypatch.setattr(Costs, "_cost", lambda *_: (_ for _ in ()).throw(LpftError("no data")))
    assert set(paper.plan_table([setting], tmp_path)["hours"].iloc[:3]) == {"unknown"}


def test_a_task_without_data_does_not_stop_the_others(monkeypatch, tmp_path):
    done = []

    def run_all(setting, store, progress):
        if setting.task == "cb":
            raise LpftError("no data")
        done.append(setting.task)

    monkeypatch.setattr(paper, "run_all", run_all)
    failed = paper.run_every(paper.settings("gpu", ["cb", "rte"]), tmp_path)
    assert done == ["rte"] and list(failed) == ["cb"]


def test_two_runs_of_the_same_settings_on_different_data_are_refused(store, tmp_path):
    spec = get_profile("smoke").spec("lp")
    original = find(spec, store).folder
    for name in ("aaaaaaaaaa", "bbbbbbbbbb"):
        copy = tmp_path / f"synthetic-lp-s0-{name}"
        copy.mkdir()
        for file in original.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RunError, match="one run of these settings, got .*aaaaaaaaaa, .*bbbbbbbbbb.* Delete all but"):
        find(spec, tmp_path)
    assert find(spec.replace(seed=7), tmp_path) is None


def lpft(*arguments):
    return CliRunner().invoke(cli.main, ["paper", *arguments])


def test_command_prints_tables_draws_figures_and_lists(store, tmp_path, monkeypatch):
    monkeypatch.setenv("LPFT_RUNS", str(store))
    monkeypatch.chdir(ROOT)
    shown = lpft("--table", "8", "--profile", "smoke")
    lines = [line for line in shown.output.splitlines() if "LP-FT" in line]
    assert shown.exit_code == 0 and "published, RoBERTa-base" in shown.output
    assert any("cb" in line and "84.64 ± 2.40" in line and "missing" in line for line in lines)
    assert any("synthetic" in line and "±" in line and "missing" not in line for line in lines)
    csv = lpft("--table", "8", "--profile", "smoke", "--csv").output.splitlines()
    assert csv[0].startswith("dataset,method,kernel,metric,source,mean,sd,n_seeds")
    assert len(csv) == 1 + 40 + 45
    assert "methods" in lpft("--dry-run", "--profile", "smoke").output
    for arguments, message in (
        (("--table", "5"), "Table 3 is part of 14"),
        (("--figure", "12"), "figure: expected one of 1, 2"),
        (("--csv",), "--csv goes with --table"),
        (("--table", "8", "--figure", "1"), "expected one of --table, --figure and --dry-run"),
    ):
        refused = lpft(*arguments)
        assert refused.exit_code == 2 and message in refused.output
    monkeypatch.setattr(cli, "book_root", lambda: ROOT)
    monkeypatch.chdir(tmp_path)
    assert lpft("--figure", "2", "--profile", "smoke").output == "paper-figure-2.svg\n"
    assert (tmp_path / "paper-figure-2.svg").read_text().count("<svg") == 1
