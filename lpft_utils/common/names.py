"""Names for readers, and hints for names that are unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def split_label(name: str) -> str:
    """A split's name for readers: "test" is in distribution, "ood_x" is "x (OOD)"."""
    return f"{name.removeprefix('ood_').replace('_', ' ')} (OOD)" if name.startswith("ood_") else name


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for an unknown name.

    Args:
        name: The name that came.
        names: The names that exist.

    Returns:
        `did you mean 'x'? Known: a, b, x` or only the known names.
    """
    known = list(names)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known) or 'none'}"
