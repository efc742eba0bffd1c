"""Initialisations, their kernels, and linearised training beside real training, in the smoke profile."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lpft_utils.common.errors import RunError
from lpft_utils.figures import kernels as plots_ntk
from lpft_utils.figures.interactive import sweep_explorer
from lpft_utils.kernel_methods.statistics import spectrum
from lpft_utils.ntk import Kernel, dense_kernel
from lpft_utils.results import kernel_tables, reference
from lpft_utils.results.claims import evaluate, ledger
from lpft_utils.runs.cache import cached
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import head_norm_sweep, run
from lpft_utils.studies import head_norm as norm_study
from lpft_utils.studies import initialisation as kernels
from lpft_utils.studies import linearised
from lpft_utils.studies.initialisation import Initialisation, part_of_model
from lpft_utils.studies.published_code import published


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPFT_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield replace(get_profile("smoke", task="synthetic"), n_kernel=15, norms=(0.5, 5.0, 50.0))


@pytest.fixture(scope="module")
def by_seed(setting):
    return [kernels.initialisations(setting, seed) for seed in setting.seeds]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("backbone.embeddings.word_embeddings.weight", "embeddings"),
        ("backbone.embeddings.LayerNorm.bias", "embeddings"),
        ("backbone.encoder.layer.0.attention.self.query.weight", "layer 1, attention"),
        ("backbone.encoder.layer.11.attention.output.LayerNorm.weight", "layer 12, norm"),
        ("backbone.encoder.layer.3.intermediate.dense.bias", "layer 4, feed-forward"),
        ("backbone.encoder.layer.3.attention.self.query.lora_A.default.weight", "layer 4, attention"),
        ("backbone.transformer.layer.2.attention.q_lin.weight", "layer 3, attention"),
        ("backbone.transformer.layer.2.sa_layer_norm.weight", "layer 3, norm"),
        ("backbone.transformer.layer.2.ffn.lin1.weight", "layer 3, feed-forward"),
        ("backbone.h.4.attn.c_attn.weight", "layer 5, attention"),
        ("backbone.h.4.ln_1.weight", "layer 5, norm"),
        ("backbone.h.4.mlp.c_fc.weight", "layer 5, feed-forward"),
        ("backbone.ln_f.weight", "final norm"),
        ("backbone.wpe.weight", "embeddings"),
        ("backbone.layers.1.self_attn.v_proj.weight", "layer 2, attention"),
        ("backbone.layers.1.input_layernorm.weight", "layer 2, norm"),
        ("backbone.layers.1.mlp.up_proj.weight", "layer 2, feed-forward"),
        ("backbone.norm.weight", "final norm"),
    ],
)
def test_parameters_of_every_family_find_their_part(name, part):
    assert part_of_model(name) == part


def test_initialisations_have_the_kernels_of_what_each_method_trains(setting, by_seed):
    train, _ = kernels.examples(setting, 0)
    for method, at in by_seed[0].items():
        model = kernels.initial_model(setting, method, 0)
        exact = dense_kernel(model.double(), train.inputs)
        assert (at.train.F - exact).norm() <= 1e-4 * exact.norm()
        assert at.train.F.shape == (15, 3, 15, 3) and at.test.F.shape == (15, 3, 15, 3)
        total = sum(part.double() for part in at.train.groups.values())
        torch.testing.assert_close(total, at.train.F.double(), rtol=1e-4, atol=1e-6)


def test_p_is_the_same_at_every_initialisation(by_seed):
    for found in by_seed:
        assert all(torch.equal(s.train.gram, found["ft"].train.gram) for s in found.values())


def test_heads_are_those_of_the_methods(setting):
    probed = run(setting.spec("lp", seed=1))
    assert torch.equal(kernels.initial_model(setting, "lp_ft", 1).head.weight, probed.V)
    assert not torch.equal(kernels.initial_model(setting, "ft", 1).head.weight, probed.V)
    lora = kernels.initial_model(setting, "lp_lora", 1)
    assert {n.split(".")[-3] for n, p in lora.named_parameters() if p.requires_grad and "lora" in n} == {
        "lora_A",
        "lora_B",
    }


def test_a_head_of_its_own_differs_and_is_kept_apart(setting, by_seed):
    own = kernels.initialisations(setting, 0, ("lp_ft",), own_head=True)["lp_ft"]
    assert not torch.equal(own.train.F, by_seed[0]["lp_ft"].train.F)
    assert torch.equal(own.train.gram, by_seed[0]["lp_ft"].train.gram)


def test_a_class_that_its_own_examples_lack_has_no_row_and_no_probability(setting):
    train, _ = kernels.examples(setting, 0)
    kept = train.labels != 1
    few = kernels.Examples({name: x[kept] for name, x in train.inputs.items()}, train.labels[kept])
    model = kernels.initial_model(setting, "lp_ft", 0, own=few)
    with torch.no_grad():
        phi, p = model.features(**few.inputs), model(**few.inputs).logits.softmax(1)
    fit = LogisticRegression(C=2.0, tol=1e-10, max_iter=5000).fit(phi.numpy(), few.labels)  # half the penalty: two rows
    V = model.head.weight.detach()
    assert V[1].norm() == 0 and p[:, 1].max() < 1e-12
    np.testing.assert_allclose(V[2] - V[0], fit.coef_[0], atol=1e-4)
    np.testing.assert_allclose(p[:, [0, 2]], fit.predict_proba(phi.numpy()), atol=1e-5)


def test_stored_kernels_are_read(setting, by_seed, monkeypatch):
    monkeypatch.setattr("lpft_utils.ntk.engine._pair", lambda *_: pytest.fail("computed again"))
    again = kernels.initialisations(setting, 0)
    assert torch.equal(again["ft"].train.F, by_seed[0]["ft"].train.F)


def test_shares_are_a_partition_of_the_trace(by_seed):
    shares = kernels.shares(by_seed[0]["ft"])
    assert shares.to_numpy().sum() == pytest.approx(1)
    assert list(shares.index) == ["embeddings", "layer 1", "layer 2"]
    assert set(kernels.shares(by_seed[0]["lora"])) == {"attention"}


def test_tables_have_a_row_for_every_initialisation(by_seed):
    statistics = kernel_tables.statistics_table(by_seed)
    for names in (statistics.columns, kernel_tables.regression_table(by_seed).index):
        assert list(names) == ["FT", "LP-FT", "LoRA", "LP-LoRA"]
    assert statistics.loc["‖P‖"].nunique() == 1 and statistics.loc["FT ratio"].nunique() == 4


def test_the_published_regression_is_computed_once(by_seed, monkeypatch):
    at = by_seed[0]["ft"]
    given = (at.train.K.double(), at.labels, at.test.K.double(), at.test_labels)
    assert kernels.as_published(at) == published(*given)
    monkeypatch.delattr(kernels, "published")
    assert kernels.as_published(at) == published(*given)
    with pytest.raises(NameError):  # other labels: another regression
        kernels.as_published(replace(at, labels=1 - at.labels.clamp(max=1)))


def made_up(scale: float, seed: int, useful: bool = True, method: str = "lp_ft") -> Initialisation:
    """P knows nothing of the labels; F, if useful, knows them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(18) % 3
    signal = torch.nn.functional.one_hot(labels, 3).double()
    noise = torch.randn(18, 2, dtype=torch.float64, generator=generator)
    features = signal if useful else torch.randn(18, 3, dtype=torch.float64, generator=generator)
    F = scale * torch.einsum("nm,cd->ncmd", features @ features.T, torch.eye(3, dtype=torch.float64))
    kernel = Kernel(noise @ noise.T, F)
    residuals = signal - torch.full((18, 3), 1 / 3, dtype=torch.float64)
    return Initialisation(method, kernel, kernel, labels, labels, residuals)


def outcomes(by_seed, *wanted):
    return {v.record.id: v.outcome for v in evaluate(kernel_tables.kernel_results(by_seed), *wanted)}


def test_claim_4_compares_the_ft_ratios():
    rises = [{"ft": made_up(0.1, s), "lp_ft": made_up(10.0, s)} for s in range(3)]
    falls = [{"ft": made_up(10.0, s), "lp_ft": made_up(0.1, s)} for s in range(3)]
    assert outcomes(rises, "4.ratio", "4.norms") == {"4.ratio": "holds", "4.norms": "holds"}
    assert outcomes(falls, "4.ratio", "4.norms") == {"4.ratio": "fails", "4.norms": "fails"}


def test_claim_4_compares_f_alone_with_p():
    wanted = ("4.F", "4.rank", "4.between")
    knows = [{"lp_ft": made_up(10.0, s)} for s in range(3)]
    assert outcomes(knows, *wanted) == dict.fromkeys(wanted, "holds")  # three classes: F has rank 9, P rank 6
    swapped = []
    for s in range(3):
        at = made_up(10.0, s)
        F = torch.einsum("nm,cd->ncmd", at.train.gram, torch.eye(3, dtype=torch.float64))
        K = Kernel(at.train.F[:, 0, :, 0], F)
        swapped.append({"lp_ft": replace(at, train=K, test=K)})
    assert outcomes(swapped, "4.F", "4.rank") == {"4.F": "fails", "4.rank": "fails"}


def test_claim_4_is_not_testable_where_neither_kernel_is_better_than_the_most_frequent_class():
    def useless(seed):
        at = made_up(1e-3, seed, useful=False)
        generator = torch.Generator().manual_seed(seed + 100)
        shuffled = torch.randperm(18, generator=generator)
        return replace(at, test_labels=at.labels[shuffled])

    found = evaluate(kernel_tables.kernel_results([{"lp_ft": useless(s)} for s in range(3)]), "4.F")
    assert found[0].shown == "not testable: neither kernel above chance"


def test_claim_5_compares_ranks_and_spectra_of_adapters():
    def pair(seed, same):
        full = made_up(1.0, seed)
        adapted = made_up(7.0, seed, method="lora") if same else made_up(7.0, seed, useful=False, method="lora")
        if not same:
            thin = Kernel(adapted.train.gram, torch.ones_like(adapted.train.F))
            adapted = replace(adapted, train=thin, test=thin)
        return {"ft": full, "lora": adapted}

    wanted = ("5.rank", "5.spectrum")
    assert outcomes([pair(s, True) for s in range(3)], *wanted) == dict.fromkeys(wanted, "holds")
    assert outcomes([pair(s, False) for s in range(3)], *wanted) == dict.fromkeys(wanted, "fails")


def test_claim_6_looks_for_classes_in_the_trace_norms():
    def lifted(seed):
        at = made_up(1.0, seed)
        return {"lp_ft": replace(at, train=Kernel(at.train.gram, at.train.F + 0.1))}

    assert outcomes([lifted(s) for s in range(3)], "6") == {"6.classes": "holds"}


def test_residuals_are_those_of_the_logits_at_initialisation(by_seed, setting):
    at = by_seed[0]["lp_ft"]
    model = kernels.initial_model(setting, "lp_ft", 0)
    few, _ = kernels.examples(setting, 0)
    with torch.no_grad():
        f = model(**few.inputs).logits.double()
    expected = torch.nn.functional.one_hot(few.labels, f.shape[1]) - f.softmax(1)
    torch.testing.assert_close(at.residuals, expected, atol=1e-6, rtol=0)


def test_linearised_and_real_training_start_together_and_stay_close(setting):
    c = linearised.compare(setting, "ft", 0, rate=0.01, steps=8, every=2, n=6)
    assert c.f["real"].shape == c.f["linear"].shape == (5, 6, 3)
    torch.testing.assert_close(c.f["real"][0], c.f["linear"][0], atol=1e-5, rtol=1e-5)
    assert c.moved("real")[0] == c.moved("linear")[0] == 0
    torch.testing.assert_close(c.moved("linear")[1:], c.moved("real")[1:], rtol=0.05, atol=0)
    still = linearised.compare(setting, "ft", 0, rate=0.01, steps=0, n=6)
    assert still.moved("real").tolist() == still.moved("linear").tolist() == [0]
    assert (c.error() < 0.05).all()
    faster = linearised.compare(setting, "ft", 0, rate=0.3, steps=8, every=2, n=6)
    assert faster.error()[-1] > c.error()[-1]


def test_a_stored_comparison_is_read(setting, monkeypatch):
    first = linearised.compare(setting, "lora", 0, rate=0.02, steps=2, n=4)
    monkeypatch.setattr(linearised, "_compute", lambda *_: pytest.fail("computed again"))
    again = linearised.compare(setting, "lora", 0, rate=0.02, steps=2, n=4)
    assert torch.equal(first.f["real"], again.f["real"]) and again.learning_rate == first.learning_rate


def test_largest_stable_rate_is_where_descent_on_the_quadratic_diverges():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(12, 20, dtype=torch.float64, generator=generator)
    K = (A @ A.T).view(4, 3, 4, 3)
    eta = linearised.largest_stable_rate(K)
    # at p = (½, ½, 0) the Hessian of the mean cross-entropy reaches its bound 1/2N
    assert eta * torch.linalg.eigvalsh(A @ A.T)[-1].item() / (2 * 4) == pytest.approx(2)


def test_prediction_table_meets_its_target_or_says_so(setting):
    table = norm_study.prediction_table(setting, 0, n=6)
    assert list(table.index) == ["0.5", "5", "50"]
    target = norm_study.TARGET * math.log(3)
    for _, row in table.iterrows():
        met = row["predicted ‖φ_t − φ_0‖"] != "target not met"
        assert met or row["time"].startswith(">")
        assert float(row["loss at initialisation"]) > target or float(row["predicted ‖φ_t − φ_0‖"]) == 0


def test_prediction_table_is_computed_once(setting, monkeypatch):
    first = norm_study.prediction_table(setting, 0, n=6)
    monkeypatch.delattr(norm_study, "_predict")
    assert norm_study.prediction_table(setting, 0, n=6).equals(first)
    with pytest.raises(NameError):  # other examples: another table
        norm_study.prediction_table(setting, 0, n=5)


def test_what_is_kept_is_computed_once_and_whole(tmp_path):
    def fail() -> None:
        raise ZeroDivisionError

    for wrong, error in ((fail, ZeroDivisionError), (lambda: {1, 2}, TypeError)):  # a set is no plain type
        with pytest.raises(error):
            cached("α/β of rte", wrong, tmp_path)
    assert cached("α/β of rte", lambda: {"a": [1.5]}, tmp_path) == {"a": [1.5]}
    assert cached("α/β of rte", fail, tmp_path) == {"a": [1.5]}
    (path,) = tmp_path.glob(".kernels/*.json")
    path.write_text('{"a": [1.')
    with pytest.raises(RunError, match="is damaged.*Delete it"):
        cached("α/β of rte", fail, tmp_path)


def test_reference_of_the_kernel_chapters(setting, by_seed):
    sweep = head_norm_sweep(setting.sweep_spec(), setting.norms, setting.seeds)
    found = reference.summarise(sweep, by_seed, by_seed)
    verdicts = found.by_task()["synthetic"]
    assert {v.claim for v in verdicts} == {3, 4, 5, 6}
    assert sum(v.statement.count(reference.OWN_HEAD) for v in verdicts) == 10
    assert len(reference.claims_table(found)) == len(verdicts)
    assert reference.provenance(found).startswith("kernels of 15 texts; ")
    assert list(reference.norm_table(found)["‖V0‖"]) == [str(norm) for norm in setting.norms]
    values = norm_study.sweep_values(sweep)
    plots_ntk.norm_sweep(setting.norms, values)
    explorer = sweep_explorer(setting.norms, values, x_label="‖V0‖", title="The sweep")
    assert f'max="{len(setting.norms) - 1}"' in explorer.html


def test_figures_show_what_they_are_given(setting, by_seed):
    c = {m: linearised.compare(setting, m, 0, rate=0.01, steps=8, every=2, n=6) for m in ("ft", "lp_ft")}
    figure = plots_ntk.linearisation(c)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["ft", "lp_ft"]
    assert len(plots_ntk.linearisation_error(c).axes[0].lines) == 2
    assert len(plots_ntk.predicted_and_measured({m: [x] for m, x in c.items()}).axes) == 2
    found = by_seed[0]
    spectra = plots_ntk.spectra({"P": {m: spectrum(s.train.P) for m, s in found.items()}})
    assert len(spectra.axes[0].lines) == 4
    bars = plots_ntk.layer_shares({m: kernels.shares(found[m]) for m in ("ft", "lora")})
    widths = [sum(patch.get_width() for patch in axes.patches) for axes in bars.axes]
    assert widths == pytest.approx([1, 1])
    image = plots_ntk.kernel_image(torch.einsum("ncmc->nm", found["ft"].train.K), found["ft"].labels, ["a", "b", "c"])
    assert image.axes[0].images[0].get_array().shape == (15, 15)
    law = plots_ntk.norm_law([1.0, 2.0], {"F": [1.0, 4.0], "P": [1.0, 1.0]})
    assert (
        ledger(evaluate(kernel_tables.kernel_results(by_seed), "4.ratio")).shape[0] == 2 and len(law.axes[0].lines) == 3
    )
