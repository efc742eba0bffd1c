"""A tiny book to run and to build."""

import shutil
from pathlib import Path

import nbformat
from conftest import ROOT

PARAMETERS = 'profile = "laptop"\nseeds = None'


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> None:
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    notebook.cells.append(nbformat.v4.new_markdown_cell(f"# {path.stem}"))
    if parameters:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def make_book(root: Path, **chapters: tuple[str, ...]) -> Path:
    files = "".join(f"  - file: book/{name}\n" for name in chapters)
    root.mkdir(parents=True, exist_ok=True)
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/preface\nchapters:\n{files}", encoding="utf-8")
    for name, cells in chapters.items():
        write_notebook(root / "book" / f"{name}.ipynb", *cells)
    (root / "book" / "preface.md").write_text("# Preface\n\nText.\n", encoding="utf-8")
    shutil.copy2(ROOT / "_config.yml", root)
    shutil.copy2(ROOT / "book" / "references.bib", root / "book")
    shutil.copytree(ROOT / "book" / "assets", root / "book" / "assets")
    return root


def quiet(_: str) -> None:
    pass
