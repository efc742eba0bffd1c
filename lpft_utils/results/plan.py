"""The plan: which statistic of each claim counts on which task, written down before the runs that are judged by it."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.paths import book_root
from lpft_utils.common.validation import is_integer, is_number
from lpft_utils.results.statements import CLAIMS
from lpft_utils.training.methods import METHODS

ROLES = ("primary", "replication", "shown")
TUNED, SAME = RATES = ("tuned", "same")  # each method at its own learning rate; LP-FT at FT's, LP-LoRA at LoRA's


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked plan.

    Attributes:
        hash: First 16 hex digits of the SHA-256 of its file: results carry it.
        written: Date.
        tasks: By name: "role" (one of `ROLES`; results of a task that is "shown" get no verdict) and whatever the runs
            need to know.
        endpoints: "statistic" (an id of `CLAIMS`), "tasks", "test", "margin", and "smallest", the smallest effect of
            interest beyond the threshold, in the unit of the statistic; "rates" where not "tuned" alone, and "seeds"
            where not all. One entry per claim and task at most.
        exclusions: "claim", "tasks" and "why" of what has no endpoint.
        described: Numbers of the claims that are described, not tested.
        seeds: Of the evaluation.
        tuning_seeds: On which learning rates are chosen; no seed of the evaluation is among them.
        learning_rates: Rates to choose from, by method.
        stopping: When runs end, in words.
    """

    hash: str
    written: Any
    tasks: Mapping[str, Mapping[str, Any]]
    endpoints: tuple[Mapping[str, Any], ...]
    exclusions: tuple[Mapping[str, Any], ...]
    described: tuple[int, ...]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    learning_rates: Mapping[str, tuple[float, ...]]
    stopping: str

    def endpoint(self, task: str, statistic: str, rate: str = TUNED) -> Mapping[str, Any] | None:
        """The entry of a statistic on a task, with the methods at these of the `RATES`; None if it is no endpoint."""
        found = (e for e in self.endpoints if e["statistic"] == statistic and task in e["tasks"])
        return next((e for e in found if rate in e.get("rates", (TUNED,))), None)

    def role(self, task: str, statistic: str, rate: str = TUNED) -> str:
        """A statistic's role on a task: "primary" or "replication" for a planned endpoint, otherwise "secondary"."""
        return self.tasks[task]["role"] if self.endpoint(task, statistic, rate) else "secondary"

    def smallest(self, task: str, statistic: str, rate: str = TUNED) -> float | None:
        """The smallest effect of interest of an endpoint; None for what is none."""
        endpoint = self.endpoint(task, statistic, rate)
        return endpoint["smallest"] if endpoint else None


def load_plan(path: Path | None = None) -> Plan:
    """Read and check a plan.

    Args:
        path: The YAML file; default: `book/reference/plan.yml`.

    Returns:
        The plan.

    Raises:
        ParameterError: If the file is missing, is no plan, or contradicts itself or the registry of claims; the message
            names the place.
    """
    return _load(path or book_root() / "book" / "reference" / "plan.yml")


@functools.cache
def _load(path: Path) -> Plan:
    try:
        content = path.read_bytes()
        found = yaml.safe_load(content)
    except (OSError, yaml.YAMLError) as error:
        raise ParameterError(f"{path}: expected a plan ({error}); `git checkout` brings it back.") from error
    names = {field.name for field in fields(Plan)} - {"hash"}
    keys = sorted(found) if isinstance(found, dict) else repr(found)
    if keys != sorted(names):
        raise ParameterError(f"{path}: expected the keys {', '.join(sorted(names))}, got {keys}.")
    try:
        problem = next(_problems(found), None)
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"an entry is missing or of another kind than expected ({error!r})"
    if problem:
        raise ParameterError(f"{path}: {problem}.")
    lists = {k: tuple(v) for k, v in found.items() if isinstance(v, list)}
    return Plan(**{**found, **lists}, hash=hashlib.sha256(content).hexdigest()[:16])


def _problems(plan: dict[str, Any]) -> Iterator[str]:
    """What is wrong, in words."""
    for name, task in plan["tasks"].items():
        if task["role"] not in ROLES:
            yield f"tasks: {name}: role: expected one of {', '.join(ROLES)}, got {task['role']!r}"
    for entry in plan["endpoints"]:
        if (claim := CLAIMS.get(entry["statistic"])) is None:
            yield f"endpoints: there is no statistic {entry['statistic']!r}; known: {', '.join(CLAIMS)}"
        elif (entry["test"], entry["margin"]) != (claim.test, claim.margin):
            yield f"endpoints: {claim.id}: expected test {claim.test!r} with margin {claim.margin:g}, as it is computed"
        elif not (is_number(entry["smallest"]) and entry["smallest"] > 0):
            yield f"endpoints: {claim.id}: smallest: expected a positive number, got {entry['smallest']!r}"
        elif unknown := set(entry.get("rates", ())) - set(RATES):
            yield f"endpoints: {claim.id}: rates: expected some of {', '.join(RATES)}, got {', '.join(unknown)}"
    covered = Counter((CLAIMS[e["statistic"]].number, task) for e in plan["endpoints"] for task in e["tasks"])
    covered += Counter((e["claim"], task) for e in plan["exclusions"] if e["why"] for task in e["tasks"])
    if unknown := {task for _, task in covered} - set(plan["tasks"]):
        yield f"endpoints and exclusions: not among the tasks: {', '.join(sorted(unknown))}"
    tested = {claim.number for claim in CLAIMS.values()} - set(plan["described"])
    counted = [task for task, about in plan["tasks"].items() if about["role"] != "shown"]
    for number, task in itertools.product(sorted(tested), counted):
        if covered[number, task] != 1:
            yield f"claim {number} on {task}: expected one endpoint or one exclusion, got {covered[number, task]}"
    everyone = [*plan["seeds"], *plan["tuning_seeds"]]
    if not plan["seeds"] or len(set(everyone)) < len(everyone) or not all(map(is_integer, everyone)):
        yield f"seeds, tuning_seeds: expected different integers, got {everyone}"
    for method, rates in plan["learning_rates"].items():
        if method not in METHODS or not rates or not all(is_number(rate) and rate > 0 for rate in rates):
            yield f"learning_rates: {method}: expected a method and positive numbers, got {rates!r}"
