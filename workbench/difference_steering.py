"""Steering the earlier checkpoint by the mean difference: how far one vector goes towards the later one.

    h' = h + α · E‖x_b − x_a‖ · δ/‖δ‖       at every position but BOS; α = ‖δ‖ / E‖x_b − x_a‖ is δ as it is
    closed = 1 − Σ KL(b ‖ a + vector) / Σ KL(b ‖ a)         1: a predicts as b does; 0: as before; below 0: worse
    strayed = Σ KL(a ‖ a + vector) / n                      how far the vector moves a at all

δ is cross-fitted: a document is steered with δ of the other half of the documents. Control: a random direction of
the same length, another one for each window, so that the interval over documents is also over directions. Text is
the beginnings of held-out windows, among them prose, which no finetuning was about; what is predicted from BOS
alone is not counted, since nothing was added there. [Minder 2025 write on under steering; here next-token
distributions are compared.]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import PreTrainedModel

from workbench.points import Site
from workbench.site import replaced
from workbench.splice import log_probabilities
from workbench.tokens import TokenSet, WindowBatch

ALPHAS = (0.5, 1.0, 2.0, 4.0)
DIFFERENCE, RANDOM = DIRECTIONS = ("difference", "random")


class Push(NamedTuple):
    """A vector for each half of the documents, of length `alpha` times the mean length of the difference."""

    direction: str
    alpha: float
    vectors: Float[np.ndarray, "half d"]


class Steered(NamedTuple):
    """Sums by document, `[push document]`: Σ KL(b ‖ a + push) and Σ KL(a ‖ a + push); `gap` [document] Σ KL(b ‖ a)
    over `n` tokens."""

    to_after: Float[np.ndarray, "push document"]
    strayed: Float[np.ndarray, "push document"]
    gap: Float[np.ndarray, "document"]
    n: Float[np.ndarray, "document"]


def pushes(
    halves: Float[np.ndarray, "half d"], apart: float, own: float, alphas: Sequence[float] = ALPHAS
) -> list[Push]:
    """Both directions at every dose: `alphas` and `own`, that of δ as it is. `apart` is E‖x_b − x_a‖. None where
    there is no difference."""
    lengths = np.linalg.norm(halves, axis=1, keepdims=True)
    if apart == 0 or not lengths.all():
        return []
    unit = halves / lengths
    doses = sorted({*alphas, own})
    return [Push(direction, alpha, alpha * apart * unit) for direction in DIRECTIONS for alpha in doses]


def beginnings(
    tokens: TokenSet, windows: Int[np.ndarray, "window"], length: int, tokens_per_batch: int
) -> Iterator[WindowBatch]:
    """The first `length` tokens of each window, those of like length beside each other."""
    for batch in tokens.batches(max(tokens_per_batch, int(tokens.settings["n_ctx"])), windows):
        yield WindowBatch(batch.ids[:, : length + 1], batch.rows[:, :length])


def steered(
    models: tuple[PreTrainedModel, PreTrainedModel],
    site: Site,
    doses: Sequence[Push],
    batches: Sequence[WindowBatch],
    document: Int[np.ndarray, "token"],
    half: Int[np.ndarray, "document"],
    report: Callable[[int], None] = lambda n: None,
    seed: int = 0,
) -> Steered:
    """Run a with every push, beside a and b as they are. A document is pushed by the vector of the other half."""
    n_documents = len(half)
    to_after, strayed = (np.zeros((len(doses), n_documents)) for _ in range(2))
    gap, n = np.zeros(n_documents), np.zeros(n_documents)
    rng = np.random.default_rng(seed)
    for batch in batches:
        counted = torch.from_numpy(np.nonzero(batch.real)[1] > 0)  # not what is predicted from BOS
        where, first = document[batch.rows[:, 1:][batch.real[:, 1:]]], document[batch.rows[:, 0]]
        a, b = (log_probabilities(model, batch)[counted] for model in models)
        p_a, p_b = a.exp(), b.exp()
        gap += np.bincount(where, _kl(p_b, b, a), n_documents)
        n += np.bincount(where, minlength=n_documents)
        random = rng.standard_normal((len(first), doses[0].vectors.shape[1] if doses else 1))
        random /= np.linalg.norm(random, axis=1, keepdims=True)
        for i, push in enumerate(doses):
            vectors = push.vectors[1 - half[first]]
            if push.direction == RANDOM:
                vectors = random * np.linalg.norm(vectors, axis=1, keepdims=True)
            log_p = _pushed(models[0], site, vectors, batch)[counted]
            to_after[i] += np.bincount(where, _kl(p_b, b, log_p), n_documents)
            strayed[i] += np.bincount(where, _kl(p_a, a, log_p), n_documents)
            report(len(where))
    return Steered(to_after, strayed, gap, n)


def _pushed(
    model: PreTrainedModel, site: Site, vectors: Float[np.ndarray, "window d"], batch: WindowBatch
) -> Float[Tensor, "token vocab"]:
    added = torch.from_numpy(vectors)

    def push(read: Tensor, written: Tensor) -> Tensor:
        return torch.cat([written[:, :1], written[:, 1:] + added.to(written)[:, None]], dim=1)

    with replaced(model, site, push):
        return log_probabilities(model, batch)


def _kl(
    p: Float[Tensor, "token vocab"], log_p: Float[Tensor, "token vocab"], log_q: Float[Tensor, "token vocab"]
) -> Float[np.ndarray, "token"]:
    """KL(p‖q) of each token, nats."""
    return torch.einsum("tv,tv->t", p, log_p - log_q).double().cpu().numpy()


def sampled_windows(
    tokens: TokenSet,
    group: Shaped[np.ndarray, "document"],
    per_group: int,
    length: int,
    seed: int = 0,
) -> Int[np.ndarray, "window"]:
    """Windows of each group of documents until their beginnings hold `per_group` tokens, at random."""
    of = group[np.asarray(tokens.document)[tokens.starts]]
    order = np.random.default_rng(seed).permutation(len(tokens.starts))
    lengths = np.minimum(tokens.stops - tokens.starts, length)
    chosen = []
    for name in np.unique(of):
        mine = order[of[order] == name]
        chosen.append(mine[: int(np.searchsorted(np.cumsum(lengths[mine]), per_group)) + 1])
    return np.sort(np.concatenate(chosen))
