"""Scoring text with a causal language model by strided windows, and bits per byte with an interval.

A document is ids with BOS first; BOS is context and never predicted, so the scored tokens are exactly
those that `workbench.ngrams.nats` scores. As in training, a window is BOS and `n_ctx − 1` ids of text.
Windows begin every `stride` ids and the last one ends with the document; each token is scored once, in
the first window that holds it, and so with at least n_ctx − stride ids before it (BOS among them) wherever
the document has so many. stride = n_ctx // 2 costs two passes and is what Marble reports.

    bits per byte = Σ nats / ln 2 / Σ bytes of the UTF-8 text     summed over documents, divided once
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_LOGITS = 2**26  # at most this many logits in memory at once (256 MiB in fp32)


class Window(NamedTuple):
    """Ids start … stop of a document's text (BOS not counted) behind a BOS; the last `n_new` are scored."""

    document: int
    start: int
    stop: int
    n_new: int


class BitsPerByte(NamedTuple):
    """Bits per byte over `n` documents with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


def model_nats(
    model: Any,
    documents: Sequence[np.ndarray],
    n_ctx: int,
    stride: int | None = None,
    batch: int = 32,
    bos_id: int | None = None,
) -> list[np.ndarray]:
    """−ln p of every token but BOS: for each document Float64[token], one fewer than its ids.

    model: a Hugging Face causal language model (it answers `model(input_ids, logits_to_keep=n).logits`).
    bos_id: the id that opens each window; by default the id that opens each document.
    batch: windows at once; fewer where the vocabulary is large. No result depends on it.
    """
    import torch

    stride = n_ctx // 2 if stride is None else stride
    if n_ctx < 2 or not 1 <= stride < n_ctx:
        raise ValueError(f"n_ctx {n_ctx} and stride {stride}: needs n_ctx from 2 on and 1 <= stride < n_ctx")
    scored = [np.empty(max(len(ids) - 1, 0)) for ids in documents]
    windows = [w for i, ids in enumerate(documents) for w in windows_of(i, len(ids) - 1, n_ctx - 1, stride)]
    # Like shapes together, the longest, hungriest batch first.
    windows.sort(key=lambda w: (w.start - w.stop, w.n_new))
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            while windows:
                longest = windows[0].stop - windows[0].start + 1
                n = max(1, min(batch, _LOGITS // (longest * model.config.vocab_size)))
                _score(model, documents, windows[:n], bos_id, scored)
                windows = windows[n:]
    finally:
        model.train(was_training)
    return scored


def windows_of(document: int, n_ids: int, span: int, stride: int) -> list[Window]:
    """Windows of at most `span` ids over a text of `n_ids` in which every id is new exactly once."""
    found: list[Window] = []
    done = 0
    while done < n_ids:
        stop = min(done + (stride if found else span), n_ids)
        found.append(Window(document, max(0, stop - span), stop, stop - done))
        done = stop
    return found


def _score(
    model: Any,
    documents: Sequence[np.ndarray],
    windows: Sequence[Window],
    bos_id: int | None,
    scored: list[np.ndarray],
) -> None:
    """Score one batch of windows into `scored`. Right padding is behind every scored token: causal, unseen."""
    import torch

    longest = max(w.stop - w.start for w in windows)
    ids = np.zeros((len(windows), longest + 1), dtype=np.int64)
    for row, w in zip(ids, windows, strict=True):
        document = documents[w.document]
        row[0] = document[0] if bos_id is None else bos_id
        row[1 : w.stop - w.start + 1] = document[w.start + 1 : w.stop + 1]
    input_ids = torch.from_numpy(ids).to(model.device)
    first = min(w.stop - w.start - w.n_new for w in windows)  # no window scores an id before this one
    logits = model(input_ids=input_ids, use_cache=False, logits_to_keep=longest + 1 - first).logits[:, :-1]
    following = input_ids[:, first + 1 :]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), following.flatten(), reduction="none"
    ).view_as(following)
    for row, w in zip(losses.double().cpu().numpy(), windows, strict=True):
        size = w.stop - w.start - first
        scored[w.document][w.stop - w.n_new : w.stop] = row[size - w.n_new : size]


def bits_per_byte(
    nats: Sequence[np.ndarray], n_bytes: Sequence[int], n_resamples: int = 2_000, seed: int = 0
) -> BitsPerByte:
    """Bits per byte of documents scored token by token, with a percentile bootstrap over documents.

    nats: one array a document (`model_nats`, `ngrams.nats`; the difference of two gives their gap, paired
    by document). n_bytes: bytes of each document's UTF-8 text.
    """
    if len(nats) != len(n_bytes):
        raise ValueError(f"{len(nats)} documents were scored but {len(n_bytes)} sizes in bytes given")
    bits = np.array([n.sum() for n in nats]) / math.log(2)
    sizes = np.asarray(n_bytes, dtype=np.float64)
    if sizes.sum() <= 0:
        raise ValueError("the documents hold no bytes: bits per byte need a text")
    picked = np.random.default_rng(seed).integers(len(bits), size=(n_resamples, len(bits)))
    resampled = bits[picked].sum(1) / np.maximum(sizes[picked].sum(1), 1.0)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return BitsPerByte(float(bits.sum() / sizes.sum()), float(low), float(high), len(bits))
