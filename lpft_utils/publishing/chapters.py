"""The chapters: which ones there are, their parameters, and running them with papermill."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

from lpft_utils.common.errors import LpftError, ParameterError
from lpft_utils.common.names import nearest
from lpft_utils.publishing import site
from lpft_utils.publishing.parameters import check_names

Say = Callable[[str], None]

_KERNEL_ARGUMENTS = [
    "--log-level=CRITICAL",  # not that local ports are not encrypted, nor that a kernel was told to stop
    # Some packages ask tqdm for a progress bar as a widget. Chapters show none.
    "--IPKernelApp.exec_lines=import warnings; warnings.filterwarnings('ignore', 'IProgress not found')",
]


class PublishError(LpftError):
    """A chapter failed while running, or the site could not be built from the executed chapters."""


def pages(root: Path) -> list[Path]:
    """Source files of the book in the order of `_toc.yml`.

    Args:
        root: Folder that holds `_toc.yml`.

    Returns:
        Absolute paths of notebooks and Markdown files.

    Raises:
        PublishError: An entry of the table of contents has no file.
    """
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    entries = [toc["root"]]
    for part in toc.get("parts", [toc]):
        entries += [chapter["file"] for chapter in part.get("chapters", [])]
    found = []
    for entry in entries:
        file = next((f for s in (".ipynb", ".md", "") if (f := root / f"{entry}{s}").is_file()), None)
        if file is None:
            raise PublishError(
                f"_toc.yml names {entry}, but there is no {entry}.ipynb or {entry}.md: add it or its entry goes"
            )
        found.append(file)
    return found


def chapters(root: Path, only: Sequence[str] = ()) -> list[Path]:
    """Notebooks of the book in the order of `_toc.yml`.

    Args:
        root: Folder that holds `_toc.yml`.
        only: Names of chapters to keep: file stem, a prefix of it such as `02`, or path. Empty: all.

    Returns:
        Absolute paths.

    Raises:
        ParameterError: A name fits no chapter.
    """
    books = [page for page in pages(root) if page.suffix == ".ipynb"]
    if not only:
        return books
    wanted = set()
    for name in only:
        stem = Path(name).name.removesuffix(".ipynb")
        hits = [page for page in books if page.stem == stem] or [page for page in books if page.stem.startswith(stem)]
        if not stem or len(hits) != 1:
            raise ParameterError(f"no single chapter {name!r}: {nearest(name, [page.stem for page in books])}")
        wanted.add(hits[0])
    return [page for page in books if page in wanted]


def execute(
    root: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    only: Sequence[str] = (),
    edition: str = "instructor",
    build: Path | None = None,
    jobs: int = 1,
    say: Say = print,
) -> list[Path]:
    """Run the chapters and keep executed copies under `_build/executed`, or `_build/student/executed`.

    A parameter goes to every selected chapter that declares it. Each copy is written whole or not at all; a chapter
    that fails leaves the copy of an earlier build alone and what it did under `_build/failed`. Chapters that run side
    by side share their trainings through the run store, whose locks make one wait for what the other computes.

    Args:
        root: Folder that holds `_toc.yml`.
        parameters: Values to inject, plain literals.
        only: Names of chapters to run; empty runs all.
        edition: "instructor" runs them as they are, "student" without the cells tagged `solution`.
        build: Build folder; that of the edition when None.
        jobs: Chapters that run at the same time; the cores are shared out among them.
        say: Gets one line when a chapter starts and one when it is done.

    Returns:
        Paths of the executed copies, in order.

    Raises:
        ParameterError: A parameter is unknown to all selected chapters; raised before anything runs.
        PublishError: A cell failed or the kernel died.
    """
    given = dict(parameters or {})
    selected = chapters(root, only)
    known = {chapter.stem: list(papermill.inspect_notebook(str(chapter))) for chapter in selected}
    check_names(known, given)
    build = build or build_folder(root, edition)
    tasks = {}
    for number, chapter in enumerate(selected, start=1):
        values = {name: value for name, value in given.items() if name in known[chapter.stem]}
        tasks[f"[{number}/{len(selected)}] {chapter.stem}"] = (root, chapter, values, build, edition)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # python3 is this interpreter, whatever kernels the user has
    if jobs > 1 and len(tasks) > 1:
        _side_by_side(tasks, jobs, say)
    else:
        for title, task in tasks.items():
            say(f"{title}: running")
            say(f"{title}: done in {_execute_one(*task, progress=sys.stderr.isatty()):.1f} s")
    return [build / "executed" / chapter.relative_to(root) for chapter in selected]


def _side_by_side(tasks: Mapping[str, tuple], jobs: int, say: Say) -> None:
    """Run chapters in processes of their own, `jobs` at a time; after a failure no further one starts."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, running = list(tasks), {}
    with ProcessPoolExecutor(jobs, get_context("spawn"), _limit_threads, (threads,)) as pool:
        while waiting or running:
            while waiting and len(running) < jobs:
                title = waiting.pop(0)
                say(f"{title}: running")
                running[pool.submit(_execute_one, *tasks[title])] = title
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                title = running.pop(future)
                if running and future.exception():
                    say(f"{title}: failed; waiting for {', '.join(t.split()[-1] for t in running.values())}")
                say(f"{title}: done in {future.result():.1f} s")


def _limit_threads(threads: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # the kernels that this process starts inherit it


def build_folder(root: Path, edition: str) -> Path:
    """Where an edition is built.

    The student edition has a folder of its own, in which nothing was ever made from a notebook with solutions.

    Args:
        root: Folder that holds `_toc.yml`.
        edition: "instructor" or "student".

    Returns:
        `_build` or `_build/student` under `root`.
    """
    return root / "_build" if edition == "instructor" else root / "_build" / edition


def _execute_one(
    root: Path, chapter: Path, values: Mapping[str, Any], build: Path, edition: str, progress: bool = False
) -> float:
    """Run a chapter, put its copy in place, and say how many seconds it took."""
    start = time.perf_counter()
    notebook = nbformat.read(chapter, as_version=4)
    if edition == "student":
        notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    relative = chapter.relative_to(root)
    copy = build / "executed" / relative
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".running-", dir=build) as folder:
        source, running = Path(folder) / "source.ipynb", Path(folder) / chapter.name
        nbformat.write(notebook, source)
        try:
            papermill.execute_notebook(
                str(source),
                str(running),
                parameters=dict(values),
                kernel_name="python3",
                cwd=str(chapter.parent),  # as nbval and JupyterLab do
                progress_bar=progress,
                start_timeout=180,
                extra_arguments=_KERNEL_ARGUMENTS,
            )
        except PapermillExecutionError as error:
            kept = _keep_failed(running, relative, build)
            raise PublishError(_describe(chapter, relative, error, kept)) from None
        except Exception as error:  # a dead kernel, a kernel that does not start, a full disk
            kept = _keep_failed(running, relative, build)
            raise PublishError(f"chapter {relative} stopped: {type(error).__name__}: {error}\n{kept}") from error
        notebook = nbformat.read(running, as_version=4)
        if complaints := _stderr(notebook):
            kept = _keep_failed(running, relative, build)
            raise PublishError(f"chapter {relative} wrote to stderr, which no page shows:\n{complaints}\n{kept}")
        site.clean_notebook(notebook, root)
        nbformat.write(notebook, running)
        os.replace(running, copy)
    return time.perf_counter() - start


def _stderr(notebook: nbformat.NotebookNode) -> str:
    """Every text that a chapter wrote to stderr (warnings, progress bars), with its cell in the source notebook."""
    cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    return "\n".join(
        f"  cell {number} of {len(cells)}: {site.plain(output.text).strip()}"
        for number, cell in enumerate(cells, start=1)
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    )


def _keep_failed(running: Path, relative: Path, build: Path) -> str:
    if not running.is_file():
        return ""
    kept = build / "failed" / relative.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    os.replace(running, kept)
    return f"The chapter up to there: {kept}"


def _describe(chapter: Path, relative: Path, error: PapermillExecutionError, kept: str) -> str:
    """One message with chapter, cell (counted from 1 in the source notebook), the cell's source and the error."""
    cells = nbformat.read(chapter, as_version=4).cells
    number = next((n for n, cell in enumerate(cells, start=1) if cell.source == error.source), error.cell_index + 1)
    source = error.source.rstrip().splitlines()
    excerpt = "\n".join(f"    {line}" for line in source[:12]) + ("\n    …" if len(source) > 12 else "")
    reason = f"{error.ename}: {site.plain(str(error.evalue))}"
    return f"chapter {relative} stopped at cell {number} of {len(cells)}:\n{excerpt}\n{reason}\n{kept}"
