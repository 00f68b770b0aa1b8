"""The feature index answers as a dense scan would."""

import numpy as np
import pytest
import torch

from saes import DictionaryError, FeatureIndex, TensorActivations
from saes.index import as_tensor
from tests.saes.planted import random_dictionary


@pytest.fixture(scope="module")
def pair():
    dictionary, x = random_dictionary(2), torch.randn(9000, 2, 8)
    return FeatureIndex.build(dictionary, TensorActivations(x)), dictionary.encode(x)


def test_entries_are_the_dense_column(pair):
    index, dense = pair
    for latent in range(index.n_latents):
        torch.testing.assert_close(as_tensor(index, latent), dense[:, latent])


def test_top_is_the_sorted_column(pair):
    index, dense = pair
    for latent in (0, 7, 19):
        tokens, values = index.top(latent, 20)
        expected = dense[:, latent].topk(20)
        assert values.tolist() == pytest.approx(expected.values.tolist(), rel=1e-5)
        assert set(tokens.tolist()) == set(expected.indices.tolist())


def test_densities_histogram_and_intervals(pair):
    index, dense = pair
    assert index.densities() == pytest.approx((dense > 0).double().mean(0).numpy())
    counts, edges = index.histogram(4, 10)
    assert counts.sum() == int((dense[:, 4] > 0).sum())
    assert edges[-1] == pytest.approx(float(dense[:, 4].max()))
    groups = index.interval_examples(4, n_intervals=5, per_interval=3)
    assert len(groups) == 5
    for g, (tokens, values) in enumerate(groups):
        assert values.tolist() == pytest.approx(dense[tokens, 4].tolist(), rel=1e-5)
        assert (values <= edges[-1] * (5 - g) / 5 * 1.0001).all()
        assert (values >= edges[-1] * (4 - g) / 5 * 0.9999).all()


def test_coactivation_is_the_dense_product(pair):
    index, dense = pair
    on = (dense > 0).long()
    full = (on.T @ on).triu(1)
    pairs = index.coactivation()
    found = torch.zeros_like(full)
    found[torch.from_numpy(pairs.first), torch.from_numpy(pairs.second)] = torch.from_numpy(pairs.counts)
    assert torch.equal(found, full)


def test_saved_index_is_mapped_and_equal(pair, tmp_path):
    index, _ = pair
    again = FeatureIndex.load(index.save(tmp_path / "index"))
    assert isinstance(again.tokens, np.memmap)
    assert again.n_tokens == index.n_tokens
    for name in ("tokens", "values", "starts"):
        assert np.array_equal(getattr(again, name), getattr(index, name))


def test_damage_and_misuse_are_named(pair, tmp_path):
    index, _ = pair
    with pytest.raises(DictionaryError, match="there is no latent 20"):
        index.top(20, 1)
    index.save(tmp_path)
    np.save(tmp_path / "values.npy", index.values[:-1])
    with pytest.raises(DictionaryError, match="build it again"):
        FeatureIndex.load(tmp_path)


def test_a_latent_that_never_fires():
    index = FeatureIndex.from_entries(
        np.array([0, 2]), np.array([1, 1]), np.array([1.0, 3.0]), n_latents=3, n_tokens=4
    )
    assert len(index.top(0, 5).tokens) == 0
    assert index.histogram(2, 4).counts.tolist() == [0, 0, 0, 0]
    assert index.top(1, 5).tokens.tolist() == [2, 0]
