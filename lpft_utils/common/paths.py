"""Where things lie: the book's root folder, the run store, and what was fetched."""

import os
from pathlib import Path

from lpft_utils.common.errors import ParameterError


def nearest_book_root() -> Path | None:
    """The nearest folder at or above the working directory with a `_toc.yml`, or None where there is none."""
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "_toc.yml").is_file()), None)


def book_root() -> Path:
    """Root folder of the book: the nearest one with a `_toc.yml`.

    Returns:
        The folder that holds `_toc.yml`, `_config.yml` and `book/`.

    Raises:
        ParameterError: No table of contents is at or above the working directory.
    """
    root = nearest_book_root()
    if root is None:
        raise ParameterError(
            f"expected to be inside the book's folder (the one with _toc.yml); {Path.cwd()} is not: cd there"
        )
    return root


def run_store() -> Path:
    """Folder of the stored runs: `$LPFT_RUNS`, or `_runs/` beside the nearest `_toc.yml`, or the user's cache.

    Returns:
        The folder; it need not exist yet.
    """
    if chosen := os.environ.get("LPFT_RUNS"):
        return Path(chosen).expanduser()
    root = nearest_book_root()
    return root / "_runs" if root else cache_folder() / "runs"


def cache_folder() -> Path:
    """Folder of what is fetched once and shared by every copy of the book: `$LPFT_CACHE` or `~/.cache/lpft`.

    Returns:
        The folder; it need not exist yet.
    """
    chosen = os.environ.get("LPFT_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "lpft"
