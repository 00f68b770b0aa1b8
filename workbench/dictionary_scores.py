"""How good a lab's dictionary is on held-out tokens, beside PCA with as many components as it has latents on.

FVU, L0 and dead latents over the held-out tokens; CE score over a fixed random part of the windows, since it
costs several forward passes of the whole model. Chat markers are left out of every figure, PCA's too: they are
few, alike and large, so they flatter whatever reproduces them. Sums are kept by document and divided once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from saes.arrays import Activations, Part, read
from saes.dictionary import Dictionary
from saes.heldout import heldout_sums
from saes.pca import PCA
from saes.transcoder import Transcoder
from workbench.intervals import ratio_interval, wilson
from workbench.points import Site
from workbench.splice import Replacement, SplicedNats, spliced_nats
from workbench.tokens import TokenSet

SPLICED_TOKENS = 30_000  # of the held-out set, for CE scores
SPLICED, PCA_SPLICED, ZERO, MEAN = "spliced", "pca", "zero", "mean"


def ablations(mean: Float[Tensor, "d"]) -> dict[str, Replacement]:
    """A stream taken away: nothing in its place, or its mean."""
    return {
        ZERO: lambda stream, rows: torch.zeros_like(stream),
        MEAN: lambda stream, rows: mean.to(stream).expand_as(stream),
    }


def replacements(dictionary: Dictionary, pca: PCA, activations: Activations, m: int) -> dict[str, Replacement]:
    """What takes the place of model m's stream: nothing, its mean, the dictionary's and PCA's reconstruction.

    A crosscoder reads the other models' stored activations of the same tokens beside m's own stream.
    """

    def pca_spliced(stream: Tensor, rows: np.ndarray) -> Tensor:
        own = PCA(pca.mean[m : m + 1], pca.basis[m : m + 1], pca.variances[m : m + 1])
        return own.reconstruct(stream.cpu()[:, None])[:, 0].to(stream)

    return {
        **ablations(pca.mean[m]),
        SPLICED: reconstruction(dictionary, activations, m),
        PCA_SPLICED: pca_spliced,
    }


def transcoded(transcoder: Transcoder, pca: PCA, targets: Activations) -> dict[str, Replacement]:
    """What takes the place of an MLP's output, made from its input: nothing, its mean, the transcoder's output,
    and PCA's reconstruction of the stored output itself (a baseline that sees the answer)."""

    def pca_spliced(mlp_in: Tensor, rows: np.ndarray) -> Tensor:
        return pca.reconstruct(read(targets, rows))[:, 0].to(mlp_in)

    return {
        ZERO: lambda mlp_in, rows: mlp_in.new_zeros(len(mlp_in), transcoder.d_out),
        MEAN: lambda mlp_in, rows: pca.mean[0].to(mlp_in).expand(len(mlp_in), -1),
        SPLICED: lambda mlp_in, rows: transcoder.reconstruct(mlp_in[:, None])[:, 0],
        PCA_SPLICED: pca_spliced,
    }


def differences(dictionary: Dictionary, pca: PCA, activations: Activations) -> dict[str, Replacement]:
    """What takes the place of the later checkpoint's stream, its difference δ from the earlier one's left out, or
    replaced by its mean, the dictionary's and PCA's reconstruction: without δ the stream is the earlier one's."""

    def instead(of: Callable[[Tensor], Tensor]) -> Replacement:
        def spliced(stream: Tensor, rows: np.ndarray) -> Tensor:
            delta = read(activations, rows).to(stream)
            return stream + (of(delta) - delta)[:, 0]

        return spliced

    return {
        ZERO: instead(torch.zeros_like),
        MEAN: instead(lambda delta: pca.mean.to(delta).expand_as(delta)),
        SPLICED: instead(dictionary.reconstruct),
        PCA_SPLICED: instead(lambda delta: pca.reconstruct(delta.cpu()).to(delta)),
    }


def reconstruction(dictionary: Dictionary, activations: Activations, m: int) -> Replacement:
    """Model m's stream as the dictionary gives it back."""

    def spliced(stream: Tensor, rows: np.ndarray) -> Tensor:
        return dictionary.reconstruct(_with_stream(activations, rows, stream, m))[:, m]

    return spliced


def _with_stream(
    activations: Activations, rows: np.ndarray, stream: Tensor, m: int
) -> Float[Tensor, "token model d"]:
    if activations[rows[:1]].shape[1] == 1:
        return stream[:, None]
    x = activations[rows].to(stream)
    x[:, m] = stream
    return x


def scores(
    dictionary: Dictionary,
    pca: PCA,
    activations: Activations,
    token_set: TokenSet,
    load: Callable[[str], PreTrainedModel],
    site: Site,
    report: Callable[[int], None] = lambda n: None,
    targets: Activations | None = None,
    difference: bool = False,
) -> dict[str, Any]:
    """The figures of a dictionary's manifest: a number each for an SAE, a map by checkpoint for a crosscoder.

    `load` gives the model of a checkpoint by name; `site` is where the reconstruction is put; `report` is told
    the tokens done. `targets`: what a transcoder is to write; `pca` is of what is reconstructed; `difference`: it
    reads what one checkpoint has more than another, and 0 of its CE score is that one's stream. `heldout_tokens` is
    how many tokens all but the CE scores were counted on.
    """
    counted = ~np.asarray(token_set.special)
    sums = heldout_sums(dictionary, activations, np.asarray(token_set.document), counted, report, targets)
    pca_fvu = pca.evaluate(Part(activations if targets is None else targets, np.flatnonzero(counted)))
    dead = wilson(int((~sums.alive).sum()), dictionary.n_latents)
    windows = token_set.sample_windows(SPLICED_TOKENS, seed=0)
    by_checkpoint: dict[str, dict[str, float]] = {}
    for m, name in enumerate(dictionary.names):
        if isinstance(dictionary, Transcoder) and targets is not None:
            variants = transcoded(dictionary, pca, targets)
        elif difference:
            variants = differences(dictionary, pca, activations)
        else:
            variants = replacements(dictionary, pca, activations, m)
        found = spliced_nats(
            load(name), site, token_set, windows, variants, report, targets is not None, counted
        )
        fvu = sums.fvu(m)
        low, high = ratio_interval(*fvu)
        by_checkpoint[name] = {
            "l0": sums.l0().value,
            "fvu": fvu.value,
            "fvu_low": low,
            "fvu_high": high,
            "dead_share": sums.dead_share,
            "dead_share_low": dead.low,
            "dead_share_high": dead.high,
            "pca_fvu": float(pca_fvu[m]),
            **_spliced_figures(found),
        }
    figures: dict[str, Any] = _by_figure(by_checkpoint)
    return figures | {"heldout_tokens": sums.n_tokens}


def _spliced_figures(found: SplicedNats) -> dict[str, float]:
    low, high = found.score_interval(SPLICED)
    return {
        "ce_score": found.score(SPLICED),
        "ce_score_low": low,
        "ce_score_high": high,
        "ce_score_mean": found.score(SPLICED, floor=MEAN),
        "pca_ce_score": found.score(PCA_SPLICED),
        "kl_spliced": found.mean_kl(SPLICED),
        "loss_clean": found.loss("clean"),
        "loss_spliced": found.loss(SPLICED),
        "loss_zero": found.loss(ZERO),
        "ce_tokens": int(found.n_tokens.sum()),
    }


def _by_figure(by_checkpoint: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """One checkpoint: its figures as they are; several: each figure a map by checkpoint."""
    names = list(by_checkpoint)
    if len(names) == 1:
        return dict(by_checkpoint[names[0]])
    return {figure: {name: by_checkpoint[name][figure] for name in names} for figure in by_checkpoint[names[0]]}
