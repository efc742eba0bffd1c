"""Every computed exercise of the book: its checker rejects the stub and the usual mistakes, and names what it can."""

import ast

import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.nn.functional import one_hot

from lpft_utils.teaching import checkers

CORRECT = "Correct on every case."
SIGN, TRANSPOSED, DIFFERS = "It has the other sign.", "Is it transposed?", "the largest difference is"


# Right answers, found in another way than the printed ones.


def penalised_gradient(phi, V, b, y, C):
    dV, db = V.clone(), torch.zeros_like(b)
    for row, features, label in zip(torch.log_softmax(phi @ V.T + b, dim=1).exp(), phi, y, strict=True):
        residual = row - torch.eye(len(b), dtype=row.dtype)[label]
        dV, db = dV + C * torch.outer(residual, features), db + C * residual
    return dV, db


def backbone_gradient(B, V, X, y):
    residual = torch.softmax(torch.einsum("ch,hd,nd->nc", V, B, X), dim=1) - one_hot(y, len(V))
    return torch.einsum("nc,ch,nd->hd", residual, V, X) / len(X)


def from_zero(w_0, y):
    S = w_0 @ w_0 / 2
    a = np.sqrt((y + np.sqrt(y**2 + S**2)) / S)
    return (a - 1 / a) / 2 * w_0, (a + 1 / a) / 2 * w_0


def residual_at(P, F, s, r_0, t, sign=-1.0, power=2):
    λ, U = torch.linalg.eigh((P + s**power * F).reshape(r_0.numel(), -1))
    return (U @ (torch.exp(sign * t * λ) * (U.T @ r_0.reshape(-1)))).reshape(r_0.shape)


def logit_change(K, f, labels, eta):
    residual = torch.exp(f - torch.logsumexp(f, 1, keepdim=True)) - one_hot(labels, f.shape[1])
    return -eta * torch.tensordot(K, residual, 2) / len(f)


def turned(P, F, M):
    return P, (M @ F.movedim(2, 1) @ M.T).movedim(1, 2)


def smallest_change(G, s, change):
    return torch.linalg.pinv(s * G) @ change


def equal_count_gaps(confidence, correct, bins):
    rank = np.argsort(np.argsort(confidence))
    return np.bincount(rank * bins // len(rank), correct - confidence) * bins / len(rank)


def step_down(p):
    adjusted, worst = np.zeros(len(p)), 0.0
    for n, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        worst = max(worst, min(1.0, (len(p) - n) * p[i]))
        adjusted[i] = worst
    return adjusted


def temperature_slope(f, y, T):
    own = f[torch.arange(len(f)), y]
    return torch.stack([(own.mean() - (torch.softmax(f / t, 1) * f).sum(1).mean()) / t**2 for t in T])


def slope_over_texts(f, y, T):
    own = f[torch.arange(len(f)), y]
    return torch.stack([(own.mean() - (torch.softmax(f / t, 0) * f).sum(1).mean()) / t**2 for t in T])


def lora_gram(g, a, A, s):
    G = torch.einsum("ntp,ntq->npq", g, a) @ A.T
    return s**2 * torch.einsum("npr,mpr->nm", G, G)


def gram_without_pairs_of_tokens(g, a, A, s):
    return s**2 * torch.einsum("ntp,mtp,ntr,mtr->nm", g, g, a @ A.T, a @ A.T)


def effective_robustness(inside, outside, new_inside, new_outside):
    x, y, new = (np.log(p) - np.log1p(-p) for p in (inside, outside, new_inside))
    design = np.stack([x, np.ones_like(x)], axis=1)
    slope, intercept = np.linalg.solve(design.T @ design, design.T @ y)
    return new_outside - 1 / (1 + np.exp(-slope * new - intercept))


def softmax_head(w, b):
    return torch.stack([-w / 2, w / 2]), torch.tensor([-b / 2, b / 2], dtype=torch.float64)


def then(change, answer):
    """The answer, with its result changed."""
    return lambda *arguments: change(answer(*arguments))


def each(change):
    return lambda parts: tuple(map(change, parts))


def second(change):
    return lambda parts: (parts[0], change(parts[1]))


def factor(number):
    return f"It is {number} times as large as it should be."


def negative(x):
    return -x


# checker: (right answer, wrong sign, wrong scale, wrong axis), the wrong ones with what the verdict says of them
EXERCISES = {
    "check_penalised_gradient": (
        penalised_gradient,
        (then(each(negative), penalised_gradient), SIGN),
        (lambda phi, V, b, y, C: penalised_gradient(phi, V, b, y, C / len(y)), DIFFERS),
        (then(lambda parts: (parts[0].T, parts[1]), penalised_gradient), TRANSPOSED),
    ),
    "check_backbone_gradient": (
        backbone_gradient,
        (then(negative, backbone_gradient), SIGN),
        (lambda B, V, X, y: len(y) * backbone_gradient(B, V, X, y), factor(20)),
        (then(lambda x: x.T, backbone_gradient), TRANSPOSED),
    ),
    "check_from_zero": (
        from_zero,
        (then(lambda parts: (-parts[0], parts[1]), from_zero), SIGN),
        (then(each(lambda x: 2 * x), from_zero), factor(2)),
        (then(each(lambda x: x[:, None]), from_zero), "expected an array of shape (3,), got an array of shape (3, 1)"),
    ),
    "check_residual": (
        residual_at,
        (lambda *arguments: residual_at(*arguments, sign=1.0), DIFFERS),
        (lambda *arguments: residual_at(*arguments, power=1), DIFFERS),
        (then(lambda x: x.T, residual_at), TRANSPOSED),
    ),
    "check_logit_change": (
        logit_change,
        (then(negative, logit_change), SIGN),
        (lambda K, f, labels, eta: logit_change(K, f, labels, len(f) * eta), factor(6)),
        (then(lambda x: x.T, logit_change), TRANSPOSED),
    ),
    "check_turned": (
        turned,
        (then(second(negative), turned), f"part 2 of the tuple: {DIFFERS}"),
        (then(second(lambda x: 2 * x), turned), factor(2)),
        (then(second(lambda x: x.transpose(1, 3)), turned), "It has its axes exchanged (transposed)."),
    ),
    "check_smallest_change": (
        smallest_change,
        (then(negative, smallest_change), SIGN),
        (lambda G, s, change: s**2 * smallest_change(G, s, change), factor(9)),
        (then(lambda x: x[:, None], smallest_change), "expected a tensor of shape (9,), got a tensor of shape (9, 1)"),
    ),
    "check_equal_count_gaps": (
        equal_count_gaps,
        (then(negative, equal_count_gaps), SIGN),
        (lambda p, right, bins: len(p) / bins * equal_count_gaps(p, right, bins), factor(40)),
        (lambda p, right, bins: (right - p)[np.argsort(p)].reshape(-1, bins).mean(0), DIFFERS),
    ),
    "check_holm": (
        step_down,
        (then(negative, step_down), SIGN),
        (then(lambda p: 2 * p, step_down), factor(2)),
        (lambda p: np.sort(step_down(p)), DIFFERS),
    ),
    "check_temperature_slope": (
        temperature_slope,
        (then(negative, temperature_slope), SIGN),
        (lambda f, y, T: len(f) * temperature_slope(f, y, T), factor(12)),
        (slope_over_texts, DIFFERS),
    ),
    "check_lora_gram": (
        lora_gram,
        (then(negative, lora_gram), SIGN),
        (lambda g, a, A, s: lora_gram(g, a, A, s) / s, f"several tokens: {DIFFERS}"),
        (gram_without_pairs_of_tokens, f"several tokens: {DIFFERS}"),
    ),
    "check_effective_robustness": (
        effective_robustness,
        (then(negative, effective_robustness), SIGN),
        (then(lambda x: 100 * x, effective_robustness), factor(100)),
        (lambda a, b, c, d: effective_robustness(b, a, d, c), DIFFERS),
    ),
    "check_softmax_head": (
        softmax_head,
        (then(each(negative), softmax_head), SIGN),
        (then(each(lambda x: 2 * x), softmax_head), factor(2)),
        (then(lambda parts: (parts[0].T, parts[1]), softmax_head), TRANSPOSED),
    ),
}


def computed() -> dict[str, dict[str, str]]:
    """Source of the stub and of the printed solution of every computed exercise, by the name of its checker."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for kind in {"stub", "solution"} & set(cell.metadata.get("tags", [])):
                for name in EXERCISES:
                    if f"exercises.{name}(" in cell.source:
                        found.setdefault(name, {})[kind] = cell.source
    return found


def function(source: str):
    """The function that a cell defines, and not what else the cell computes."""
    (definition,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    names = {"np": np, "torch": torch}
    exec(compile(ast.Module([definition], []), "<cell>", "exec"), names)
    return names[definition.name]


each_exercise = pytest.mark.parametrize("name", EXERCISES)


def test_every_checker_is_of_an_exercise_with_a_stub_and_a_printed_solution():
    assert {name for name in vars(checkers) if name.startswith("check_")} == set(EXERCISES) == set(computed())
    assert all(set(cells) == {"stub", "solution"} for cells in computed().values())


@each_exercise
def test_the_stub_fails_and_the_printed_solution_passes(name):
    check, cells = getattr(checkers, name), computed()[name]
    assert check(function(cells["stub"])).endswith("the function still returns `...`. Your turn.")
    assert check(function(cells["solution"])) == CORRECT


@each_exercise
def test_another_right_answer_passes(name):
    assert getattr(checkers, name)(EXERCISES[name][0]) == CORRECT


@pytest.mark.parametrize("kind", ["sign", "scale", "axis"])
@each_exercise
def test_a_wrong_sign_scale_or_axis_is_rejected_and_named_where_it_explains_everything(name, kind):
    answer, said = EXERCISES[name][["sign", "scale", "axis"].index(kind) + 1]
    verdict = getattr(checkers, name)(answer)
    assert verdict.startswith("Not yet. ") and said in verdict


# What holds for every checker.


def test_a_verdict_is_shown_once_and_without_quotation_marks(capsys):
    verdict = checkers.check_lora_gram(lora_gram)
    assert repr(verdict) == CORRECT  # what a notebook shows of a cell's last value
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (0.0, "expected a tensor of shape (5, 5), got an object of type float."),
        (None, "expected a tensor of shape (5, 5), got nothing (is a `return` missing?)."),
        (np.zeros((5, 5)), "expected a tensor of shape (5, 5), got an array of shape (5, 5)."),
        (torch.zeros(5), "expected a tensor of shape (5, 5), got a tensor of shape (5,)."),
        ((torch.zeros(5, 5),) * 2, "expected a tensor of shape (5, 5), got a tuple of 2."),
        (torch.full((5, 5), torch.nan), "the result is not finite."),
    ],
)
def test_type_and_shape_come_before_values(result, said):
    assert said in checkers.check_lora_gram(lambda *_: result)


def test_a_tuple_of_the_wrong_length_or_type_is_named():
    P, F = torch.zeros(3, 2, 3, 2), torch.zeros(3, 2, 3, 2)
    for result, got in (
        ((P, F, F), "a tuple of 3"),
        (P, "a tensor of shape (3, 2, 3, 2)"),
        ([P, F], "an object of type list"),
    ):
        assert f"expected a tuple of 2, got {got}." in checkers.check_turned(lambda *_, result=result: result)


def test_a_softmax_that_overflows_fails_on_extreme_logits_alone():
    def naive(phi, V, b, y, C):
        weights = torch.exp(phi @ V.T + b)
        residual = weights / weights.sum(1, keepdim=True) - one_hot(y, len(V))
        return C * residual.T @ phi + V, C * residual.sum(0)

    assert "extreme logits, part 1 of the tuple: the result is not finite" in checkers.check_penalised_gradient(naive)


def test_a_factor_is_named_only_where_it_explains_the_whole_difference():
    def partly(*arguments):
        kernel = lora_gram(*arguments)
        return torch.cat([-2 * kernel[:1], kernel[1:]])

    assert "times" not in (verdict := checkers.check_lora_gram(partly)) and DIFFERS in verdict and "sign" not in verdict
    both = checkers.check_lora_gram(then(lambda x: -3 * x, lora_gram))
    assert "It has the other sign and is 3 times as large as it should be." in both


def test_an_answer_that_changes_its_arguments_is_not_compared_with_them():
    assert DIFFERS in checkers.check_turned(lambda P, F, M: (P.mul_(2), turned(P, F, M)[1]))
