"""The house's language: phrases that are not English, or not the field's, do not come back."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

_UNIT = "row|line|file|folder|panel|value|number|script|module|marker|dot|process|run|bar|table|page|slide|seed|name"
PHRASES = {  # what is said instead, by pattern
    "otherwise": r"(?i)(?<!thing )(?<!one )(?<!body )(?<!what )(?<!all )(?<!; )\belse\b",
    "per, or for each": rf"\b[Oo]ne (?:{_UNIT}) an? (?!time)",
    "with respect to": (
        r"(?i)(?<!bounds the )\b(?:gradient|derivative|hessian)s?(?: of [^.,;:]{1,40})? by (?:\$|the |its |every |row )"
    ),
    "decays": r"(?i)\bresiduals?(?: \S+)? dies?\b|\bdies? (?:faster|sooner|the sooner|with)\b",
    "plays the role of": r"(?i)\bplay(?:s|ed)? the part of\b",
    "backward pass": r"(?i)\breverse(?:-mode)? pass(?:es)?\b",
    "monitored": r"(?i)\bwatched\b|\bprobe texts?\b",
    "chosen with a parameter": r"(?i)\bcomes? by parameter\b",
    "in place of": r"(?i)\bin the place of\b",
    "note that": r"\bMind that\b",
    "check whether": r"\b[Ll]ook whether\b",
    "initialisation": r"(?i)\bat the starts? of (?:FT|LP-FT|LoRA|LP-LoRA|fine-tuning)\b|\bstarts of\b|\bthe start's\b",
    "differs from": r"(?i)\bdiffer(?:s|ent)? to\b",
    "because of, or without": r"(?i)\bbecause without\b",
}
HOUSE = [*sorted((ROOT / "book").glob("*.ipynb")), *sorted((ROOT / "book").rglob("*.md"))]
HOUSE += [*sorted((ROOT / "lpft_utils").rglob("*.py")), *sorted((ROOT / "docs").glob("*.md"))]
HOUSE += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml", "Makefile")]


def prose(file: Path) -> Iterator[tuple[str, str]]:
    """What a reader reads in a file, piece by piece, each with its place."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(text)["cells"]):
            source = "".join(cell["source"])
            shown = json.dumps(cell["metadata"].get("mystnb", {}), ensure_ascii=False)
            yield f"cell {number}", source if cell["cell_type"] == "markdown" else shown
            if cell["cell_type"] == "code":
                yield from ((f"cell {number}, {place}", piece) for place, piece in _python(source))
    elif file.suffix == ".py":
        yield from _python(text)
    else:
        yield from ((f"line {n}", line) for n, line in enumerate(text.splitlines(), start=1))


def _python(source: str) -> Iterator[tuple[str, str]]:
    """Strings, docstrings among them, and comments of Python code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield f"line {node.lineno}", node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield f"line {token.start[0]}", token.string


def found(file: Path) -> list[str]:
    hits = []
    for place, text in prose(file):
        text = " ".join(text.split())
        for better, pattern in PHRASES.items():
            for hit in re.finditer(pattern, text):
                around = text[max(0, hit.start() - 30) : hit.end() + 30]
                hits.append(f"{place}: …{around}…: say {better!r}")
    return hits


@pytest.mark.parametrize("file", HOUSE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_phrase_that_the_house_has_given_up(file):
    assert found(file) == []


@pytest.mark.parametrize(
    ("name", "text", "better"),
    [
        ("a.md", "The claim holds, undecided else.", "otherwise"),
        ("a.md", "A table with one row a method.", "per, or for each"),
        ("a.py", 'raise ValueError("expected the gradient of f by the weights")', "with respect to"),
        ("a.py", "x = 1  # the residual dies faster\n", "decays"),
        ("a.py", 'def f():\n    """One\n    row a task."""\n', "per, or for each"),
        ("a.ipynb", "Texts that are watched", "monitored"),
    ],
)
def test_a_planted_phrase_is_found(tmp_path, name, text, better):
    file = tmp_path / name
    cell = {"cell_type": "markdown", "metadata": {}, "source": [text]}
    file.write_text(json.dumps({"cells": [cell]}) if name.endswith("ipynb") else text, encoding="utf-8")
    (hit,) = found(file)
    assert hit.endswith(f"say {better!r}")


@pytest.mark.parametrize("text", ["nothing else", "a name one a time", "x = 1 if y else 2\n", "one row per method"])
def test_plain_english_and_code_are_left_alone(tmp_path, text):
    file = tmp_path / ("a.py" if "=" in text else "a.md")
    file.write_text(text, encoding="utf-8")
    assert found(file) == []
