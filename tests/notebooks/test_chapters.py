"""The chapters: clean in git, and running from the first to the last cell under papermill and nbval (profile smoke)."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import ROOT, BuiltBook

from lpft_utils.publishing import publish

MAX_LINES, MAX_SET_UP = 18, 21
CHOICES = ("task", "backbone", "seeds", "ood", "n_train", "learning_rate", "epochs")  # None leaves it to the profile
PARAMETERS = {"profile": "laptop", **dict.fromkeys(CHOICES)}
# Plotting and training belong to lpft_utils, where they are tested; a chapter calls them.
FORBIDDEN = {
    r"\bplt\.|\bimport matplotlib|\bsns\.|\bimport seaborn": "plotting code",
    r"\boptimizer\b|\boptim\.|\.zero_grad\(|\bDataLoader\(": "a training loop",
    r"format_(interval|geometric)\(": "a mean past `tables.over_seeds`, which leaves diverged runs out and counts them",
    r"/home/|/Users/|C:\\\\": "a path of one machine",
}


def _names() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [entry for entry in entries if not (ROOT / f"{entry}.md").is_file()]


CHAPTERS = _names()


def _read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.fixture(params=CHAPTERS, ids=lambda name: Path(name).name)
def chapter(request) -> nbformat.NotebookNode:
    return _read(ROOT / f"{request.param}.ipynb")


def test_every_notebook_of_the_book_is_in_the_table_of_contents():
    assert {f"book/{path.stem}" for path in (ROOT / "book").glob("*.ipynb")} == set(CHAPTERS)


def test_notebooks_hold_no_outputs(chapter):
    code = [cell for cell in chapter.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_parameters_are_plain_literals_with_the_agreed_names_and_defaults(chapter):
    (cell,) = [cell for cell in chapter.cells if "parameters" in cell.metadata.get("tags", [])]
    statements = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    assert len(statements) == len(ast.parse(cell.source).body)
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in statements}
    assert values in (PARAMETERS, {"profile": "laptop"})
    others = [c.source for c in chapter.cells if c.cell_type == "code" and c is not cell]
    names = {n.id for source in others for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)}
    assert set(values) <= names  # none is declared for nothing


def test_the_set_up_is_one_folded_cell_after_the_parameters(chapter):
    parameters, setup = chapter.cells[1:3]
    assert parameters.metadata.tags == ["parameters"] and setup.metadata.tags == ["hide-input"]
    assert "chapter = Chapter(" in setup.source


def test_cells_are_short(chapter):
    long = {
        number: lines
        for number, cell in enumerate(chapter.cells, 1)
        if cell.cell_type == "code"
        if (lines := cell.source.count("\n") + 1) > (MAX_SET_UP if "Chapter(" in cell.source else MAX_LINES)
    }
    assert not long


def test_cells_hold_no_plotting_code_training_loops_or_paths(chapter):
    found = [
        (number, what)
        for number, cell in enumerate(chapter.cells, 1)
        if cell.cell_type == "code"
        for pattern, what in FORBIDDEN.items()
        if re.search(pattern, cell.source)
    ]
    assert not found


def test_chapters_have_the_parts_of_a_chapter(chapter):
    text = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    assert re.match(r"(\(.*\)=\s*)?# ", chapter.cells[0].source)
    assert "## Exercises" in text  # tests/publishing/test_editions.py looks at them
    assert re.search(r"(?im)^##+ .*remember", text)


def test_papermill_runs_every_chapter(executed_book: BuiltBook):
    for source in publish.chapters(ROOT):
        cells = _read(executed_book.build / "executed" / source.relative_to(ROOT)).cells
        code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
        assert all(cell.execution_count for cell in code)
        assert any(
            "profile = 'smoke'" in c.source.replace('"', "'") for c in code if "injected-parameters" in c.metadata.tags
        )


def _shows_image(cell: nbformat.NotebookNode) -> bool:
    return any(mime.startswith("image/") for output in cell.get("outputs", []) for mime in output.get("data", {}))


def test_figures_and_alternative_texts_come_in_pairs(executed_book: BuiltBook):
    poor = []
    for source in publish.chapters(ROOT):
        for number, cell in enumerate(_read(executed_book.build / "executed" / source.relative_to(ROOT)).cells, 1):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            if _shows_image(cell) != (len(alt) >= 15):  # no text for a figure, or no figure for the text
                poor.append((source.stem, number, alt))
    assert not poor


def test_nbval_runs_every_chapter(executed_book: BuiltBook, tmp_path):
    """nbval runs default parameters, so it gets copies whose default profile is smoke; stored runs are reused."""
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy2(ROOT / "_toc.yml", tmp_path)
    for copy in (tmp_path / "book").glob("*.ipynb"):
        notebook = _read(copy)
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source, changed = re.subn(r'profile = "laptop"', 'profile = "smoke"', cell.source)
        assert changed == 1
        nbformat.write(notebook, copy)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path / "book")]
    environment = {**os.environ, "LPFT_RUNS": str(executed_book.runs)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    cells = sum(cell.cell_type == "code" for source in publish.chapters(ROOT) for cell in _read(source).cells)
    assert f"{cells} passed" in done.stdout
