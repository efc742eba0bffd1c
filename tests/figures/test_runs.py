"""Every figure: drawn without a warning, axes labelled, showing the numbers that it was given."""

import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from constructed import MadeUpRun

from lpft_utils.common.errors import RunError
from lpft_utils.figures import runs as plots
from lpft_utils.training.methods import METHODS

SHOWN = ("lp", "ft", "lp_ft")


@pytest.fixture(autouse=True)
def strict():
    """A warning while making or drawing a figure is an error."""
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert dict(mpl.rcParams) == before, "a figure changed the settings of the reader's session"


def draw(figure):
    figure.savefig("/dev/null", format="png")
    return figure.axes


def assert_labelled(axes):
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes)


def data(ax) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines]


def holds(ax, expected) -> bool:
    return any(len(y) == len(expected) and np.allclose(y, expected) for y in data(ax))


def history(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    steps = [0, 1, 2, 4, 8]
    columns = {name: rng.random(5) + 0.1 for name in ("head_norm", "train_accuracy", "test_accuracy", "test_Diff")}
    validation = [np.nan, np.nan, np.nan, 0.5, 0.6]
    return pd.DataFrame({"step": steps, **columns, "validation_accuracy": validation})


def runs(n_seeds: int = 3, methods=SHOWN) -> dict[str, list[MadeUpRun]]:
    rng = np.random.default_rng(0)
    splits = ("train", "validation", "test", "ood_hotels", "ood_my_set")
    return {
        m: [
            MadeUpRun(
                history=history(seed),
                accuracy={s: rng.random() for s in splits},
                change={s: {k: rng.random() for k in ("CS", "Diff", "FDR", "NormF")} for s in splits},
            )
            for seed in range(n_seeds)
        ]
        for m in methods
    }


def test_logistic_path_shows_accuracy_norms_and_the_chosen_strength():
    about = {"Cs": [0.01, 1.0, 100.0], "cv_accuracy": [0.5, 0.8, 0.7], "norms": [0.1, 2.0, 30.0], "C": 1.0}
    axes = draw(plots.logistic_path(about, norm_init=0.7))
    assert_labelled(axes)
    assert holds(axes[0], about["cv_accuracy"]) and holds(axes[1], about["norms"]) and holds(axes[1], [0.7, 0.7])
    assert all(any(list(line.get_xdata()) == [1.0, 1.0] for line in ax.lines) for ax in axes)
    assert (axes[0].get_xscale(), axes[1].get_yscale()) == ("log", "log")


def test_descent_shows_every_seed_with_one_legend_entry():
    histories = [history(0), history(1)]
    axes = draw(plots.descent(histories, norm_init=0.7))
    assert_labelled(axes)
    for h in histories:
        assert holds(axes[0], h["train_accuracy"][1:]) and holds(axes[0], h["test_accuracy"][1:])
        assert holds(axes[1], h["head_norm"][1:])
    legend = axes[0].figure.legends[0]
    assert [t.get_text() for t in legend.get_texts()] == ["train", "test", "LP", "random head of FT"]


def test_toy_flow_shows_distance_and_error_of_every_method():
    t = np.array([0.0, 0.1, 1.0, 10.0])
    distance, error = ({m: np.arange(4.0) + i for i, m in enumerate(("ft", "lp_ft"))} for _ in "ab")
    axes = draw(plots.toy_flow(t, distance, error))
    assert_labelled(axes)
    for m in distance:
        assert holds(axes[0], distance[m][1:]) and holds(axes[1], error[m][1:])


@pytest.mark.parametrize("n_columns", [1, 2, 3])
def test_training_shows_seeds_and_their_mean(n_columns):
    names = {"head_norm": "‖V‖", "validation_accuracy": "accuracy", "test_Diff": "Diff(F)"}
    columns = dict(list(names.items())[:n_columns])
    made = runs(methods=("ft", "lp_ft"))
    axes = draw(plots.training(made, columns))
    assert len(axes) == n_columns
    assert_labelled(axes)
    for ax, column in zip(axes, columns, strict=True):
        tables = [run.history[column].dropna() for run in made["ft"]]
        assert all(holds(ax, y) for y in tables) and holds(ax, np.mean(tables, axis=0))
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ["FT", "LP-FT"]


@pytest.mark.parametrize("n_lost", [1, 3])
def test_diverged_runs_are_not_drawn_and_the_legend_counts_them(n_lost):
    made = runs(methods=("ft", "lp_ft"))
    for run in made["ft"][:n_lost]:
        run.diverged = True
        run.history = 1e6 * run.history
        run.metrics["accuracy"] = dict.fromkeys(run.metrics["accuracy"], 1e6)
    for figure in (plots.training(made, {"head_norm": "‖V‖"}), plots.accuracies(made)):
        (ax,) = draw(figure)
        assert {t.get_text() for t in ax.get_legend().get_texts()} == {f"FT ({n_lost} diverged)", "LP-FT"}
        assert ax.dataLim.ymax < 1e5


def test_training_without_monitors_cannot_be_drawn():
    made = runs(methods=("ft",))
    made["ft"][1].history = made["ft"][1].history.drop(columns="test_Diff")
    made["ft"][1].folder = Path("synthetic-ft-s1-0123456789")
    with pytest.raises(RunError, match="synthetic-ft-s1-0123456789 recorded no 'test_Diff': .* n_monitor is above 0"):
        plots.training(made, {"test_Diff": "Diff(F)"})


@pytest.mark.parametrize("n_seeds", [1, 2, 5])
def test_accuracies_show_test_and_shifted_sets_by_method(n_seeds):
    made = runs(n_seeds)
    (ax,) = draw(plots.accuracies(made))
    assert ax.get_ylabel() == "accuracy"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["test", "hotels\n(OOD)", "my set\n(OOD)"]
    for m in SHOWN:
        values = [[run.accuracy(split) for run in made[m]] for split in ("test", "ood_hotels", "ood_my_set")]
        assert all(holds(ax, seeds) for seeds in values) and holds(ax, np.mean(values, axis=1))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["LP", "FT", "LP-FT"]
    bars = [c for c in ax.containers if c.has_yerr]
    assert len(bars) == (3 if n_seeds > 1 else 0), "an interval needs two seeds"


@pytest.mark.parametrize("key", ["CS", "Diff", "FDR", "NormF"])
def test_feature_change_shows_the_measure_asked_for(key):
    made = runs()
    (ax,) = draw(plots.feature_change(made, key, label="a label"))
    assert ax.get_ylabel() == "a label"
    assert holds(ax, [run.metrics["change"]["train"][key] for run in made["ft"]])
    assert "validation" not in [t.get_text() for t in ax.get_xticklabels()]


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_feature_map_shows_every_class_and_head_row(n_classes):
    rng = np.random.default_rng(0)
    plane = {
        "before": rng.random((30, 2)),
        "after": rng.random((30, 2)),
        "rows_0": rng.random((n_classes, 2)),
        "rows": rng.random((n_classes, 2)),
        "labels": np.arange(30) % n_classes,
    }
    names = [f"class {c}" for c in range(n_classes)]
    figure = plots.feature_map({"FT": plane, "LP-FT": plane}, names)
    axes = draw(figure)
    assert [ax.get_title() for ax in axes] == ["FT", "LP-FT"]
    shown = [np.asarray(c.get_offsets()) for c in axes[0].collections]
    for points in (
        plane["before"],
        plane["rows"],
        plane["rows_0"],
        *(plane["after"][plane["labels"] == c] for c in range(n_classes)),
    ):
        assert any(s.shape == points.shape and np.allclose(s, points) for s in shown)
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert all(any(name in entry for entry in legend) for name in names)


def test_methods_differ_in_colour_marker_and_line():
    for key in ("color", "marker", "linestyle", "label"):
        assert len({method.style(key)[key] for method in METHODS.values()}) == len(METHODS)


def test_figures_are_not_kept_open():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots.accuracies(runs())
    assert plt.get_fignums() == before


def test_feature_maps_of_five_methods_stand_in_two_rows():
    rng = np.random.default_rng(0)
    plane = {k: rng.random((n, 2)) for k, n in (("before", 6), ("after", 6), ("rows_0", 2), ("rows", 2))}
    plane["labels"] = np.array([0, 1, 0, 1, 0, 1])
    for n, rows in ((1, 1), (3, 1), (4, 2), (5, 2)):
        panels = draw(plots.feature_map({f"m{i}": plane for i in range(n)}, ["a", "b"]))
        assert [ax.get_title() for ax in panels] == [f"m{i}" for i in range(n)]
        assert len({round(ax.get_position().y0, 3) for ax in panels}) == rows
