"""The command `lpft`: messages, exit codes, what reaches the publisher."""

import ast
import logging
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import ROOT
from tqdm import tqdm

from lpft_utils import cli
from lpft_utils.common.errors import LpftError
from lpft_utils.publishing import publish


@pytest.fixture
def published(monkeypatch) -> list[dict]:
    """Calls of publish.publish, which does nothing."""
    calls: list[dict] = []

    def record(root, parameters, **options):
        calls.append({"root": root, "parameters": parameters, **options})

    monkeypatch.setattr(publish, "publish", record)
    monkeypatch.chdir(ROOT)
    return calls


def lpft(*arguments: str):
    return CliRunner().invoke(cli.main, list(arguments))


def test_profile_and_parameters_reach_the_chapters_as_literals(published):
    result = lpft(
        "book", "--profile", "smoke", "-p", "task", "rte", "-p", "seeds", "[0, 1]", "--chapter", "02", "--no-site"
    )
    assert result.exit_code == 0, result.output
    (call,) = published
    assert call["root"] == ROOT
    assert call["parameters"] == {"profile": "smoke", "task": "rte", "seeds": [0, 1]}
    assert call["only"] == ("02",)
    assert call["make_site"] is False


def test_without_options_the_chapters_keep_their_own_parameters(published):
    assert lpft("book").exit_code == 0
    assert published[0]["parameters"] == {}
    assert published[0]["make_site"] is True


def test_conflicting_profiles_are_refused(published):
    result = lpft("book", "--profile", "smoke", "-p", "profile", "gpu")
    assert result.exit_code == 2
    assert "profile is given twice" in result.output
    assert not published


def test_unknown_option_names_the_nearest():
    result = lpft("book", "--profil", "smoke")
    assert result.exit_code == 2
    assert "--profile" in result.output


def test_unknown_profile_lists_the_profiles():
    result = lpft("book", "--profile", "desktop")
    assert result.exit_code == 2
    assert all(name in result.output for name in ("smoke", "laptop", "gpu"))


def test_unknown_command_names_the_nearest():
    result = lpft("bock")
    assert result.exit_code == 2
    assert "Did you mean 'book'?" in result.output


def test_our_errors_are_one_clean_message_with_exit_code_2(monkeypatch, published):
    def fail(*_, **__):
        raise LpftError("the chapter is upside down: turn it")

    monkeypatch.setattr(publish, "publish", fail)
    result = lpft("book")
    assert result.exit_code == 2
    assert result.output == "Error: the chapter is upside down: turn it\n"


def test_outside_the_book_the_message_says_where_to_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = lpft("book")
    assert result.exit_code == 2
    assert "_toc.yml" in result.output and "cd there" in result.output


def test_open_shows_the_first_page(monkeypatch, tmp_path, published):
    opened = []
    monkeypatch.setattr(publish, "publish", lambda *_, **__: tmp_path / "index.html")
    monkeypatch.setattr(cli.webbrowser, "open", opened.append)
    assert lpft("book", "--open").exit_code == 0
    assert opened == [(tmp_path / "index.html").as_uri()]


@pytest.mark.parametrize("place", ["store", "store/below"])
def test_a_file_in_the_place_of_the_store_is_one_clean_message(place, tmp_path, monkeypatch):
    (tmp_path / "store").write_text("a file", encoding="utf-8")
    monkeypatch.setenv("LPFT_RUNS", str(tmp_path / place))
    result = lpft("run", "--profile", "smoke", "--task", "synthetic", "--method", "lp", "--seed", "0")
    assert result.exit_code == 2
    assert str(tmp_path / "store") in result.output and "set LPFT_RUNS" in result.output


def test_a_store_that_cannot_be_written_is_one_clean_message(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("lpft_utils.runs.run.FileLock", refuse)
    monkeypatch.setenv("LPFT_RUNS", str(tmp_path))
    result = lpft("run", "--profile", "smoke", "--task", "synthetic", "--method", "lp", "--seed", "0")
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith(f"Error: {tmp_path}: Permission denied. Runs are stored in")


def test_an_error_of_the_system_without_a_file_keeps_its_traceback(monkeypatch, published):
    def fail(*_, **__):
        raise OSError("the network is down")

    monkeypatch.setattr(publish, "publish", fail)
    assert isinstance(lpft("book").exception, OSError)


def test_messages_stand_above_the_bar_and_errors_after_it(monkeypatch):
    def train(spec, seeds, progress):
        bar = tqdm(total=2, desc="training", file=sys.stderr)
        logging.getLogger("lpft_utils.training").info("Resuming an interrupted training at checkpoint-6.")
        bar.update()
        raise LpftError("the disk is full")

    monkeypatch.setattr("lpft_utils.runs.run.run_seeds", train)
    result = lpft("run", "--profile", "smoke", "--task", "synthetic", "--method", "lp")
    lines = re.split(r"[\r\n]+", result.output)
    assert "Resuming an interrupted training at checkpoint-6." in lines
    assert lines[-2] == "Error: the disk is full"


def test_only_publishing_and_the_chapters_object_import_jupyter():
    jupyter = {"IPython", "ipykernel", "jupyter_client", "jupyter_book", "nbformat", "nbclient", "papermill", "myst_nb"}
    found = set()
    for file in (ROOT / "lpft_utils").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        froms = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        if {module.split(".")[0] for module in plain | froms} & jupyter:
            found.add(file.relative_to(ROOT / "lpft_utils").as_posix())
    assert found == {"publishing/chapters.py", "publishing/slides.py", "teaching/chapter.py"}


def test_help_answers_without_heavy_imports():
    program = "import sys, lpft_utils.cli; print(sorted({'torch', 'papermill', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- sweeps ----

GRID = """
tasks: {synthetic: {}}
backbones: [tiny]
methods: [lp]
seeds: [1, 2]
settings: {n_train: 24, n_eval: 12, lp: 1.0}
"""


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.setenv("LPFT_RUNS", str(tmp_path / "store"))
    (tmp_path / "grid.yml").write_text(GRID, encoding="utf-8")
    return str(tmp_path / "grid.yml")


def test_dry_run_says_what_would_run_and_writes_nothing(grid, tmp_path):
    result = lpft("sweep", grid, "--dry-run", "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert "2 runs: 0 done, 2 to do\n     2 lp on synthetic, tiny\n" in result.output
    assert "core-hours" in result.output and "MB" in result.output
    assert {path.name for path in tmp_path.iterdir()} == {"grid.yml"}


def test_a_grid_with_errors_is_refused_with_all_of_them(grid, tmp_path):
    (tmp_path / "grid.yml").write_text(GRID.replace("lp]", "pl]").replace("n_eval", "n_evla"), encoding="utf-8")
    result = lpft("sweep", grid)
    assert result.exit_code == 2
    assert "did you mean 'lp'?" in result.output and "did you mean 'n_eval'?" in result.output
    assert not (tmp_path / "store").exists()


def test_a_sweep_into_a_store_that_cannot_be_written_stops_before_any_run(grid, tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(cli.tempfile, "TemporaryFile", refuse)
    result = lpft("sweep", grid)
    assert result.exit_code == 2
    assert f"{tmp_path / 'store'}: Permission denied. Runs are stored in" in result.output
    assert not list((tmp_path / "store").iterdir())


def test_failed_runs_are_reported_and_the_exit_status_is_1(grid, tmp_path, monkeypatch):
    from lpft_utils.runs import schedule

    def fail(planned, engine, *_, **__):
        return schedule.Report(1, 1, [(planned[1].spec, "OSError: No space left on device")])

    monkeypatch.setattr(schedule, "sweep", fail)
    result = lpft("sweep", grid, "--results", str(tmp_path / "found.parquet"))
    assert result.exit_code == 1
    assert "1 runs done, 1 of them diverged, 1 failed" in result.output
    assert "failed: lp on synthetic, tiny, seed 2: OSError: No space left on device" in result.output
