"""What is computed from runs leaves the diverged ones out and says how many, in every function that takes runs."""

import inspect
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from constructed import MadeUpRun

from lpft_utils.common.errors import RunError
from lpft_utils.results import calibration_tables, claims, frame, kernel_tables, reference, tables
from lpft_utils.runs.profiles import get_profile
from lpft_utils.studies import calibration as study
from lpft_utils.studies import head_norm, lora

COUNT = " (1 diverged)"
SPLITS = ("train", "validation", "test", "ood_hotels")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


def made_up(folder, method, seed, **more):
    rng = np.random.default_rng(seed)
    predictions = {split: (rng.normal(size=(60, 3)), rng.integers(3, size=60)) for split in SPLITS}
    change = {"CS": 0.5, "Diff": 1.0 + seed, "FDR": 2.0 + seed, "FDR_0": 1.0, "NormF": 3.0, "NormF_0": 4.0}
    metrics = {
        "change": dict.fromkeys(SPLITS, change),
        "head_norm": 2.0 + seed,
        "trainable_parameters": 10,
        "train_seconds": 1.0 + seed,
        "peak_memory": 1e6 * (1 + seed),
    }
    about = {"task": {"sizes": {"train": 60}}, "environment": {}, "seconds": 1.0}
    run = MadeUpRun(method, seed, predictions=predictions, **metrics, **about, **more)
    run.folder, run.weights = folder, {"head.bias": torch.zeros(3)}
    run.spec.to_dict = dict
    return run


@pytest.fixture(scope="module")
def kept(weights):
    return {method: [made_up(weights, method, seed) for seed in (0, 1)] for method in ("ft", "lp_ft")}


@pytest.fixture(scope="module", params=["first", "last"])
def with_lost(kept, weights, request):
    """One run of LP-FT that diverged, of far other values, before or after those that did not."""
    lost = made_up(weights, "lp_ft", 50, diverged=True)
    group = [lost, *kept["lp_ft"]] if request.param == "first" else [*kept["lp_ft"], lost]
    return kept | {"lp_ft": group}


def sweep(runs):
    return {0.5: runs["ft"], 5.0: runs["lp_ft"]}


def people_table(runs):
    """The table for runs as if on the task with ratings, each agreed with as often as it is right."""
    metrics = ("confidence", "accuracy", "agreement", "ECE", "ECE, people", "SE", "SE, people")
    with pytest.MonkeyPatch.context() as patch:
        for run in sum(runs.values(), []):
            patch.setattr(run.spec, "task", "snippets")
        patch.setattr(calibration_tables, "against_people", lambda run: dict.fromkeys(metrics, run.accuracy()))
        return calibration_tables.people_table(runs)


TABLES = {
    tables.accuracy_table: tables.accuracy_table,
    tables.change_table: tables.change_table,
    tables.fdr_table: lambda runs: tables.fdr_table(runs["lp_ft"]),
    calibration_tables.error_table: calibration_tables.error_table,
    calibration_tables.chance_table: lambda runs: calibration_tables.chance_table(runs, n_draws=20),
    calibration_tables.people_table: people_table,
    calibration_tables.comparison_table: lambda runs: calibration_tables.comparison_table(runs, "method"),
    calibration_tables.recalibration_table: lambda runs: calibration_tables.recalibration_table(runs["lp_ft"]),
    calibration_tables.moment_table: lambda runs: calibration_tables.moment_table(runs["lp_ft"]),
    tables.results_table: tables.results_table,
    tables.cost_table: tables.cost_table,
    reference.summarise: lambda runs: reference.methods_table(reference.summarise({"": sum(runs.values(), [])}), "ECE"),
}
VALUES = {
    study.diagrams: lambda runs: [(d.counts.tolist(), d.ece) for pair in study.diagrams(runs).values() for d in pair],
    study.errors_by_split: lambda runs: study.errors_by_split(runs, n_draws=20),
    study.norms_and_temperatures: lambda runs: study.norms_and_temperatures(runs["lp_ft"]),
    head_norm.sweep_values: lambda runs: list(head_norm.sweep_values(sweep(runs)).values()),
    calibration_tables.count_table: lambda runs: calibration_tables.count_table(runs).to_dict(),
}
# What has tests of its own (claims, over_seeds, the frame, the first seed's kernels), or takes no mean.
OTHERS = {
    claims.evaluate,
    tables.over_seeds,
    frame.results,
    frame.per_run,
    kernel_tables.trained_table,
    study.alternatives,
}


@pytest.mark.parametrize("name", TABLES, ids=lambda f: f.__name__)
def test_a_table_shows_the_other_runs_and_counts_the_diverged_one(name, kept, with_lost):
    shown, expected = TABLES[name](with_lost), TABLES[name](kept)
    assert shown.astype(str).stack().str.endswith(COUNT.strip()).any()
    pd.testing.assert_frame_equal(shown.replace({r" ?\(1 diverged\)$": ""}, regex=True), expected)


@pytest.mark.parametrize("name", VALUES, ids=lambda f: f.__name__)
def test_values_for_a_figure_are_those_of_the_other_runs(name, kept, with_lost):
    assert VALUES[name](with_lost) == VALUES[name](kept)


@pytest.mark.parametrize("name", TABLES, ids=lambda f: f.__name__)
def test_where_every_run_diverged_a_table_says_so(name, kept, weights):
    lost = [made_up(weights, "lp_ft", seed, diverged=True) for seed in (0, 1)]
    shown = TABLES[name](kept | {"lp_ft": lost})
    assert shown.astype(str).stack().str.contains(r"^\(2 diverged\)$").any()


def test_no_function_that_takes_runs_is_forgotten():
    modules: tuple[ModuleType, ...] = (
        tables,
        calibration_tables,
        kernel_tables,
        reference,
        claims,
        study,
        head_norm,
        lora,
        frame,
    )
    found = {
        function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
        if any("Run]" in str(p.annotation) for p in inspect.signature(function).parameters.values())
    }
    assert found == {*TABLES, *VALUES, *OTHERS}


def test_the_axis_labels_of_a_sweep_count(with_lost):
    assert all(label.endswith(COUNT) for label in head_norm.sweep_values(sweep(with_lost)))


def test_a_sweep_without_any_run_at_a_norm_is_refused(kept, weights):
    with pytest.raises(RunError, match="‖V0‖ = 5: every run diverged"):
        head_norm.sweep_values({0.5: kept["ft"], 5.0: [made_up(weights, "lp_ft", 0, diverged=True)]})


def test_the_kernel_after_training_of_a_diverged_run_is_not_computed(weights):
    lost = made_up(weights, "lora", 0, diverged=True)
    shown = kernel_tables.trained_table(get_profile("smoke"), {"lora": [lost]})
    assert set(shown.loc["LoRA"]) == {"(1 diverged)"}
