"""The student edition holds no solution anywhere, and the instructor edition holds them all."""

import html
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from conftest import ROOT, BuiltBook
from small_book import make_book, quiet

from lpft_utils.cli import main
from lpft_utils.publishing import chapters, publish

KINDS = {"exercise", "stub", "solution"}
HEADING = re.compile(r"### (★{1,3}) (Computation|Proof|Question|Experiment|Research question): [^\n]+\n")
FOLDED = r":::\{dropdown\} Show the solution\n.*\n:::"
SOURCES = sorted((ROOT / "book").glob("*.ipynb"))
FULL = [path for path in SOURCES if path.stem[0].isdigit() or path.stem == "published-code"]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def squeezed(text: str) -> str:
    return "".join(text.split())


def pieces(cell) -> set[str]:
    """Lines of code, or formulas and stretches of words, that a page shows as they are, without blanks."""
    if cell.cell_type == "code":
        parts = cell.source.splitlines()
    else:
        words, formula = re.sub(r":::.*", "|", cell.source), r"(?s)\$+(.+?)\$+"
        parts = re.findall(formula, words) + re.split(r"[^\w\s,;:.]+", re.sub(formula, "|", words))
    return {piece for part in parts if len(piece := squeezed(part)) >= 20}


def solutions(folder: Path) -> list[set[str]]:
    """For every solution in the notebooks of a folder the pieces that nothing else in them has."""
    cells = [cell for path in sorted(folder.glob("*.ipynb")) for cell in nbformat.read(path, as_version=4).cells]
    rest = "\n".join(squeezed(cell.source) for cell in cells if "solution" not in tags(cell))
    return [{p for p in pieces(cell) if p not in rest} for cell in cells if "solution" in tags(cell)]


def texts(folder: Path) -> Iterator[str]:
    """What every file under a folder says, without blanks and without the tags of pages."""
    for path in folder.rglob("*"):
        if path.suffix == ".ipynb":
            for cell in nbformat.read(path, as_version=4).cells:
                yield squeezed(cell.source + str(cell.get("outputs", "")))
        elif path.is_file() and "mathjax" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="ignore")
            yield squeezed(html.unescape(re.sub(r"<[^>]*>", "", text)) if path.suffix == ".html" else text)


def shown(folder: Path, wanted: list[set[str]]) -> list[bool]:
    """Of every solution, whether a piece of it is anywhere under a folder."""
    everything = "\n".join(texts(folder))
    return [any(piece in everything for piece in some) for some in wanted]


# --- a small book in both editions -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def editions(tmp_path_factory) -> Path:
    """A book of one chapter, with an exercise, built in both editions."""
    root = make_book(tmp_path_factory.mktemp("editions") / "b", one=())
    path = root / "book" / "one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    hint = ":::{dropdown} Show a hint\nAdd *wombats*.\n:::"
    why = ":::{dropdown} Show the solution\nQuokkas always come in pairs: $1 + 1 = 2$.\n:::"
    notebook.cells += [
        text("## Exercises"),
        text(f"### ★ Computation: two\n\n{hint}", metadata={"tags": ["exercise"]}),
        code("def two():\n    return ...\n\n\ntwo() == 2", metadata={"tags": ["stub"]}),
        code(
            "def two():\n    return sum([1, 1])  # both of them\n\n\nprint(f'{two()} numbats')",
            metadata={"tags": ["solution", "hide-cell"], "jupyter": {"source_hidden": True}},
        ),
        text(why, metadata={"tags": ["solution"]}),
        text("## What to remember\n\nNothing."),
    ]
    nbformat.write(notebook, path)
    for edition in ("student", "instructor"):
        publish.publish(root, {"profile": "smoke"}, edition=edition, say=quiet)
    return root


def test_the_student_edition_has_no_solution_in_any_page_download_index_or_notebook(editions):
    wanted = solutions(editions / "book")
    assert len(wanted) == 2 and all(wanted)
    student = editions / "_build" / "student"
    assert shown(student, wanted) == [False, False]
    (download,) = student.glob("html/_sources/book/one.ipynb")
    assert [len(tags(cell) & KINDS) for cell in nbformat.read(download, as_version=4).cells].count(1) == 2
    everything = "\n".join(texts(student)).lower()
    assert "quokka" not in everything and "numbats" not in everything
    assert "wombat" in (student / "html" / "searchindex.js").read_text(encoding="utf-8")  # a word of the hint


def test_the_instructor_edition_has_every_solution_folded(editions):
    build = editions / "_build"
    for folder in ("executed", "html/book"):
        assert shown(build / folder, solutions(editions / "book")) == [True, True]
    page = (build / "html" / "book" / "one.html").read_text(encoding="utf-8")
    folded = re.findall(r"<details.*?</details>", page, flags=re.DOTALL)
    open_ = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    for word in ("Quokkas", "numbats"):
        assert word in "".join(folded) and word not in open_
    assert "quokka" in (build / "html" / "searchindex.js").read_text(encoding="utf-8")
    assert "numbats" in "\n".join(texts(build / "html" / "_sources"))


def test_the_editions_do_not_touch_each_other(editions):
    names = {path.name for path in (editions / "_build").iterdir()}
    assert names == {"executed", "html", "sphinx.log", "student"}
    assert {path.name for path in (editions / "_build" / "student").iterdir()} == {"executed", "html", "sphinx.log"}


def test_an_unknown_edition_is_refused_before_anything_runs():
    told = CliRunner().invoke(main, ["book", "--edition", "teacher"])
    assert told.exit_code == 2 and "'instructor', 'student'" in told.output


# --- the exercises of the book -----------------------------------------------------------------------------------


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def exercises(request) -> list[list[nbformat.NotebookNode]]:
    """The cells of every exercise of a notebook, of which all stand between two headings."""
    cells = nbformat.read(request.param, as_version=4).cells
    (first,) = [i for i, cell in enumerate(cells) if cell.source == "## Exercises"]
    (last,) = [i for i, cell in enumerate(cells) if cell.source.startswith("## What to remember")]
    assert not any(tags(cell) & KINDS for cell in [*cells[: first + 1], *cells[last:]])
    found: list[list[nbformat.NotebookNode]] = []
    for cell in cells[first + 1 : last]:
        assert len(tags(cell) & KINDS) == 1
        found += [[]] if "exercise" in tags(cell) else []
        found[-1].append(cell)
    return found


def test_an_exercise_says_its_grade_and_kind_and_is_followed_by_its_stub_and_solution(exercises):
    for task, *rest in exercises:
        heading = HEADING.match(task.source)
        assert heading and task.cell_type == "markdown", task.source[:80]
        kinds = [(tags(cell) & KINDS).pop() for cell in rest]
        solved = kinds[heading[2] == "Computation" :]
        assert kinds[:1] == ["stub"] if heading[2] == "Computation" else "stub" not in kinds
        assert set(solved) == (set() if heading[2] == "Research question" else {"solution"})
        if heading[2] in ("Computation", "Research question"):
            assert ":::{dropdown} Show " in task.source, "a hint"


def test_solutions_are_folded_on_the_page_and_in_jupyterlab(exercises):
    for cell in (cell for task in exercises for cell in task if "solution" in tags(cell)):
        assert cell.metadata.jupyter.source_hidden
        assert "hide-cell" in tags(cell) if cell.cell_type == "code" else re.fullmatch(FOLDED, cell.source, re.DOTALL)


def test_exercises_read_well_in_a_jupyterlab_that_knows_no_directives(exercises):
    raw = r"^(```|:::)\{(?!dropdown)|^:\w+:"
    assert not [cell.id for task in exercises for cell in task if re.search(raw, cell.source, re.MULTILINE)]


@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_a_chapter_has_four_exercises_or_more_of_every_grade(path):
    cells = nbformat.read(path, as_version=4).cells
    headings = [HEADING.match(cell.source) for cell in cells if "exercise" in tags(cell)]
    assert len(headings) >= 4
    assert {heading[1] for heading in headings} == {"★", "★★", "★★★"}
    kinds = {heading[2] for heading in headings}
    assert {"Computation", "Proof", "Research question"} <= kinds
    assert "Experiment" in kinds or path.stem == "published-code"  # which trains nothing


def test_no_cell_needs_a_solution(tmp_path):
    """Without the solutions every name is defined."""
    for path in SOURCES:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if "solution" not in tags(cell)]
        nbformat.write(notebook, tmp_path / path.name)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_solution_has_words_that_nothing_else_has():
    """Else the search through the student edition would find nothing in vain."""
    wanted = solutions(ROOT / "book")
    assert len(wanted) > 40 and all(wanted)


@pytest.mark.slow
def test_the_book_for_students_has_no_solution_anywhere(built_book: BuiltBook, tmp_path, monkeypatch):
    monkeypatch.setenv("LPFT_RUNS", str(built_book.runs))
    chapters.execute(ROOT, {"profile": "smoke"}, edition="student", build=tmp_path, say=quiet)
    publish.build_site(ROOT, tmp_path, say=quiet)
    wanted = solutions(ROOT / "book")
    assert not any(shown(tmp_path, wanted))
    assert all(shown(built_book.html / "book", wanted))
