"""The package as a whole: its floors, its public names, and the wheel that is built from it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import lpft_utils

PACKAGE = ROOT / "lpft_utils"


def python(program: str, **options) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_rooms_import_from_lower_floors_only():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 2 kept, 0 broken." in done.stdout


def test_there_are_few_rooms_and_fewer_modules_outside_them():
    rooms = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    assert 1 < len(rooms) <= 13
    assert 1 < len(list(PACKAGE.glob("*.py"))) <= 4
    assert {file.relative_to(PACKAGE).parts[0] for file in PACKAGE.glob("*/*.py")} == rooms


def test_importing_the_package_brings_neither_torch_nor_matplotlib():
    program = "import sys, lpft_utils; print(lpft_utils.__file__); print({'torch', 'matplotlib'} & set(sys.modules))"
    file, heavy = python(program, cwd=ROOT).splitlines()
    assert Path(file) == PACKAGE / "__init__.py" and heavy == "set()"


def test_public_names_are_what_their_rooms_define():
    from lpft_utils import RunSpec, kernel, load_model, run, sketch
    from lpft_utils.ntk import kernel as ntk_kernel
    from lpft_utils.ntk import sketch as ntk_sketch
    from lpft_utils.runs.run import run as runs_run
    from lpft_utils.training.spec import RunSpec as Spec

    assert (RunSpec, run, kernel, sketch) == (Spec, runs_run, ntk_kernel, ntk_sketch)
    assert load_model.__name__ == "load_model"
    assert {"RunSpec", "run", "load_model", "kernel", "sketch"} == set(lpft_utils.__all__) <= set(dir(lpft_utils))


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lpft_utils' has no attribute 'kernels'"):
        lpft_utils.kernels  # noqa: B018


def test_the_wheel_alone_trains_lp_ft(tmp_path):
    source, target = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PACKAGE, source / "lpft_utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("lpft_utils-*.whl")
    subprocess.run([*pip, "install", *offline[:2], "--target", target, wheel], check=True)
    shutil.rmtree(source)
    program = """
import lpft_utils
from lpft_utils import run
from lpft_utils.runs.profiles import get_profile
stored = run(get_profile("smoke", task="synthetic").spec("lp_ft"))
print(lpft_utils.__file__, stored.folder, stored.accuracy("test"), sep="\\n")
"""
    environment = {**os.environ, "PYTHONPATH": str(target), "LPFT_RUNS": str(tmp_path / "runs")}
    file, folder, accuracy = python(program, cwd=tmp_path, env=environment).splitlines()
    assert Path(file) == target / "lpft_utils" / "__init__.py"
    assert Path(folder).parent == tmp_path / "runs" and 0.2 < float(accuracy) <= 1
