"""Features and their measures of change, against NumPy, closed forms and scikit-learn."""

import logging

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics.pairwise import cosine_similarity as cosine_similarity_matrix
from sklearn.metrics.pairwise import paired_cosine_distances, paired_euclidean_distances

from lpft_utils.data.examples import Split
from lpft_utils.metrics.feature_change import (
    cosine_similarity,
    feature_change,
    feature_difference,
    feature_norm,
    fisher_ratios,
    text_similarity,
)
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import load_classifier
from lpft_utils.models.encoding import Collator, encode
from lpft_utils.models.features import cached_features, extract_features


def scatter(phi: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S_B and S_W as matrices, by their definition."""
    mean = phi.mean(0)
    S_B, S_W = np.zeros((phi.shape[1],) * 2), np.zeros((phi.shape[1],) * 2)
    for i, x in enumerate(phi):
        own = phi[y == y[i]].mean(0)
        S_B += np.outer(own - mean, own - mean) / len(phi)
        S_W += np.outer(x - own, x - own) / len(phi)
    return S_B, S_W


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    phi_0 = rng.normal(size=(60, 7))
    return phi_0, phi_0 + rng.normal(size=(60, 7)) + 2 * np.eye(7)[y], y


def test_measures_equal_numpy_and_scikit_learn(sample):
    phi_0, phi, y = sample
    got = feature_change(torch.tensor(phi_0), torch.tensor(phi), torch.tensor(y))
    expected = {
        "CS": 1 - paired_cosine_distances(phi_0, phi).mean(),
        "Diff": paired_euclidean_distances(phi_0, phi).mean(),
    }
    for suffix, features in (("", phi), ("_0", phi_0)):
        S_B, S_W = scatter(features, y)
        ridge = 1e-3 * np.trace(S_W) / 7
        expected |= {
            f"CS among texts{suffix}": cosine_similarity_matrix(features)[~np.eye(60, dtype=bool)].mean(),
            f"FDR{suffix}": np.trace(S_B) / np.trace(S_W),
            f"FDR, pinv{suffix}": np.trace(np.linalg.pinv(S_W) @ S_B),
            f"FDR, ridge{suffix}": np.trace(np.linalg.solve(S_W + ridge * np.eye(7), S_B)),
            f"NormF{suffix}": np.mean([np.sqrt(x @ x) for x in features]),
        }
    assert got == pytest.approx(expected, rel=1e-9)
    assert got["FDR"] > got["FDR_0"]


def test_within_scatter_is_that_of_linear_discriminant_analysis(sample):
    _, phi, y = sample
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(phi, y)
    between = sum(np.mean(y == c) * np.sum((lda.means_[c] - phi.mean(0)) ** 2) for c in range(3))
    ratio = fisher_ratios(torch.tensor(phi), torch.tensor(y))["FDR"]
    assert ratio == pytest.approx(between / np.trace(lda.covariance_), rel=1e-10)


def test_fisher_ratios_with_fewer_texts_than_dimensions_are_those_of_the_pseudo_inverse():
    rng = np.random.default_rng(1)
    y = np.arange(9) % 3
    phi = rng.normal(size=(9, 30)) + y[:, None]
    S_B, S_W = scatter(phi, y)
    got = fisher_ratios(torch.tensor(phi), torch.tensor(y))
    assert got["FDR, pinv"] == pytest.approx(np.trace(np.linalg.pinv(S_W, hermitian=True) @ S_B), rel=1e-8)
    ridge = 1e-3 * np.trace(S_W) / 30
    assert got["FDR, ridge"] == pytest.approx(np.trace(np.linalg.solve(S_W + ridge * np.eye(30), S_B)), rel=1e-8)
    assert got["FDR, ridge"] > 10 * got["FDR, pinv"], "the directions without spread separate the classes best"


def test_fisher_ratios_of_degenerate_features_are_no_error():
    y = torch.tensor([0, 0, 1, 1])
    assert fisher_ratios(y[:, None].float(), y) == {
        "FDR": float("inf"), "FDR, pinv": 0.0, "FDR, ridge": float("inf"),
    }  # fmt: skip
    broken = fisher_ratios(torch.full((4, 2), float("nan")), y)
    assert all(np.isnan(value) for value in broken.values()) and len(broken) == 3


def test_similarity_among_texts_does_not_count_a_text_with_itself():
    assert text_similarity(torch.eye(3)) == 0 and text_similarity(torch.ones(4, 2)) == pytest.approx(1)
    assert text_similarity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-1)
    assert np.isnan(text_similarity(torch.ones(1, 2)))


def test_closed_forms():
    phi_0 = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert cosine_similarity(phi_0, 3 * phi_0) == pytest.approx(1)
    assert cosine_similarity(phi_0, -phi_0) == pytest.approx(-1)
    assert cosine_similarity(phi_0, phi_0.flip(1)) == pytest.approx(0)
    assert feature_difference(phi_0, phi_0) == 0
    assert feature_difference(phi_0, phi_0 + torch.tensor([3.0, 4.0])) == pytest.approx(5)
    assert feature_norm(phi_0) == pytest.approx(1.5)
    # classes at ±d with spread ±s on each side: tr S_B = d², tr S_W = s²
    d, s = 3.0, 0.5
    phi = torch.tensor([[d - s], [d + s], [-d - s], [-d + s]])
    assert fisher_ratios(phi, torch.tensor([0, 0, 1, 1]))["FDR"] == pytest.approx((d / s) ** 2)
    assert fisher_ratios(torch.tensor([[d], [d], [-d]]), torch.tensor([0, 0, 1]))["FDR"] == float("inf")


def test_fisher_ratio_ignores_rotation_scale_shift_and_label_names(sample):
    _, phi, y = sample
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0]
    ratio = fisher_ratios(torch.tensor(phi), torch.tensor(y))["FDR"]
    moved = fisher_ratios(torch.tensor(5 * phi @ Q + 3), torch.tensor((y + 1) % 3))["FDR"]
    assert moved == pytest.approx(ratio, rel=1e-10)


def test_disagreeing_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 2\), \(3, 2\) and \(4,\)"):
        feature_change(torch.zeros(4, 2), torch.zeros(3, 2), torch.zeros(4))
    with pytest.raises(ValueError, match=r"labels \(N,\)"):
        feature_change(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(3))


# ---- extraction ----


@pytest.fixture(scope="module")
def parts():
    words = "the food was very good but this place had no charm at all".split()
    rng = np.random.default_rng(0)
    texts = tuple((" ".join(rng.choice(words, n)),) for n in rng.integers(1, 30, 23))
    model, tokenizer = load_classifier("tiny", 2), load_tokenizer("tiny")
    return model, tokenizer, encode(Split(texts, np.zeros(23, dtype=int)), tokenizer), texts


def test_features_come_in_the_order_of_the_texts_whatever_the_batches(parts):
    model, tokenizer, encoded, texts = parts
    with torch.no_grad():
        alone = torch.cat([model.features(**tokenizer(t, return_tensors="pt")) for (t,) in texts])
    for batch_size in (1, 5, 64):
        phi = extract_features(model, encoded, Collator(tokenizer), batch_size=batch_size)
        assert phi.dtype == torch.float32 and phi.device.type == "cpu"
        torch.testing.assert_close(phi, alone, atol=1e-5, rtol=1e-5)
    order = np.random.default_rng(1).permutation(23)
    shuffled = extract_features(model, encoded.select(order), Collator(tokenizer))
    torch.testing.assert_close(shuffled, alone[order], atol=1e-5, rtol=1e-5)
    assert (alone[0] - alone[1]).norm() > 1e-3


def test_extraction_drops_nothing_out_and_restores_the_mode(parts):
    model, tokenizer, encoded, _ = parts
    expected = extract_features(model, encoded, Collator(tokenizer))
    model.train()
    state = torch.get_rng_state()
    assert torch.equal(extract_features(model, encoded, Collator(tokenizer)), expected)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    model.eval()


# ---- cache ----


def test_cache_computes_once_and_gives_the_same_bits(tmp_path):
    phi = torch.randn(5, 3)
    calls = []

    def compute():
        calls.append(1)
        return phi.clone()

    assert torch.equal(cached_features(tmp_path / "new", "key", compute), phi)
    assert torch.equal(cached_features(tmp_path / "new", "key", compute), phi)
    assert len(calls) == 1
    cached_features(tmp_path / "new", "other", compute)
    cached_features(None, "key", compute)
    assert len(calls) == 3
    kept = sorted(p.name for p in (tmp_path / "new").iterdir() if p.suffix != ".lock")  # of two processes one waits
    assert kept == ["key.safetensors", "other.safetensors"]


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_damaged_cache_is_recomputed_with_a_warning(damage, tmp_path, caplog):
    phi = torch.randn(50, 3)
    cached_features(tmp_path, "key", lambda: phi)
    file = tmp_path / "key.safetensors"
    file.write_bytes(file.read_bytes()[:-20] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cached_features(tmp_path, "key", lambda: phi), phi)
    assert "key.safetensors is damaged" in caplog.text
    caplog.clear()
    assert torch.equal(cached_features(tmp_path, "key", lambda: 1 / 0), phi), "the repaired cache is used"
    assert not caplog.text


def test_cache_draws_no_random_numbers(tmp_path):
    """A cached and an uncached run must train on the same random numbers."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    cached_features(tmp_path, "key", lambda: torch.zeros(2, 2))
    assert torch.equal(torch.get_rng_state(), before)
