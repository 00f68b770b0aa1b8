"""The residual stream after one layer (`blocks.L.hook_resid_post`) of any Hugging Face decoder: read it, stop
there, or put something else in its place; and what stands above it: final norm and unembedding.

Plain forward hooks on the decoder layer; the model is the same object before and after.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import Misuse

Residual = Float[Tensor, "window position d"]


class _ReachedError(Exception):
    """Carries the residual stream out of a forward pass that need not go on."""

    def __init__(self, residual: Tensor) -> None:
        self.residual = residual


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's list of decoder layers, whatever its family calls it."""
    wanted = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise Misuse(
        f"{type(model).__name__} has no list of {wanted} decoder layers: "
        "only decoder-only language models can be read"
    )


def with_fast_attention(model: PreTrainedModel) -> PreTrainedModel:
    """The model with fused attention where its family has it: the same numbers up to rounding, sooner."""
    with contextlib.suppress(ValueError, ImportError):
        model.set_attn_implementation("sdpa")
    return model


def hook_name(layer: int) -> str:
    """The site's name in TransformerLens."""
    return f"blocks.{layer}.hook_resid_post"


def checked_layer(model: PreTrainedModel, layer: int) -> nn.Module:
    """The decoder layer with this number, from 0."""
    layers = decoder_layers(model)
    if not 0 <= layer < len(layers):
        raise Misuse(f"there is no layer {layer}: the model's layers are 0 to {len(layers) - 1}")
    return layers[layer]


def read_resid_post(model: PreTrainedModel, layer: int, ids: Int[Tensor, "window position"]) -> Residual:
    """The residual stream after `layer`; what lies above it is not computed.

    Windows of unequal length are padded on the right: no real token attends to what comes after it.
    """

    def stop(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        raise _ReachedError(output if isinstance(output, Tensor) else output[0])

    handle = checked_layer(model, layer).register_forward_hook(stop)
    try:
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)
    except _ReachedError as reached:
        return reached.residual
    finally:
        handle.remove()
    raise RuntimeError(f"layer {layer} of {type(model).__name__} was never run")


@contextlib.contextmanager
def replaced_resid_post(
    model: PreTrainedModel, layer: int, replace: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Inside, the residual stream after `layer` is `replace(residual)` for everything above."""

    def swap(
        module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        if isinstance(output, Tensor):
            return replace(output)
        return (replace(output[0]), *output[1:])

    handle = checked_layer(model, layer).register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The norm before the unembedding."""
    for name in ("norm", "final_layer_norm", "ln_f", "final_layernorm"):
        for parent in (model.base_model, getattr(model.base_model, "decoder", None)):
            if (module := getattr(parent, name, None)) is not None:
                return module
    raise Misuse(
        f"{type(model).__name__} has no final norm that Marble knows: it cannot be read through its unembedding"
    )


def direct_logits(
    model: PreTrainedModel, directions: Float[Tensor, "latent d"]
) -> Float[Tensor, "latent vocab"]:
    """What each direction adds to the logits, up to the final norm's scale: (d ⊙ γ) W_U.

    d is centred for LayerNorm; Gemma stores γ - 1.
    """
    norm = final_norm(model)
    gain = norm.get_parameter("weight")
    gain = gain + 1 if "Gemma" in type(norm).__name__ else gain
    if "LayerNorm" in type(norm).__name__:
        directions = directions - directions.mean(dim=-1, keepdim=True)
    with torch.inference_mode():
        return (directions.to(gain) * gain) @ model.get_output_embeddings().get_parameter("weight").T
