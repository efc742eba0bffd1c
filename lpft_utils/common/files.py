"""Files and folders, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write a file or folder, which is renamed to `path` when complete.

    If the block raises or is interrupted, nothing of it is left and what was at `path` is still there.

    Args:
        path: Where the file or folder belongs; its parents are created, what is there is replaced.

    Yields:
        The place to write to, of the same name (and so of the same ending), on the same file system.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".partial-", dir=path.parent) as folder:
        partial, old = Path(folder, path.name), Path(folder, f"{path.name}.old")
        yield partial
        if not (partial.is_dir() and path.is_dir()):
            partial.replace(path)
            return
        path.replace(old)  # a folder takes the place of none but an empty folder
        try:
            partial.replace(path)
        except BaseException:
            old.replace(path)
            raise
