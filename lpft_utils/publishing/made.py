"""The page "How this copy was made", from what the executed chapters say of themselves."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

_SHARED = ("profile", "task", "backbone", "seeds", "device", "date")


def describe_copy(page: Path, executed: Sequence[Path]) -> None:
    """Write what made the pages at the end of a page: settings, times, runs and versions.

    Args:
        page: A Markdown file, extended in place; without it nothing happens.
        executed: Executed chapters, in order.
    """
    if not page.is_file():
        return
    stamps = {copy.stem: stamp for copy in executed if (stamp := _stamp(copy))}
    shared = {key: "; ".join(dict.fromkeys(s[key] for s in stamps.values() if key in s)) for key in _SHARED}
    plan = page.parent / "reference" / "plan.yml"
    if plan.is_file():
        shared["plan"] = f"SHA-256 {hashlib.sha256(plan.read_bytes()).hexdigest()[:16]}"
    times = [(f"{{doc}}`{n}`", s["this chapter"], s.get("training of its runs", "none")) for n, s in stamps.items()]
    runs = "\n".join(f"{{doc}}`{name}`\n: `{'`, `'.join(s['runs'])}`\n" for name, s in stamps.items() if s["runs"])
    parts = {
        "Settings": _table(("setting", "in this copy"), ((key, value) for key, value in shared.items() if value)),
        "Times": _table(("chapter", "whole chapter", "training of its runs, when it was done"), times),
        "Stored runs": f"The name of a run ends with the hash of its settings.\n\n:::{{dropdown}} Runs\n{runs}:::",
        "Versions": _table(("package", "version"), _versions().items()),
    }
    text = "".join(f"\n## {title}\n\n{part}\n" for title, part in parts.items() if stamps or title == "Versions")
    page.write_text(page.read_text(encoding="utf-8") + text, encoding="utf-8")


def _stamp(copy: Path) -> Mapping:
    """What `Chapter.stamp` kept in an executed chapter; empty where it has none."""
    for cell in json.loads(copy.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("metadata", {}).get("scrapbook", {}).get("name") == "stamp":
                return ast.literal_eval("".join(output["data"]["application/papermill.record/text/plain"]))
    return {}


def _versions() -> dict[str, str]:
    """Version of every installed package that ours asks for."""
    wanted = [re.split(r"[^\w.-]", line)[0] for line in metadata.requires("lpft-utils") or ()]
    installed = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions()}
    return {name: installed[name] for name in ("lpft-utils", *sorted(wanted)) if name in installed}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
