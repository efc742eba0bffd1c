"""The workflow that publishes, and the licences that the repository names."""

import re

import pytest
import yaml
from conftest import ROOT

WORKFLOW = yaml.load((ROOT / ".github/workflows/book.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_actions_are_pinned_to_a_major_version():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert len(used) >= 6
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used), used


def test_jobs_follow_each_other_and_may_do_what_they_need_alone():
    jobs = WORKFLOW["jobs"]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all(job.get("needs", "test") in jobs for job in jobs.values())
    assert jobs["pages"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert jobs["release"]["permissions"] == {"contents": "write"}
    assert {"push", "pull_request", "release"} <= set(WORKFLOW["on"])


@pytest.mark.parametrize("command", [s["run"] for s in STEPS if re.match(r"make|\.ci", s.get("run", ""))])
def test_commands_of_the_workflow_exist(command):
    word, target = command.split()[:2]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE) if word == "make" else (ROOT / word).is_file()


def test_the_workflow_writes_its_address_where_the_configuration_has_a_placeholder():
    (command,) = [step["run"] for step in STEPS if "sed" in step.get("run", "")]
    old = command.split("|")[1]
    url = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    assert url == old


def test_text_and_code_name_their_licences():
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert "CC BY 4.0" in (ROOT / "LICENSE-text").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert yaml.safe_load(citation)["license"] == ["MIT", "CC-BY-4.0"]
    assert "doi:" in citation
    assert "CC BY 4.0" in (ROOT / "README.md").read_text(encoding="utf-8")
