"""Where things lie: the book's root folder and the run store."""

import os
from pathlib import Path

from lpft_utils.common.errors import ParameterError


def nearest_book_root(start: Path | str | None = None) -> Path | None:
    """Nearest folder at or above `start` that holds a `_toc.yml`.

    Args:
        start: Folder to start from; the working directory when None.

    Returns:
        The folder, or None when neither it nor any parent holds a table of contents.
    """
    here = Path(start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "_toc.yml").is_file()), None)


def book_root(start: Path | str | None = None) -> Path:
    """Root folder of the book: the nearest one with a `_toc.yml`.

    Args:
        start: Folder to start from; the working directory when None.

    Returns:
        The folder that holds `_toc.yml`, `_config.yml` and `book/`.

    Raises:
        ParameterError: No table of contents is at or above `start`.
    """
    root = nearest_book_root(start)
    if root is None:
        where = Path(start or Path.cwd()).resolve()
        raise ParameterError(
            f"expected to be inside the book's folder (the one with _toc.yml); {where} is not: cd there"
        )
    return root


def run_store(start: Path | str | None = None) -> Path:
    """Folder of the stored runs: `$LPFT_RUNS`, or `_runs/` beside the nearest `_toc.yml`, or the user's cache.

    Args:
        start: Folder to start from; the working directory when None.

    Returns:
        The folder; it need not exist yet.
    """
    if chosen := os.environ.get("LPFT_RUNS"):
        return Path(chosen).expanduser()
    root = nearest_book_root(start)
    return root / "_runs" if root else Path.home() / ".cache" / "lpft" / "runs"
