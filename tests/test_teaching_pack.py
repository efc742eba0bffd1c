"""The pages for teachers: they say what the chapters say, their plans add up, and their commands and grids are real."""

import json
import re
import shlex
from pathlib import Path

import papermill
import pytest
from conftest import ROOT

from lpft_utils import cli
from lpft_utils.publishing.chapters import chapters, pages
from lpft_utils.publishing.parameters import check_names, parse_pairs
from lpft_utils.runs.grid import load_grid

TEACHING = ROOT / "book" / "teaching"
CHAPTERS = chapters(ROOT)
_LEARN = re.compile(r"What you will learn \(about (\d+) minutes\)\n:class: tip\n(.*?)\n:::", re.DOTALL)


def read(name: str) -> str:
    return (TEACHING / f"{name}.md").read_text(encoding="utf-8")


def opening(chapter: Path) -> tuple[str, str, str]:
    """Label, minutes and objectives of a chapter, from its first cell."""
    cell = json.loads(chapter.read_text(encoding="utf-8"))["cells"][0]["source"]
    minutes, objectives = _LEARN.search("".join(cell)).groups()
    return re.match(r"\((.+)\)=", "".join(cell))[1], minutes, objectives


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The section of each chapter, by the label that it refers to."""
    parts = re.split(r"^\(teach-[\w-]+\)=\n", read("first-half") + read("second-half"), flags=re.MULTILINE)[1:]
    return {re.search(r"See \{ref\}`([\w-]+)`", part)[1]: part for part in parts}


def test_every_page_for_teachers_is_in_the_table_of_contents():
    assert set(TEACHING.glob("*.md")) <= set(pages(ROOT))


def test_every_chapter_has_a_section(sections):
    assert set(sections) == {opening(chapter)[0] for chapter in CHAPTERS}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_minutes_and_objectives_are_those_of_the_chapter(sections, chapter):
    label, minutes, objectives = opening(chapter)
    section = sections[label]
    assert f"**Reading:** about {minutes} minutes." in section
    assert re.search(r"\*\*Objectives\*\*\n\n(.*?)\n\n\*\*", section, re.DOTALL)[1] == objectives
    row = next(line for line in read("plans").splitlines() if f"{{doc}}`../{chapter.stem}` |" in line)
    assert row.split("|")[2].strip() == minutes


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_the_minutes_of_a_lecture_add_up(sections, chapter):
    section = sections[opening(chapter)[0]]
    minutes = re.search(r"\*\*Lecture:\*\* (\d+) minutes", section)[1]
    assert sum(map(int, re.findall(r"^\| (\d+) \|", section, re.MULTILINE))) == int(minutes)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_each_misconception_has_a_question_and_an_answer(sections, chapter):
    _, _, misconceptions = sections[opening(chapter)[0]].partition("**Misconceptions**\n\n")
    found = re.findall(r'^\*".+"\*\n: \*\*Ask:\*\* .+\n: \*\*A good answer.+', misconceptions, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\*", misconceptions, re.MULTILINE)) == misconceptions.count("**Ask:**")
    assert 2 <= len(found) <= 4


COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", read("projects"), re.DOTALL) for line in block.splitlines()
]
COMMANDS += re.findall(r"`(lpft [^`…]+)`", read("plans"))
COMMANDS += re.findall(r'"(lpft [^"]+?) *\\n"', (ROOT / "book" / "what-should-i-do.ipynb").read_text(encoding="utf-8"))


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("lpft")])
def test_the_commands_are_understood(line, tmp_path, monkeypatch):
    for name in ("grid.yml", "plan.yml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(line, comments=True)[1:]
    context = cli.main.commands[name].make_context(name, arguments)
    if name == "book":
        (chapter,) = chapters(ROOT, context.params["only"])
        declared = list(papermill.inspect_notebook(str(chapter)))
        check_names({chapter.stem: declared}, parse_pairs(context.params["pairs"]))


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", read("projects"), re.DOTALL))
def test_the_grids_are_accepted(text, tmp_path):
    (tmp_path / "grid.yml").write_text(text, encoding="utf-8")
    assert load_grid(tmp_path / "grid.yml")
