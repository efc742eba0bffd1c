"""The kernels at the initialisations of fine-tuning: what the NTK chapters look at.

An initialisation is a pre-trained φ with a head: the random one (FT, LoRA) or LP's (LP-FT, LP-LoRA); for LoRA the
parameters of φ are those of a fresh adapter. Kernels are computed once and kept in the run store.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lpft_utils.common.errors import RunError
from lpft_utils.common.tensors import weights_fingerprint
from lpft_utils.kernel_methods.contrasts import one_hot
from lpft_utils.kernel_methods.regression import KernelFit, logistic, ridge
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import Classifier, load_classifier
from lpft_utils.models.encoding import Collator, encode, stack
from lpft_utils.ntk import Kernel, kernel, load_kernel
from lpft_utils.ntk.result import ENGINE_VERSION
from lpft_utils.runs.cache import cache_path, cached, lock
from lpft_utils.runs.profiles import Profile
from lpft_utils.runs.run import load_data, run, run_key
from lpft_utils.studies.published_code import PublishedFit, published
from lpft_utils.training.logistic import fit_logistic
from lpft_utils.training.methods import METHODS, TUNING_FIELDS

INITIALISATIONS = ("ft", "lp_ft", "lora", "lp_lora")


@dataclass(frozen=True)
class Examples:
    """Tokenised examples of a task.

    Attributes:
        inputs: Arguments of φ by name, each of shape (N, T).
        labels: Class indices, shape (N,).
    """

    inputs: dict[str, Tensor]
    labels: Tensor


@dataclass(frozen=True)
class Initialisation:
    """An initialisation of fine-tuning, and its kernels.

    Attributes:
        method: "ft", "lp_ft", "lora" or "lp_lora".
        train: Kernel of N training examples.
        test: Kernel of M test examples (rows) with the training examples (columns).
        labels: Classes of the training examples, shape (N,).
        test_labels: Classes of the test examples, shape (M,).
        residuals: δ = e_y − softmax(f_0) of the training examples, shape (N, C), float64.
    """

    method: str
    train: Kernel
    test: Kernel
    labels: Tensor
    test_labels: Tensor
    residuals: Tensor

    def regression(self, part: str, kind: str = "ridge") -> KernelFit:
        """Kernel regression with "P", "F" or "K" = P + F, by "ridge" or "logistic" regression."""
        fit = {"ridge": ridge, "logistic": logistic}[kind]
        return fit(getattr(self.train, part).double(), self.labels, getattr(self.test, part).double())


def part_of_model(name: str) -> str:
    """Where in a Transformer a parameter is.

    Args:
        name: Its name, in any of the families that the book uses.

    Returns:
        "embeddings", "layer 1, attention", "layer 1, feed-forward", "layer 1, norm", … or "final norm".
    """
    layer = re.search(r"\.(?:layers?|h)\.(\d+)\.", name)
    lower = name.lower()
    norm = "norm" in lower or re.search(r"\bln_", lower) is not None
    if layer is None:
        return "final norm" if norm and "embed" not in lower else "embeddings"
    kind = "norm" if norm else "attention" if "att" in lower[layer.end() :] else "feed-forward"
    return f"layer {int(layer.group(1)) + 1}, {kind}"


def examples(setting: Profile, seed: int, n: int | None = None) -> tuple[Examples, Examples]:
    """Training and test examples of a kernel, drawn from the splits of the LP run of this seed.

    Args:
        setting: The profile.
        seed: The run's seed; it draws the training examples. The test examples are the same for all seeds.
        n: Number of each; default: the profile's.

    Returns:
        Training and test examples.
    """
    spec = setting.spec("lp", seed=seed)
    task, tokenizer = load_data(spec), load_tokenizer(setting.backbone)
    drawn = []
    for name, draw in (("train", seed), ("test", 0)):
        split = task.split(name)
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(draw))
        index = order[: n or setting.n_kernel].sort().values.tolist()
        encoded = encode(split, tokenizer, spec.max_length)
        labels = torch.tensor(split.labels)[index]
        drawn.append(Examples(stack(encoded, Collator(tokenizer), index), labels))
    return drawn[0], drawn[1]


def initial_model(
    setting: Profile, method: str, seed: int, *, own: Examples | None = None, store: Path | None = None
) -> Classifier:
    """The classifier at the initialisation of fine-tuning.

    Args:
        setting: The profile.
        method: A method that tunes φ, such as "ft" or "lp_lora".
        seed: The run's seed.
        own: Fit LP's head on these examples, with the penalty that LP chose: they are too few for a cross-validation.
            By default it is that of the LP run, which has seen all training examples.
        store: The run store; default: `paths.run_store()`.

    Returns:
        The classifier; what requires gradients is what the method trains.

    Raises:
        RunError: If LP's run was made on other weights of this backbone than those on this machine.
    """
    spec = setting.spec(method, seed=seed)
    probed = run(setting.spec("lp", seed=seed), store=store)
    model = load_classifier(setting.backbone, len(probed.V), pooling=spec.pooling, seed=seed)
    expected, found = probed.metrics["backbone_fingerprint"], weights_fingerprint(model.backbone)
    if found != expected:
        raise RunError(
            f"{probed.folder.name} was made on other weights of {setting.backbone!r} (fingerprint {expected}, here "
            f"{found}). Delete its folder and ask for the run again."
        )
    if METHODS[method].head == "lp":
        model.set_head(probed.V, probed.weights["head.bias"])
    if METHODS[method].head == "lp" and own is not None:
        with torch.no_grad():
            phi = model.features(**own.inputs)
        present, labels = own.labels.unique(return_inverse=True)
        twice = 2 if len(present) == 2 < len(probed.V) else 1  # two classes alone have twice the penalty
        fit = fit_logistic(phi, labels, len(present), twice * float(probed.metrics["lp"]["C"]))
        V, b = torch.zeros_like(probed.V).to(phi), torch.full_like(probed.V[:, 0], float(fit.b.min()) - 30).to(phi)
        V[present], b[present] = fit.V.to(phi), fit.b.to(phi)
        model.set_head(V, b)  # a class that is not among the examples: the limit of the fit, v = 0 and no probability
    METHODS[method].trains(model, spec)
    return model


def stored_kernel(folder: Path, model: Callable[[], nn.Module], *inputs: Any, **options: Any) -> Kernel:
    """`ntk.kernel`, computed once: the model is made only where the kernel is not in the folder yet.

    Args:
        folder: The kernel's own folder, a result of `cache_path`.
        model: Makes the model.
        *inputs: Examples of the rows, and of the columns if they are others.
        **options: Further arguments of `ntk.kernel`.

    Returns:
        The kernel.
    """
    path = folder / "kernel.safetensors"
    with lock(folder):
        if not path.exists():
            kernel(model(), *inputs, folder=folder, **options)
    return load_kernel(path)


def initialisations(
    setting: Profile,
    seed: int,
    methods: Iterable[str] = INITIALISATIONS,
    *,
    own_head: bool = False,
    store: Path | None = None,
) -> dict[str, Initialisation]:
    """Kernels at the initialisations, computed or read from the run store.

    Args:
        setting: The profile.
        seed: The run's seed.
        methods: Their methods.
        own_head: Fit LP's head on the kernel's own training examples, so that F knows no labels that P does not know.
        store: The run store; default: `paths.run_store()`.

    Returns:
        Initialisations by method.
    """
    train, test = examples(setting, seed)
    found = {}
    for method in methods:
        folder = kernel_folder(setting, method, seed, own_head, store)
        own = train if own_head else None
        model = functools.cache(functools.partial(initial_model, setting, method, seed, own=own, store=store))
        square = stored_kernel(folder / "train", model, train.inputs, groups=part_of_model)
        block = stored_kernel(folder / "test", model, test.inputs, train.inputs)
        f_0 = cached(f"{folder.name}-logits", lambda model=model: _logits(model(), train), store)
        softmax = torch.tensor(f_0, dtype=torch.float64).softmax(1)
        residuals = one_hot(train.labels, softmax.shape[1]) - softmax
        found[method] = Initialisation(method, square, block, train.labels, test.labels, residuals)
    return found


def kernel_folder(setting: Profile, method: str, seed: int, own_head: bool = False, store: Path | None = None) -> Path:
    """Where `initialisations` keeps the kernels of a method, in "train" and "test"; they need not be there yet."""
    return cache_path(f"{setting.task}-{method}-s{seed}-{cache_key(setting, method, seed, own_head)}", store)


def cache_key(setting: Profile, method: str, seed: int, *more: object) -> str:
    """Hash of everything that a kernel at an initialisation depends on; nothing is trained to know it.

    Args:
        setting: The profile.
        method: The method.
        seed: The run's seed.
        *more: What else the result depends on.

    Returns:
        Ten hex digits.
    """
    spec = setting.spec(method, seed=seed)
    adapter = {name: getattr(spec, name) for name in METHODS[method].fields if name not in TUNING_FIELDS}
    parts = [ENGINE_VERSION, run_key(setting.spec("lp", seed=seed)), setting.n_kernel, method, adapter, *more]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def _logits(model: Classifier, few: Examples) -> list[list[float]]:
    with torch.no_grad():
        return model(**few.inputs).logits.double().tolist()


def as_published(at: Initialisation, *, store: Path | None = None) -> PublishedFit:
    """The published code's regression with P + F, computed or read from the run store.

    Args:
        at: An initialisation.
        store: The run store; default: `paths.run_store()`.

    Returns:
        Its accuracies, which are not those of a regression that chooses one class; see `published`.
    """
    given = (at.train.K.double(), at.labels, at.test.K.double(), at.test_labels)
    digest = hashlib.sha256(version("scikit-learn").encode())
    for tensor in given:
        digest.update(tensor.cpu().numpy().tobytes())
    return PublishedFit(**cached(f"published-2-{digest.hexdigest()[:16]}", lambda: asdict(published(*given)), store))


def trace_shares(K: Kernel) -> dict[str, float]:
    """The share of each group of parameters in the trace of F; zeros if F is zero."""
    traces = {name: torch.einsum("ncnc->", part.double()).item() for name, part in K.groups.items()}
    return {name: trace / (sum(traces.values()) or 1.0) for name, trace in traces.items()}


def shares(at: Initialisation) -> pd.DataFrame:
    """The share of each layer and kind of parameter in the trace of F.

    Args:
        at: An initialisation with its kernel by `part_of_model`.

    Returns:
        Rows: layers; columns: kinds; values sum to 1.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, share in trace_shares(at.train).items():
        layer, _, kind = name.partition(", ")
        rows.setdefault(layer, {})[kind or layer] = share
    return pd.DataFrame.from_dict(rows, orient="index").fillna(0.0)
