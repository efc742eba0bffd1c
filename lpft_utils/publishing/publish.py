"""From notebooks to the site: papermill runs the chapters, Jupyter Book turns the executed copies into pages.

Everything is written beside its final place and renamed when complete, so a failing chapter or page never replaces a
good one. Layout of the build folder:

    _build/executed/   mirror of the book with executed chapters (what the pages are made from)
    _build/failed/     the chapter that failed last, up to the failing cell
    _build/html/       the site
    _build/book.pdf    the site as one PDF (`lpft pdf`)
    _build/student/    the same of the student edition
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.files import whole
from lpft_utils.publishing import made, site
from lpft_utils.publishing.chapters import PublishError, Say, build_folder, chapters, execute, pages


def build_site(root: Path, build: Path | None = None, *, say: Say = print) -> Path:
    """Build the pages from the executed chapters and put them in place of the old site.

    Args:
        root: Folder that holds `_toc.yml` and `_config.yml`.
        build: Build folder; `_build` under `root` when None.
        say: Gets one line when the work starts and one when it is done.

    Returns:
        The first page of the site.

    Raises:
        PublishError: A chapter has no executed copy yet, or Sphinx reported a warning or an error; the old site stays.
    """
    build = build or root / "_build"
    if missing := _not_executed(root, build):
        raise PublishError(f"the site needs every chapter; not executed yet: {missing}. Run `lpft book` for all")
    say("site: building")
    start = time.perf_counter()
    mirror = site.mirror_sources(root, build / "executed", pages(root))
    made.describe_copy(mirror / "book" / "made.md", [mirror / chapter.relative_to(root) for chapter in chapters(root)])
    with tempfile.TemporaryDirectory(prefix=".site-", dir=build) as folder:
        # A fresh folder every time: old doctrees would hide broken references.
        program = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
        flags = ["build", str(mirror), "--path-output", folder, "-W", "-n", "--keep-going"]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program, *flags],
            capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment,
        )  # fmt: skip
        log = site.plain(done.stdout + done.stderr)
        (build / "sphinx.log").write_text(log, encoding="utf-8")
        html = Path(folder) / "_build" / "html"
        if done.returncode != 0 or not html.is_dir():
            raise PublishError(f"the site was not built; the old one stays. {site.complaints(log, mirror)}")
        site.finish(html, private={str(mirror): ".", str(root): ".", folder: "."})
        with whole(build / "html") as place:
            html.replace(place)
    first = build / "html" / "index.html"
    say(f"site: done in {time.perf_counter() - start:.1f} s: {first}")
    return first


def _not_executed(root: Path, build: Path, besides: Sequence[Path] = ()) -> str:
    """Names of the chapters without an executed copy."""
    copies = {chapter: build / "executed" / chapter.relative_to(root) for chapter in chapters(root)}
    return ", ".join(chapter.stem for chapter, copy in copies.items() if chapter not in besides and not copy.is_file())


def publish(
    root: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    only: Sequence[str] = (),
    edition: str = "instructor",
    jobs: int = 1,
    make_site: bool = True,
    say: Say = print,
) -> Path | None:
    """Run chapters, then build the site.

    Args:
        root: Folder that holds `_toc.yml`.
        parameters: Values to inject, plain literals.
        only: Names of chapters to run; the other pages come from an earlier build. Empty runs all.
        edition: "instructor", or "student", which has no solutions and is built in `_build/student`.
        jobs: Chapters that run at the same time.
        make_site: False stops after the chapters.
        say: Gets the progress lines.

    Returns:
        The first page of the site, or None without a site.

    Raises:
        ParameterError: A parameter or chapter is unknown, or the site would lack chapters; raised before anything runs.
        PublishError: A cell failed, or the site was not built.
    """
    build = build_folder(root, edition)
    if make_site and (lacking := _not_executed(root, build, besides=chapters(root, only))):
        raise ParameterError(
            f"the site needs every chapter, and {lacking} has not run yet: run `lpft book` once without --chapter, "
            "or add --no-site"
        )
    execute(root, parameters, only=only, edition=edition, jobs=jobs, say=say)
    return build_site(root, build, say=say) if make_site else None
