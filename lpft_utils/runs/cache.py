"""What is computed from runs and kept beside them in the run store."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from lpft_utils.common.errors import RunError
from lpft_utils.common.files import whole
from lpft_utils.common.paths import run_store


def cache_path(name: str, store: Path | None = None) -> Path:
    """Where in the run store what is computed from kernels is kept: its name there, fit for any file system."""
    return (store or run_store()) / ".kernels" / re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def lock(path: Path) -> FileLock:
    """The lock of a place in the store: one process computes what goes there, the others wait and read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")


def cached(name: str, compute: Callable[[], Any], store: Path | None = None) -> Any:
    """What was computed once, from a JSON file beside the stored kernels.

    Args:
        name: Of the file, without ending; it names all that the result depends on.
        compute: Called if there is no such file; its result is of plain types.
        store: The run store; default: `paths.run_store()`.

    Returns:
        The result as JSON gives it back.

    Raises:
        RunError: If the file is damaged.
    """
    path = cache_path(f"{name}.json", store)
    with lock(path):
        if not path.exists():
            found = json.dumps(compute())
            with whole(path) as partial:
                partial.write_text(found)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}). Delete it; it is computed again.") from error
