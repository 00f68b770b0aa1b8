"""Directions added to the residual stream, and what the model says then.

    x_l' = x_l + v        after block l, at the places asked for

Prompts are rows padded on the right; no real token attends to what comes after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.site import last_logits, replaced_resid_post, unembedded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Prompts(NamedTuple):
    """Rows of ids, and the place of each one's last token."""

    ids: Int[Tensor, "row position"]
    last: Int[Tensor, " row"]

    @property
    def at_last(self) -> Bool[Tensor, "row position"]:
        """Each row's last token alone."""
        return torch.arange(self.ids.shape[1]) == self.last[:, None]

    @property
    def before_last(self) -> Bool[Tensor, "row position"]:
        """All between BOS and the last token."""
        at = torch.arange(self.ids.shape[1])
        return (at > 0) & (at < self.last[:, None])

    @property
    def behind_bos(self) -> Bool[Tensor, "row position"]:
        """All but BOS."""
        return self.at_last | self.before_last


def prompts(rows: Sequence[Sequence[int]], pad: int) -> Prompts:
    """Rows of ids as one tensor."""
    from workbench.generation import right_padded

    return Prompts(right_padded(rows, pad), torch.tensor([len(row) - 1 for row in rows]))


@contextlib.contextmanager
def pushed(
    model: PreTrainedModel,
    layer: int | None,
    vectors: Float[Tensor, "#row d"] | None,
    where: Bool[Tensor, "row position"] | None = None,
) -> Iterator[None]:
    """Inside, `vectors` (one for all rows, or one each) are added after block `layer`, at the places in `where`, or
    at the last place of every pass (the one being answered, when writing with a cache). With None as it is."""
    if layer is None or vectors is None:
        yield
        return
    given: Tensor = vectors

    def push(stream: Tensor) -> Tensor:
        added = given.to(stream)[:, None]
        if where is None:
            return torch.cat([stream[:, :-1], stream[:, -1:] + added], dim=1)
        return stream + added * where.to(stream)[..., None]

    with replaced_resid_post(model, layer, push):
        yield


@torch.inference_mode()
def log_p_behind(
    model: PreTrainedModel,
    asked: Prompts,
    layer: int | None = None,
    vectors: Float[Tensor, "#row d"] | None = None,
    where: Bool[Tensor, "row position"] | None = None,
) -> Float[Tensor, "row vocab"]:
    """log p of the token behind each prompt, with `vectors` added (by default at every token but BOS)."""
    places = asked.behind_bos if where is None else where
    with pushed(model, layer, vectors, places.to(model.device)):
        return (
            last_logits(model, asked.ids.to(model.device), asked.last.to(model.device)).float().log_softmax(-1)
        )


@torch.inference_mode()
def log_p_at(
    model: PreTrainedModel,
    ids: Int[Tensor, "row position"],
    at: Bool[Tensor, "row position"],
    layer: int | None = None,
    vectors: Float[Tensor, "#row d"] | None = None,
    where: Bool[Tensor, "row position"] | None = None,
) -> Float[Tensor, "place vocab"]:
    """log p of the tokens behind the places `at`, row by row, with `vectors` added at `where`."""
    chosen = at.to(model.device)
    with (
        pushed(model, layer, vectors, None if where is None else where.to(model.device)),
        unembedded(model, lambda hidden: hidden[chosen][None]),
    ):
        return model(input_ids=ids.to(model.device), use_cache=False).logits[0].float().log_softmax(-1)


@torch.inference_mode()
def streams_of(
    model: PreTrainedModel, ids: Int[Tensor, "row position"]
) -> Float[Tensor, "layer row position d"]:
    """`resid_post` of every block on some rows; nothing is unembedded."""
    from workbench.lens import recorded_stream

    with recorded_stream(model) as resid:
        model.base_model(input_ids=ids.to(model.device), use_cache=False)
    return torch.stack(resid[1:]).float().cpu()


def kl(p: Float[Tensor, "row vocab"], q: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
    """KL(p‖q) of rows of log probabilities, nats."""
    return (p.exp() * (p - q)).sum(-1)
