"""A dictionary's stored figures: chat markers are in none of them."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from saes import folder
from saes.arrays import ActivationArrays, Part, TensorActivations
from saes.pca import fit_pca
from tests.tiny_lab import shared_lab
from workbench.dictionary_scores import scores
from workbench.points import Site
from workbench.tokens import TokenSet, token_set

EXTRA = 40  # windows of chat markers alone
LENGTH = 25


@pytest.fixture(scope="module")
def plain():
    """The held-out tokens of the shared lab, and sft's activations on them."""
    lab = shared_lab()
    return token_set(lab, "base"), ActivationArrays([lab.find("activations", "sft").path / "heldout.npy"])


def with_more_markers(tokens: TokenSet, path) -> TokenSet:
    """The same set with a last document of nothing but chat markers."""
    shutil.copytree(tokens.folder, path)
    n, marker = EXTRA * LENGTH, np.asarray(tokens.tokens)[np.asarray(tokens.special)][0]
    more = {
        "tokens": np.full(n, marker, np.int32),
        "document": np.full(n, tokens.document[-1] + 1, np.int32),
        "position": np.tile(np.arange(1, LENGTH + 1, dtype=np.int32), EXTRA),
        "special": np.ones(n, bool),
    }
    for what, rows in more.items():
        np.save(path / f"heldout-{what}.npy", np.concatenate([getattr(tokens, what), rows]))
    return TokenSet(path, "heldout")


def test_more_chat_markers_change_no_figure(plain, tmp_path):
    """Markers that are far from everything and make every latent fire: nothing moves, of PCA neither."""
    lab, (tokens, activations) = shared_lab(), plain
    dictionary = folder.load(lab.find("dictionary", "sae-sft").path)
    threshold = dictionary.threshold.clone()
    threshold[:12] = 8.0  # reached by no token that counts
    dictionary = dataclasses.replace(dictionary, threshold=threshold)
    pca, model = fit_pca(activations, 6), lab.checkpoint("sft").model()
    x = activations[np.arange(len(activations))]
    noise = 50 * torch.randn(EXTRA * LENGTH, 1, 32, generator=torch.Generator().manual_seed(0))
    more = with_more_markers(tokens, tmp_path / "more")
    found, again = (
        scores(dictionary, pca, read, of, lambda name: model, Site(1))
        for read, of in ((activations, tokens), (TensorActivations(torch.cat([x, noise])), more))
    )
    bounds = {key for key in found if key.endswith(("_low", "_high"))}  # of one document more: drawn otherwise
    assert {k: again[k] for k in found if k not in bounds} == pytest.approx(
        {k: v for k, v in found.items() if k not in bounds}, rel=1e-6
    )
    assert found["heldout_tokens"] == (~np.asarray(tokens.special)).sum() < len(tokens)
    assert found["dead_share"] == 12 / 96
    assert (dictionary.encode(noise) > 0).any(dim=0)[:12].all()
    assert found["dead_share_low"] < found["dead_share"] < found["dead_share_high"]
    rows = np.flatnonzero(~np.asarray(tokens.special))
    assert found["pca_fvu"] == pytest.approx(float(pca.evaluate(Part(activations, rows))[0]), rel=1e-6)
