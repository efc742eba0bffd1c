"""Names of splits and profiles."""

from __future__ import annotations


def split_label(name: str) -> str:
    """A split's name for readers: "test" is in distribution, "ood_x" is "x (OOD)"."""
    return f"{name.removeprefix('ood_').replace('_', ' ')} (OOD)" if name.startswith("ood_") else name
