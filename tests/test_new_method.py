"""A method from outside the package is one record and one function, and every room knows it."""

import re

import numpy as np
import pytest
import torch

from lpft_utils.figures import runs as figures
from lpft_utils.models.classifier import load_classifier
from lpft_utils.results import tables
from lpft_utils.runs.execute import load_model
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import run
from lpft_utils.studies.initialisation import initial_model, initialisations
from lpft_utils.training.methods import METHODS, TUNING_FIELDS, Method, ft, register


def odd_layers(model, spec):
    """Half fine-tuning: every second layer of φ, and the head."""
    for name, parameter in model.named_parameters():
        layer = re.search(r"\.layer\.(\d+)\.", name)
        parameter.requires_grad_(name.startswith("head.") or (layer is not None and int(layer[1]) % 2 == 1))


@pytest.fixture(scope="module")
def half_ft():
    method = Method(
        name="half_ft", label="Half FT", trains=odd_layers, run=ft, fields=TUNING_FIELDS, learning_rate=2e-3,
        color="#949494", marker="*", line="-",
    )  # fmt: skip
    yield register(method)
    del METHODS["half_ft"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def setting():
    return get_profile("smoke", task="synthetic", seeds=[0])


@pytest.fixture(scope="module")
def stored(half_ft, setting, store):
    return run(setting.spec("half_ft"), store=store)


def test_its_default_rate_is_that_of_its_record(stored):
    assert stored.spec.learning_rate == 2e-3
    assert stored.folder.name.startswith("synthetic-half_ft-s0-")


def test_it_trains_and_stores_exactly_what_its_record_says(stored):
    model = load_model(stored)
    fresh = load_classifier("tiny", 3, seed=0).state_dict()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, fresh[k])}
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    assert trained == set(stored.weights)
    assert moved <= trained and {k.split(".")[3] for k in moved - {"head.weight", "head.bias"}} == {"1"}
    assert stored.metrics["trainable_parameters"] == sum(w.numel() for w in stored.weights.values())


def test_its_kernel_is_that_of_the_parameters_it_trains(half_ft, setting, store):
    found = initialisations(setting, 0, ("half_ft", "ft"), store=store)
    model = initial_model(setting, "half_ft", 0, store=store)
    trained = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and not n.startswith("head."))
    assert found["half_ft"].train.spec["parameters"] == trained < found["ft"].train.spec["parameters"]
    parts = found["ft"].train.groups
    odd = sum(part for name, part in parts.items() if name.startswith("layer 2,"))
    np.testing.assert_allclose(found["half_ft"].train.F, odd, rtol=1e-4, atol=1e-5 * float(odd.abs().max()))


def test_tables_and_figures_show_it(stored):
    runs = {"half_ft": [stored]}
    assert list(tables.change_table(runs, "test").index) == ["Half FT"]
    axes = figures.accuracies(runs).axes[0]
    assert "Half FT" in [text.get_text() for text in axes.get_legend().get_texts()]
    assert axes.lines[0].get_color() == "#949494"
