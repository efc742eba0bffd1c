"""A model made ready for the engine: its head found, the parameters chosen, its ways with batches and padding known."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk.factors import Batch, Features, Inputs, NoRule, close, factors, frozen
from lpft_utils.ntk.gradients import alike
from lpft_utils.ntk.inputs import chosen, count, take

UNSUPPORTED = ("autograd", "error")


@dataclass
class Problem:
    """A model, ready for the engine.

    Attributes:
        model: Evaluation mode, nothing but the wanted parameters requiring gradients.
        features: Computes φ.
        V: Cotangents, shape (C, H).
        bias: Whether the head has a bias.
        wanted: Parameters by name; of a tied parameter the name that `named_parameters` gives.
        named: Whether they were asked for one by one.
        device: Where the model is.
        unsupported: What becomes of parameters without a rule: "autograd" or "error".
        trim: Whether padding at the end may be cut off, because φ does not depend on it.
        alone: Whether examples pass through the model one at a time.
        autograd: Parameters that autograd differentiates, one example at a time.
        reached: Parameters that φ depends on, as far as seen.
        seconds: Time spent on examples that passed alone.
    """

    model: nn.Module
    features: Features
    V: Tensor
    bias: bool
    wanted: dict[str, nn.Parameter]
    named: bool
    device: torch.device
    unsupported: str = "autograd"
    trim: bool = True
    alone: bool = False
    autograd: dict[str, str] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def phi(self, inputs: Inputs) -> Tensor:
        """Features of a batch, shape (B, H), finite."""
        # A copy, since some models write into their inputs.
        phi = self.features(self.model, {name: t.clone() for name, t in inputs.items()})
        B, H = count(inputs), self.V.shape[1]
        if not isinstance(phi, Tensor) or phi.ndim != 2 or len(phi) != B or not phi.is_floating_point():
            got = f"{tuple(phi.shape)}, {phi.dtype}" if isinstance(phi, Tensor) else type(phi).__name__
            raise KernelError(f"features: expected φ of shape ({B}, H) for a batch of {B}, real numbers, got {got}.")
        if phi.shape[1] != H:
            raise KernelError(
                f"V: expected shape (C, {phi.shape[1]}), since φ has {phi.shape[1]} numbers for each example, got "
                f"{tuple(self.V.shape)}. Without `V=` it is the weight of the layer that `head=` names."
            )
        if not phi.isfinite().all():
            raise KernelError(
                f"features: φ has entries that are not finite{_first_not_finite(self.model, self.features, inputs)}. "
                "Check the inputs and the model's weights."
            )
        return phi

    def factors(self, inputs: Inputs, check: bool = False) -> Batch:
        """Factors of a batch.

        Args:
            inputs: Tensors by name, first dimension B.
            check: Whether they are compared with autograd's.

        Returns:
            The batch.

        Raises:
            KernelError: If a gradient is not finite, or a parameter has no rule and this is an error here.
        """
        moved = self.moved(inputs)
        if not self.alone:
            try:
                batch = factors(self.phi, moved, self.V, self.wanted, check=check)
                self.reached |= batch.reached
                return batch
            except NoRule:
                self.alone = True
        start = time.perf_counter()
        found = [self._alone(self.take(moved, torch.tensor([n])), check) for n in range(count(moved))]
        joined = {}
        for name in self.wanted:
            same = alike([b.gradients.get(name) for b in found], [1] * len(found), self.wanted[name].shape)
            if same:
                joined[name] = same[0].join(same[1:])
        self.seconds += time.perf_counter() - start
        return Batch(torch.cat([b.phi for b in found]), joined, set(), found[0].dtype)

    def compute(self, inputs: Inputs, index: Tensor, *, check: bool) -> Batch:
        """Factors of some examples; to check is also to compare one of them alone, as wide as it was given."""
        while True:
            batch = self.factors(self.take(inputs, index), check)
            if not check or (self.alone and not self.trim):
                return batch
            n = int(torch.randint(len(index), (), generator=torch.Generator().manual_seed(len(index))))
            with torch.no_grad():
                phi = self.phi(self.moved(chosen(inputs, index[n : n + 1])))
            if close(phi[0], batch.phi[n].to(phi), batch.dtype):
                return batch
            self.trim, self.alone = False, self.alone or not self.trim

    def _alone(self, one: Inputs, check: bool) -> Batch:
        """Factors of one example; what no rule handles is left to autograd."""
        while True:
            try:
                batch = factors(self.phi, one, self.V, self.wanted, autograd=list(self.autograd), check=check)
                self.reached |= batch.reached
                return batch
            except NoRule as none:
                if not none.why.keys() - self.autograd.keys():
                    raise KernelError(f"No gradient for {none}.") from none
                self.autograd |= none.why
                if self.unsupported == "error":
                    raise KernelError(self._refusal()) from none

    def _refusal(self) -> str:
        homes = {id(p): type(m).__name__ for m in self.model.modules() for p in m.parameters(recurse=False)}
        groups: dict[str, list[str]] = {}
        for name, why in self.autograd.items():
            groups.setdefault(f"{homes.get(id(self.wanted[name]), 'model')}, {why}", []).append(name)
        listed = "; ".join(f"{', '.join(names)} ({kind})" for kind, names in groups.items())
        return (
            f"unsupported: the engine has no rule for {len(self.autograd)} of the {len(self.wanted)} parameters asked "
            f'for: {listed}. Pass unsupported="autograd", which differentiates them one example at a time, or ask for '
            "others with `parameters=`."
        )

    def check_reached(self) -> None:
        """Every parameter that was named has its share.

        Raises:
            KernelError: If φ depends on one of them for no example.
        """
        missing = [name for name in self.wanted if name not in self.reached]
        if self.named and missing:
            raise KernelError(f"parameters: φ depends on {some(missing)} for none of the examples. Leave it out.")

    def take(self, inputs: Inputs, index: Tensor) -> dict[str, Tensor]:
        """Some examples, without the columns in which all of them are padding at the end, where φ allows it."""
        return take(inputs, index) if self.trim else chosen(inputs, index)

    def moved(self, inputs: Inputs) -> dict[str, Tensor]:
        """Inputs on the model's device; numbers, other than token ids, in the model's type."""
        return {k: t.to(self.device, self.V.dtype if t.is_floating_point() else t.dtype) for k, t in inputs.items()}


def _first_not_finite(model: nn.Module, features: Features, inputs: Inputs) -> str:
    """Where numbers that are not finite come up first, or nothing if no module returns any."""
    names = {module: name for name, module in model.named_modules()}
    found: list[str] = []

    def look(module: nn.Module, _: object, output: object) -> None:
        outputs = output if isinstance(output, (tuple, list)) else [output]
        if any(isinstance(x, Tensor) and x.is_floating_point() and not x.isfinite().all() for x in outputs):
            found.append(f"; the first come out of {names[module]!r} ({type(module).__name__})")

    hooks = [module.register_forward_hook(look) for module in names]
    try:
        with torch.no_grad():
            features(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def some(names: Iterable[str]) -> str:
    """The first of some names, and how many more."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


@contextmanager
def prepared(
    model: nn.Module,
    features: Features,
    V: Tensor | None,
    head: str,
    parameters: Callable[[str], bool] | Iterable[str] | None,
    dtype: torch.dtype | None,
    unsupported: str = "autograd",
) -> Iterator[Problem]:
    """Freeze a model for the engine and restore it afterwards.

    Args:
        model: The model.
        features: Computes φ.
        V: Another head, or None.
        head: Name of the linear head.
        parameters: Wanted parameters, as in `kernel`.
        dtype: Type to convert a copy of the model to, or None.
        unsupported: As in `kernel`.

    Yields:
        The problem.

    Raises:
        KernelError: If there is no such head, it is tied or carries an adapter, V does not fit it, a parameter name is
            unknown, or the weights are not in float32 or float64.
    """
    if unsupported not in UNSUPPORTED:
        raise KernelError(f"unsupported: expected 'autograd' or 'error', got {unsupported!r}.")
    linear = _head(model, head, needed=V is None)
    own = {id(p) for p in linear.parameters()} if linear is not None else set()
    body = {name: p for name, p in model.named_parameters() if id(p) not in own}
    names = _wanted_names(body, parameters)
    first = next((p for p in body.values() if p.is_floating_point()), None)
    if first is None:
        raise KernelError("model: expected parameters besides the head, got none.")
    if dtype is not None and dtype != first.dtype:
        model = copy.deepcopy(model).to(dtype)
        first = next(p for p in model.parameters() if p.is_floating_point())
    by_name = dict(model.named_parameters())
    weight = linear.weight if V is None and isinstance(linear, nn.Linear) else V
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.numel() or not weight.isfinite().all():
        got = f"shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else type(weight).__name__
        raise KernelError(f"V: expected a tensor of finite numbers, shape (C, H), C and H ≥ 1, got {got}.")
    if first.dtype not in (torch.float32, torch.float64):
        raise KernelError(f"model: expected float32 or float64 weights, got {first.dtype}; pass dtype=torch.float32.")
    bias = not isinstance(linear, nn.Linear) or linear.bias is not None
    V_ = weight.detach().to(first.device, first.dtype)
    wanted = {name: by_name[name] for name in names if by_name[name].numel()}
    named = parameters is not None and not callable(parameters)
    with frozen(model, wanted):
        yield Problem(model, features, V_, bias, wanted, named, first.device, unsupported)


def _head(model: nn.Module, name: str, *, needed: bool) -> nn.Module | None:
    """The head, whose parameters are no part of F."""
    found = functools.reduce(lambda m, part: getattr(m, part, None), name.split("."), model)
    parts = name.split(".")
    if parts[-1] == "base_layer" or hasattr(found, "base_layer"):
        raise KernelError(
            f"head: {name!r} carries an adapter, whose parameters belong neither to P nor to F. Train the head itself "
            "beside the adapter, with modules_to_save instead of target_modules, or merge it."
        )
    if not isinstance(found, nn.Module):
        found = None
    if needed and not isinstance(found, nn.Linear):
        inside = [f"{name}.{n}" for n, m in found.named_modules() if isinstance(m, nn.Linear)] if found else []
        active = [n for n in inside if ".modules_to_save." in n]
        hint = f", such as {(active or inside)[0]!r}" if inside else ""
        raise KernelError(
            f"head: expected the name of a Linear layer of the model{hint}, got {name!r}; or pass V (C, H)."
        )
    own = {id(p): n for n, p in found.named_parameters(prefix=name)} if found is not None else {}
    for other, p in model.named_parameters(remove_duplicate=False):
        if id(p) in own and not other.startswith(f"{name}."):
            raise KernelError(
                f"head: {own[id(p)]!r} is also {other!r} (tied weights), so that P and F are not apart. Give the head "
                "weights of its own."
            )
    return found


def _wanted_names(
    body: Mapping[str, nn.Parameter], parameters: Callable[[str], bool] | Iterable[str] | None
) -> list[str]:
    if parameters is None:
        names = [name for name, p in body.items() if p.requires_grad]
        if not names:
            raise KernelError("parameters: none of the model's body requires gradients. Say which are wanted.")
        return names
    if callable(parameters):
        return [name for name in body if parameters(name)]
    names = [parameters] if isinstance(parameters, str) else list(parameters)
    unknown = [name for name in names if name not in body]
    if unknown:
        raise KernelError(
            f"parameters: the model's body has no parameter {unknown[0]!r}; it has {', '.join(list(body)[:4])}, …."
        )
    return names
