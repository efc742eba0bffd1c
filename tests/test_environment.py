"""environment.yml, pyproject.toml and constraints.txt say the same thing, and the README names what is there."""

import re
import tomllib

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

# Names that differ between PyPI and conda-forge.
CONDA_NAMES = {"torch": "pytorch"}


def _pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _wanted() -> dict[str, SpecifierSet]:
    project = _pyproject()
    lines = (
        project["dependencies"] + project["optional-dependencies"]["book"] + project["optional-dependencies"]["test"]
    )
    return {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}


def _environment() -> tuple[list[str], list[str]]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = [entry for entry in entries if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    return conda, pip


def _conda_bounds(spec: str) -> tuple[str, SpecifierSet]:
    name, bounds = re.fullmatch(r"([\w.-]+)(.*)", spec).groups()
    return name, SpecifierSet(bounds)


def test_environment_and_pyproject_name_the_same_packages_with_the_same_bounds():
    conda, pip = _environment()
    found = dict(_conda_bounds(spec) for spec in conda)
    python = found.pop("python")
    found.pop("pip")
    requirements = [Requirement(line) for line in pip if not line.startswith("-e")]
    found |= {canonicalize_name(r.name): r.specifier for r in requirements}
    wanted = {CONDA_NAMES.get(name, name): bounds for name, bounds in _wanted().items()}
    assert found == wanted
    assert python == SpecifierSet(_pyproject()["requires-python"])


def test_every_conda_spec_parses_strictly():
    rattler = pytest.importorskip("rattler")
    conda, _ = _environment()
    names = [rattler.MatchSpec(spec, strict=True).name.normalized for spec in conda]
    assert len(names) == len(set(names)) == len(conda)


def test_strict_parsing_refuses_a_malformed_spec():
    rattler = pytest.importorskip("rattler")
    with pytest.raises(Exception, match="not valid"):
        rattler.MatchSpec("pytorch>=2.13 <>3", strict=True)


def test_one_commented_line_switches_to_cuda():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    commented = [line for line in text.splitlines() if line.strip().startswith("# -")]
    assert len(commented) == 1
    assert commented[0].split()[2].startswith("pytorch-gpu>=2.13")


def test_constraints_pin_every_direct_dependency_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    assert pins["torch"] == "2.13.0"
    for name, bounds in _wanted().items():
        assert name in pins, f"{name} has no pin in constraints.txt"
        assert bounds.contains(pins[name]), f"{name}=={pins[name]} is outside {bounds}"


def test_the_book_builder_and_click_stay_below_the_versions_that_are_other_programs():
    wanted = _wanted()
    assert not wanted["jupyter-book"].contains("2.0")
    assert not wanted["click"].contains("9.0")


def test_imports_shown_in_the_readme_work():
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    imports = [line for block in shown for line in block.splitlines() if re.match(r"(from|import) ", line)]
    assert len(imports) >= 2
    for line in imports:
        exec(line, {})


def test_the_readme_has_one_row_for_each_room():
    rows = re.findall(r"^\| \d \| `(\w+)`", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(f.parent.name for f in (ROOT / "lpft_utils").glob("*/__init__.py"))
