"""What the LoRA chapter computes, in the smoke profile, and its figure."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import softmax
from torchmetrics.functional.classification import multiclass_calibration_error

from lpft_utils.figures import kernels as plots_ntk
from lpft_utils.kernel_methods.statistics import alignment
from lpft_utils.metrics.recalibration import fit_temperature
from lpft_utils.models.adapters import add_ia3
from lpft_utils.ntk import dense_kernel
from lpft_utils.results import kernel_tables, reference, tables
from lpft_utils.results.claims import evaluate
from lpft_utils.results.frame import select
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import run_seeds
from lpft_utils.studies import initialisation as kernels
from lpft_utils.studies import lora as study
from lpft_utils.training.methods import METHODS

LABELS = [method.label for method in METHODS.values()]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPFT_RUNS", str(tmp_path_factory.mktemp("runs")))
        profile = get_profile("smoke", task="synthetic")
        yield replace(profile, n_kernel=9, settings={**profile.settings, "n_train": 48, "n_eval": 24})


@pytest.fixture(scope="module")
def runs(setting):
    return {m: run_seeds(setting.spec(m), setting.seeds[:1]) for m in METHODS}


def test_rank_sweep_is_computed_once_and_read_after(setting, monkeypatch):
    monkeypatch.setattr(study, "RANKS", (1, 16))
    monkeypatch.setattr(study, "concentration", partial(study.concentration, ranks=(1, 16)))
    first = study.rank_sweep(setting, "ft", 0, n=6, n_draws=3)
    monkeypatch.setattr(study, "initial_model", None)  # a second computation would fail
    again = study.rank_sweep(setting, "ft", 0, n=6, n_draws=3)
    pd.testing.assert_frame_equal(again.table, first.table)
    assert again.kappa == first.kappa > 0 and 0 < again.reference <= 1
    assert {r: len(v) for r, v in again.by_rank("error").items()} == {1: 3, 16: 3}
    squares = again.by_rank("error")[1] ** 2
    assert again.rms()[1] == pytest.approx(np.sqrt(squares.mean()))


def test_parts_are_the_kernels_that_they_are_said_to_be(setting):
    found = study.parts(setting, "lp_ft", 0)
    train, _ = kernels.examples(setting, 0)

    def exact(model, wanted=None):
        return dense_kernel(model.double(), train.inputs, parameters=wanted)

    plain = kernels.initial_model(setting, "lp_ft", 0)
    wanted = {
        "FT": None,
        "FT, adapted weights": lambda n: n.endswith(("query.weight", "value.weight")),
        "biases": lambda n: n.endswith(".bias"),
    }
    kernels_ = {name: exact(plain, rule) for name, rule in wanted.items()}
    kernels_["LoRA"] = exact(kernels.initial_model(setting, "lp_lora", 0))
    kernels_["IA³"] = exact(add_ia3(kernels.initial_model(setting, "lp_ft", 0)))
    assert found.keys() == kernels_.keys()
    for name, K in kernels_.items():
        assert (found[name].F - K).norm() < 1e-4 * K.norm(), name


def test_reference_kernel_is_f_of_features_with_an_isotropic_kernel():
    phi, V = torch.randn(4, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    K = study.reference_kernel(phi @ phi.T, V)
    for n in range(4):
        for m in range(4):
            theta = (phi[n] @ phi[m]) * torch.eye(5, dtype=torch.float64)
            torch.testing.assert_close(K[n, :, m, :], V @ theta @ V.T)


def test_closeness_is_one_for_a_kernel_with_itself_and_low_for_shuffled_texts(setting):
    table = study.alignment_to_ft(setting, "ft", 1)
    assert table.loc["FT", "all"] == pytest.approx(1) and table.loc["FT, adapted weights", "adapted"] == pytest.approx(
        1
    )
    found = study.parts(setting, "ft", 1)
    expected = alignment(found["LoRA"].F, found["FT"].F, centered=True)
    assert table.loc["LoRA", "all, centred"] == pytest.approx(expected)
    assert table.loc["LoRA, texts shuffled", "all, centred"] < table.loc["LoRA", "all, centred"]
    shown = kernel_tables.alignment_table([table, table])
    assert list(shown.index) == list(table.index) and shown.loc["FT", "with F of FT"] == "1.000 ± 0.000"
    assert shown.loc["features and head", "parameters"] == ""


def made_up(lora, shuffled, bare):
    columns = ["all, centred", "adapted, centred"]
    rows = {"LoRA": lora, "LoRA, texts shuffled": shuffled, "features and head": bare}
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def test_claim_5_compares_the_shape_with_each_reference():
    by_seed = [made_up((0.9 + e, 0.8), (0.3, 0.2), (0.95, 0.5 + e)) for e in (0.0, 0.01, -0.01)]
    verdicts = evaluate(kernel_tables.alignment_results({"lp_ft": by_seed}), "5")
    assert [v.outcome for v in verdicts] == ["holds", "fails", "holds"]
    assert [v.difference.mean for v in verdicts] == pytest.approx([0.6, -0.05, 0.3])
    assert all(v.claim == 5 and "LP-LoRA" in v.statement and "LP-FT" in v.statement for v in verdicts)
    both = evaluate(kernel_tables.alignment_results({"ft": by_seed, "lp_ft": by_seed}), "5")
    assert len(both) == 6 and not any("LP" in v.statement for v in both[:3])
    assert [(v.statement, v.p) for v in both[3:]] == [(v.statement, v.p) for v in verdicts]


def test_derivative_by_a_is_zero_at_initialisation_and_not_after_training(setting, runs):
    table = kernel_tables.trained_table(setting, {m: runs[m] for m in ("lora", "lp_lora")}, n=6)
    assert list(table.index) == ["LoRA", "LP-LoRA"]
    assert (table["share of A, initial"] == "0.0%").all() and (table["share of A, trained"] != "0.0%").all()


def test_costs_are_those_of_the_runs(runs):
    table = tables.cost_table(runs)
    assert list(table.index) == LABELS
    assert table.loc["FT", "share"] == "100.000%" and table.loc["LP", "gradients and Adam (MB)"] == "none"
    lora = runs["lora"][0].metrics["trainable_parameters"]
    assert table.loc["LoRA", "parameters"] == f"{lora:,}" and lora < runs["ft"][0].metrics["trainable_parameters"] / 100
    assert table.loc["LoRA", "gradients and Adam (MB)"] == f"{12e-6 * lora:.3g}"


def test_results_show_every_method(runs):
    table = tables.results_table(runs)
    assert list(table.index) == LABELS and table.loc["LP", "CS(F)"].startswith("1.000")


def test_figure_shows_draws_means_and_the_predicted_line():
    rows = [
        {"r": r, "draw": d, "error": (1 + d) / r, "alignment": 0.9, "centred": 1 - 0.1 / r}
        for r in (1, 4)
        for d in (0, 1)
    ]
    sweep = study.Concentration(pd.DataFrame(rows), 1.5, 0.8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots_ntk.concentration({"ft": sweep, "lp_ft": sweep})
        figure.savefig("/dev/null", format="png")
    left, right = figure.axes
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in left.lines]
    assert sum(len(y) == 2 and np.allclose(y, [1.5, 0.75]) for y in lines) == 2
    assert any(len(y) == 2 and np.allclose(y, [2.5**0.5, 2.5**0.5 / 4]) for y in lines)
    assert any(np.allclose(line.get_ydata(), 0.8) for line in right.lines)
    assert left.get_xlabel() and right.get_ylabel()


def test_reference_of_five_methods(runs, tmp_path):
    found = reference.summarise({"": [run for group in runs.values() for run in group]})
    for method, group in runs.items():
        logits, labels = (torch.as_tensor(values) for values in group[0].predictions["test"])
        T = fit_temperature(*group[0].predictions["validation"]).T
        for divisor, key in ((1.0, "ECE"), (T, "ECE, TS")):
            oracle = multiclass_calibration_error(softmax(logits.double() / divisor, 1), labels, 3, n_bins=15)
            (value,) = select(found.frame, method=method, split="test", metric=key)["value"]
            assert value == pytest.approx(oracle.item(), abs=1e-6)
    assert {v.claim for v in found.by_task()["synthetic"]} == {1, 2, 7, 8}
    again = replace(found, about=[found.about[0] | {"name": "again"}], frame=found.frame.assign(task="again"))
    reference.write_reference(tmp_path / "both.json", [found, again])
    both = reference.load_reference(tmp_path / "both.json")
    pd.testing.assert_frame_equal(
        both.frame, pd.concat([found.frame, again.frame], ignore_index=True), check_exact=True
    )
    table = reference.methods_table(both, "Diff", "ECE", "ECE, TS")
    assert list(table.columns) == ["task", "method", "accuracy", "Diff", "ECE", "ECE, TS", "‖V‖"]
    assert list(table["method"]) == 2 * LABELS
    claims = reference.claims_table(both, only=(7,))
    assert set(claims["claim"]) == {7} and list(claims.columns) == ["claim", "statement", "synthetic", "again"]
