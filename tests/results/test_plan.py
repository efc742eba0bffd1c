"""The committed plan, and plans that contradict themselves."""

import hashlib
import itertools
import re

import pytest
import yaml
from conftest import ROOT

from lpft_utils.common.errors import ParameterError
from lpft_utils.data.catalog import TASKS
from lpft_utils.data.tasks import load_task
from lpft_utils.results.plan import load_plan
from lpft_utils.results.statements import CLAIMS
from lpft_utils.runs.grid import load_grid
from lpft_utils.runs.profiles import get_profile
from lpft_utils.training.methods import METHODS

PATH = ROOT / "book" / "reference" / "plan.yml"


def test_the_committed_plan_names_one_endpoint_per_claim_and_task():
    plan = load_plan(PATH)
    assert plan.hash == hashlib.sha256(PATH.read_bytes()).hexdigest()[:16]
    primary = [task for task, about in plan.tasks.items() if about["role"] == "primary"]
    assert primary == ["snippets", "amazon", "cb", "cola", "csabstruct"] and "rte" in plan.tasks
    counted = [(CLAIMS[e["statistic"]].number, task) for e in plan.endpoints for task in e["tasks"] if task in primary]
    everywhere = [(n, task) for n in (1, 2, 4, 5, 6, 7, 8) for task in primary]
    assert sorted(counted) == sorted([*everywhere, (3, "snippets"), (3, "cb")])
    assert plan.role("snippets", "8.shift") == "primary" and plan.role("cb", "8.shift") == "secondary"
    assert plan.role("sst2", "2.Diff") == "replication" and plan.role("elsewhere", "2.Diff") == "secondary"
    assert plan.smallest("cb", "1.lp") == 0.3 and plan.smallest("cb", "2.CS") is None
    assert TASKS["cola"].metric == "MCC" and not set(plan.seeds) & {0, 1, 2, *plan.tuning_seeds}


def changed(place, value):
    plan = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    *path, last = place
    inner = plan
    for key in path:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return plan


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["seeds"], None, "expected the keys"),
        (["more"], 1, "expected the keys"),
        (["tasks", "cb", "role"], "main", "cb: role: expected one of primary, replication, shown, got 'main'"),
        (["endpoints", 0, "statistic"], "1.length", "no statistic '1.length'; known: 1.lp"),
        (["endpoints", 0, "margin"], 1, "1.lp: expected test 'larger' with margin 0"),
        (["endpoints", 3, "test"], "larger", "4.F: expected test 'at least' with margin 1"),
        (["endpoints", 0, "smallest"], 0, "smallest: expected a positive number"),
        (["endpoints", 0, "tasks"], ["cb"], "claim 1 on snippets: expected one endpoint or one exclusion, got 0"),
        (["endpoints", 0, "tasks", 0], "imdb", "not among the tasks: imdb"),
        (["endpoints", 0, "statistic"], "2.CS", "claim 1 on"),
        (["exclusions", 0, "why"], "", "claim 3 on amazon: expected one endpoint or one exclusion, got 0"),
        (["exclusions", 0, "tasks", 0], "cb", "claim 3 on amazon"),
        (["seeds", 0], 1, "seeds, tuning_seeds: expected different integers"),
        (["seeds"], [], "seeds, tuning_seeds"),
        (["learning_rates", "ft", 0], -1, "learning_rates: ft"),
        (["learning_rates", "lpft"], [1], "learning_rates: lpft"),
        (["endpoints", 0], "1.lp", "an entry is missing or of another kind"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(tmp_path, place, value, message):
    path = tmp_path / "plan.yml"
    path.write_text(yaml.safe_dump(changed(place, value), sort_keys=False), encoding="utf-8")
    with pytest.raises(ParameterError, match=message):
        load_plan(path)


@pytest.mark.parametrize("content", [None, "", "- 1", "a: ["])
def test_a_file_that_is_no_plan_is_named(tmp_path, content):
    path = tmp_path / "plan.yml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ParameterError, match=r"plan\.yml: expected"):
        load_plan(path)


def test_the_grid_runs_what_is_planned():
    """Seeds, rates and sizes stand in both files: the plan is read by people and by the ledger, the grid by `sweep`."""
    plan, grid = load_plan(PATH), load_grid(PATH.with_name("grid.yml"))
    assert {spec.seed for one in grid for spec in one.tuning} == set(plan.tuning_seeds)
    evaluated = [one for one in grid if one.spec.seed not in plan.tuning_seeds]
    for name, about in plan.tasks.items():
        of_task = [one.spec for one in evaluated if one.spec.task == name and one.spec.head_factor is None]
        assert {spec.backbone for spec in of_task} == {*about["backbones"]}
        for spec in of_task:
            if spec.backbone == about["backbones"][0]:
                assert (spec.n_train, spec.epochs) == (about.get("n_train"), about["epochs"])
        seeds = {(spec.method, spec.seed) for spec in of_task if spec.backbone == about["backbones"][0]}
        expected = plan.seeds if about["role"] != "shown" else plan.seeds[:3]
        assert seeds >= set(itertools.product(("lp", "ft", "lp_ft"), expected))
    of_method = {name: {tuple(one.rates) for one in evaluated if one.spec.method == name} for name in METHODS}
    rates = {method: tuple(found) for method, found in plan.learning_rates.items()}
    assert of_method == {
        "lp": {()}, "ft": {rates["ft"]}, "lp_ft": {rates["lp_ft"], rates["ft"]},
        "lora": {rates["lora"]}, "lp_lora": {rates["lp_lora"], rates["lora"]},
    }  # fmt: skip
    of_claim_3 = next(e for e in plan.endpoints if e["statistic"] == "3.trend")
    swept = {(one.spec.task, one.spec.seed) for one in evaluated if one.spec.head_factor is not None}
    assert swept == set(itertools.product(of_claim_3["tasks"], of_claim_3["seeds"]))
    assert {one.spec.head_factor for one in evaluated} - {None} == set(get_profile("gpu").factors)


def test_no_training_text_of_a_task_that_counts_is_a_test_text(data_dir):
    """Apart from capitals, spacing and punctuation; CSAbstruct as published has one."""

    def texts(split):
        return {tuple(tuple(re.findall(r"\w+", part.casefold())) for part in text) for text in split.texts}

    plan, shared = load_plan(PATH), {}
    for name, about in plan.tasks.items():
        if about["role"] == "primary":
            ood = about["ood"] if name == "amazon" else None
            splits = load_task(name, ood=ood, data_dir=data_dir).splits
            tests = [split for key, split in splits.items() if key == "test" or key.startswith("ood_")]
            shared[name] = sum(len(texts(splits["train"]) & texts(split)) for split in tests)
    assert shared == {"snippets": 0, "amazon": 0, "cb": 0, "cola": 0, "csabstruct": 1}
