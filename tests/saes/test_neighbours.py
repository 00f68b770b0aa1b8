"""Neighbours of latents: by hand, against a dense product, and what has none."""

from __future__ import annotations

import numpy as np
import torch

from saes.dictionary import Dictionary
from saes.index import FeatureIndex
from saes.neighbours import ROWS, coactive, similar


def index_of(dense: np.ndarray) -> FeatureIndex:
    rows, latents = np.nonzero(dense)
    return FeatureIndex.from_entries(
        rows, latents, dense[rows, latents], n_latents=dense.shape[1], n_tokens=len(dense)
    )


def dictionary_of(decoders: torch.Tensor, scales: torch.Tensor | None = None) -> Dictionary:
    f, n, d = decoders.shape
    return Dictionary(
        W_enc=decoders.permute(1, 2, 0).contiguous(), b_enc=torch.zeros(f), W_dec=decoders,
        b_dec=torch.zeros(n, d), threshold=torch.zeros(f), scales=torch.ones(n) if scales is None else scales,
        names=tuple(f"m{i}" for i in range(n)), k=1,
    )  # fmt: skip


def test_a_case_by_hand():
    """Latent 0 on tokens 0-3, 1 on 0-1, 2 on 3-5, 3 never."""
    dense = np.zeros((8, 4))
    dense[:4, 0] = dense[:2, 1] = dense[3:6, 2] = 1.0
    found = coactive(index_of(dense), 3)
    assert found.latents.tolist() == [[1, 2, -1], [0, -1, -1], [0, -1, -1], [-1, -1, -1]]
    assert found.counts.tolist() == [[2, 1, 0], [2, 0, 0], [1, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(found.jaccard[0], [2 / 4, 1 / 6, 0])


def test_all_pairs_are_those_of_a_dense_product():
    """More latents than are held at once; the densest latent is not everybody's first neighbour."""
    rng = np.random.default_rng(0)
    size = ROWS + 37
    dense = (rng.random((400, size)) < rng.uniform(0.01, 0.2, size)) * rng.uniform(0.5, 2, (400, size))
    index = index_of(dense)
    found = coactive(index, 5)
    on = (dense > 0).astype(int)
    together = on.T @ on
    jaccard = together / np.maximum(on.sum(0)[:, None] + on.sum(0)[None] - together, 1)
    np.fill_diagonal(jaccard, -1)
    np.testing.assert_allclose(found.jaccard, np.maximum(-np.sort(-jaccard, axis=1)[:, :5], 0))
    known = found.latents >= 0
    rows = np.nonzero(known)[0]
    assert (found.counts[known] == together[rows, found.latents[known]]).all()
    pairs = index.coactivation()
    assert (together[pairs.first, pairs.second] == pairs.counts).all()


def test_similar_is_the_cosine_in_normalised_units():
    generator = torch.Generator().manual_seed(1)
    decoders = torch.randn(60, 2, 8, generator=generator)
    decoders[7] = 3 * decoders[3]
    decoders[5] = 0.0
    scales = torch.tensor([1.0, 10.0])
    found = similar(dictionary_of(decoders, scales), 4)
    assert found.latents[7, 0] == 3
    assert found.latents[3, 0] == 7
    assert np.isclose(found.cosines[7, 0], 1.0, atol=1e-6)
    flat = (decoders / scales[:, None]).flatten(1)
    for i in (0, 3, 20):
        j = int(found.latents[i, 1])
        expected = torch.nn.functional.cosine_similarity(flat[i], flat[j], dim=0)
        assert np.isclose(found.cosines[i, 1], float(expected), atol=1e-6)
    assert (found.latents[5] == -1).all()
    assert not (found.latents == 5).any()


def test_one_latent_has_no_neighbours():
    assert coactive(index_of(np.ones((3, 1))), 4).latents.shape == (1, 0)
    assert similar(dictionary_of(torch.ones(1, 1, 2)), 4).latents.shape == (1, 0)
