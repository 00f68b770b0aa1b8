"""What two unlike checkpoints still share: tokens, and then KL and loss on the same tokens; names and shapes of
parameters, and then whether their weights point the same way.

Two networks trained apart have a cosine near 0 and ‖W' − W‖ / ‖W‖ near √2 for equal norms; a checkpoint and what
was trained from it have a cosine near 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.behaviour import Behaviour, kl_by_token
from workbench.bits_per_byte import windows_of
from workbench.generation import right_padded
from workbench.splice import tokens_per_batch
from workbench.unlike_scores import Reader
from workbench.unlike_texts import Text, encoded, opening
from workbench.weight_drift import apart

RELATED = 0.5  # cosine of all weights from which on two roots look like one family
Report = Callable[[int], None]


def same_ids(readers: Sequence[Reader], texts: Sequence[Text]) -> bool:
    """All read the texts as the same ids."""
    read = [encoded(reader.tokenizer, [text.text for text in texts]) for reader in readers]
    return all(all(map(np.array_equal, read[0], other)) for other in read[1:])


def on_same_tokens(
    readers: Sequence[Reader], texts: Sequence[Text], report: Report = lambda n: None
) -> Behaviour:
    """Loss of both and KL both ways, summed by text, over the ids that the tokenizer knows (a vocabulary may be
    padded to another size). Each token is scored once, in the first of the strided windows that holds it."""
    first, second = readers
    tokenizer = first.tokenizer
    n_ids = max(tokenizer.get_vocab().values()) + 1
    span = min(reader.context for reader in readers) - 1
    ids = encoded(tokenizer, [text.text for text in texts])
    nats = {reader.name: np.zeros(len(texts)) for reader in readers}
    kl = {(a.name, b.name): np.zeros(len(texts)) for a, b in ((first, second), (second, first))}
    rows = max(1, min(map(tokens_per_batch, (r.model for r in readers))) // (span + 1))
    windows = [w for i, each in enumerate(ids) for w in windows_of(i, len(each) - 1, span, (span + 1) // 2)]
    for at in range(0, len(windows), rows):
        part = windows[at : at + rows]
        given = [[opening(tokenizer), *ids[w.document][w.start + 1 : w.stop + 1].tolist()] for w in part]
        log_p = {r.name: _log_p(r, given, n_ids) for r in readers}
        for i, (w, own) in enumerate(zip(part, given, strict=True)):
            size = len(own) - 1
            new = slice(size - w.n_new, size)
            targets = torch.tensor(own[1:])[new, None]
            here = {name: values[i, new] for name, values in log_p.items()}
            for name, values in here.items():
                nats[name][w.document] -= float(values.gather(1, targets.to(values.device)).double().sum())
            for p, q in kl:
                kl[p, q][w.document] += float(kl_by_token(here[p], here[q]).sum())
        report(len(part))
    n = np.array([len(each) - 1 for each in ids], dtype=np.float64)
    return Behaviour(nats, kl, n, np.array([text.domain for text in texts]))


def _log_p(reader: Reader, rows: Sequence[Sequence[int]], n_ids: int) -> Tensor:
    with torch.inference_mode():
        padded = right_padded(rows, opening(reader.tokenizer)).to(reader.model.device)
        logits = reader.model(input_ids=padded, use_cache=False).logits
        return logits[:, :-1, :n_ids].float().log_softmax(-1)


def weights_told(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Any]:
    """How many parameters agree in name and shape, which do not, and cosine and ‖ΔW‖ / ‖W‖ over the
    matrices that do."""
    differ = apart(one, other)
    agree = [name for name in one if name not in set(differ)]
    both = first = second = change = 0.0
    for name in (each for each in agree if one[each].ndim > 1):  # gains of norms are near 1 in any network
        x, y = one[name].detach().double().cpu(), other[name].detach().double().cpu()
        both, first, second = (
            both + float((x * y).sum()),
            first + float((x * x).sum()),
            second + float((y * y).sum()),
        )
        change += float(((y - x) ** 2).sum())
    length = (first * second) ** 0.5
    return {
        "agree": len(agree),
        "of": len(one.keys() | other.keys()),
        "differ": differ,
        "agreeing": agree,
        "cosine": both / length if length else None,
        "moved": (change / first) ** 0.5 if first else None,
    }
