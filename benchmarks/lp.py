"""How much faster is our regularised logistic path than scikit-learn's `LogisticRegressionCV`?

Both get the same features, 10 values of C from 1e-4 to 1e4 and 5 stratified folds, and both choose C by accuracy and
refit. Ours in addition fits every C on all data. Only the fits are timed. Then the results are compared, fit by fit.

    python benchmarks/lp.py [--task TASK] [--data DIR] [--n N] [--device cpu|cuda] [--n-jobs J] [--pairs R]
    python benchmarks/lp.py --classes 10 --width 768 --n 4000   # generated features of any number of classes
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

from lpft_utils.data.tasks import load_task
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import load_classifier
from lpft_utils.training.logistic import LogisticPath, logistic_path

ROOT = Path(__file__).resolve().parents[1]
N_SST5 = 8540
TOLERANCE = 1e-6  # relative, on the objective


def main() -> int:
    """Run the benchmark; the exit status is 1 if the two sides disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="sst5_3way", help="whose training texts (default %(default)s)")
    parser.add_argument("--data", type=Path, help="folder with the task (default: $LPFT_DATA, else ../shared/data)")
    parser.add_argument("--classes", type=int, help="no task: generated features of so many classes")
    parser.add_argument("--width", type=int, default=384, help="of generated features (default %(default)s)")
    parser.add_argument("--n", type=int, default=N_SST5, help="use N examples, drawn with seed 0 (default %(default)s)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where our side computes")
    parser.add_argument("--n-jobs", type=int, help="processes of scikit-learn (default: its own default, one)")
    parser.add_argument("--pairs", type=int, default=1, help="runs of scikit-learn, ours before and after")
    args = parser.parse_args()

    if args.classes:
        X, y = generated(args.n, args.classes, args.width)
        source = "generated features"
    else:
        texts, y, source = load_texts(args.task, args.data, args.n)
        X, source = load_features(texts), f"{source}; first-token features of MiniLM"
    n_classes = int(y.max()) + 1
    gpu = f", {torch.cuda.get_device_name()}" if args.device == "cuda" else ""
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores{gpu}; {platform.platform()}")
    print(
        f"software: torch {torch.__version__} ({torch.get_num_threads()} threads), scikit-learn {sklearn.__version__}"
    )
    print(f"data: {source}, {X.shape[0]} × {X.shape[1]}, {n_classes} classes")
    print("task: 10 values of C × 5 folds + refit")
    print(f"  scikit-learn: LogisticRegressionCV, lbfgs, tol 1e-4 (defaults), max_iter 1000, n_jobs {args.n_jobs}, CPU")
    print(f"  ours: logistic_path, every fit certified to 1e-8 (and a refit for every C), {args.device}")

    ours, theirs = [], []
    seconds, cpu, path = time_ours(X, y, n_classes, args.device)
    ours.append(seconds)
    print(f"ours: {seconds:.2f} s ({cpu:.2f} s of CPU time; first call)", flush=True)
    for _ in range(args.pairs):
        seconds, cpu, model, n_stopped = time_sklearn(X, y, args.n_jobs)
        theirs.append(seconds)
        print(f"scikit-learn: {seconds:.2f} s ({cpu:.2f} s of CPU time; {n_stopped} convergence warnings)", flush=True)
        seconds, cpu, path = time_ours(X, y, n_classes, args.device)
        ours.append(seconds)
        print(f"ours: {seconds:.2f} s ({cpu:.2f} s of CPU time)", flush=True)
    agree = compare(path, model, X, y, n_classes)
    print(f"lp_vs_sklearn: {np.mean(theirs) / np.mean(ours):.1f}")
    return 0 if agree else 1


def generated(n: int, n_classes: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian features (N, H) around a mean for each class, with a spectrum that falls like a Transformer's."""
    rng = np.random.default_rng(0)
    scale = np.linspace(1, 0.05, width) ** 2
    y = rng.integers(0, n_classes, n)
    X = (rng.normal(size=(n, width)) + 0.35 * rng.normal(size=(n_classes, width))[y]) * scale
    return 6 * X / np.linalg.norm(X, axis=1, keepdims=True), y


def load_texts(task: str, data: Path | None, n: int) -> tuple[list[str], np.ndarray, str]:
    """Training texts of a task if it is there, else as many generated reviews."""
    for folder in (data, os.environ.get("LPFT_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / task / "train.jsonl").is_file():
            split = load_task(task, data_dir=folder).split("train")
            source = task
            break
    else:
        if data is not None:
            sys.exit(f"no {task}/train.jsonl in {data}")
        split = load_task("synthetic", n_train=n).split("train")
        source = f"synthetic reviews of the task `synthetic` ({task} is absent)"
    chosen = np.sort(np.random.default_rng(0).permutation(len(split.texts))[:n])
    return [" ".join(split.texts[i]) for i in chosen], np.asarray(split.labels)[chosen], source


@torch.no_grad()
def load_features(texts: list[str]) -> np.ndarray:
    """First-token features of MiniLM in float64 (N, H), kept in the temporary folder between runs."""
    key = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir()) / f"lpft-bench-minilm-{key}.npy"
    if not cache.exists():
        model, tokenizer = load_classifier("minilm", 2), load_tokenizer("minilm")
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        features = np.empty((len(texts), model.config.hidden_size))
        for start in range(0, len(order), 64):
            index = order[start : start + 64]
            batch = tokenizer(
                [texts[i] for i in index], truncation=True, max_length=128, padding=True, return_tensors="pt"
            )
            features[index] = model.features(**batch).double().numpy()
        part = cache.with_suffix(f".{os.getpid()}.npy")
        np.save(part, features)
        part.replace(cache)
    return np.load(cache)


def time_ours(X: np.ndarray, y: np.ndarray, n_classes: int, device: str) -> tuple[float, float, LogisticPath]:
    """Seconds and CPU seconds, with the transfer to and from the device, and the path."""
    start, cpu = time.perf_counter(), time.process_time()
    path = logistic_path(torch.as_tensor(X, device=device), y, n_classes)
    path.V.cpu()
    return time.perf_counter() - start, time.process_time() - cpu, path


def time_sklearn(X: np.ndarray, y: np.ndarray, n_jobs: int | None) -> tuple[float, float, LogisticRegressionCV, int]:
    """Seconds, CPU seconds of this process, the fitted model, and how many fits warned of no convergence."""
    model = LogisticRegressionCV(
        Cs=10, cv=5, scoring="accuracy", l1_ratios=(0.0,), use_legacy_attributes=False, max_iter=1000, n_jobs=n_jobs
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        start, cpu = time.perf_counter(), time.process_time()
        model.fit(X, y)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return seconds, cpu, model, sum(issubclass(w.category, ConvergenceWarning) for w in caught)


def as_head(coef: np.ndarray, intercept: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's coefficients as softmax rows: [−w/2, w/2] for two classes."""
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return torch.tensor(coef), torch.tensor(intercept)


def logistic_objective(V: torch.Tensor, b: torch.Tensor, X: np.ndarray, y: np.ndarray, C: float) -> float:
    """What both minimise, from its definition; scikit-learn's penalty of two classes is twice that of more."""
    loss = torch.nn.functional.cross_entropy(torch.tensor(X).to(V) @ V.T + b, torch.tensor(y), reduction="sum")
    return float(C * loss + (1.0 if len(V) == 2 else 0.5) * (V**2).sum())


def compare(path: LogisticPath, model: LogisticRegressionCV, X: np.ndarray, y: np.ndarray, n_classes: int) -> bool:
    """Print how the fits compare; whether ours are as good everywhere and the choice is the same."""
    folds = list(StratifiedKFold(5).split(X, y))
    theirs = np.empty_like(path.fold_objective)
    for f, (train, _) in enumerate(folds):
        for c, C in enumerate(path.Cs):
            coef = np.atleast_2d(model.coefs_paths_[f, 0, c])  # (C or 1, H + 1)
            theirs[f, c] = logistic_objective(*as_head(coef[:, :-1], coef[:, -1]), X[train], y[train], float(C))
    excess = theirs / path.fold_objective - 1
    loose, _ = as_head(model.coef_, model.intercept_)
    exact = LogisticRegression(C=path.best_C, solver="newton-cholesky", tol=1e-10, max_iter=200).fit(X, y)
    V, _ = as_head(exact.coef_, exact.intercept_)
    distance, loose_distance = (float((head - V).norm() / V.norm()) for head in (path.V.cpu(), loose))
    certified = max(float((path.fold_gap / path.fold_objective).max()), float((path.gap / path.objective).max()))
    flips = np.abs(path.fold_accuracy - model.scores_[:, 0]) * np.array([len(test) for _, test in folds])[:, None]
    checks = {
        f"ours certified within {certified:.1e} of the minimum in all {path.fold_gap.size + path.gap.size} fits": (
            path.converged and certified <= TOLERANCE
        ),
        f"scikit-learn's objective over ours − 1, in the 50 fold fits: {excess.min():.1e} to {excess.max():.1e}": (
            bool((excess >= -TOLERANCE).all())
        ),
        f"chosen C: ours {path.best_C:.6g}, scikit-learn {float(np.ravel(model.C_)[0]):.6g}": (
            bool(np.isclose(path.best_C, np.ravel(model.C_)[0]))
        ),
        f"head at the chosen C against scikit-learn's newton-cholesky at tol 1e-10: ‖ΔV‖ / ‖V‖ = {distance:.1e} "
        f"(lbfgs as timed: {loose_distance:.1e})": distance < 1e-3,
    }
    print("parity:")
    for text, good in checks.items():
        print(f"  {'ok  ' if good else 'FAIL'} {text}")
    print(f"  held-out predictions differ by at most {flips.max():.0f} examples of a fold (unconverged lbfgs)")
    return all(checks.values())


if __name__ == "__main__":
    sys.exit(main())
