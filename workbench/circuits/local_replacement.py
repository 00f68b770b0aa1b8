"""A model made linear around one prompt: what is left when the nonlinear parts are held at what they were.

    attention   patterns are constants (queries and keys carry no gradient); values and W_O stay as they are
    norms       y = γ ⊙ x · s (LayerNorm: of x centred, + β), the scale s a constant
    MLPs        what each wrote is a constant of its own, a source; a transcoder's linear path W_skip stays

[Ameisen 2025; Dunefsky 2024 for transcoders a layer]. Everything that is read then is a linear function of the
sources (the stream before block 0 and what every MLP wrote) and of the additive biases, so that a gradient times
its source is an exact share, not an estimate. No number of the run itself changes.

The scale of a norm is read off its input and its output, s = ⟨y − β, γ ⊙ x⟩ / ‖γ ⊙ x‖², and the norm made of it is
held against the output: a family whose norm is another is refused. Patterns are held through an attention function
of that name in `transformers`, which calls the family's own.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from saes.transcoder import Transcoder
from workbench.errors import Failure
from workbench.points import MLP_IN, Site
from workbench.site import centres, decoder_layers, final_norm, gain_of, site_module

HELD = "marble_held_pattern"
TOLERANCE = 1e-4  # of a norm's output


class Frozen(NamedTuple):
    """One prompt's run. `stream` (before block 0) and `written` by layer are the sources; `read` by layer and
    `final` (what the unembedding reads) hang on them linearly, with `biases`."""

    stream: Float[Tensor, "one position d_model"]
    written: list[Float[Tensor, "one position d_out"]]
    read: list[Float[Tensor, "one position d_in"]]
    final: Float[Tensor, "one position d_model"]
    logits: Float[Tensor, "vocab"]
    biases: list[Tensor]

    @property
    def sources(self) -> list[Tensor]:
        return [self.stream, *self.written, *self.biases]


def frozen_run(
    model: PreTrainedModel, ids: Int[Tensor, "position"], transcoders: Sequence[Transcoder]
) -> Frozen:
    """Run the prompt with everything nonlinear held; the graph hangs on the tensors given back."""
    layers, head, kept = decoder_layers(model), model.get_output_embeddings(), _Kept({})
    outside = {id(parameter) for parameter in head.parameters()}
    biases: list[Tensor] = [
        p for name, p in model.named_parameters() if name.endswith("bias") and id(p) not in outside
    ]
    for bias in biases:
        bias.requires_grad_(True)
    with contextlib.ExitStack() as held, torch.enable_grad():
        held.enter_context(held_patterns(model))
        held.enter_context(held_scales(model))
        held.callback(layers[0].register_forward_pre_hook(kept.stream, with_kwargs=True).remove)
        held.callback(head.register_forward_pre_hook(kept.final).remove)
        for layer, transcoder in enumerate(transcoders):
            mlp, hook = site_module(model, Site(layer, MLP_IN)), kept.mlp(layer, transcoder.W_skip)
            held.callback(mlp.register_forward_hook(hook).remove)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, -1]
    at, found = range(len(layers)), kept.found
    written, read = ([found[f"{what} {layer}"] for layer in at] for what in ("written", "read"))
    return Frozen(found["stream"], written, read, found["final"], logits.detach().float(), biases)


class _Kept(NamedTuple):
    """Hooks that put sources into a run and keep what it reads."""

    found: dict[str, Tensor]

    def source(self, name: str, value: Tensor) -> Tensor:
        self.found[name] = value.detach().requires_grad_(True)
        return self.found[name]

    def stream(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (self.source("stream", args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self.source("stream", kwargs["hidden_states"])}

    def final(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.found["final"] = args[0]

    def mlp(self, layer: int, skip: Tensor | None) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            self.found[f"read {layer}"] = x = args[0]
            written = output if isinstance(output, Tensor) else output[0]
            through = 0.0 if skip is None else x @ skip.T
            made = self.source(f"written {layer}", written - through) + through
            return made if isinstance(output, Tensor) else (made, *output[1:])

        return hook


@contextlib.contextmanager
def held_patterns(model: PreTrainedModel, held: Callable[[Tensor], Tensor] = Tensor.detach) -> Iterator[None]:
    """Inside, attention patterns are made of `held` queries and keys: without a gradient, if nothing else."""
    AttentionInterface.register(HELD, functools.partial(_attention, held))
    AttentionMaskInterface.register(HELD, eager_mask)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(HELD)
    except ValueError as error:
        raise Failure(f"the attention patterns of {type(model).__name__} cannot be held: {error}") from error
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def held_scales(model: PreTrainedModel, held: Callable[[Tensor], Tensor] = Tensor.detach) -> Iterator[None]:
    """Inside, the scales of all norms are `held` ones."""
    hook = functools.partial(held_norm, held=held)
    with contextlib.ExitStack() as hooks:
        for norm in _norms(model):
            hooks.callback(norm.register_forward_hook(hook).remove)
        yield


def of_last_row(x: Tensor) -> Tensor:
    """What the last row of the batch has, in all rows: a way to hold them to a run of its own."""
    return x[-1:].detach().expand_as(x)


def _attention(
    held: Callable[[Tensor], Tensor],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    **given: Any,
) -> Any:
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise Failure(f"{type(module).__name__} has no attention of its own that could be held to its pattern")
    return own(module, held(query), held(key), value, mask, **given)


def _norms(model: PreTrainedModel) -> list[nn.Module]:
    """Every norm of the trunk; those of queries and keys too, which only patterns see."""
    found = [m for block in decoder_layers(model) for m in block.modules() if "Norm" in type(m).__name__]
    return [*found, final_norm(model)]


def held_norm(
    module: nn.Module,
    args: tuple[Any, ...],
    output: Tensor,
    held: Callable[[Tensor], Tensor] = Tensor.detach,
) -> Tensor:
    """A forward hook: with its own scale `held` the same output, and linear in the input."""
    x, shift = args[0], getattr(module, "bias", None)
    if centres(module):
        x = x - x.mean(dim=-1, keepdim=True)
    direction = gain_of(module) * x
    with torch.no_grad():
        target = output if shift is None else output - shift
        across = direction.square().sum(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        scale = (target * direction).sum(dim=-1, keepdim=True) / across
        gap = (scale * direction - target).norm() / target.norm().clamp_min(1e-12)
    if not float(gap) <= TOLERANCE:
        raise Failure(
            f"{type(module).__name__} is no scaling of its input (off by {float(gap):.2g} of its output): its "
            "scale cannot be held, so the prompt has no linear model"
        )
    made = held(scale) * direction
    return made if shift is None else made + shift


def gradients(
    frozen: Frozen, of: Float[Tensor, "one position d"], rows: Float[Tensor, "target position d"]
) -> tuple[Float[Tensor, "target position d_model"], list[Tensor], Float[Tensor, "target"]]:
    """∂⟨row, of⟩ / ∂ source for every row: of the stream, of what each MLP wrote, and Σ bias · ∂/∂bias."""
    found = torch.autograd.grad(
        of, frozen.sources, rows[:, None], retain_graph=True, is_grads_batched=True, allow_unused=True
    )

    def of_source(number: int) -> Tensor:
        gradient, source = found[number], frozen.sources[number]
        return rows.new_zeros(len(rows), *source.shape) if gradient is None else gradient

    n = 1 + len(frozen.written)
    constant = rows.new_zeros(len(rows))
    for number, bias in enumerate(frozen.biases, n):
        constant = constant + (of_source(number) * bias.detach()).flatten(1).sum(dim=1)
    return of_source(0)[:, 0], [of_source(number)[:, 0] for number in range(1, n)], constant
