"""The calibration chapter's records, tables and figures, on predictions whose calibration is known."""

import warnings

import matplotlib as mpl
import numpy as np
import pytest
import torch
from constructed import MadeUpRun
from scipy import special
from torchmetrics.functional.classification import multiclass_calibration_error

from lpft_utils.common.errors import ParameterError
from lpft_utils.data.examples import Split, Task
from lpft_utils.figures import calibration as plots_calibration
from lpft_utils.metrics import calibration
from lpft_utils.results import calibration_tables as tables
from lpft_utils.results.claims import evaluate
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import head_norm_sweep
from lpft_utils.studies import calibration as study

SPLITS = ("train", "validation", "test", "ood_hotels")
N = 4000


def predictions(sharpness: float, seed: int = 0, n: int = N, shifted: float = 1.0):
    """Calibrated logits times `sharpness`; out of distribution times `shifted` as well."""
    rng = np.random.default_rng(seed)
    found = {}
    for split in SPLITS:
        f = rng.normal(size=(n, 3))
        p = special.softmax(f, axis=1)
        y = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
        found[split] = (sharpness * (shifted if split.startswith("ood") else 1.0) * f, y)
    return found


def made_up(sharpness: float, seed: int = 0, norm: float = 1.0, method: str = "ft", **more) -> MadeUpRun:
    run = MadeUpRun(method, seed, predictions=predictions(sharpness, seed, **more), head_norm=norm)
    run.weights = {"head.bias": torch.zeros(3)}
    return run


@pytest.fixture(scope="module")
def sharp():
    return made_up(4.0, norm=8.0, method="lp_ft", shifted=2.0)


@pytest.fixture(scope="module")
def runs(sharp):
    return {
        "ft": [made_up(1.0), made_up(1.0, 1)],
        "lp_ft": [sharp, made_up(3.0, 1, norm=6.0, method="lp_ft", shifted=2.0)],
    }


def test_the_temperature_of_the_validation_split_is_applied_to_the_test_split(sharp):
    found = study.temperature_scaled(sharp)
    assert found.fit.T == pytest.approx(4.0, rel=0.1)
    f, _ = sharp.predictions["test"]
    np.testing.assert_allclose(found.after, special.softmax(f / found.fit.T, axis=1), atol=1e-12)
    before, after = found.metrics
    assert before["ECE"] > 0.2 and after["ECE"] < 0.04
    assert before["accuracy"] == after["accuracy"]


def test_the_error_of_the_study_is_that_of_torchmetrics(sharp):
    found = study.temperature_scaled(sharp)
    for norm, key in (("l1", "ECE"), ("max", "MCE")):
        oracle = multiclass_calibration_error(
            torch.tensor(found.before), torch.tensor(found.labels), num_classes=3, n_bins=15, norm=norm
        )
        assert found.metrics[0][key] == pytest.approx(oracle.item(), abs=1e-5)


def test_a_missing_split_is_named():
    run = MadeUpRun(predictions={"test": (np.zeros((2, 2)), np.array([0, 1]))})
    with pytest.raises(ParameterError, match="'validation'"):
        study.temperature_scaled(run)
    run.predictions["validation"] = run.predictions["test"]
    with pytest.raises(ParameterError, match="'ood_x'.*test, validation"):
        study.temperature_scaled(run, "ood_x")


def test_predictions_of_a_diverged_run_are_refused(sharp):
    lost = MadeUpRun(predictions=sharp.predictions, diverged=True)
    for use in (study.temperature_scaled, study.fit_calibrators, lambda run: study.scaling_curves(run, [1.0])):
        with pytest.raises(ParameterError, match="expected a run that did not diverge"):
            use(lost)


def test_pooled_diagrams_count_every_example_of_every_seed(runs):
    before, after = study.diagrams(runs)["lp_ft"]
    assert before.counts.sum() == after.counts.sum() == 2 * N
    found = [study.temperature_scaled(run) for run in runs["lp_ft"]]
    p, y = np.concatenate([s.after for s in found]), np.concatenate([s.labels for s in found])
    assert after.ece == pytest.approx(calibration.ece(p, y))


def test_the_error_table_shows_both_sides_of_temperature_scaling(runs):
    table = tables.error_table(runs)
    assert list(table.index) == ["FT", "LP-FT"]
    value = lambda row, column: float(table.loc[row, column].split(" ")[0])  # noqa: E731
    expected = np.mean([study.temperature_scaled(run).metrics[0]["MCE"] for run in runs["lp_ft"]])
    assert value("LP-FT", "MCE") == pytest.approx(expected, abs=6e-4)
    assert value("LP-FT", "ECE") > 0.15 > 0.05 > value("LP-FT", "ECE, TS")
    assert value("FT", "confidence") == pytest.approx(value("FT", "accuracy"), abs=0.03)


def test_only_the_over_confident_model_is_above_chance(runs):
    table = tables.chance_table(runs, n_draws=200)
    assert table.loc["LP-FT", "seeds above chance"] == "2 of 2"
    assert float(table.loc["FT", "ECE − chance"].split(" ")[0]) < 0.02
    assert float(table.loc["LP-FT, TS", "ECE − chance"].split(" ")[0]) < 0.02
    low, high = table.loc["LP-FT", "ECE, first seed [bootstrap]"].split("[")[1].rstrip("]").split(", ")
    assert float(low) < study.temperature_scaled(runs["lp_ft"][0]).metrics[0]["ECE"] < float(high)


def test_counts_of_the_bins_add_up_before_and_after(sharp):
    table = tables.count_table({"lp_ft": [sharp]})
    pairs = np.array([[int(n) for n in cell.split(" → ")] for cell in table["LP-FT"]])
    assert list(pairs.sum(axis=0)) == [N, N]
    assert pairs.sum(axis=1).min() > 0  # bins that are always empty are left out
    assert table.index[-1] == "(0.933, 1.000]"


def test_the_comparison_lists_norm_and_temperature_of_every_seed(runs):
    table = tables.comparison_table({"long": runs["lp_ft"]}, "head")
    assert table.loc["long", "‖V‖"] == "8, 6"
    assert [float(T) for T in table.loc["long", "T"].split(", ")] == pytest.approx([4.0, 3.0], rel=0.1)
    assert table.index.name == "head"


def test_no_recalibration_fitted_on_validation_mends_another_distribution(sharp):
    """The out-of-distribution logits are twice as sharp, so their own temperature is twice as high."""
    ece = tables.recalibration_table([sharp], "ECE")
    assert list(ece.index)[-1] == "temperature fitted on the column"
    for name in ("temperature", "scale of V alone", "vector scaling", "isotonic"):
        assert float(ece.loc[name, "test"]) < 0.05
        assert float(ece.loc[name, "hotels (OOD)"]) > 0.1
    assert float(ece.iloc[-1]["hotels (OOD)"]) < 0.05
    accuracy = tables.recalibration_table([sharp], "accuracy")
    assert accuracy.loc["temperature"].equals(accuracy.loc["none"])


def test_an_infinite_likelihood_is_shown_as_such():
    run = made_up(1.0, n=12, seed=3)
    y = run.predictions["validation"][1]
    sure = 20 * np.eye(3)[y]
    run.predictions |= {"validation": (sure, y), "test": (sure, (y + 1) % 3)}  # isotonic regression rules classes out
    assert tables.recalibration_table([run], "NLL").loc["isotonic", "test"] == "∞"


def test_both_sides_of_the_moment_equation_meet_where_the_temperature_was_fitted(sharp):
    table = tables.moment_table([sharp])
    assert table.loc["validation", "E_p[f] / T"] == table.loc["validation", "f_y / T"]
    assert float(table.loc["hotels (OOD)", "E_p[f] / T"]) > float(table.loc["hotels (OOD)", "f_y / T"])
    own = float(table.loc["hotels (OOD)", "T needed here"])
    assert own == pytest.approx(8.0, rel=0.1) and float(table.loc["test", "T needed here"]) == pytest.approx(4, rel=0.1)


def test_scaling_the_head_sharpens_and_keeps_the_accuracy(sharp):
    scales = [0.01, 0.1, 1.0, 10.0, 1000.0]
    curve = study.scaling_curves(sharp, scales)["test"]
    assert len(set(curve["accuracy"])) == 1
    assert np.all(np.diff(curve["confidence"]) > 0)
    f, y = (torch.tensor(x) for x in sharp.predictions["test"])
    for s, nll in zip(scales, curve["NLL"], strict=True):  # finite also where probabilities underflow
        assert nll == pytest.approx(torch.nn.functional.cross_entropy(s * f, y).item())


def test_norms_without_a_temperature_are_left_out(sharp):
    flat, perfect = made_up(0.0, norm=0.0, n=20), made_up(1.0, n=20)
    f, y = perfect.predictions["validation"]
    perfect.predictions["validation"] = (np.eye(3)[y], y)
    norms, temperatures = study.norms_and_temperatures([sharp, flat, perfect])
    assert norms == [8.0] and temperatures == [study.temperature_scaled(sharp).fit.T]


def test_the_weight_decay_reaches_the_factor_that_was_asked_for():
    spec = get_profile("laptop").sweep_spec()
    decay = study.decay_for(spec, 120, factor=0.1)
    steps = 8 * round(spec.epochs)  # 120 texts in batches of 16
    V = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([V], lr=spec.learning_rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(steps):
        V.grad = torch.zeros(4)
        optimizer.step()
        schedule.step()
    assert V[0].item() == pytest.approx(0.1, rel=0.25)


def test_alternatives_change_one_thing_each(tmp_path):
    setting = get_profile("smoke", task="synthetic", seeds=0)
    sweep = head_norm_sweep(setting.sweep_spec(), (0.5, 5.0), (0,), store=tmp_path)
    found = study.alternatives(sweep, store=tmp_path)
    assert all(group[0].folder.parent == tmp_path for group in found.values())
    (as_it_is,), (smoothed,), (decayed,) = found.values()
    assert as_it_is is sweep[5.0][0]
    assert smoothed.spec == as_it_is.spec.replace(label_smoothing=0.1)
    assert decayed.spec == as_it_is.spec.replace(head_weight_decay=decayed.spec.head_weight_decay)
    assert decayed.metrics["head_norm"] < 0.5 * as_it_is.metrics["head_norm"]
    assert tables.comparison_table(found, "training").shape[0] == 3


def test_claim_7_holds_for_logits_that_are_only_too_sharp():
    calibrated = [made_up(1.0, seed, method="ft") for seed in range(3)]
    sharp = [made_up(3.0 + 0.2 * seed, seed, method="lp_ft") for seed in range(3)]
    (ece,) = evaluate([*calibrated, *sharp], "7.ECE")
    assert (ece.claim, ece.difference.n, ece.outcome) == (7, 3, "holds")
    (other_way,) = evaluate(
        [
            *(made_up(3.0 + 0.2 * s, s, method="ft") for s in range(3)),
            *(made_up(1.0, s, method="lp_ft") for s in range(3)),
        ],
        "7.ECE",
    )
    assert other_way.outcome == "fails"


@pytest.fixture
def strict():
    """A warning while making or drawing a figure is an error."""
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert dict(mpl.rcParams) == before, "a figure changed the settings of the reader's session"


def draw(figure):
    figure.savefig("/dev/null", format="png")
    return [axes for axes in figure.axes if axes.axison]


def test_diagrams_show_every_bin_that_is_not_empty(runs, strict):
    shown = study.diagrams(runs)
    panels = draw(plots_calibration.reliability_diagrams(shown))
    assert [axes.get_title() for axes in panels] == ["FT", "LP-FT"]
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in panels)
    for axes, pair in zip(panels, shown.values(), strict=True):
        for points, diagram in zip(axes.collections, pair, strict=True):
            some = diagram.counts > 0
            expected = np.column_stack([diagram.confidence, diagram.accuracy])[some]
            np.testing.assert_allclose(points.get_offsets(), expected)
            largest = points.get_sizes().argmax()
            assert largest == diagram.counts[some].argmax()


def test_the_scaling_figure_shows_its_curves(sharp, strict):
    scales = [0.1, 1.0, 10.0, 1e4]
    curves = study.scaling_curves(sharp, scales)
    left, right = draw(plots_calibration.head_scaling(scales, curves, 0.25))
    np.testing.assert_allclose(left.lines[1].get_ydata(), curves["test"]["NLL"])
    np.testing.assert_allclose(right.lines[0].get_ydata(), curves["test"]["confidence"])
    assert left.get_xscale() == right.get_xscale() == "log"


def test_temperatures_lie_at_their_norms_also_when_there_are_none(strict):
    groups = {"LP": ("lp", [1.0, 10.0], [0.5, 5.0]), "sweep": ("lp_ft", [2.0], [1.0])}
    (axes,) = draw(plots_calibration.temperature_against_norm(groups))
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1.0, 0.5], [10.0, 5.0]])
    trend = axes.lines[2]
    assert np.diff(np.log(trend.get_ydata())) == pytest.approx(np.diff(np.log(trend.get_xdata())))
    assert draw(plots_calibration.temperature_against_norm({"LP": ("lp", [], [])}))


def test_every_seed_is_joined_from_before_to_after(runs, strict):
    errors = study.errors_by_split(runs, n_draws=50)
    assert list(errors) == ["test", "hotels (OOD)"]
    panels = draw(plots_calibration.before_and_after(errors))
    before, after, chance = errors["test"]["lp_ft"]
    drawn = [list(line.get_ydata()) for line in panels[0].lines]
    assert all(list(pair) in drawn for pair in zip(before, after, strict=True))
    assert [chance, chance] in drawn
    assert panels[0].get_ylim() == panels[1].get_ylim() and panels[0].get_ylim()[1] > max(before)


def rated(n: int, seed: int = 0) -> tuple[Split, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n)
    split = Split(tuple((f"text {i}",) for i in range(n)), positive > 0.5, tuple(map(str, range(n))))
    return split, np.stack([1 - positive, positive], axis=1)


@pytest.fixture
def people(monkeypatch):
    """A run whose probabilities are the shares of raters, and the task that it was trained on."""
    split, shares = rated(N)
    task = Task("snippets", ("negative", "positive"), {"test": split}, "made up")
    monkeypatch.setattr(study, "load_data", lambda spec: task)
    monkeypatch.setattr(study, "soft_labels", lambda split: shares[[int(i) for i in split.ids]])
    run = MadeUpRun("ft", 0, predictions={"test": (np.log(shares), split.labels)})
    run.spec.task = "snippets"
    return run


def test_who_repeats_the_raters_is_calibrated_for_people_and_under_confident_for_labels(people):
    found = study.against_people(people)
    assert found["accuracy"] == 1 and found["SE"] == 0
    assert found["agreement"] == pytest.approx(found["confidence"], abs=1e-9) == pytest.approx(0.75, abs=0.01)
    assert found["ECE, people"] == pytest.approx(0, abs=1e-9)
    assert found["ECE"] == pytest.approx(0.25, abs=0.01)


def test_who_contradicts_the_raters_is_agreed_with_by_the_others(people):
    f, y = people.predictions["test"]
    people.predictions["test"] = (3 * f[:, ::-1], y)
    found = study.against_people(people)
    p = special.softmax(3 * f[:, ::-1], axis=1)
    wrong = np.exp(f)[np.arange(N), p.argmax(1)]
    assert found["accuracy"] == 0 and found["agreement"] == pytest.approx(wrong.mean())
    assert wrong.max() < 0.5
    assert found["ECE"] == pytest.approx(calibration.ece(p, y), abs=1e-12)
    assert found["SE, people"] == pytest.approx(wrong.std(ddof=1) / N**0.5)


def test_the_table_about_people_says_so_where_there_are_no_ratings(people, runs):
    shown = tables.people_table({"ft": [people]})
    assert list(shown.index) == ["FT"] and shown.loc["FT", "accuracy"].startswith("1.000")
    empty = tables.people_table(runs)
    assert empty.empty and "not known" in empty._repr_html_()
