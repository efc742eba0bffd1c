"""Slides of a chapter, from its executed notebook: one HTML file that needs nothing else.

What is on them is chosen by the notebook's own markup: title and question; objectives; every definition, proposition,
lemma and corollary without its proof; every figure beside the first sentences of "How to read it"; the cells tagged
`slide`, as source and output or as a table; and what to remember.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import yaml
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from lpft_utils.common.files import whole
from lpft_utils.publishing.chapters import PublishError, chapters

_BOX = re.compile(r"^:::\{(?:prf:)?(?!proof)(\w+)\} *(.*)\n(?::class: .*\n)?(?::label: (\S+)\n)?((?s:.*?))^:::$", re.M)
_ROLE = re.compile(r"( ?)\{([\w:]+)\}`(?:([^`<]+) <)?([^`>]+)>?`")


def _formula(text: str, options: Mapping[str, Any]) -> str:
    return escape(rf"\[{text}\]" if options["display_mode"] else rf"\({text}\)")


_MARKDOWN = MarkdownIt("commonmark").use(dollarmath_plugin, label_renderer=lambda label: "", renderer=_formula)


def _render(shown: Mapping[str, str], text: str) -> str:
    """HTML of Markdown with roles: references and quoted values become what they show, citations go."""

    def resolve(match: re.Match) -> str:
        space, role, text, name = match.groups()
        return "" if role.startswith("cite") else space + (text or shown.get(name, name))

    text = _ROLE.sub(resolve, text)
    return _MARKDOWN.render(text) if "\n" in text else _MARKDOWN.renderInline(text)


def _finding(text: str) -> str:
    """The first sentences of "How to read it", as many as have room beside a figure."""
    paragraph = " ".join("".join(re.findall(r"^\*\*How to read it\.\*\*((?:.+\n?)*)", text)).split())
    return "".join(re.findall(r"^(?:\S+ ){0,54}\S+[.?](?= [A-Z*$]|$)", paragraph))


def _from_code(cell: Any, finding: str) -> tuple[str, str]:
    """Kind and body of the slide that a code cell makes; the body is empty where it makes none."""
    shown = [output.get("data", {"text/plain": output.get("text", "")}) for output in cell.outputs]
    found = {mime: text for data in shown for mime, text in data.items()}
    if drawing := found.get("image/svg+xml"):
        alt = escape(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", ""))
        source = b64encode(drawing.encode()).decode()
        return "figure", f'<img alt="{alt}" src="data:image/svg+xml;base64,{source}"><div>{finding}</div>'
    table = found.get("text/html", "")
    if "slide" not in cell.metadata.get("tags", []):
        return "moving", table if "lpft-slider" in table else ""
    printed = "".join(data.get("text/plain", "") for data in shown)
    return "code", table or f"<pre>{escape(cell.source)}</pre><pre>{escape(printed.rstrip())}</pre>"


def make_slides(cells: Sequence[Any], shown: Mapping[str, str]) -> list[str]:
    """The slides of one executed chapter.

    Args:
        cells: The cells of the notebook.
        shown: What references and quoted values show, by label or name.

    Returns:
        One `section` of HTML for each slide.
    """
    made: list[str] = []
    heading = part = ""

    def slide(kind: str, title: str, body: str) -> None:
        made.append(f'<section class="{kind}"><h2>{_render(shown, title)}</h2><div class="body">{body}</div></section>')

    for number, cell in enumerate(cells):
        if cell.cell_type == "code" and part != "Exercises":
            after = next((later.source for later in cells[number:] if later.cell_type == "markdown"), "")
            caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
            kind, body = _from_code(cell, _render(shown, _finding(after) or caption))
            if body:
                slide(kind, heading, body)
        for block in re.split(r"(?m)^(?=#+ )", cell.source) if cell.cell_type == "markdown" else ():
            if found := re.match(r"(#+) (.+)\n*", block):
                heading = found[2]
                part = heading if len(found[1]) < 3 else part
            if part == "Exercises":
                continue
            if found and found[1] == "#":
                slide("title", heading, _render(shown, "".join(re.findall(r"\*\*([^*]+\?)\*\*", block)[:1])))
            if part == "What to remember":
                slide("remember", heading, _render(shown, block.partition("\n")[2]))
            for kind, title, _, text in _BOX.findall(block):
                name = "" if kind == "admonition" else f"**{kind.capitalize()}.** "
                slide(kind, name + title, _render(shown, text))
    return made


def write_slides(root: Path, only: Sequence[str] = ()) -> list[Path]:
    """Write the slides of chapters into `_build/slides`, from their executed copies.

    Args:
        root: Folder that holds `_toc.yml` and `_config.yml`.
        only: Names of chapters; empty: all.

    Returns:
        The files, one for each chapter.

    Raises:
        PublishError: A chapter has not been run, or has changed since.
    """
    books = {chapter: nbformat.read(chapter, as_version=4).cells for chapter in chapters(root)}
    text = "\n".join(cell.source for cells in books.values() for cell in cells)
    titles = {label: f"*{title}*" for label, title in re.findall(r"^\((\S+)\)=\n#+ (.+)$", text, re.M)}
    titles |= {label: f"*{title}*" for _, title, label, _ in _BOX.findall(text)}
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    mathjax = files("sphinx-mathjax-offline").joinpath("static", "mathjax", "tex-svg.js").read_text(encoding="utf-8")
    template = files("lpft_utils.publishing").joinpath("slides.html").read_text(encoding="utf-8")
    template = template.replace("{{macros}}", json.dumps(config["mathjax3_config"]["tex"]["macros"]))
    written = []
    for chapter in chapters(root, only):
        copy = root / "_build" / "executed" / chapter.relative_to(root)
        cells = nbformat.read(copy, as_version=4).cells if copy.is_file() else []
        cells = [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]
        if [cell.source for cell in cells] != [cell.source for cell in books[chapter]]:
            state = "has changed since it was run" if cells else "has not been run"
            raise PublishError(f"{chapter.stem} {state}: run `lpft book --chapter {chapter.stem} --no-site` first")
        outputs = [output for cell in cells for output in cell.get("outputs", []) if output.get("metadata")]
        glued = {out.metadata.scrapbook.name: next(iter(out.data.values())).strip("'") for out in outputs}
        page = template.replace("{{slides}}", "\n".join(make_slides(cells, titles | glued)))
        written.append(root / "_build" / "slides" / f"{chapter.stem}.html")
        with whole(written[-1]) as place:
            place.write_text(page.replace("{{mathjax}}", mathjax), encoding="utf-8")
    return written
