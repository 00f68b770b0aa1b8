"""Direct logit attribution: m = logit(target) − logit(foil) as a sum of what each part of the model writes.

    m = Σ_c ⟨(w_c − w̄_c) ⊙ γ, W_U[t] − W_U[f]⟩ / s  +  ⟨β, W_U[t] − W_U[f]⟩  +  b_U[t] − b_U[f]

w_c: what component c (embedding, head, attention bias, MLP) writes at the prompt's last token
(`workbench.residual_writers`); s, γ, β: scale, gain and bias of the final norm; w̄ is taken away by LayerNorm alone.
Raw weights: nothing is folded or centred beforehand, since s is that of the prompt itself. What a head does through
later layers counts as theirs. The sum is held against m as the model says it, for every pair.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from workbench.circuits.pairs import Pairs, logit_difference
from workbench.intervals import bracketed, ratio_intervals
from workbench.residual_writers import NotASum, decompose
from workbench.site import centres, decoder_layers, final_norm, gain_of, read_resid_post, unembedded

PAIRS_AT_ONCE = 64
ROUNDING = 1e-4  # largest |m − Σ| that is rounding, as a part of the largest logit
NORM_BIAS, UNEMBED_BIAS = "final norm bias", "unembedding bias"


class Contribution(NamedTuple):
    """What a component adds to m, the mean over pairs with its interval."""

    component: str
    mean: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class DirectLogits:
    """`m` is the model's own; `residual` is what the components' sum misses of it."""

    task: str
    components: tuple[str, ...]
    contribution: Float[np.ndarray, "component pair"]
    m: Float[np.ndarray, "pair"]

    @property
    def residual(self) -> Float[np.ndarray, "pair"]:
        return self.m - self.contribution.sum(axis=0)

    def means(self) -> list[Contribution]:
        """Every component in the order in which it writes."""
        n = len(self.m)
        ends = ratio_intervals(self.contribution.T, np.ones(n))
        values = self.contribution.mean(axis=1)
        return [
            Contribution(name, float(value), float(low), float(high), n)
            for name, value, (low, high) in zip(self.components, values, ends, strict=True)
        ]

    def strongest(self, n: int = 5, kind: str = "") -> list[Contribution]:
        """The `n` with the largest |mean|, of all components or of those whose name begins with `kind`."""
        found = [each for each in self.means() if each.component.startswith(kind)]
        return sorted(found, key=lambda each: -abs(each.mean))[:n]

    def sentence(self) -> str:
        """The sum check, for people."""
        ((low, high),) = ratio_intervals(self.m[:, None], np.ones(len(self.m)))
        known = np.isfinite(low)
        mean = bracketed(float(self.m.mean()), float(low) if known else None, float(high) if known else None)
        return (
            f"{self.task}: m = {mean} over {len(self.m)} pairs; the sum of {len(self.components)} direct writes "
            f"misses it by at most {np.abs(self.residual).max():.1e}"
        )


def attribute(model: PreTrainedModel, pairs: Pairs, corrupt: bool = False) -> DirectLogits:
    """Of the clean prompts, or of the corrupt ones; `NotASum` where the parts do not add up to m."""
    parts, ms, names = [], [], list[str]()
    for at in range(0, len(pairs), PAIRS_AT_ONCE):
        batch = pairs[at : at + PAIRS_AT_ONCE].to(model.device)
        names, contribution, m = _batch(model, batch, batch.corrupt if corrupt else batch.clean)
        parts.append(contribution)
        ms.append(m)
    return DirectLogits(
        pairs.task, tuple(names), torch.cat(parts, dim=1).cpu().numpy(), torch.cat(ms).cpu().numpy()
    )


@torch.inference_mode()
def _batch(
    model: PreTrainedModel, pairs: Pairs, ids: Int[Tensor, "pair position"]
) -> tuple[list[str], Float[Tensor, "component pair"], Float[Tensor, "pair"]]:
    """Names, contributions and m of one batch, in double precision."""
    deepest = len(decoder_layers(model)) - 1
    keep = torch.arange(ids.shape[1], device=ids.device) == pairs.last[:, None]
    names, written = decompose(model, deepest, ids, keep)
    with unembedded(model, lambda hidden: hidden[keep]):
        logits = model(input_ids=ids, use_cache=False).logits.double()
    m = logit_difference(logits, pairs.target, pairs.foil)
    direction = _direction(model, read_resid_post(model, deepest, ids)[keep], pairs)
    contribution = torch.einsum("cpd,pd->cp", written.double(), direction)
    for name, bias in _biases(model, pairs).items():
        names.append(name)
        contribution = torch.cat([contribution, bias[None]])
    gap, largest = float((contribution.sum(dim=0) - m).abs().max()), float(logits.abs().max())
    if not gap <= ROUNDING * max(1.0, largest):
        raise NotASum(
            f"the direct writes of {type(model).__name__} miss logit(target) − logit(foil) by {gap:.2g} "
            f"(logits reach {largest:.2g}): its head does more than a norm and an unembedding"
        )
    return names, contribution, m


def _unembedded_difference(model: PreTrainedModel, pairs: Pairs) -> Float[Tensor, "pair d"]:
    weight = model.get_output_embeddings().get_parameter("weight").double()
    return weight[pairs.target] - weight[pairs.foil]


def _direction(
    model: PreTrainedModel, stream: Float[Tensor, "pair d"], pairs: Pairs
) -> Float[Tensor, "pair d"]:
    """γ ⊙ (W_U[t] − W_U[f]) / s, centred for LayerNorm: ⟨w − w̄, u⟩ = ⟨w, u − ū⟩.

    s is read off the norm's own output, so its ε is in it: ‖γ ⊙ (x − x̄)‖ / ‖norm(x) − β‖.
    """
    norm = final_norm(model)
    gain = gain_of(norm).double()
    x = stream.double()
    x = x - x.mean(dim=-1, keepdim=True) if centres(norm) else x
    out = norm(stream).double()
    if (bias := getattr(norm, "bias", None)) is not None:
        out = out - bias
    scale = (gain * x).norm(dim=-1, keepdim=True) / out.norm(dim=-1, keepdim=True)
    direction = gain * _unembedded_difference(model, pairs) / scale
    return direction - direction.mean(dim=-1, keepdim=True) if centres(norm) else direction


def _biases(model: PreTrainedModel, pairs: Pairs) -> dict[str, Float[Tensor, "pair"]]:
    """What the final norm's and the unembedding's biases add to m, where there are any."""
    found = {}
    if (bias := getattr(final_norm(model), "bias", None)) is not None:
        found[NORM_BIAS] = _unembedded_difference(model, pairs) @ bias.double()
    if (bias := getattr(model.get_output_embeddings(), "bias", None)) is not None:
        found[UNEMBED_BIAS] = bias[pairs.target].double() - bias[pairs.foil].double()
    return found
