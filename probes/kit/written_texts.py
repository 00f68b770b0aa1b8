"""Texts that a probe writes itself, as a checkpoint reads them: tokens with their characters, the residual stream
at chosen tokens or averaged over a text.

As in `probes.kit.readings`, row 0 is the embedding and row l + 1 `resid_post` of block l, in fp32. Every text is
read by itself behind BOS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from probes.kit.readings import TOKENS_AT_ONCE, opened
from probes.kit.running import LackingError
from workbench.checkpoint import Checkpoint
from workbench.generation import right_padded
from workbench.labelled import render_chat
from workbench.lens import recorded_stream
from workbench.token_sets import leading_id
from workbench.tokenizer import Encoded, encode


def encoded(
    checkpoint: Checkpoint, texts: Sequence[str], chat: bool = False, whole: bool = True
) -> list[Encoded]:
    """Ids and characters of each text; with `chat`, markers of a chat are their tokens. One that the checkpoint
    cannot read whole is lacking a longer context, or cut where it need not be `whole`.

    What leads each of them is what leads the token sets.
    """
    tokenizer = opened(checkpoint).tokenizer
    bos = leading_id(tokenizer)
    found = [Encoded([bos, *each.ids[1:]], each.offsets) for each in encode(tokenizer, texts, chat)]
    if not whole:
        return [Encoded(each.ids[: checkpoint.n_ctx], each.offsets[: checkpoint.n_ctx]) for each in found]
    longest = max(len(each.ids) for each in found)
    if longest > checkpoint.n_ctx:
        raise LackingError(
            f"a text of {longest} tokens does not fit into the {checkpoint.n_ctx} that {checkpoint.address} reads: "
            "ask a checkpoint with a longer context (model.n_ctx in the recipe)"
        )
    return found


def asked(checkpoint: Checkpoint, question: str, answer: str) -> str:
    """A question with the beginning of its answer, in the checkpoint's own chat form, cut behind the answer."""
    rendered = render_chat(opened(checkpoint).tokenizer, question, answer)
    return rendered.text[: rendered.answer + len(answer)]


def token_at(text: Encoded, character: int) -> int:
    """The token that covers a character."""
    return next(i for i, (start, end) in enumerate(text.offsets) if start <= character < end)


def streams_at(
    checkpoint: Checkpoint, rows: Sequence[Sequence[int]], places: Int[np.ndarray, "text place"]
) -> Float[np.ndarray, "layer text place d"]:
    """The stream at `places[text]` of each text, at every layer."""
    shape = (checkpoint.n_layers + 1, *places.shape, checkpoint.d_model)
    found = np.empty(shape, np.float32)
    for which, resid in _read(checkpoint, rows):
        at = torch.from_numpy(places[which])
        for layer, read in enumerate(resid):
            picked = read.cpu()[torch.arange(len(which))[:, None], at]
            found[layer, which] = picked.float().numpy()
    return found


def pooled(checkpoint: Checkpoint, rows: Sequence[Sequence[int]]) -> Float[np.ndarray, "layer text d"]:
    """The mean of the stream over the tokens of each text, BOS left out, at every layer."""
    found = np.empty((checkpoint.n_layers + 1, len(rows), checkpoint.d_model), np.float32)
    for which, resid in _read(checkpoint, rows):
        sizes = torch.tensor([len(rows[i]) - 1 for i in which])
        inside = torch.arange(max(sizes))[None] < sizes[:, None]
        for layer, read in enumerate(resid):
            total = (read[:, 1:].float().cpu() * inside[..., None]).sum(dim=1)
            found[layer, which] = (total / sizes[:, None]).numpy()
    return found


def _read(
    checkpoint: Checkpoint, rows: Sequence[Sequence[int]]
) -> Iterator[tuple[np.ndarray, list[torch.Tensor]]]:
    """Texts of like lengths side by side: which they are, and their streams."""
    model = opened(checkpoint).model
    order = np.argsort([-len(row) for row in rows], kind="stable")
    at = 0
    while at < len(order):
        which = order[at : at + max(1, TOKENS_AT_ONCE // len(rows[order[at]]))]
        ids = right_padded([list(rows[i]) for i in which], 0)
        with torch.inference_mode(), recorded_stream(model) as resid:
            model(ids.to(model.device), use_cache=False)
        yield which, resid
        at += len(which)
