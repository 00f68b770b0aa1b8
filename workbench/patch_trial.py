"""Patching: one checkpoint's stream, with what a set of latents writes differently, in the other's upper half.

With a and b two checkpoints, f the code of all checkpoints' streams at the same tokens and d_j^m a latent's decoder
for checkpoint m (in the stream's own units), what stands at the site in b is

    into b    h = a_a + Σ_{j∈S} f_j (d_j^b − d_j^a)            into a    the same with a and b exchanged
    error     (a_b − â_b) − (a_a − â_a)      bias    c^b − c^a, the decoders' constant parts
    latents + bias + error make a_b of a_a

    recovered(S) = 1 − Σ_t KL_t(b ‖ b with h) / Σ_t KL_t(b ‖ b with a_a)        t: tokens of answers

0: b speaks as it does on a's stream; 1: as it does on its own. Below 0 the set makes it worse. [Minder 2025, causal
value.] BOS keeps the stream of the model that is patched: no dictionary reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.dictionary import Dictionary
from saes.sparse import Code
from workbench.chat_answers import Chats
from workbench.gains import ON
from workbench.intervals import quantiles, resampled_sums
from workbench.joint_reading import JointReading
from workbench.mediation import Mover, as_mask, path_gradient, shares_of

MARKERS, CONTENT, OWN = "markers", "content", "own"


class Patch(NamedTuple):
    """What is put in beside the other checkpoint's stream: what `latents` write differently, `dose` times; the
    decoders' bias; the error; and, at the `whole` of some tokens, the patched model's own stream."""

    latents: tuple[int, ...] = ()
    dose: float = 1.0
    bias: bool = False
    error: bool = False
    whole: str = ""  # or MARKERS, CONTENT (all but markers), OWN (everywhere)


class Score(NamedTuple):
    """`recovered` with its 95 % interval over documents; NaN where the two streams make no difference."""

    recovered: float
    low: float
    high: float


class Read(NamedTuple):
    """Chats as all checkpoints of a comparison read them."""

    chats: Chats
    streams: Mapping[str, Float[Tensor, "row pos d"]]
    code: Code


def read_chats(reading: JointReading, coder: Dictionary, batches: Sequence[Chats]) -> list[Read]:
    """Every model's stream, and the code of them all at real tokens."""
    found = []
    for chats in batches:
        streams = reading.streams(chats.ids)
        flat = torch.stack([streams[name].flatten(0, 1).float() for name in coder.names], dim=1)
        code = coder.encode_sparse(flat)
        kept = chats.real.flatten().to(code.rows.device)[code.rows]
        found.append(Read(chats, streams, Code(code.rows[kept], code.latents[kept], code.values[kept])))
    return found


class Pair:
    """Two checkpoints, one way: whose stream is given and whose upper half is patched."""

    def __init__(self, reading: JointReading, coder: Dictionary, mover: Mover, way: str) -> None:
        self.reading, self.mover, self.way = reading, mover, way
        ends = mover.parent, mover.stage
        self.given, self.patched = ends if way == ON else ends[::-1]
        here, there = (coder.b_dec[coder.model_index(name)] for name in (self.patched, self.given))
        self.bias = here - there

    def stream(self, read: Read, patch: Patch) -> Float[Tensor, "row pos d"]:
        """What stands at the site."""
        own, given, chats = read.streams[self.patched], read.streams[self.given], read.chats
        stream = given
        if patch.latents:
            stream = given + patch.dose * self._written(read, patch.latents)
        if patch.bias:
            stream = stream + self.bias
        if patch.error:
            stream = stream + (own - given - self._written(read, None) - self.bias)
        marked = {"": chats.marker & False, MARKERS: chats.marker, CONTENT: ~chats.marker}
        kept = torch.ones_like(chats.real) if patch.whole == OWN else marked[patch.whole]
        return torch.where((kept | ~chats.real)[:, :, None].to(own.device), own, stream.to(own))

    def _written(self, read: Read, latents: Sequence[int] | None) -> Float[Tensor, "row pos d"]:
        """Σ_{j∈S} f_j (d_j^patched − d_j^given); None: of all."""
        mover, like = self.mover, read.streams[self.given]
        n = mover.n_latents
        mask = as_mask(range(n) if latents is None else latents, n, mover.on.device)
        added = mover.added(read.code, like.shape[0] * like.shape[1], mask, self.way).view_as(like)
        return added if self.way == ON else -added

    @torch.inference_mode()
    def kl(self, reads: Sequence[Read], patches: Sequence[Patch]) -> Float[np.ndarray, "patch answer_token"]:
        """KL(patched ‖ patched with h) at every token of an answer, nats."""
        parts = []
        for read in reads:
            ids, at = read.chats.ids, read.chats.at
            own = self.reading.log_probabilities(self.patched, ids, at)
            p, rows = own.exp(), []
            for patch in patches:
                with_h = self.reading.log_probabilities(self.patched, ids, at, self.stream(read, patch))
                rows.append(torch.einsum("tv,tv->t", p, own - with_h).double().cpu().numpy())
            parts.append(np.stack(rows))
        return np.concatenate(parts, axis=1)

    def attribution(
        self, reads: Sequence[Read]
    ) -> tuple[Float[np.ndarray, "latent"], Float[np.ndarray, "latent"]]:
        """By latent: its share of what all latents take off the KL, by integrated gradients along their way; and
        how long its writing is in all (see `workbench.mediation.attribution`)."""
        nats, sizes = np.zeros(self.mover.n_latents), np.zeros(self.mover.n_latents)
        everything = Patch(tuple(range(self.mover.n_latents)))
        for read in reads:
            ids, at = read.chats.ids, read.chats.at
            with torch.no_grad():
                own = self.reading.log_probabilities(self.patched, ids, at)

            def closeness(stream: Tensor, own: Tensor = own, read: Read = read) -> Tensor:
                chats = read.chats
                log_p = self.reading.log_probabilities(self.patched, chats.ids, chats.at, stream)
                return -(own.exp() * (own - log_p)).sum()

            start = self.stream(read, Patch())
            gradient = path_gradient(closeness, start, self.stream(read, everything) - start)
            mine, long = shares_of(self.mover, read.code, gradient)
            nats, sizes = nats + mine, sizes + long
        return nats if self.way == ON else -nats, sizes


def norm_differences(mover: Mover, reads: Sequence[Read]) -> Float[np.ndarray, "latent"]:
    """‖d_j^b − d_j^a‖ · rms f_j over real tokens."""
    squares, n = np.zeros(mover.n_latents), 0
    for read in reads:
        latents, values = read.code.latents.cpu().numpy(), read.code.values.double().cpu().numpy()
        squares += np.bincount(latents, values**2, minlength=mover.n_latents)
        n += int(read.chats.real.sum())
    return np.sqrt(squares / n) * mover.on.norm(dim=1).double().cpu().numpy()


def recovered(
    none: Float[np.ndarray, "answer_token"],
    patched: Float[np.ndarray, "patch answer_token"],
    document: Int[np.ndarray, "answer_token"],
    of: Bool[np.ndarray, "answer_token"],
) -> list[Score]:
    """Of each patch, over the tokens `of`: KL summed over documents, divided once."""
    names, where = np.unique(document[of], return_inverse=True)
    sums = np.zeros((len(names), 1 + len(patched)))
    np.add.at(sums, where, np.concatenate([none[None], patched])[:, of].T)
    drawn, total = resampled_sums(sums), sums.sum(axis=0)
    found = []
    for column in range(1, len(total)):
        value = 1 - total[column] / total[0] if total[0] else float("nan")
        ends = quantiles(drawn[:, 0] - drawn[:, column], drawn[:, 0], len(names))
        found.append(Score(float(value), *ends))
    return found
