"""Which latents carry what a stage gained: switched on in the parent, switched off in the stage.

With f the code of all checkpoints' streams at the same tokens, a set S of latents is

    on    in the parent   a_P + α Σ_{j∈S} f_j u_j
    off   in the stage    a_S − α Σ_{j∈S} f_j w_j

    swap         a crosscoder's code     u_j = w_j = d_j^S − d_j^P      what the stage writes in the parent's place
    amplify      the same code           u_j = d_j^P, w_j = d_j^S       each its own decoder [arXiv 2604.25011]
    difference   an SAE's of a_S − a_P   u_j = w_j = d_j                what the streams differ by

Latents are ordered by their share in what switching all of them on adds to log p of the stage's own answers: f_j
⟨u_j, g⟩ summed over tokens, g the gradient averaged along the way there (integrated gradients [Sundararajan 2017]).
The order is found on other questions than those that judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.dictionary import Dictionary
from saes.sparse import Code, Pattern, sparse_decode
from workbench.gains import ON
from workbench.joint_reading import JointReading, Move

SWAP, AMPLIFY, DIFFERENCE = "swap", "amplify", "difference"
PATH = 4  # points on the way at which the gradient is taken

Streams = Mapping[str, Tensor]
Encode = Callable[[Streams], Code]
Narrowed = Callable[[Int[Tensor, "chosen"]], Encode]  # from some latents to their code


class Mover(NamedTuple):
    """Latents that can be switched: their code of all models' streams `[token d]`, and the directions that they are
    switched on and off along, `[latent d]`. `narrowed`: the code of some latents alone, where that is less work."""

    name: str
    encode: Encode
    on: Float[Tensor, "latent d"]
    off: Float[Tensor, "latent d"]
    parent: str
    stage: str
    narrowed: Narrowed | None = None

    @property
    def n_latents(self) -> int:
        return len(self.on)

    def added(
        self, code: Code, n_tokens: int, chosen: Bool[Tensor, "latent"], way: str
    ) -> Float[Tensor, "token d"]:
        """Σ_{j∈S} f_j u_j (or w_j) at every token."""
        on = chosen[code.latents]
        rows, latents = code.rows[on], code.latents[on]
        directions = self.on if way == ON else self.off
        return sparse_decode(code.values[on], directions, Pattern(rows, latents, n_tokens, self.n_latents))

    def moved(self, way: str) -> str:
        """The model that is moved."""
        return self.parent if way == ON else self.stage

    def move(self, chosen: Bool[Tensor, "latent"], way: str, dose: float = 1.0) -> Move:
        """What stands at the site with the latents switched, by this dose."""
        sign = dose if way == ON else -dose
        some = chosen.nonzero()[:, 0]
        encode = self.encode if self.narrowed is None or len(some) == 0 else self.narrowed(some)

        def moved(streams: Streams) -> Tensor:
            own = streams[self.moved(way)]
            return own + sign * self.added(encode(streams), len(own), chosen, way)

        return moved


def coding(
    dictionary: Dictionary, read: Callable[[Streams], Float[Tensor, "token model d"]]
) -> tuple[Encode, Narrowed | None]:
    """A mover's `encode` and `narrowed` by a dictionary of what it reads of the streams."""

    def encode(streams: Streams) -> Code:
        return dictionary.encode_sparse(read(streams))

    def narrowed(latents: Int[Tensor, "chosen"]) -> Encode:
        part = dictionary.narrowed(latents)

        def some(streams: Streams) -> Code:
            code = part.encode_sparse(read(streams))
            return code._replace(latents=latents[code.latents])

        return some

    return encode, narrowed if dictionary.activation == "jumprelu" else None


def joint_coding(coder: Dictionary) -> tuple[Encode, Narrowed | None]:
    """`coding` by a crosscoder, which reads every model's stream."""
    return coding(coder, lambda streams: torch.stack([streams[name] for name in coder.names], dim=1))


def swap(coder: Dictionary, parent: str, stage: str) -> Mover:
    """What a crosscoder's latents write differently in `stage`: d_j^stage − d_j^parent, both ways."""
    decoders = (coder.W_dec[:, coder.model_index(name)] for name in (stage, parent))
    along = torch.sub(*decoders).contiguous()
    encode, narrowed = joint_coding(coder)
    return Mover(SWAP, encode, along, along, parent, stage, narrowed)


class Asked(NamedTuple):
    """Rows of prompt and answer as a mover's models read them: ids, the answers' tokens, every model's stream and
    the code of them all."""

    ids: Int[Tensor, "row pos"]
    at: Bool[Tensor, "row pos_1"]
    streams: Mapping[str, Float[Tensor, "row pos d"]]
    code: Code

    @classmethod
    def of(
        cls, reading: JointReading, mover: Mover, ids: Int[Tensor, "row pos"], at: Bool[Tensor, "row pos_1"]
    ) -> Asked:
        streams = reading.streams(ids)
        return cls(ids, at, streams, mover.encode({name: s.flatten(0, 1) for name, s in streams.items()}))

    def moved(self, mover: Mover, chosen: Bool[Tensor, "latent"], way: str) -> Float[Tensor, "row pos d"]:
        """The moved model's stream with the latents switched."""
        own = self.streams[mover.moved(way)]
        added = mover.added(self.code, own.shape[0] * own.shape[1], chosen, way).view_as(own)
        return own + added if way == ON else own - added


def attribution(
    reading: JointReading, mover: Mover, asked: Asked
) -> tuple[Float[np.ndarray, "latent"], Float[np.ndarray, "latent"]]:
    """What each latent, switched on in the parent, adds to the log p of the answers, in nats over all rows; and how
    long its writing is in all, Σ_t ‖f_tj u_j‖."""
    everything = torch.ones(mover.n_latents, dtype=torch.bool, device=asked.code.values.device)
    start = asked.streams[mover.parent]
    gradient = path_gradient(
        lambda stream: _told(reading, mover.parent, asked, stream).sum(),
        start,
        asked.moved(mover, everything, ON) - start,
    )
    return shares_of(mover, asked.code, gradient)


def path_gradient(
    total: Callable[[Float[Tensor, "row pos d"]], Tensor],
    start: Float[Tensor, "row pos d"],
    way: Float[Tensor, "row pos d"],
) -> Float[Tensor, "row pos d"]:
    """∂ total / ∂ stream, averaged along the straight way that begins at `start`."""
    gradient = torch.zeros_like(start)
    for share in (np.arange(PATH) + 0.5) / PATH:
        at = (start + float(share) * way).detach().requires_grad_()
        gradient += torch.autograd.grad(total(at), at)[0] / PATH
    return gradient


def shares_of(
    mover: Mover, code: Code, gradient: Float[Tensor, "row pos d"]
) -> tuple[Float[np.ndarray, "latent"], Float[np.ndarray, "latent"]]:
    """By latent: Σ_t f_tj ⟨u_j, g_t⟩ and Σ_t ‖f_tj u_j‖."""
    inner = (mover.on[code.latents] * gradient.flatten(0, 1)[code.rows]).sum(dim=1)
    norms = mover.on.norm(dim=1)[code.latents]
    latents, n = code.latents.cpu().numpy(), mover.n_latents
    nats, sizes = (
        np.bincount(latents, (code.values * each).double().cpu().numpy(), minlength=n)
        for each in (inner, norms)
    )
    return nats, sizes


@torch.no_grad()
def answer_nats(
    reading: JointReading, name: str, asked: Asked, stream: Float[Tensor, "row pos d"] | None = None
) -> Float[np.ndarray, "row"]:
    """log p of each row's answer under the model called `name`, with `stream` at the site."""
    told = _told(reading, name, asked, stream).double().cpu().numpy()
    row = asked.at.nonzero()[:, 0].cpu().numpy()
    return np.bincount(row, told, minlength=len(asked.ids))


def _told(
    reading: JointReading, name: str, asked: Asked, stream: Float[Tensor, "row pos d"] | None
) -> Float[Tensor, "token"]:
    """log p of each token of the answers."""
    log_p = reading.log_probabilities(name, asked.ids, asked.at, stream)
    return log_p.gather(1, asked.ids[:, 1:][asked.at][:, None].to(log_p.device))[:, 0]


def size_matched(
    order: Sequence[int], sizes: Float[np.ndarray, "latent"], n: int, rng: np.random.Generator
) -> list[int]:
    """`n` other latents, each drawn from the ten whose writing is nearest in length to that of one of the first `n`
    of `order`: a control of the same number and reach."""
    chosen, free = list(order[:n]), {int(j) for j in np.flatnonzero(sizes)} - set(order[:n])
    drawn: list[int] = []
    for latent in chosen:
        left = np.array(sorted(free - set(drawn)))
        if len(left) == 0:
            break
        nearest = left[np.argsort(np.abs(np.log(sizes[left]) - np.log(max(sizes[latent], 1e-12))))[:10]]
        drawn.append(int(rng.choice(nearest)))
    return drawn


def as_mask(
    latents: Sequence[int], n_latents: int, device: torch.device | str = "cpu"
) -> Bool[Tensor, "latent"]:
    """The set as a mask."""
    mask = torch.zeros(n_latents, dtype=torch.bool, device=device)
    mask[torch.as_tensor(list(latents), dtype=torch.long, device=device)] = True
    return mask


def recovered(
    moved: Float[np.ndarray, "row"], start: Float[np.ndarray, "row"], end: Float[np.ndarray, "row"]
) -> float:
    """Share of the way from `start` to `end`, sums over rows divided once; NaN where there is no way."""
    way = float((end - start).sum())
    return float((moved - start).sum()) / way if way else float("nan")
