"""A forward pass on record: every operation in which a wanted parameter takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from lpft_utils.ntk.rules import RULES, At, Broadcast, Lookup, Use


@dataclass
class Entry:
    """A use of a parameter, and where the derivative with respect to the operation's output arrives.

    Attributes:
        name: The parameter's.
        use: What the rule made of it.
        output: The output itself need not be kept.
    """

    name: str
    use: Use
    output: GradientEdge


class Tape(TorchFunctionMode):
    """Records the uses of parameters while it is active.

    Attributes:
        entries: Uses for which there is a rule.
        unknown: Parameters with another use, and the operation.
        dtype: Type of the lowest precision that an operation on the way of a derivative had.
    """

    def __init__(self, wanted: Mapping[str, Tensor], B: int) -> None:
        super().__init__()
        self.B = B
        self.entries: list[Entry] = []
        self.unknown: dict[str, str] = {}
        self.dtype = torch.float64
        self.wanted = wanted
        self._shared: dict[int, Use] = {}
        # held, so that no identity is used twice
        self._sources: dict[int, tuple[Tensor, str]] = {id(p): (p, name) for name, p in wanted.items()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and note it if a source is among its arguments."""
        given = kwargs or {}
        result = func(*args, **given)
        differentiated = isinstance(result, Tensor) and result.is_floating_point() and result.requires_grad
        if differentiated and result.dtype.itemsize < self.dtype.itemsize:
            self.dtype = result.dtype
        tensors = list(_tensors((*args, *given.values())))
        met = {id(x): self._sources[id(x)][1] for x in tensors if id(x) in self._sources}
        if not met:
            return result
        made = [x for x in _tensors((result,)) if x.requires_grad]
        operation = func.__name__.strip("_")
        in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if made and operation in RULES and (operation == "add" or not in_place):
            for use in _uses(operation, At(result, self.B), args, given):
                tensors = [x for x in tensors if x is not use.source] if self._note(use, met, result) else tensors
        left = {met[id(x)] for x in tensors if id(x) in met}
        # What is made of one parameter alone is a source too, wherever that meets the data.
        if len(left) == 1 and not any(x.requires_grad and id(x) not in met for x in tensors) and len(met) == 1:
            self._sources |= {id(x): (x, name) for x in made for name in left}
            if operation == "embedding":
                self._shared |= {id(x): rows for x in made for rows in _uses("embedding", At(x, 1), args, given)}
        elif made:
            self.unknown |= dict.fromkeys(left, operation)
        return result

    def _note(self, use: Use, met: Mapping[int, str], result: Tensor) -> bool:
        """Put a use on record, unless it is one of a derived tensor that would have to be formed."""
        name, rows = met.get(id(use.source)), self._shared.get(id(use.source))
        if name is None:
            return False
        plain = isinstance(use, Broadcast) and not isinstance(use.factor, Tensor) and use.factor == 1
        if not (result.ndim == 3 and len(result) == self.B and plain):
            rows = None
        if isinstance(rows, Lookup) and rows.source is self.wanted[name] and rows.a.numel() == result.shape[1]:
            # Rows looked up once for all examples, such as positions, and added to each: they are not formed.
            use = replace(rows, B=self.B, a=rows.a.expand(self.B, -1))
        elif not isinstance(use, Broadcast) and use.source is not self.wanted[name]:
            return False
        self.entries.append(Entry(name, use, get_gradient_edge(result)))
        return True


def _uses(operation: str, at: At, args: tuple[Any, ...], given: Mapping[str, Any]) -> list[Use]:
    """What the rule makes of an operation, or nothing where its arguments are others than the rule expects."""
    try:
        return RULES[operation](at, *args, **given)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return []


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
