"""Behind one token: which latents of an SAE are on there, and which MLP neurons write most.

Latents, of the stream x at the SAE's site, as shares that add up:

    x − b_dec = Σ_j f_j d_j + error        share_j = f_j ⟨d_j, x − b_dec⟩ / ‖x − b_dec‖²

so that the shares of all latents and of the error make 1; one that points against the stream is below zero.

Neurons, of layer l: h_n is what goes into the MLP's last matrix W_out, so the MLP adds Σ_n h_n w_n (and
a bias) to the stream. Their size is |h_n| ‖w_n‖; what a neuron promotes is read off w_n by the model's
own head (`direct_logits`), with the sign of h_n.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from saes.dictionary import Dictionary
from workbench.neurons import mlp_output, output_weight, read_neurons
from workbench.plan import Plan
from workbench.points import RESID_POST
from workbench.recipe import SAE, stage_of
from workbench.site import decoder_layers, direct_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from workbench.lab import Lab

PROMOTED = 6  # tokens named for each neuron


@dataclasses.dataclass(frozen=True)
class Latents:
    """The latents that are on at one token, the largest share first; `error`: the share of what they leave out."""

    ids: Int[np.ndarray, "latent"]
    values: Float[np.ndarray, "latent"]
    shares: Float[np.ndarray, "latent"]
    error: float
    norm: float  # ‖x − b_dec‖


class Neurons(NamedTuple):
    """The neurons of one layer that write most at one token: activation h, size |h| ‖w‖, the ids that they
    promote and those tokens' logits (up to the final norm's scale). `share`: their part of Σ |h| ‖w‖."""

    layer: int
    ids: Int[np.ndarray, "neuron"]
    activations: Float[np.ndarray, "neuron"]
    sizes: Float[np.ndarray, "neuron"]
    promoted: Int[np.ndarray, "neuron top"]
    logits: Float[np.ndarray, "neuron top"]
    share: float


def saes_of(lab: Lab, checkpoint: str) -> list[str]:
    """Names of the SAEs of a checkpoint's stream that have a feature table. A snapshot that has none of its own is
    read through its stage's."""
    plan, stage = Plan.of(lab), stage_of(checkpoint)
    found = []
    for reads in dict.fromkeys((checkpoint, stage)):
        for config in plan.recipe.dictionaries:
            if config.kind != SAE or config.point != RESID_POST or config.checkpoints != (reads,):
                continue
            step = plan.steps.get(f"features/{config.name}")
            if step is not None and lab.artefact("features", config.name, step.id) is not None:
                found.append(config.name)
    return found


def latents_on(dictionary: Dictionary, x: Float[np.ndarray, "d"]) -> Latents:
    """The latents of an SAE (of one checkpoint) that are on for one stream."""
    stream = torch.from_numpy(x)[None, None].to(dictionary.b_dec)
    with torch.inference_mode():
        latents = dictionary.encode(stream)[0]
        centred = stream[0, 0] - dictionary.b_dec[0]
        ids = latents.nonzero()[:, 0]
        along = dictionary.W_dec[ids, 0] @ centred
        length = float(centred @ centred)
        shares = latents[ids] * along / max(length, torch.finfo(centred.dtype).tiny)
    order = shares.argsort(descending=True, stable=True)
    return Latents(
        ids[order].numpy(),
        latents[ids[order]].numpy(),
        shares[order].numpy(),
        1.0 - float(shares.sum()),
        length**0.5,
    )


def neurons_on(model: PreTrainedModel, ids: tuple[int, ...], position: int, top: int = 8) -> list[Neurons]:
    """The `top` neurons of each layer at `position`, from one forward pass."""
    hidden = read_neurons(model, torch.tensor([ids[: position + 1]], device=model.device))
    found = []
    for layer, values in enumerate(hidden):
        h = values[0, -1].float().cpu()
        weight = output_weight(mlp_output(decoder_layers(model)[layer]))
        sizes = h.abs() * weight.norm(dim=0)
        best = sizes.topk(min(top, len(sizes))).indices
        logits = direct_logits(model, weight[:, best].T * h[best].sign()[:, None]).float().cpu()
        raised = logits.topk(min(PROMOTED, logits.shape[1]), dim=1)
        found.append(
            Neurons(
                layer,
                best.numpy(),
                h[best].numpy(),
                sizes[best].numpy(),
                raised.indices.numpy(),
                (raised.values * h[best].abs()[:, None]).numpy(),
                float(sizes[best].sum() / sizes.sum().clamp_min(torch.finfo(sizes.dtype).tiny)),
            )
        )
    return found
