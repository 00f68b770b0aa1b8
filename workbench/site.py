"""What stands at a site of any Hugging Face decoder (`workbench.points` names them): read it, stop there, or
put something else in its place; and what stands above: final norm and unembedding.

Plain forward hooks on the decoder layer and its MLP; the model is the same object before and after.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import Misuse
from workbench.points import MLP_IN, MLP_OUT, RESID_POST, Site

Residual = Float[Tensor, "window position d"]
MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe")  # what families call a layer's MLP


class ReachedError(Exception):
    """Ends a forward pass that need not go on."""


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


@contextlib.contextmanager
def attention_kind(model: PreTrainedModel, kind: str) -> Iterator[None]:
    """Inside, the model attends that way; afterwards as before."""
    before = model.config._attn_implementation
    model.set_attn_implementation(kind)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def hook_name(layer: int) -> str:
    """The name of a layer's residual stream in TransformerLens."""
    return Site(layer).name


def checked_layer(model: PreTrainedModel, layer: int) -> nn.Module:
    """The decoder layer with this number, from 0."""
    layers = decoder_layers(model)
    if not 0 <= layer < len(layers):
        raise Misuse(f"there is no layer {layer}: the model's layers are 0 to {len(layers) - 1}")
    return layers[layer]


def site_module(model: PreTrainedModel, site: Site) -> nn.Module:
    """The module whose input (mlp_in) or output (mlp_out, resid_post) stands at the site."""
    layer = checked_layer(model, site.layer)
    if site.point == RESID_POST:
        return layer
    for name in MLPS:
        if isinstance(mlp := getattr(layer, name, None), nn.Module):
            return mlp
    raise Misuse(
        f"{type(model).__name__} has no {site.name}: its layers have no MLP module of their own; "
        "only blocks.L.hook_resid_post can be read"
    )


def read_sites(
    model: PreTrainedModel, sites: Sequence[Site], ids: Int[Tensor, "window position"]
) -> dict[Site, Residual]:
    """What stands at each site, from one forward pass; nothing is computed above the deepest.

    Windows of unequal length are padded on the right: no real token attends to what comes after it.
    """
    found: dict[Site, Tensor] = {}
    deepest = max(sites, key=lambda site: site.order)

    def keep(site: Site, value: Tensor) -> None:
        found[site] = value
        if site == deepest:
            raise ReachedError

    with contextlib.ExitStack() as hooks:
        for site in dict.fromkeys(sites):
            hooks.enter_context(watched(model, site, keep))
        with torch.inference_mode(), contextlib.suppress(ReachedError):
            model(input_ids=ids, use_cache=False)
    if len(found) < len(set(sites)):
        raise RuntimeError(f"{type(model).__name__} never ran {deepest.name}")
    return found


@contextlib.contextmanager
def watched(model: PreTrainedModel, site: Site, keep: Callable[[Site, Tensor], None]) -> Iterator[None]:
    """Inside, `keep` is given what stands at the site whenever it is computed."""
    module = site_module(model, site)

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        keep(site, inputs[0])

    def after(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        keep(site, _first(output))

    at_input = site.point == MLP_IN
    handle = module.register_forward_pre_hook(before) if at_input else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def read_resid_post(model: PreTrainedModel, layer: int, ids: Int[Tensor, "window position"]) -> Residual:
    """The residual stream after `layer`; what lies above it is not computed."""
    return read_sites(model, [Site(layer)], ids)[Site(layer)]


@contextlib.contextmanager
def replaced(model: PreTrainedModel, site: Site, replace: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Inside, `replace(read, written)` stands at the site for everything above: `written` is what stood there,
    `read` what the site's module was given (for mlp_out, the MLP's input; for mlp_in both are the same)."""
    module = site_module(model, site)

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (replace(inputs[0], inputs[0]), *inputs[1:])

    def after(
        module: nn.Module, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        read = inputs[0] if site.point == MLP_OUT else _first(output)
        changed = replace(read, _first(output))
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    at_input = site.point == MLP_IN
    handle = module.register_forward_pre_hook(before) if at_input else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def entered(
    model: PreTrainedModel, layer: int, stream: Residual, like: Tensor | tuple[Any, ...]
) -> Iterator[None]:
    """Inside, the residual stream after `layer` is `stream`, and the layers up to it are not computed. `like`: what
    a layer of this model gives back (`layer_output`)."""
    layers = decoder_layers(model)[: layer + 1]

    def given(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Any, ...]:
        return stream if isinstance(like, Tensor) else (stream, *like[1:])

    try:
        for module in layers:
            module.forward = given  # type: ignore[method-assign]
        yield
    finally:
        for module in layers:
            module.__dict__.pop("forward", None)


@contextlib.contextmanager
def unembedded(model: PreTrainedModel, chosen: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the unembedding is given `chosen(hidden)` of what it is given: logits where they are wanted."""
    head = model.get_output_embeddings()

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (chosen(inputs[0]), *inputs[1:])

    handle = head.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def last_logits(
    model: PreTrainedModel, ids: Int[Tensor, "window position"], last: Int[Tensor, "window"]
) -> Float[Tensor, "window vocab"]:
    """Logits behind one token of each window; nothing else is unembedded."""
    rows = torch.arange(len(ids), device=ids.device)
    with unembedded(model, lambda hidden: hidden[rows, last][:, None]):
        return model(input_ids=ids, use_cache=False).logits[:, 0]


def layer_output(model: PreTrainedModel) -> Tensor | tuple[Any, ...]:
    """What a decoder layer gives back for one token: families differ in what goes with the stream."""
    found: list[Any] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        found.append(output)
        raise ReachedError

    handle = decoder_layers(model)[0].register_forward_hook(keep)
    try:
        with torch.inference_mode(), contextlib.suppress(ReachedError):
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        handle.remove()
    return found[0]


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


@contextlib.contextmanager
def replaced_resid_post(
    model: PreTrainedModel, layer: int, replace: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Inside, the residual stream after `layer` is `replace(residual)` for everything above."""
    with replaced(model, Site(layer), lambda read, written: replace(written)):
        yield


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The norm before the unembedding."""
    for name in ("norm", "final_layer_norm", "ln_f", "final_layernorm"):
        for parent in (model.base_model, getattr(model.base_model, "decoder", None)):
            if (module := getattr(parent, name, None)) is not None:
                return module
    raise Misuse(
        f"{type(model).__name__} has no final norm that Marble knows: it cannot be read through its unembedding"
    )


def gain_of(norm: nn.Module) -> Float[Tensor, "d"]:
    """γ of a norm, measured: some families store γ - 1 (Gemma 1 to 3, Nemotron, Qwen3-Next), some nothing (OLMo).

    Of s = ±1 in turn the mean is 0 and the scale 1, so norm(c s) = γ ⊙ s + β up to ε / c².
    """
    weight = getattr(norm, "weight", None)
    like: Any = torch.ones(norm.normalized_shape) if weight is None else weight  # type: ignore[call-overload]
    s = torch.ones_like(like)
    s[1::2] = -1
    with torch.no_grad():  # forward itself: hooks on a norm ask for its gain
        return (norm.forward(1e3 * s[None]) - norm.forward(torch.zeros_like(s)[None]))[0] * s


def centres(norm: nn.Module) -> bool:
    """A LayerNorm, which takes the mean away, and no RMSNorm."""
    return "LayerNorm" in type(norm).__name__


def direct_logits(
    model: PreTrainedModel, directions: Float[Tensor, "latent d"]
) -> Float[Tensor, "latent vocab"]:
    """What each direction adds to the logits, up to the final norm's scale: (d ⊙ γ) W_U.

    d is centred for LayerNorm.
    """
    norm = final_norm(model)
    W_U = model.get_output_embeddings().get_parameter("weight")
    if centres(norm):
        directions = directions - directions.mean(dim=-1, keepdim=True)
    with torch.inference_mode():
        return (directions.to(W_U) * gain_of(norm).to(W_U)) @ W_U.T
