"""Profiles and the published settings, against the paper's table as text."""

import pytest

from lpft_utils.common.errors import ParameterError
from lpft_utils.data.tasks import TASKS
from lpft_utils.runs.paper_settings import paper_settings
from lpft_utils.runs.profiles import PROFILES, get_profile
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import RunSpec

# Batch size, learning rate for FT, LP-FT, LoRA, LP-LoRA (Tomihari & Sato 2024, hyperparameters of RoBERTa-base).
TABLE = """
| amazon | 16, 1e-5 | 8, 1e-6 | 16, 1e-3 | 8, 5e-4 |
| boolq | 32, 1e-5 | 8, 1e-5 | 32, 5e-4 | 8, 5e-4 |
| cb | 16, 5e-5 | 8, 5e-6 | 16, 1e-3 | 8, 1e-4 |
| cola | 32, 5e-5 | 8, 1e-5 | 16, 1e-3 | 8, 1e-3 |
| mrpc | 16, 1e-5 | 8, 1e-5 | 32, 1e-5 | 8, 1e-3 |
| pubmed | 8, 5e-6 | 8, 5e-6 | 8, 5e-4 | 8, 1e-3 |
| rte | 16, 1e-5 | 8, 1e-5 | 16, 1e-3 | 8, 5e-4 |
| sst2 | 32, 1e-5 | 8, 1e-5 | 32, 5e-4 | 8, 1e-3 |
| wic | 32, 1e-5 | 8, 1e-5 | 16, 1e-3 | 8, 1e-3 |
| wsc | 16, 1e-3 | 8, 1e-3 | 16, 1e-4 | 8, 1e-4 |
"""
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.strip().splitlines()]
COLUMNS = ("ft", "lp_ft", "lora", "lp_lora")


@pytest.mark.parametrize(
    ("task", "method", "cell"), [(row[0], m, cell) for row in ROWS for m, cell in zip(COLUMNS, row[1:], strict=True)]
)
def test_paper_settings_are_the_published_table(task, method, cell):
    batch_size, learning_rate = cell.split(",")
    assert paper_settings(task, method) == {
        "batch_size": int(batch_size),
        "learning_rate": float(learning_rate),
        "epochs": 10,
        "max_length": 128,
        "lp": "cv",
        "weight_decay": 0.0,
    }
    assert task in TASKS


@pytest.mark.parametrize(("task", "method"), [("synthetic", "ft"), ("rte", "lp"), ("sst5", "lp_ft")])
def test_where_the_paper_gives_no_settings_the_profile_keeps_its_own(task, method):
    assert paper_settings(task, method) == {}


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize("method", METHODS)
def test_every_profile_gives_valid_specs(name, method):
    profile = get_profile(name)
    spec = profile.spec(method)
    assert (spec.method, spec.task, spec.backbone, spec.seed) == (
        method, profile.task, profile.backbone, profile.seeds[0],
    )  # fmt: skip
    assert RunSpec.from_dict(spec.to_dict()) == spec
    assert profile.name == name


def test_profiles_are_what_the_book_says():
    assert set(PROFILES) == {"smoke", "laptop", "gpu"}
    assert (PROFILES["smoke"].backbone, PROFILES["laptop"].backbone) == ("tiny", "minilm")
    assert PROFILES["gpu"].seeds == (1001, 2002, 3003, 4004, 5005)
    assert len(PROFILES["laptop"].seeds) >= 3


@pytest.mark.parametrize("name", list(PROFILES))
def test_every_profile_has_a_learning_rate_for_every_tuned_method(name):
    for method in set(METHODS) - {"lp"}:
        expected = PROFILES[name].learning_rates.get(method, METHODS[method].learning_rate)
        assert get_profile(name, task="sst5_3way").spec(method).learning_rate == expected > 0


def test_gpu_profile_uses_the_published_settings_of_its_task():
    profile = get_profile("gpu", task="cb")
    assert (profile.spec("ft").batch_size, profile.spec("ft").learning_rate) == (16, 5e-5)
    assert (profile.spec("lp_ft").batch_size, profile.spec("lp_ft").learning_rate) == (8, 5e-6)
    assert (profile.spec("lora").batch_size, profile.spec("lora").learning_rate) == (16, 1e-3)
    assert (profile.spec("lp_lora").batch_size, profile.spec("lp_lora").learning_rate) == (8, 1e-4)
    unknown = get_profile("gpu", task="sst5_3way").spec("ft")
    assert unknown.learning_rate == PROFILES["gpu"].learning_rates["ft"]


def test_overrides_change_what_they_name_alone():
    profile = get_profile("laptop", task="rte", backbone="tiny", seeds=[5, 6], ood=["cb"])
    assert (profile.task, profile.backbone, profile.seeds, profile.ood) == ("rte", "tiny", (5, 6), ("cb",))
    assert profile.settings == PROFILES["laptop"].settings
    assert get_profile("laptop", seeds=7).seeds == (7,)
    assert get_profile("laptop", ood="sst5").ood == ("sst5",)
    assert get_profile("laptop") == PROFILES["laptop"]
    assert profile.spec("ft", epochs=1, seed=9).replace(epochs=2).seed == 9


def test_a_learning_rate_and_epochs_come_before_those_of_profile_and_paper():
    one = get_profile("gpu", task="cb", learning_rate=3e-4, epochs=2)
    for method in ("ft", "lp_ft", "lora", "lp_lora"):
        spec, usual = one.spec(method), get_profile("gpu", task="cb").spec(method)
        assert spec == usual.replace(learning_rate=3e-4, epochs=2)
        assert usual.epochs == 10 and usual.learning_rate != 3e-4
    assert one.spec("lp") == get_profile("gpu", task="cb").spec("lp")
    laptop = get_profile("laptop", learning_rate={"ft": 2e-5}, epochs=7)
    assert [laptop.spec(m).learning_rate for m in ("ft", "lp_ft", "lora")] == [2e-5, 1e-4, 5e-3]
    assert laptop.sweep_spec() == PROFILES["laptop"].sweep_spec().replace(epochs=7)
    with pytest.raises(ParameterError, match=r"learning_rate: there is no method 'lpft' that tunes; did you mean"):
        get_profile("laptop", learning_rate={"lpft": 1e-4})


@pytest.mark.parametrize("seeds", [[], [1.5], ["1"], "12", [0, 0]])
def test_bad_seeds_are_refused(seeds):
    with pytest.raises(ParameterError, match="seeds: expected one or more different integers"):
        get_profile("smoke", seeds=seeds)


def test_unknown_profile_names_those_that_exist():
    with pytest.raises(ParameterError, match="profile: expected one of smoke, laptop, gpu, got 'lapto'"):
        get_profile("lapto")
