"""Files of the site: what goes in before Sphinx, what is mended after it. Nothing here needs Jupyter."""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ICON = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}')
_TEXT_FILES = {".html", ".svg", ".css", ".js", ".json", ".txt", ".ipynb", ".md", ".inv", ".bib", ""}
# What Sphinx reads besides the pages named in the table of contents.
_SOURCES = ("_config.yml", "_toc.yml", "book/references.bib", "book/assets", "book/reference")


def plain(text: str) -> str:
    """Remove terminal colour codes.

    Args:
        text: Any text.

    Returns:
        The text without ANSI escape sequences.
    """
    return _ANSI.sub("", text)


def scrub(text: str, private: Mapping[str, str]) -> str:
    """Replace paths of this machine, as whole path components only.

    Args:
        text: Any text.
        private: Replacement by absolute path; longer paths are replaced first.

    Returns:
        The text without these paths.
    """
    for path in sorted(private, key=len, reverse=True):
        if len(path) > 1:
            short = private[path]
            text = re.sub(rf"(?<![\w/.-]){re.escape(path)}(?![\w.-])", lambda _, short=short: short, text)
    # The kernel names the file of a cell by process number: different in every run, of use to nobody.
    return re.sub(r"(?:/[\w.-]+)*/ipykernel_\d+/\d+\.py", "<cell>", text)


def clean_notebook(notebook: Any, root: Path) -> None:
    """Strip what names this machine or this moment from an executed notebook, in place.

    Papermill's and Jupyter's execution metadata go, paths in outputs become relative to the book or to `~`, and the
    injected parameters are tagged `remove-cell` so that the page shows the parameters cell alone.

    Args:
        notebook: An nbformat 4 notebook node.
        root: Root folder of the book.
    """
    private = {str(root): ".", str(Path.home()): "~", sys.prefix: "<python>"}
    for key in ("papermill", "execution"):
        notebook.metadata.pop(key, None)
    for cell in notebook.cells:
        for key in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags and "remove-cell" not in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = scrub(output["text"], private)
            for mime, value in output.get("data", {}).items():
                if isinstance(value, str) and (mime.startswith("text/") or mime == "image/svg+xml"):
                    output["data"][mime] = scrub(value, private)


def mirror_sources(root: Path, mirror: Path, pages: Iterable[Path]) -> Path:
    """Copy what Sphinx reads beside the executed chapters, which are left as they are.

    Args:
        root: Root folder of the book.
        mirror: Folder of the executed chapters, laid out like `root`.
        pages: Source files of all pages; the notebooks among them are not copied.

    Returns:
        The mirror.
    """
    for source in [*(page for page in pages if page.suffix != ".ipynb"), *(root / name for name in _SOURCES)]:
        target = mirror / source.relative_to(root)
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return mirror


def complaints(log: str, mirror: Path) -> str:
    """The lines of a Sphinx log that say what is wrong.

    Args:
        log: The log without colours.
        mirror: Folder that Sphinx built from; its path is cut from the lines.

    Returns:
        Warnings and errors, each once, or the end of the log when there are none.
    """
    lines = [line for line in log.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]
    lines = list(dict.fromkeys(lines)) or log.splitlines()[-15:]
    return "Sphinx said:\n" + "\n".join(f"  {line.replace(f'{mirror}{os.sep}', '')}" for line in lines)


def _copy_mathjax(static: Path) -> None:
    """Copy the parts of MathJax that the pages load: the entry file, the fonts and the TeX extensions."""
    source, target = Path(str(files("sphinx-mathjax-offline"))) / "static" / "mathjax", static / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / "tex-chtml.js", target)
    for part in ("output/chtml/fonts/woff-v2", "input/tex/extensions"):
        shutil.copytree(source / part, target / part, dirs_exist_ok=True)


def mend_page(text: str) -> str:
    """Mend what the theme and pandas get wrong for screen readers and slow lines.

    Args:
        text: One HTML page.

    Returns:
        The page with the bibliography as a list of list items (the role `doc-biblioentry` is deprecated and may not
        stand in a list), the sidebar as a landmark, and empty table headers as plain cells; with names of buttons
        that their visible texts contradicted left out, and without Font Awesome's 1.5 MB script, whose icons the style
        sheet has as well.
    """
    text = re.sub(r"\s+(?=</?(?:thead|tbody|tr|th|td)\b)", "", text)
    text = re.sub(r"<script[^>]*/fontawesome\.js[^>]*></script>", "", text)
    text = re.sub(r'(<summary|<button class="btn search-button-field[^>]*?) aria-label="[^"]*"', r"\1", text)
    text = text.replace('role="doc-biblioentry"', 'role="listitem"')
    text = text.replace(
        '<div id="pst-primary-sidebar"', '<div role="complementary" aria-label="Book" id="pst-primary-sidebar"'
    )
    return re.sub(r"<th([^>]*)>(?:\s|&nbsp;|</?p>)*</th>", r"<td\1></td>", text)


def finish(html: Path, private: Mapping[str, str]) -> None:
    """Turn Sphinx's output into a self-contained site.

    Args:
        html: Folder of the pages, changed in place.
        private: Replacements for absolute paths of this machine.
    """
    _copy_mathjax(html / "_static")
    for useless in {*html.rglob("*.map"), *html.rglob("fontawesome.js*")}:
        useless.unlink()
    icons = {
        icon for page in html.rglob("*.html") for icon in re.findall(r"\bfa-[\w-]+", page.read_text(encoding="utf-8"))
    }
    for file in html.rglob("*"):
        if not file.is_file() or file.suffix not in _TEXT_FILES or "mathjax" in file.parts:
            continue
        with contextlib.suppress(UnicodeDecodeError):
            before = file.read_text(encoding="utf-8")
            after = scrub(before, private)
            if file.suffix == ".html":
                after = mend_page(after)
            elif file.name == "pydata-sphinx-theme.css":
                after = _ICON.sub(lambda rule: rule[0] if icons & set(re.findall(r"fa-[\w-]+", rule[0])) else "", after)
            elif file.parent.name == "_images":
                after = re.sub(r'(?<= [dxy]=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), after)
            if after != before:
                file.write_text(after, encoding="utf-8")
