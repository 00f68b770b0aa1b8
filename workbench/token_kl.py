"""How far two checkpoints' predictions part behind each token of the same texts, and which token gained by it.

    KL_t(after‖before) = Σ_v p_after(v) (log p_after(v) − log p_before(v))    in what follows context t
    raised_t           = argmax_v p_after(v) − p_before(v)

`workbench.behaviour` adds the same KL up by document; here every prediction stands by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from transformers import PreTrainedModel

from workbench.behaviour import kl_by_token
from workbench.harvest import TOKENS_PER_BATCH
from workbench.splice import log_probabilities, tokens_per_batch
from workbench.tokens import TokenSet


class TokenKl(NamedTuple):
    """One entry a prediction, in the set's order. `context`: id of the last token that was read (BOS at a
    window's start); `row`: its row of the set, -1 for BOS; `predicted`: row of the token that came; `kl` and
    `raised` (ids) by (before, after)."""

    context: Int[np.ndarray, "token"]
    row: Int[np.ndarray, "token"]
    predicted: Int[np.ndarray, "token"]
    kl: Mapping[tuple[str, str], Float[np.ndarray, "token"]]
    raised: Mapping[tuple[str, str], Int[np.ndarray, "token"]]


def token_kl(
    models: Mapping[str, PreTrainedModel],
    token_set: TokenSet,
    windows: np.ndarray,
    report: Callable[[int], None] = lambda n: None,
) -> TokenKl:
    """Run the windows through every model; KL of each later one from each before. `report` is told the tokens
    done."""
    pairs = list(combinations(models, 2))
    kl: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in pairs}
    raised: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in pairs}
    places = []
    size = min(TOKENS_PER_BATCH, *map(tokens_per_batch, models.values()))
    for batch in token_set.batches(size, windows):
        before_rows = np.concatenate([np.full((len(batch.rows), 1), -1), batch.rows[:, :-1]], axis=1)
        real = batch.real
        places.append(np.stack([batch.ids[:, :-1][real], before_rows[real], batch.rows[real]]))
        log_p = {name: log_probabilities(model, batch) for name, model in models.items()}
        with torch.inference_mode():
            p = {name: values.exp() for name, values in log_p.items()}
            for before, after in pairs:
                kl[before, after].append(kl_by_token(log_p[after], log_p[before]))
                raised[before, after].append((p[after] - p[before]).argmax(-1).cpu().numpy())
        report(int(real.sum()))
    context, row, predicted = np.concatenate(places, axis=1)
    order = np.argsort(predicted)
    return TokenKl(
        context[order],
        row[order],
        predicted[order],
        {pair: np.concatenate(parts)[order] for pair, parts in kl.items()},
        {pair: np.concatenate(parts)[order] for pair, parts in raised.items()},
    )
