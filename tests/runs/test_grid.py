"""Grids: what a file asks for, in which order, and everything that is wrong with it at once."""

import pytest
import yaml

from lpft_utils.common.errors import ParameterError, RunError
from lpft_utils.runs.grid import Planned, Score, load_grid
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import RunSpec

BLOCK = {"tasks": {"cb": {}}, "backbones": ["tiny"], "methods": ["lp_ft", "ft", "lp"], "seeds": [11, 12]}


def planned(tmp_path, content) -> list[Planned]:
    file = tmp_path / "grid.yml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return load_grid(file)


def asked(tmp_path, content, *fields) -> list[tuple]:
    return [tuple(getattr(one.spec, field) for field in fields) for one in planned(tmp_path, content)]


def problems(tmp_path, content) -> str:
    with pytest.raises(ParameterError) as caught:
        planned(tmp_path, content)
    assert "nothing was run" in str(caught.value)
    return str(caught.value)


def test_least_grid_is_tasks_methods_and_seeds(tmp_path):
    found = planned(tmp_path, "tasks: {cb: {}}\nmethods: [ft]\nseeds: [3]")
    assert found == [Planned(RunSpec(task="cb", backbone="minilm", method="ft", seed=3))]


def test_lp_comes_before_what_starts_from_its_head_and_a_seed_is_done_with_all_methods(tmp_path):
    assert asked(tmp_path, BLOCK, "seed", "method") == [(s, m) for s in (11, 12) for m in ("lp", "ft", "lp_ft")]


def test_fields_of_a_task_replace_the_settings(tmp_path):
    block = {**BLOCK, "tasks": {"cb": {"n_train": 5}, "rte": {}}, "settings": {"n_train": 7, "epochs": 2}}
    assert set(asked(tmp_path, block, "task", "n_train", "epochs")) == {("cb", 5, 2), ("rte", 7, 2)}


def test_numbers_are_read_as_people_write_them(tmp_path):
    text = "tasks: {cb: {}}\nmethods: [ft]\nseeds: [1]\nlearning_rates: {ft: [1e-4, 5E-5, 2.5e-5]}"
    assert asked(tmp_path, text, "learning_rate") == [(1e-4,), (5e-5,), (2.5e-5,)]


def test_a_method_that_does_not_use_what_varies_runs_once_and_does_not_carry_it(tmp_path):
    found = asked(tmp_path, {**BLOCK, "seeds": [1], "vary": {"head_norm": [1.0, 5.0]}}, "method", "head_norm")
    assert sorted(found, key=str) == [("ft", None), ("lp", None), ("lp_ft", 1.0), ("lp_ft", 5.0)]


def test_two_blocks_that_ask_for_one_run_get_one(tmp_path):
    both = [BLOCK, {**BLOCK, "methods": ["lp", "lora"]}]
    methods = [method for method, seed in asked(tmp_path, both, "method", "seed") if seed == 11]
    assert methods == ["lp", "ft", "lp_ft", "lora"]


TUNED = {**BLOCK, "tuning_seeds": [1, 2], "learning_rates": {"ft": [1e-4, 1e-3], "lp_ft": [1e-5]}}


def test_tuning_comes_first_and_evaluation_waits_for_it(tmp_path):
    found = planned(tmp_path, {**TUNED, "same_rate": {"lp_ft": "ft"}})
    tuning = [one.spec for one in found[:6]]
    assert [(s.method, s.learning_rate, s.seed) for s in tuning] == [
        ("ft", 1e-4, 1), ("ft", 1e-4, 2), ("ft", 1e-3, 1), ("ft", 1e-3, 2), ("lp_ft", 1e-5, 1), ("lp_ft", 1e-5, 2),
    ]  # fmt: skip
    of_seed = [one for one in found[6:] if one.spec.seed == 11]
    assert [(one.spec.method, len(one.tuning)) for one in of_seed] == [("lp", 0), ("ft", 4), ("lp_ft", 2), ("lp_ft", 4)]
    assert {spec for one in of_seed for spec in one.tuning} == set(tuning)


def test_rate_is_that_of_the_best_mean_validation_accuracy_and_ties_go_to_the_smaller():
    spec = RunSpec(task="cb", method="ft", seed=11)
    rates = {r: tuple(spec.replace(seed=s, learning_rate=r) for s in (1, 2)) for r in (1e-3, 1e-4, 1e-5)}
    one = Planned(spec, rates)

    def chosen(**accuracies):
        scores = {
            (rate, seed): Score("", accuracy, accuracy < 0, 1.0)
            for rate, pair in zip(rates, accuracies.values(), strict=True)
            for seed, accuracy in zip((1, 2), pair, strict=True)
            if accuracy is not None
        }
        return one.settled(lambda s: scores.get((s.learning_rate, s.seed)))

    assert chosen(a=(0.9, 0.5), b=(0.6, 0.6), c=(0.7, 0.6)) == spec.replace(learning_rate=1e-3)
    assert chosen(a=(0.7, 0.5), b=(0.6, 0.6), c=(0.5, 0.6)) == spec.replace(learning_rate=1e-4)
    assert chosen(a=(-1, 1.0), b=(0.6, 0.6), c=(0.5, 0.6)) == spec.replace(learning_rate=1e-4), "a run diverged"
    assert chosen(a=(0.9, None), b=(0.6, 0.6), c=(0.5, 0.6)) is None, "a tuning run is not done"
    with pytest.raises(RunError, match="diverged at every rate .0.001, 0.0001, 1e-05."):
        chosen(a=(-1, 1.0), b=(0.6, -1), c=(-1, -1))


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    said = problems(
        tmp_path,
        {
            "tasks": {"cb": {"n_train": -24}, "rte": {"label_noise": 0.5}},
            "backbones": ["/nowhere"],
            "methods": ["lp", "lp_tf"],
            "sead": [1],
            "learning_rates": {"lp": [1e-3], "ft": [1e-3]},
            "tuning_seeds": 1,
            "vary": {"head_norm": [1]},
            "settings": {"epoch": 1, "lp": 1.0},
        },
    )
    for expected in (
        "there is no key 'sead'; did you mean 'seeds'?",
        "seeds: expected a list of integers, got 'nothing'",
        "tuning_seeds: expected a list of integers, got 1",
        "methods: 'lp_tf' cannot be here; did you mean 'lp_ft'?",
        "learning_rates: 'lp' cannot be here",
        "learning_rates: 'ft' cannot be here",
        "settings, tasks: 'epoch' cannot be here; did you mean 'epochs'?",
        "vary: 'head_norm' cannot be here",
        "Backbone folder not found: '/nowhere'",
        "n_train: expected a positive integer, got -24",
        "label_noise: only the",
    ):
        assert expected in said, expected
    assert said.count("\n- ") == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tuning_seeds": [11, 3]}, "got [11] in both"),
        ({"learning_rates": {}, "tuning_seeds": [3]}, "expected both where a rate is to be chosen"),
        ({"same_rate": {"lp_ft": "ft"}}, "expected both where a rate is to be chosen"),
        ({"settings": {"head_norm": 2}, "vary": {"head_norm": [1]}}, "head_norm is among the settings as well"),
        ({"settings": {"seed": 3}}, "'seed' cannot be here"),
        ({"vary": {"learning_rate": [1e-3]}}, "'learning_rate' cannot be here"),
        ({"vary": {"head_norm": [1, -5]}}, "head_norm: expected a positive number, got -5"),
        ({"vary": {"head_norm": 1}}, "vary: expected a list of values"),
        ({"learning_rates": {"ft": [1e-3, "x"]}}, "learning_rates: expected a list of positive numbers by method"),
        ({"methods": "ft"}, "methods: expected a list of names, got 'ft'"),
        ({"tasks": ["cb"]}, "tasks: expected fields of a run by task"),
        ({"tasks": {}}, "tasks: expected fields of a run by task"),
        ({"seeds": []}, "seeds: expected a list of integers, got []"),
        ({"seeds": [True]}, "seeds: expected a list of integers"),
    ],
)
def test_what_is_wrong_is_named(change, message, tmp_path):
    assert message in problems(tmp_path, {**BLOCK, **change})


def test_the_block_of_several_is_named(tmp_path):
    said = problems(tmp_path, [BLOCK, 5, {**BLOCK, "seeds": 1}])
    assert "- block 2: expected keys and values, got 5" in said and "- block 3: seeds: expected" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [("seeds: [1]\nseeds: [2]", "seeds: given twice"), ("tasks: [", "expected a grid in YAML"), ("", "got None")],
)
def test_a_file_that_is_no_grid_is_refused(text, message, tmp_path):
    with pytest.raises(ParameterError, match=message):
        planned(tmp_path, text)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"nowhere\.yml: expected a grid in YAML"):
        load_grid(tmp_path / "nowhere.yml")


def test_a_registered_method_is_known(tmp_path):
    assert set(asked(tmp_path, {**BLOCK, "methods": list(METHODS)}, "method")) == {(name,) for name in METHODS}
