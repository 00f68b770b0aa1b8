"""Cross-entropy of a model whose activations are replaced at one site: what a dictionary leaves of it.

    CE score = (CE_zero − CE_spliced) / (CE_zero − CE_clean)

At every position but BOS what stands at the site gives way to its reconstruction (or to zero, or to the mean);
a transcoder makes the MLP's output from the MLP's input. The rest of the forward pass is the model's own. Nats
are summed by document and divided once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from workbench.intervals import Interval, quantiles, ratio_interval, resampled_sums
from workbench.points import Site
from workbench.site import replaced
from workbench.tokens import TokenSet, WindowBatch

CLEAN = "clean"
LOGIT_NUMBERS = 2**22  # logits held at once

# From what is read at real tokens `[token d]` and their rows in the token set to what stands at the site then.
Replacement = Callable[[Tensor, np.ndarray], Tensor]


class SplicedNats(NamedTuple):
    """`nats` [variant document] and `kl` (KL(clean‖variant), same shape) summed over `n_tokens` [document]."""

    variants: tuple[str, ...]
    nats: Float[np.ndarray, "variant document"]
    kl: Float[np.ndarray, "variant document"]
    n_tokens: Float[np.ndarray, "document"]

    def loss(self, variant: str) -> float:
        """Nats per token."""
        return float(self.nats[self.variants.index(variant)].sum() / self.n_tokens.sum())

    def mean_kl(self, variant: str) -> float:
        """KL(clean‖variant), nats per token."""
        return float(self.kl[self.variants.index(variant)].sum() / self.n_tokens.sum())

    def score(self, variant: str, floor: str = "zero") -> float:
        """CE score of a variant: 1 is the clean model, 0 the `floor` (`zero` or `mean` ablation)."""
        worst, best = self.loss(floor), self.loss(CLEAN)
        return (worst - self.loss(variant)) / (worst - best) if worst != best else float("nan")

    def score_interval(self, variant: str, floor: str = "zero", seed: int = 0) -> Interval:
        """95 % interval of the CE score, by bootstrap over documents."""
        worst, best, own = (self.nats[self.variants.index(v)] for v in (floor, CLEAN, variant))
        sums = resampled_sums(np.stack([worst - own, worst - best], axis=1), seed)
        return quantiles(sums[:, 0], sums[:, 1], len(worst))

    def kl_interval(self, variant: str, seed: int = 0) -> Interval:
        """95 % interval of KL(clean‖variant), by bootstrap over documents."""
        return ratio_interval(self.kl[self.variants.index(variant)], self.n_tokens, seed)


def tokens_per_batch(model: PreTrainedModel) -> int:
    """How many tokens' logits fit `LOGIT_NUMBERS`."""
    return max(1, LOGIT_NUMBERS // model.get_output_embeddings().weight.shape[0])


def spliced_nats(
    model: PreTrainedModel,
    site: Site | int,
    token_set: TokenSet,
    windows: np.ndarray,
    variants: Mapping[str, Replacement],
    report: Callable[[int], None] = lambda n: None,
    from_input: bool = False,
    counted: Bool[np.ndarray, "token"] | None = None,
) -> SplicedNats:
    """Run the windows clean and with each replacement; `report` is told the tokens done.

    A number is the layer whose resid_post is replaced. Replacements are given what stands at the site, or
    `from_input` what the site's module reads (the MLP's input, where its output is replaced). They are put at
    every token; only the predictions of those `counted` (all by default) are summed.
    """
    site = Site(site) if isinstance(site, int) else site
    names = (CLEAN, *variants)
    chosen = np.unique(np.asarray(token_set.document)[token_set.starts[windows]])
    nats, kl = (np.zeros((len(names), len(chosen))) for _ in range(2))
    n_tokens = np.zeros(len(chosen))
    for batch in token_set.batches(tokens_per_batch(model), windows):
        rows = batch.rows[batch.real]
        weight = np.ones(len(rows)) if counted is None else counted[rows].astype(float)
        where = np.searchsorted(chosen, token_set.document[rows])
        n_tokens += np.bincount(where, weight, minlength=len(chosen))
        clean = log_probabilities(model, batch)
        for i, name in enumerate(names):
            log_p = clean if name == CLEAN else _spliced(model, site, batch, variants[name], from_input)
            loss = next_token_nats(log_p, batch)
            apart = (clean.exp() * (clean - log_p)).sum(-1).double().cpu().numpy()
            nats[i] += np.bincount(where, loss * weight, minlength=len(chosen))
            kl[i] += np.bincount(where, apart * weight, minlength=len(chosen))
        report(len(rows))
    return SplicedNats(names, nats, kl, n_tokens)


def log_probabilities(model: PreTrainedModel, batch: WindowBatch) -> Float[Tensor, "token vocab"]:
    """log p of the next token, at the position before each real token of the batch."""
    ids = torch.from_numpy(batch.ids).to(model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        return logits[torch.from_numpy(batch.real).to(model.device)].float().log_softmax(-1)


def next_token_nats(log_p: Float[Tensor, "token vocab"], batch: WindowBatch) -> Float[np.ndarray, "token"]:
    """-log p of the tokens that truly came, float64."""
    targets = torch.from_numpy(batch.ids[:, 1:][batch.real]).to(log_p.device)
    return F.nll_loss(log_p, targets, reduction="none").double().cpu().numpy()


def _spliced(
    model: PreTrainedModel, site: Site, batch: WindowBatch, replacement: Replacement, from_input: bool
) -> Tensor:
    real = torch.from_numpy(batch.real).to(model.device)
    rows = batch.rows[batch.real]

    def replace(read: Tensor, written: Tensor) -> Tensor:
        changed, given = written.clone(), read if from_input else written
        changed[:, 1:][real] = replacement(given[:, 1:][real].float(), rows).to(written)
        return changed

    with replaced(model, site, replace):
        return log_probabilities(model, batch)
