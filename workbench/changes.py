"""What changed between two checkpoints, ranked: directions of the difference of their last streams, by the
divergence that each accounts for.

    Δ_t = b_t − a_t                    last layer's resid_post of the later less the earlier checkpoint
    Δ_t ≈ Σ_j f_tj d_j                 an SAE of the differences
    A_tj = f_tj ⟨d_j, −g_t⟩            nats that entry j takes off KL(p_b ‖ p) at token t

p reads a_t + sΔ_t through the later checkpoint's head, and g_t is the gradient of that divergence averaged over
s from 0 to 1 (integrated gradients [Sundararajan 2017]: over all directions A_t sums to the divergence that the
streams account for; what the head itself moved is left out). A rare change has few tokens and a broad one many, so
an entry is ranked by the mean of A over its `PEAK` foremost tokens, not by its sum, which drift at every token
would win. It is told by the tokens that stand there, and by those whose probability moves most there.

Two checkpoints whose predictions nowhere part are silent, however far apart their weights are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

import saes
from saes.sparse import Code
from workbench.behaviour import kl_by_token
from workbench.points import Site
from workbench.site import decoder_layers, final_norm, read_sites
from workbench.tokens import TokenSet

SILENT = 1e-4  # nats at the token where predictions part most; less is rounding
PATH = 4  # points between the two streams at which the gradient is taken
PEAK = 8  # foremost tokens of an entry, by which it is ranked
TOLD = 5  # tokens of each sort that an entry is told by
DIFFERENCES = saes.TrainConfig(
    n_latents=1024, k=8, n_steps=250, lr=5e-3, decoder_norm=0.1, aux_latents=128, log_every=25
)
TOKENS_AT_ONCE = 4_096


class Moved(NamedTuple):
    """A token, and how much its probability moves from the earlier to the later checkpoint."""

    token: int
    by: float


@dataclasses.dataclass(frozen=True)
class Change:
    """One entry. `score`: nats at its foremost tokens; `total`: nats in all, `share` of the divergence; `n`: tokens
    that it stands on. `active`: the tokens of its foremost places; `moved`: what they predict otherwise; `rows`:
    those places in the token set."""

    score: float
    total: float
    share: float
    n: int
    active: tuple[int, ...]
    moved: tuple[Moved, ...]
    rows: tuple[int, ...]

    @property
    def tokens(self) -> set[int]:
        """All that it is told by."""
        return {*self.active, *(m.token for m in self.moved)}


@dataclasses.dataclass(frozen=True)
class Changes:
    """`kl`: mean KL(later ‖ earlier), nats per token of `n`; `largest`: at the token where it is largest;
    `explained`: share of it that the entries account for."""

    kl: float
    largest: float
    n: int
    explained: float
    entries: tuple[Change, ...]

    @property
    def silent(self) -> bool:
        return self.largest < SILENT


class Streams(NamedTuple):
    """The last streams of both at the same places; `context`: the token that stands there; `rows`: its place in the
    token set, of the token that comes after."""

    before: Float[Tensor, "token d"]
    after: Float[Tensor, "token d"]
    context: Int[np.ndarray, "token"]
    rows: Int[np.ndarray, "token"]


Head = Callable[[Tensor], Tensor]


def head_of(model: PreTrainedModel) -> Head:
    """From the last stream to log p of the next token."""
    norm, unembed = final_norm(model), model.get_output_embeddings()
    return lambda stream: unembed(norm(stream)).float().log_softmax(-1)


def last_streams(
    before: PreTrainedModel, after: PreTrainedModel, tokens: TokenSet, windows: np.ndarray
) -> Streams:
    """What both hold before their final norm, at every place from which a token of the windows is predicted."""
    parts: list[tuple[Tensor, Tensor, np.ndarray, np.ndarray]] = []
    for batch in tokens.batches(TOKENS_AT_ONCE, windows):
        real, read = torch.from_numpy(batch.real), []
        for model in (before, after):
            site = Site(len(decoder_layers(model)) - 1)
            found = read_sites(model, [site], torch.from_numpy(batch.ids).to(model.device))[site]
            read.append(found[:, :-1][real.to(found.device)].float().clone())
        parts.append((read[0], read[1], batch.ids[:, :-1][batch.real], batch.rows[batch.real]))
    a, b, context, rows = zip(*parts, strict=True)
    return Streams(torch.cat(a), torch.cat(b), np.concatenate(context), np.concatenate(rows))


@torch.no_grad()
def divergence(before: Head, after: Head, streams: Streams) -> Float[np.ndarray, "token"]:
    """KL(later ‖ earlier) at every place, each stream through its own head."""
    parts = []
    for at in _chunks(len(streams.context)):
        parts.append(kl_by_token(after(streams.after[at]), before(streams.before[at])))
    return np.concatenate(parts)


def descent(head: Head, streams: Streams) -> Float[Tensor, "token d"]:
    """−g_t: Σ_t ⟨Δ_t, −g_t⟩ is the divergence that the streams account for."""
    parts = []
    for at in _chunks(len(streams.context)):
        a, b = streams.before[at].clone(), streams.after[at].clone()
        with torch.no_grad():
            target = head(b).exp()
        total = torch.zeros_like(a)
        for share in (np.arange(PATH) + 0.5) / PATH:
            x = (a + float(share) * (b - a)).requires_grad_()
            (gradient,) = torch.autograd.grad((target * head(x)).sum(), x)
            total += gradient / PATH
        parts.append(total)
    return torch.cat(parts)


def ranked_changes(
    before: PreTrainedModel,
    after: PreTrainedModel,
    tokens: TokenSet,
    windows: np.ndarray,
    at_most: int = 50,
    config: saes.TrainConfig | None = None,
) -> Changes:
    """What the later checkpoint does otherwise on these windows; no entries where it is silent. `config`: how the
    differences' SAE is trained (`DIFFERENCES`)."""
    streams = last_streams(before, after, tokens, windows)
    heads = head_of(before), head_of(after)
    kl = divergence(*heads, streams)
    n, largest = len(kl), float(kl.max())
    if largest < SILENT:
        return Changes(float(kl.mean()), largest, n, 0.0, ())
    apart = (streams.after - streams.before)[:, None]
    dictionary = saes.fit(saes.TensorActivations(apart), config or DIFFERENCES)
    code = dictionary.encode_sparse(apart)
    along = dictionary.W_dec[:, 0]
    inner = (along[code.latents] * descent(heads[1], streams)[code.rows]).sum(dim=1)
    nats = (code.values * inner).double().cpu().numpy()
    entries = tuple(_told(heads, streams, code, nats, float(kl.sum()), at_most))
    return Changes(float(kl.mean()), largest, n, float(nats.sum() / kl.sum()), entries)


def _told(
    heads: tuple[Head, Head], streams: Streams, code: Code, nats: np.ndarray, divergence_: float, at_most: int
) -> Iterator[Change]:
    """The foremost entries. One whose foremost moved token (and its sign) an earlier one has says nothing new."""
    rows, latents = code.rows.cpu().numpy(), code.latents.cpu().numpy()
    groups = [part for part in strongest_first(latents, nats) if len(part) >= PEAK]
    groups.sort(key=lambda part: -nats[part[:PEAK]].mean())
    said: set[tuple[int, bool]] = set()
    for part in groups:
        best = part[:PEAK]
        moved = moved_tokens(heads, streams, rows[best], nats[best])
        first = (moved[0].token, moved[0].by > 0)
        if first in said:
            continue
        said.add(first)
        active = tuple(dict.fromkeys(streams.context[rows[best]].tolist()))[:TOLD]
        total = float(nats[part].sum())
        yield Change(
            float(nats[best].mean()), total, total / divergence_, len(part), active, moved,
            tuple(streams.rows[rows[best]].tolist()),
        )  # fmt: skip
        if len(said) == at_most:
            return


def strongest_first(
    keys: Int[np.ndarray, "entry"], strength: Float[np.ndarray, "entry"]
) -> list[Int[np.ndarray, "part"]]:
    """Numbers of the entries of each key, the strongest first."""
    order = np.lexsort((-strength, keys))
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)


@torch.no_grad()
def moved_tokens(
    heads: tuple[Head, Head], streams: Streams, places: np.ndarray, weights: np.ndarray
) -> tuple[Moved, ...]:
    """The tokens whose probability moves most at these places, weighted by what falls on each."""
    at = torch.from_numpy(places)
    gone = heads[1](streams.after[at]).exp() - heads[0](streams.before[at]).exp()
    weight = torch.from_numpy(np.clip(weights, 1e-12, None)).to(gone)
    mean = (gone * weight[:, None]).sum(dim=0) / weight.sum()
    return tuple(Moved(int(i), float(mean[i])) for i in mean.abs().topk(TOLD).indices)


def _chunks(n: int) -> Iterator[slice]:
    return (slice(at, min(at + TOKENS_AT_ONCE, n)) for at in range(0, n, TOKENS_AT_ONCE))
