"""A forward pass on record: every operation in which a wanted parameter takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from lpft_utils.ntk.rules import RULES, Broadcast, Use


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
        expanded: Whether an embedding computed once for the whole batch was repeated for every example.
    """

    def __init__(self, wanted: Mapping[str, Tensor], B: int) -> None:
        super().__init__()
        self.B = B
        self.entries: list[Entry] = []
        self.unknown: dict[str, str] = {}
        self.expanded = False
        self.wanted = wanted
        self._sources = {id(p): (p, name) for name, p in wanted.items()}  # held, so that no identity is used twice

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and note it if a source is among its arguments."""
        given = kwargs or {}
        result = func(*args, **given)
        tensors = list(_tensors((*args, *given.values())))
        met = {id(x): self._sources[id(x)][1] for x in tensors if id(x) in self._sources}
        if not met:
            return result
        made = [x for x in _tensors((result,)) if x.requires_grad]
        operation = func.__name__.strip("_")
        if made and operation in RULES and not func.__name__.endswith("_"):
            if operation == "embedding" and self.B > 1 and args[0].ndim > 1 and len(args[0]) == 1:
                self.expanded = True
                args, result = (args[0].expand(self.B, -1), *args[1:]), result.expand(self.B, *result.shape[1:])
            for use in RULES[operation](result, self.B, *args, **given):
                name = met.get(id(use.source))
                if name is not None and (isinstance(use, Broadcast) or use.source is self.wanted[name]):
                    self.entries.append(Entry(name, use, get_gradient_edge(result)))
                    tensors = [x for x in tensors if x is not use.source]
        left = {met[id(x)] for x in tensors if id(x) in met}
        # What is made of one parameter alone is a source too, wherever that meets the data.
        if len(left) == 1 and not any(x.requires_grad and id(x) not in met for x in tensors) and len(met) == 1:
            self._sources |= {id(x): (x, *left) for x in made}
        elif made:
            self.unknown |= dict.fromkeys(left, operation)
        return result


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
