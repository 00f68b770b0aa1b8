"""How checkpoints differ in what they predict: loss by domain, and per-token KL both ways, on one set of texts.

    loss_c   = Σ_t −log p_c(x_t | x_<t) / n          KL(p‖q) = Σ_t Σ_v p(v) (log p(v) − log q(v)) / n

Every checkpoint reads the same windows, among them what each checkpoint wrote itself (`rollout:NAME`). Sums
are kept by document and divided once; intervals resample documents. KL(p‖p) is exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from workbench.intervals import ratio_interval
from workbench.splice import log_probabilities, next_token_nats, tokens_per_batch
from workbench.tokens import TokenSet

EVERYWHERE = "all"


class Behaviour(NamedTuple):
    """Sums by document: `nats[name]`, `kl[(p, q)]`, `n_tokens` [document]; `domain` of each document."""

    nats: dict[str, Float[np.ndarray, "document"]]
    kl: dict[tuple[str, str], Float[np.ndarray, "document"]]
    n_tokens: Float[np.ndarray, "document"]
    domain: np.ndarray

    def loss_table(self) -> pl.DataFrame:
        """checkpoint, domain, loss (nats per token), low, high, n (tokens)."""
        rows = [
            {"checkpoint": name, "domain": domain, "loss": mean, "low": low, "high": high, "n": n}
            for name, sums in self.nats.items()
            for domain, mean, low, high, n in self._by_domain(sums)
        ]
        return pl.DataFrame(rows)

    def excess_table(self) -> pl.DataFrame:
        """checkpoint, domain, excess (its loss less that of the first checkpoint, nats per token), low, high, n.

        Both are scored on the same tokens: documents are resampled with their difference."""
        first = next(iter(self.nats))
        rows = [
            {"checkpoint": name, "domain": domain, "excess": mean, "low": low, "high": high, "n": n}
            for name, sums in self.nats.items()
            if name != first
            for domain, mean, low, high, n in self._by_domain(sums - self.nats[first])
        ]
        return pl.DataFrame(rows)

    def kl_table(self) -> pl.DataFrame:
        """p, q, domain, kl (KL(p‖q), nats per token), low, high, n (tokens)."""
        rows = [
            {"p": p, "q": q, "domain": domain, "kl": mean, "low": low, "high": high, "n": n}
            for (p, q), sums in self.kl.items()
            for domain, mean, low, high, n in self._by_domain(sums)
        ]
        return pl.DataFrame(rows)

    def _by_domain(self, sums: np.ndarray) -> list[tuple[str, float, float, float, int]]:
        found = []
        for domain in (EVERYWHERE, *sorted(set(self.domain))):
            inside = (self.domain == domain) | (domain == EVERYWHERE)
            inside &= self.n_tokens > 0
            if not inside.any():
                continue
            n = self.n_tokens[inside]
            low, high = ratio_interval(sums[inside], n)
            found.append((domain, float(sums[inside].sum() / n.sum()), low, high, int(n.sum())))
        return found


def kl_by_token(
    log_p: Float[Tensor, "token vocab"], log_q: Float[Tensor, "token vocab"]
) -> Float[np.ndarray, "token"]:
    """KL(p‖q) of every prediction in nats, float64; exactly 0 of p from itself."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).double().cpu().numpy()


def behaviour(
    models: Mapping[str, PreTrainedModel],
    token_set: TokenSet,
    windows: np.ndarray,
    report: Callable[[int], None] = lambda n: None,
) -> Behaviour:
    """Run the windows through every model; `report` is told the tokens done."""
    n_documents = token_set.documents.height
    nats = {name: np.zeros(n_documents) for name in models}
    kl = {pair: np.zeros(n_documents) for pair in permutations(models, 2)}
    n_tokens = np.zeros(n_documents)
    for batch in token_set.batches(min(map(tokens_per_batch, models.values())), windows):
        where = np.asarray(token_set.document[batch.rows[batch.real]])
        n_tokens += np.bincount(where, minlength=n_documents)
        log_p = {name: log_probabilities(model, batch) for name, model in models.items()}
        for name, values in log_p.items():
            nats[name] += np.bincount(where, next_token_nats(values, batch), minlength=n_documents)
        for p, q in kl:
            apart = kl_by_token(log_p[p], log_p[q])
            kl[p, q] += np.bincount(where, apart, minlength=n_documents)
        report(len(where))
    return Behaviour(nats, kl, n_tokens, token_set.domain)
