"""The factorial of head length, head direction and learning rate, in the smoke profile."""

import itertools
import math

import pandas as pd
import pytest
import torch

from lpft_utils.runs.profiles import get_profile
from lpft_utils.studies.initialisation import examples, initial_model
from lpft_utils.studies.reasons import effects_table, factorial, factorial_table


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPFT_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield get_profile("smoke", task="synthetic")


@pytest.mark.parametrize("held", [False, True])
def test_one_step_of_adam_is_a_step_of_signs_from_the_head_of_each_cell(setting, held):
    """Adam's first step is −η g / (|g| + ε), whatever the size of the gradient."""
    cells = factorial(setting, 0, held=held, steps=1, n=4)
    assert len(cells) == 8 and len(cells.drop_duplicates(["direction", "‖V‖", "η"])) == 8
    few, other = examples(setting, 0, 4)
    for cell in cells.to_dict("records"):
        model = initial_model(setting, {"random": "ft", "LP": "lp_ft"}[cell["direction"]], 0).eval()
        model.scale_head(cell["‖V‖"])
        f, phi_0 = model(**few.inputs).logits, model.features(**other.inputs).detach()
        f = f - f.detach() if held else f
        loss = torch.nn.functional.cross_entropy(f, few.labels)
        wanted = [p for p in model.parameters() if p.requires_grad]
        with torch.no_grad():
            for p, g in zip(wanted, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True):
                if g is not None:
                    p.sub_(cell["η"] * g / (g.abs() + 1e-8))
            moved = (model.features(**other.inputs) - phi_0).norm(dim=1).mean().item()
        residual = (f.detach().softmax(1) - torch.eye(3)[few.labels]).norm(dim=1).mean().item()
        assert cell["moved"] == pytest.approx(moved, rel=1e-3)
        assert cell["residual"] == pytest.approx(residual, rel=1e-5)
        assert cell["before"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_held_residual_is_that_of_equal_probabilities(setting):
    held, free = (factorial(setting, 0, held=held, steps=1, n=4) for held in (True, False))
    assert held["residual"].tolist() == pytest.approx([math.sqrt(2 / 3)] * 8, rel=1e-6)
    assert held["before"].tolist() == pytest.approx([math.log(3)] * 8, rel=1e-6)
    assert free["residual"].std() > 1e-4


def test_effects_are_the_factors_that_the_cells_were_made_with():
    rows = [
        {"direction": d, "‖V‖": length, "η": eta, "moved": {"random": 1, "LP": 2}[d] * length**-0.5 * eta}
        for d, length, eta in itertools.product(("random", "LP"), (4.0, 1.0), (1e-3, 1e-2))
    ]
    table = effects_table({"made": pd.DataFrame(rows)})
    assert table["made"].tolist() == ["× 0.5 (0.5 … 0.5)", "× 2 (2 … 2)", "× 0.1 (0.1 … 0.1)"]


def test_table_shows_every_cell(setting):
    cells = factorial(setting, 0, steps=1, n=4)
    table = factorial_table(cells)
    assert table.index.tolist() == cells["direction"].tolist()
    assert table["initial residual"].tolist() == pytest.approx(cells["residual"].tolist(), abs=1e-3)
    assert table["η"].tolist() == cells["η"].tolist()  # the smallest rate is not rounded to zero
