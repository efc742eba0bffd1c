"""RunSpec: what is refused, what names a run."""

import json
import re

import pytest

from lpft_utils.common.errors import RunError
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import RunSpec

OTHER_VALUES = {
    "task": "rte", "method": "ft", "backbone": "tiny", "seed": 1, "ood": ("sst5",), "n_train": 7, "n_eval": 7,
    "label_noise": 0.1, "max_length": 64, "pooling": "mean", "lp": "gd", "lp_steps": 5, "epochs": 3, "batch_size": 8,
    "learning_rate": 1e-3, "weight_decay": 0.1, "head_norm": 3.0, "head_factor": 3.0, "head_weight_decay": 0.2,
    "label_smoothing": 0.1, "n_monitor": 0,
    "lora_r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "lora_targets": ("query",),
}  # fmt: skip
TUNING = {"epochs", "batch_size", "learning_rate", "weight_decay", "head_weight_decay", "label_smoothing", "n_monitor"}
LORA = {"lora_r", "lora_alpha", "lora_dropout", "lora_targets"}
IGNORED = {
    "lp": {*TUNING, *LORA, "lp_steps", "head_norm", "head_factor"},
    "ft": {"lp", "lp_steps", "head_norm", *LORA},
    "lp_ft": {"lp_steps", *LORA},
    "lora": {"lp", "lp_steps", "head_norm"},
    "lp_lora": {"lp_steps"},
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "lp-ft"}, r"no 'lp-ft'; did you mean 'lp_ft'\? Known: lp, ft, lp_ft, lora, lp_lora"),
        ({"method": "nothing like it"}, r"no 'nothing like it'; Known: lp"),
        ({"method": None}, "method: there is no None"),
        ({"lp": "cross-validation"}, "lp: expected 'cv', 'gd' or a positive value of C"),
        ({"lp": 0}, "lp: .* got 0"),
        ({"lp": -1.0}, "lp: .* got -1.0"),
        ({"lp": float("nan")}, "lp: "),
        ({"lp": True}, "lp: .* got True"),
        ({"n_train": 0}, "n_train: expected a positive integer, got 0"),
        ({"n_train": 1.5}, "n_train: expected a positive integer, got 1.5"),
        ({"n_eval": "all"}, "n_eval: .* got 'all'"),
        ({"max_length": -1}, "max_length: .* got -1"),
        ({"batch_size": 2.5}, "batch_size: expected a positive integer"),
        ({"batch_size": None}, "batch_size: .* got None"),
        ({"epochs": 0}, "epochs: expected a positive number, got 0"),
        ({"epochs": None}, "epochs: .* got None"),
        ({"learning_rate": "1e-5"}, "learning_rate: .* got '1e-5'"),
        ({"learning_rate": float("nan")}, "learning_rate: "),
        ({"learning_rate": float("inf")}, "learning_rate: "),
        ({"weight_decay": -0.1}, "weight_decay: .* got -0.1"),
        ({"lp_steps": True}, "lp_steps: .* got True"),
        ({"seed": -1}, "seed: expected an integer ≥ 0, got -1"),
        ({"seed": 1.0}, "seed: .* got 1.0"),
        ({"seed": True}, "seed: .* got True"),
        ({"n_monitor": -1}, "n_monitor: expected an integer ≥ 0, got -1"),
        ({"pooling": "max"}, "pooling: expected one of auto, first, mean, last, got 'max'"),
        ({"label_noise": 1.0}, r"label_noise: expected a share in \[0, 1\), got 1.0"),
        ({"label_noise": "0.1"}, "label_noise: expected a share"),
        ({"label_smoothing": 1.0}, r"label_smoothing: expected a share in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing: .* got -0.1"),
        ({"head_weight_decay": -1.0}, "head_weight_decay: expected a number ≥ 0, got -1.0"),
        ({"weight_decay": None}, "^weight_decay: .* got None"),
        ({"head_norm": 0.0}, "head_norm: expected a positive number, got 0.0"),
        ({"head_norm": float("inf")}, "head_norm: "),
        ({"lora_r": 0}, "lora_r: expected a positive integer, got 0"),
        ({"lora_r": 1.5}, "lora_r: .* got 1.5"),
        ({"lora_alpha": -8}, "lora_alpha: expected a positive number, got -8"),
        ({"lora_alpha": None}, "lora_alpha: .* got None"),
        ({"lora_dropout": 1}, "lora_dropout: expected a share"),
        ({"lora_targets": ()}, "lora_targets: "),
        ({"lora_targets": [""]}, "lora_targets: "),
        ({"lora_targets": [1]}, "lora_targets: "),
        ({"label_noise": 0.1, "task": "rte"}, "only the task 'synthetic' can have it, not 'rte'"),
    ],
)  # fmt: skip
def test_bad_value_is_refused_with_its_name(fields, message):
    with pytest.raises(RunError, match=message):
        RunSpec(**fields)


def test_unknown_field_names_the_nearest_and_all():
    with pytest.raises(RunError, match=r"no field 'learning_rat'; did you mean 'learning_rate'\? Known: task, method"):
        RunSpec.from_dict({"learning_rat": 1e-5})
    with pytest.raises(RunError, match="did you mean 'n_train'"):
        RunSpec().replace(ntrain=5)


def test_round_trip_through_json():
    spec = RunSpec(**{**OTHER_VALUES, "label_noise": 0.0, "head_factor": None})
    again = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec and hash(again) == hash(spec)
    assert again.key("x") == spec.key("x")


def test_replace_changes_a_copy():
    spec = RunSpec()
    assert spec.replace(seed=3).seed == 3 and spec.seed == 0
    assert spec.replace() == spec


@pytest.mark.parametrize("method", METHODS)
def test_key_depends_on_exactly_what_the_method_uses(method):
    assert set(OTHER_VALUES) == set(RunSpec().to_dict())
    spec = RunSpec(task="synthetic", method=method, lp=1.0)
    ignored = set()
    for name, value in OTHER_VALUES.items():
        changed = {"label_noise": 0.0, name: value}
        if name != "method" and spec.replace(**changed).key("data") == spec.key("data"):
            ignored.add(name)
    assert ignored == IGNORED[method]


@pytest.mark.parametrize(
    ("method", "key"),
    [("ft", "dc8aa2b71c"), ("lp_ft", "b1f292d710"), ("lora", "26af7af31f"), ("lp_lora", "01403b1c46")],
)
def test_a_factor_on_the_head_leaves_the_names_of_other_runs_as_they_were(method, key):
    spec = RunSpec(task="synthetic", method=method, seed=7)
    assert spec.key("0123") == f"synthetic-{method}-s7-{key}"  # of before there was such a field
    assert spec.replace(head_factor=1).key("0123") != spec.key("0123")


def test_a_head_is_scaled_in_one_way():
    with pytest.raises(RunError, match=r"head_norm or head_factor, got both \(3.0, 2.0\)"):
        RunSpec(head_norm=3.0, head_factor=2.0)


def test_another_method_brings_its_own_rate_unless_one_was_chosen():
    assert RunSpec(method="lora").learning_rate == METHODS["lora"].learning_rate != METHODS["ft"].learning_rate
    assert RunSpec(method="ft").replace(method="lora") == RunSpec(method="lora")
    assert RunSpec(method="ft", learning_rate=3e-5).replace(method="lora").learning_rate == 3e-5
    assert RunSpec(method="ft").replace(method="lora", learning_rate=3e-5).learning_rate == 3e-5
    assert RunSpec(method="lp").learning_rate is None


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_heads_weight_decay_equal_to_the_others_is_the_same_run(weight_decay):
    spec = RunSpec(weight_decay=weight_decay)
    assert spec.key("x") == spec.replace(head_weight_decay=weight_decay).key("x")
    assert spec.key("x") != spec.replace(head_weight_decay=0.5).key("x")


def test_steps_count_for_gradient_descent_alone():
    gd = RunSpec(method="lp", lp="gd")
    assert gd.key("x") != gd.replace(lp_steps=5).key("x")


def test_key_tells_methods_and_data_apart():
    keys = {RunSpec(method=m).key(d) for m in METHODS for d in ("one", "two")}
    assert len(keys) == 2 * len(METHODS)


def test_equal_numbers_of_another_type_are_the_same_run():
    assert RunSpec(epochs=3, lp=1).key("x") == RunSpec(epochs=3.0, lp=1.0).key("x")
    assert RunSpec(ood=["a"]) == RunSpec(ood="a") == RunSpec(ood=("a",))
    assert RunSpec(lora_targets=["a"]) == RunSpec(lora_targets="a") == RunSpec(lora_targets=("a",))
    assert RunSpec(head_norm=3).key("x") == RunSpec(head_norm=3.0).key("x")


@pytest.mark.parametrize("task", ["synthetic", "/data/My folder/réviews", "../..", "a" * 300, "aps/super_glue"])
def test_key_is_a_safe_folder_name(task):
    key = RunSpec(task=task, method="ft", seed=7).key("0123")
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,39}-ft-s7-[0-9a-f]{10}", key)
