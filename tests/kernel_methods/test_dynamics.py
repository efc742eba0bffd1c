"""Linearised training against closed forms, plain integration, dense Jacobians and real training, in float64."""

from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.integrate import solve_ivp
from scipy.special import lambertw
from tiny import VOCABULARY, H, save_backbone

from lpft_utils.common.errors import KernelError
from lpft_utils.kernel_methods import weight_space
from lpft_utils.kernel_methods.function_space import gradient_descent, gradient_flow
from lpft_utils.kernel_methods.function_space import logits as linearised_logits
from lpft_utils.kernel_methods.weight_space import predict_features, train
from lpft_utils.models.classifier import load_classifier

N, M, C = 6, 4, 3
LABELS = torch.tensor([0, 1, 2, 2, 0, 1])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On matrices of this size a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def token_batch(n: int, seed: int) -> dict[str, torch.Tensor]:
    """Texts of 3 to 7 random words, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 3 + torch.arange(n) % 5
    mask = (torch.arange(7) < lengths[:, None]).long()
    ids = torch.randint(5, VOCABULARY, (n, 7), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}


INPUTS, OTHERS = token_batch(N, 0), token_batch(M, 1)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    def load(family: str = "bert"):
        folder = tmp_path_factory.mktemp("backbone")
        model = load_classifier(str(save_backbone(family, folder)), C).double()
        with torch.no_grad():
            model.head.weight.copy_(0.5 * torch.randn(C, H, generator=torch.Generator().manual_seed(1)))
        return model

    return load


def jacobian(model, function, backbone_only: bool = False) -> torch.Tensor:
    """Dense Jacobian (n, outputs, P) by one backward pass for each output."""
    parameters = [p for n, p in model.named_parameters() if p.requires_grad and not (backbone_only and "head" in n)]
    y = function()
    rows = [
        torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(
                    parameters, torch.autograd.grad(v, parameters, retain_graph=True, allow_unused=True), strict=True
                )
            ]
        )
        for v in y.flatten()
    ]
    return torch.stack(rows).view(*y.shape, -1)


def logits(model, inputs):
    return model.head(model.features(**inputs))


@pytest.fixture(scope="module")
def bert(load):
    """A model with its dense kernels (all parameters) and logits at initialisation."""
    model = load()
    J, J_other = (jacobian(model, partial(logits, model, x)) for x in (INPUTS, OTHERS))
    with torch.no_grad():
        f_0, f_other = logits(model, INPUTS), logits(model, OTHERS)
    K, K_other = (torch.einsum("ncp,mdp->ncmd", a, J) for a in (J, J_other))
    return model, K, f_0, K_other, f_other


def random_problem(n=7, c=3, m=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(n + m, c, 12, generator=generator, dtype=torch.float64)
    K = torch.einsum("ncp,mdp->ncmd", J, J[:n])
    f = torch.randn(n + m, c, generator=generator, dtype=torch.float64)
    return K[:n], f[:n], torch.arange(n) % c, K[n:], f[n:]


# ---- gradient flow ----


def test_flow_of_one_example_with_two_classes_has_a_closed_form():
    """K = κ I: the margin d = f_y − f_other obeys d' = 2κ / (1 + e^d), so d + e^d = d_0 + e^d_0 + 2κt."""
    kappa, times = 2.5, [0.0, 0.1, 1.0, 10.0, 1000.0]
    K = kappa * torch.eye(2, dtype=torch.float64).view(1, 2, 1, 2)
    flow = gradient_flow(K, torch.tensor([[0.3, -0.4]]), torch.tensor([1]), times)
    a = -0.7 + torch.exp(torch.tensor(-0.7)).item() + 2 * kappa * torch.tensor(times, dtype=torch.float64)
    # e^d e^(e^d) = e^a
    small = a < 500
    expected = torch.where(small, a - torch.tensor(lambertw(a.clamp(max=500).exp().numpy()).real), torch.nan)
    margin = flow.f[:, 0, 1] - flow.f[:, 0, 0]
    torch.testing.assert_close(margin[small], expected[small], atol=1e-7, rtol=0)
    residual = margin + margin.exp() - a
    assert (residual.abs() / margin.exp()).max() < 1e-6
    torch.testing.assert_close(flow.loss, torch.log1p((-margin).exp()), atol=1e-12, rtol=0)


def test_flow_equals_plain_integration_of_the_logits():
    K, f_0, y, K_other, f_other = random_problem()
    times = [0.0, 0.05, 0.5, 3.0]
    flow = gradient_flow(K, f_0, y, times)
    both = torch.cat([K, K_other]).reshape(33, 21)

    def derivative(_, f):
        p = torch.tensor(f[:21]).view(7, 3).softmax(1)
        return -(both @ (p - torch.eye(3, dtype=torch.float64)[y]).flatten()).numpy() / 7

    start = torch.cat([f_0, f_other]).flatten().numpy()
    plain = solve_ivp(derivative, (0, 3), start, "DOP853", t_eval=times, rtol=1e-12, atol=1e-12)
    expected = torch.tensor(plain.y.T)
    torch.testing.assert_close(flow.f, expected[:, :21].view(-1, 7, 3), atol=1e-6, rtol=0)
    others = linearised_logits(K_other, f_other, flow.Q)
    torch.testing.assert_close(others, expected[:, 21:].view(-1, 4, 3), atol=1e-6, rtol=0)


def test_stiff_flow_reaches_the_end_with_a_falling_loss():
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(40, 3, 300, generator=generator, dtype=torch.float64) * torch.logspace(3, -1, 300)
    K, y = torch.einsum("ncp,mdp->ncmd", J, J), torch.arange(40) % 3
    flow = gradient_flow(K, torch.zeros(40, 3), y, torch.logspace(-9, 2, 9))
    assert (flow.loss.diff() < 0).all() and flow.loss[-1] < 1e-2
    assert flow.loss[0] == pytest.approx(torch.log(torch.tensor(3.0)).item(), rel=0.2)


@pytest.mark.parametrize(
    "run", [lambda *a: gradient_flow(*a, [0.0, 1.0, 50.0]), lambda *a: gradient_descent(*a, 0.2, 9)]
)
def test_conserved_and_unmoved(run):
    """Rows of Q sum to zero; a shift of all logits of an example changes no Q; without a residual nothing moves."""
    K, f_0, y, _, _ = random_problem()
    moved = run(K, f_0, y)
    assert moved.Q.sum(2).abs().max() < 1e-12 < moved.Q.abs().max()
    assert (moved.Q[0] == 0).all() and torch.equal(moved.f[0], f_0)
    shifted = run(K, f_0 + torch.arange(7)[:, None], y)
    torch.testing.assert_close(shifted.Q, moved.Q, atol=1e-7, rtol=0)
    fitted = run(K, 1000.0 * torch.eye(3, dtype=torch.float64)[y], y)
    assert (fitted.Q == 0).all() and (fitted.loss == 0).all()


def test_no_time_and_no_steps_leave_the_logits_as_they_are():
    K, f_0, y, _, _ = random_problem()
    for run in (gradient_flow(K, f_0, y, [0.0]), gradient_descent(K, f_0, y, 0.2, 0)):
        assert torch.equal(run.f, f_0[None]) and run.times.tolist() == [0] and not run.Q.any()


def test_descent_converges_to_the_flow_at_first_order():
    K, f_0, y, _, _ = random_problem()
    flow = gradient_flow(K, f_0, y, [2.0])
    errors = []
    for steps in (1000, 2000, 4000):
        descent = gradient_descent(K, f_0, y, 2 / steps, steps, steps)
        assert descent.times.tolist() == pytest.approx([0, 2])
        errors.append((descent.f[-1] - flow.f[-1]).abs().max().item())
        torch.testing.assert_close(descent.Q[-1], flow.Q[-1], atol=1e-3, rtol=0)
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05) and errors[1] / errors[2] == pytest.approx(2, rel=0.05)


def test_descent_below_its_bound_never_raises_the_loss():
    K, f_0, y, _, _ = random_problem()
    bound = 4 * 7 / torch.linalg.eigvalsh(K.reshape(21, 21))[-1].item()
    assert (gradient_descent(K, f_0, y, 0.99 * bound, 200).loss.diff() <= 0).all()


def test_recorded_steps_include_the_first_and_the_last():
    K, f_0, y, _, _ = random_problem()
    every_step = gradient_descent(K, f_0, y, 0.1, 7)
    some = gradient_descent(K, f_0, y, 0.1, 7, every=3)
    assert every_step.times.tolist() == pytest.approx([0.1 * s for s in range(8)])
    assert torch.equal(some.f, every_step.f[[0, 3, 6, 7]]) and torch.equal(some.times, every_step.times[[0, 3, 6, 7]])


# ---- real training ----


def test_real_training_is_gradient_descent_by_hand(load, monkeypatch):
    monkeypatch.setattr(weight_space, "BATCH", 4)
    model = load()
    run = train(model, INPUTS, LABELS, 0.05, 3, 2, OTHERS)
    hand, losses = load(), []
    phi_0 = hand.features(**OTHERS).detach()
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(logits(hand, INPUTS), LABELS)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(hand.parameters()))
        with torch.no_grad():
            for p, g in zip(hand.parameters(), gradients, strict=True):
                p -= 0.05 * g
    assert run.times.tolist() == pytest.approx([0, 0.1, 0.15])
    assert run.loss[:2].tolist() == pytest.approx([losses[0], losses[2]], rel=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(run.f[-1], logits(hand, INPUTS), atol=1e-12, rtol=0)
        torch.testing.assert_close(run.f_other[-1], logits(hand, OTHERS), atol=1e-12, rtol=0)
        torch.testing.assert_close(run.phi_change[-1], hand.features(**OTHERS) - phi_0, atol=1e-12, rtol=0)
    assert (run.phi_change[0] == 0).all() and run.Q is None


def test_the_callers_model_is_left_as_it_was(load):
    model = load()
    model.train()
    model.backbone.encoder.layer[0].eval()
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    Q = torch.randn(1, N, C, dtype=torch.float64)
    once, run = predict_features(model, INPUTS, Q, OTHERS), train(model, INPUTS, LABELS, 0.1, 2)
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(once, predict_features(model.eval(), INPUTS, Q, OTHERS)), "no dropout in train mode either"
    assert torch.equal(run.f, train(model, INPUTS, LABELS, 0.1, 2).f)


def test_one_small_step_is_predicted_to_first_order(bert):
    """The relative error of the predicted change of one step is proportional to η."""
    model, K, f_0, K_other, f_other = bert
    errors = []
    for eta in (1e-3, 5e-4, 2.5e-4):
        real = train(model, INPUTS, LABELS, eta, 1, 1, OTHERS)
        linear = gradient_descent(K, f_0, LABELS, eta, 1, 1)
        phi = predict_features(model, INPUTS, linear.Q[1:], OTHERS)
        pairs = [
            (real.f[1] - f_0, linear.f[1] - f_0),
            (real.f_other[1] - f_other, linearised_logits(K_other, f_other, linear.Q)[1] - f_other),
            (real.phi_change[1], phi[0]),
        ]
        errors.append([((a - b).norm() / a.norm()).item() for a, b in pairs])
    errors = torch.tensor(errors)
    assert (errors[-1] < 0.02).all(), errors
    torch.testing.assert_close(errors[:-1] / errors[1:], torch.full((2, 3), 2.0), atol=0.15, rtol=0)


def test_error_of_linearised_training_is_second_order_in_time(bert):
    """Ten steps each, to t, t/2 and t/4: the change of the model is O(t), what linearisation misses O(t²)."""
    model, K, f_0, K_other, f_other = bert
    errors, sizes = [], []
    for t in (8e-3, 4e-3, 2e-3):
        real = train(model, INPUTS, LABELS, t / 10, 10, 10, OTHERS)
        linear = gradient_descent(K, f_0, LABELS, t / 10, 10, 10)
        errors.append((real.f_other[-1] - linearised_logits(K_other, f_other, linear.Q)[-1]).norm().item())
        sizes.append((real.f_other[-1] - f_other).norm().item())
    errors, sizes = torch.tensor(errors), torch.tensor(sizes)
    torch.testing.assert_close(errors[:-1] / errors[1:], torch.full((2,), 4.0), atol=0.6, rtol=0)
    torch.testing.assert_close(sizes[:-1] / sizes[1:], torch.full((2,), 2.0), atol=0.2, rtol=0)


def test_the_head_alone_is_linearised_exactly(load):
    """f is linear in V and b: with φ frozen, real training and P's dynamics agree to rounding, far from t = 0."""
    model = load()
    model.backbone.requires_grad_(False)
    with torch.no_grad():
        phi, f_0 = model.features(**INPUTS), logits(model, INPUTS)
    P = (phi @ phi.T + 1)[:, None, :, None] * torch.eye(C, dtype=torch.float64)[None, :, None, :]
    real = train(model, INPUTS, LABELS, 0.1, 60, 20)
    linear = gradient_descent(P, f_0, LABELS, 0.1, 60, 20)
    torch.testing.assert_close(real.f, linear.f, atol=1e-10, rtol=0)
    assert real.loss[-1] < 0.5 * real.loss[0]


# ---- predicted features ----


# these compute norms or rotary positions in float32 whatever the weights are
FLOAT32_INSIDE = ("deberta", "modernbert", "llama")


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "distilbert", "gpt2", *FLOAT32_INSIDE])
def test_predicted_features_are_those_of_dense_jacobians(family, load, monkeypatch):
    model = load(family)
    Q = torch.randn(2, N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    J_f = jacobian(model, partial(logits, model, INPUTS), backbone_only=True)
    J_phi = jacobian(model, partial(lambda m, x: m.features(**x), model, OTHERS), backbone_only=True)
    expected = -torch.einsum("mhp,ncp,snc->smh", J_phi, J_f, Q)
    tolerance = 2e-6 if family in FLOAT32_INSIDE else 1e-8
    for batch_size in (1, 3, 32):
        monkeypatch.setattr(weight_space, "BATCH", batch_size)
        got = predict_features(model, INPUTS, Q, OTHERS)
        assert (got - expected).norm() <= tolerance * expected.norm()


def test_predicted_features_move_by_the_trainable_parameters_alone(load):
    """A LoRA model away from B = 0: adapters move φ, the frozen backbone does not, the head is no part of θ."""
    config = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["head"], lora_dropout=0.5)
    model = get_peft_model(load(), config).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    model.eval()
    Q = torch.randn(1, N, C, dtype=torch.float64)
    J_f = jacobian(model, partial(logits, model, INPUTS), backbone_only=True)
    J_phi = jacobian(model, partial(lambda m, x: m.features(**x), model, OTHERS), backbone_only=True)
    assert J_f.shape[-1] == 2 * 2 * (2 * H + 2 * H)
    expected = -torch.einsum("mhp,ncp,snc->smh", J_phi, J_f, Q)
    got = predict_features(model, INPUTS, Q, OTHERS)
    assert (got - expected).norm() <= 1e-8 * expected.norm() > 0
    run = train(model, INPUTS, LABELS, 0.05, 2, 1, OTHERS)
    assert run.loss[-1] < run.loss[0] and run.phi_change[-1].norm() > 0


def test_attention_by_explicit_softmax_gives_the_same(load):
    model, Q = load(), torch.randn(1, N, C, dtype=torch.float64)
    expected = predict_features(model, INPUTS, Q, OTHERS)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(predict_features(model, INPUTS, Q, OTHERS), expected, atol=1e-10, rtol=1e-10)


def test_float32_features_are_near(load):
    model, Q = load(), torch.randn(1, N, C, dtype=torch.float64)
    expected = predict_features(model, INPUTS, Q, OTHERS)
    got = predict_features(model.float(), INPUTS, Q, OTHERS)
    assert got.dtype == torch.float32 and (got - expected).norm() <= 1e-4 * expected.norm()


# ---- what is refused ----


def test_bad_arguments_of_the_dual_are_refused():
    K, f_0, y, K_other, f_other = random_problem()
    flow, descent = partial(gradient_flow, times=[1.0]), partial(gradient_descent, learning_rate=0.1, steps=1)
    for run in (flow, descent):
        for arguments, message in [
            ((K[:5], f_0, y), "expected train × train"),
            ((K, f_0[:5], y), r"f_0: expected finite logits of shape \(7, 3\), got \(5, 3\)"),
            ((K, f_0 * float("nan"), y), "finite logits"),
            ((K, f_0, y[:5]), r"expected labels of shape \(7,\)"),
        ]:
            with pytest.raises(KernelError, match=message):
                run(*arguments)
    with pytest.raises(KernelError, match=r"Q \(S, N, C\), got \(4, 3, 7, 3\), \(4, 3\), \(1, 5, 3\)"):
        linearised_logits(K_other, f_other, torch.zeros(1, 5, 3))
    for times in ([], [1.0, 0.5], [-1.0], [float("nan")]):
        with pytest.raises(KernelError, match="ascending"):
            gradient_flow(K, f_0, y, times)
    for rate, steps, every in ((0.0, 1, 1), (float("inf"), 1, 1), (0.1, -1, 1), (0.1, 1, 0)):
        with pytest.raises(KernelError, match="learning_rate > 0, steps ≥ 0 and every ≥ 1"):
            gradient_descent(K, f_0, y, rate, steps, every)


def test_bad_arguments_of_the_model_are_refused(load):
    model, Q = load(), torch.zeros(1, N, C)
    with pytest.raises(KernelError, match=r"Q: expected shape \(S, 6, 3\), got \(6, 3\)"):
        predict_features(model, INPUTS, Q[0], OTHERS)
    with pytest.raises(KernelError, match=r"expected labels of shape \(6,\)"):
        train(model, INPUTS, LABELS[:2], 0.1, 1)
    model.backbone.requires_grad_(False)
    with pytest.raises(KernelError, match="No parameter of φ requires gradients"):
        predict_features(model, INPUTS, Q, OTHERS)
