"""The sweep over head norms: which runs it asks for, and what they start from."""

import pytest

from lpft_utils.common.errors import RunError
from lpft_utils.runs import run as module
from lpft_utils.runs.run import head_norm_sweep
from lpft_utils.training.spec import RunSpec

SPEC = RunSpec(
    task="synthetic", backbone="tiny", n_train=24, n_eval=12, epochs=1, batch_size=8, learning_rate=1e-3, lp=1.0
)


def test_every_norm_and_seed_is_one_run_that_starts_there(tmp_path):
    sweep = head_norm_sweep(SPEC, [3.0, 0.3], [0, 1], store=tmp_path)
    assert list(sweep) == [3.0, 0.3]
    for norm, runs in sweep.items():
        assert [run.spec for run in runs] == [SPEC.replace(head_norm=norm, seed=seed) for seed in (0, 1)]
        for run in runs:
            assert run.history.set_index("step").loc[0, "head_norm"] == pytest.approx(norm, rel=1e-5)
    small, large = (sweep[norm][0].history.set_index("step").loc[0] for norm in (0.3, 3.0))
    assert small["test_accuracy"] == large["test_accuracy"], "a temperature changes no prediction"
    assert small["test_loss"] != large["test_loss"]


@pytest.mark.parametrize("method", ["lp", "ft", "lora"])
def test_method_without_a_head_of_lp_to_scale_is_refused(method):
    with pytest.raises(RunError, match=f"lp_ft or lp_lora, got '{method}'"):
        head_norm_sweep(SPEC.replace(method=method), [1.0], [0])


@pytest.mark.parametrize(
    ("norms", "message"),
    [([], "one or more different norms"), ([1.0, 1.0], "different norms"), ([1.0, -1.0], "head_norm: expected a pos")],
)
def test_bad_norms_are_refused_before_anything_runs(norms, message, monkeypatch):
    monkeypatch.setattr(module, "run_seeds", lambda *a, **k: pytest.fail("a run was started"))
    with pytest.raises(RunError, match=message):
        head_norm_sweep(SPEC, norms, [0])
