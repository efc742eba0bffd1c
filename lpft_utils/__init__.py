"""Linear probing, then fine-tuning: tasks, classifier, methods, runs and kernels of the book.

The names below are imported when they are first used, so that `import lpft_utils` needs neither torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpft_utils.ntk.engine import kernel
    from lpft_utils.ntk.sketch import sketch
    from lpft_utils.runs.execute import load_model
    from lpft_utils.runs.run import run
    from lpft_utils.training.spec import RunSpec

__all__ = ["RunSpec", "kernel", "load_model", "run", "sketch"]

_MODULES = {
    "RunSpec": "training.spec",
    "kernel": "ntk.engine",
    "load_model": "runs.execute",
    "run": "runs.run",
    "sketch": "ntk.sketch",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
