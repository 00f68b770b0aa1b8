"""What writes a latent: the residual stream as a sum over embedding, heads and MLPs, seen by its encoder.

    resid_post_L = w_embed + Σ_{l ≤ L} (Σ_h w_{l,h} + w_{l,mlp})        (and W_O's bias, where it has one)
    c_j(x) = ⟨w_c(x), e_j⟩             what component c adds to latent j's preactivation on token x
    Δ_c,j = E_top[c_j] − E[c_j]        top: the latent's strongest tokens; E: a random sample of tokens

Σ_c Δ_c,j = E_top[pre_j] − E[pre_j] exactly: what a component adds everywhere (a bias, a mean) is no reason to
fire and drops out. Of a latent with two signs (`abstopk`) it is ±c_j, what drives it away from zero. The share
is Δ_c,j over that sum; it may be negative (a head that argues against). Direct writes only: what an MLP makes of
a head's output counts as the MLP's.

The sum is checked against the stream itself on every batch. A family whose blocks do not add up so (norms after
the attention, scaled residuals) has no decomposition here, and its latents no writer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.site import checked_layer, decoder_layers, read_resid_post
from workbench.tokens import TokenSet

N_PEAKS = 3  # of a latent's strongest texts, at least, where the budget allows
MAX_TOKENS = 25_000  # read at most, of the windows that hold the strongest texts
MIN_TOKENS = 12_000  # of these for each of several checkpoints
SAMPLE_TOKENS = 3_000  # for the mean
TOKENS_PER_BATCH = 8_192
TOLERANCE = 1e-3  # largest ‖Σ_c w_c − resid_post‖ / ‖resid_post‖ that is rounding
ATTENTION_OUT = ("o_proj", "dense", "c_proj", "out_proj")


class NotASum(Exception):
    """The stream of this family is not the plain sum of what its parts write."""


class Writers(NamedTuple):
    """Δ_c,j by component, over `n_peaks` tokens of each latent (0: nothing is known of it)."""

    components: list[str]
    delta: Float[np.ndarray, "component latent"]
    n_peaks: Int[np.ndarray, " latent"]


class Peaks(NamedTuple):
    """Pairs of a latent and a row of the token set on which it fires strongly, and the sign with which it does."""

    latent: Int[np.ndarray, "peak"]
    row: Int[np.ndarray, "peak"]
    sign: Float[np.ndarray, "peak"]


def attention_out(layer: nn.Module) -> nn.Module:
    """The projection by which a block's attention writes into the stream."""
    for name in ("self_attn", "attention", "attn"):
        if (attention := getattr(layer, name, None)) is not None:
            for out in ATTENTION_OUT:
                if (module := getattr(attention, out, None)) is not None:
                    return module
    raise NotASum("its blocks have no attention that Marble knows")


def by_head(module: nn.Module, z: Float[Tensor, "row width"], n_heads: int) -> Float[Tensor, "row head d"]:
    """What each head writes: its slice of `z` through its slice of W_O."""
    weight: Tensor = module.get_parameter("weight")
    weight = weight if "Conv1D" in type(module).__name__ else weight.T  # [width, d]
    split = weight.view(n_heads, -1, weight.shape[1])
    return torch.einsum("rhw,hwd->rhd", z.view(len(z), n_heads, -1), split)


@contextlib.contextmanager
def _recorded(model: PreTrainedModel, layer: int) -> Iterator[dict[str, Tensor]]:
    """Inside, a forward pass leaves the stream before block 0, every W_O's input and every MLP's output."""
    kept: dict[str, Tensor] = {}
    handles = []

    def first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept["embedding"] = args[0] if args else kwargs["hidden_states"]

    def into(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            kept[name] = args[0]

        return hook

    def out_of(name: str) -> Any:
        def hook(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            kept[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    blocks = decoder_layers(model)
    checked_layer(model, layer)
    handles.append(blocks[0].register_forward_pre_hook(first, with_kwargs=True))
    for number in range(layer + 1):
        if (mlp := getattr(blocks[number], "mlp", None)) is None:
            raise NotASum("its blocks have no MLP that Marble knows")
        handles.append(attention_out(blocks[number]).register_forward_pre_hook(into(f"z{number}")))
        handles.append(mlp.register_forward_hook(out_of(f"mlp {number}")))
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def decompose(
    model: PreTrainedModel, layer: int, ids: Int[Tensor, "window position"], keep: Tensor
) -> tuple[list[str], Float[Tensor, "component row d"]]:
    """What each component writes on the places `keep` [window position]; `NotASum` if it does not add up."""
    with _recorded(model, layer) as kept:
        stream = read_resid_post(model, layer, ids)[keep]
    blocks = decoder_layers(model)
    n_heads = model.config.get_text_config().num_attention_heads
    names, parts = ["embedding"], [kept["embedding"][keep][None]]
    for number in range(layer + 1):
        out = attention_out(blocks[number])
        heads = by_head(out, kept[f"z{number}"][keep], n_heads)
        names += [f"head {number}.{h}" for h in range(n_heads)]
        parts.append(heads.transpose(0, 1))
        if getattr(out, "bias", None) is not None:
            names.append(f"attention bias {number}")
            parts.append(out.get_parameter("bias").expand_as(stream)[None])
        names.append(f"mlp {number}")
        parts.append(kept[f"mlp {number}"][keep][None])
    written = torch.cat(parts)
    gap = (written.sum(dim=0) - stream).norm() / stream.norm().clamp_min(1e-12)
    if not float(gap) <= TOLERANCE:
        raise NotASum(f"what its parts write misses the stream by {float(gap):.2g} of its length")
    return names, written


def writers(
    model: PreTrainedModel,
    layer: int,
    token_set: TokenSet,
    encoder: Float[Tensor, "d latent"],
    peaks: Peaks,
    max_tokens: int = MAX_TOKENS,
) -> Writers:
    """Δ of every component for every latent, over the peaks in the windows that the budget allows."""
    n_latents = encoder.shape[1]
    encoder = encoder.to(model.device, torch.float32)
    windows = chosen_windows(token_set, peaks, n_latents, max_tokens)
    sample = token_set.sample_windows(SAMPLE_TOKENS, seed=0)
    mean, n, names = torch.zeros(()), 0, list[str]()
    for part, written, _ in _written(model, layer, token_set, sample):
        mean, n, names = mean + written.sum(dim=1, dtype=torch.float64), n + written.shape[1], part
    sums = torch.zeros(len(names), n_latents, dtype=torch.float64)
    counts, signs = np.zeros(n_latents, np.int64), np.zeros(n_latents)
    order = np.argsort(peaks.row, kind="stable")
    latent_of, row_of, sign_of = (part[order] for part in peaks)
    for _, written, rows in _written(model, layer, token_set, windows, np.unique(row_of)):
        first, last = np.searchsorted(row_of, rows), np.searchsorted(row_of, rows, side="right")
        of_row = np.repeat(np.arange(len(rows)), last - first)
        at = np.repeat(first - np.cumsum(last - first) + (last - first), last - first) + np.arange(len(of_row))
        latent = torch.from_numpy(latent_of[at])
        added = torch.einsum("cpd,dp->cp", written[:, of_row], encoder[:, latent]).double().cpu()
        sums.index_add_(1, latent, added * torch.from_numpy(sign_of[at]))
        counts += np.bincount(latent_of[at], minlength=n_latents)
        signs += np.bincount(latent_of[at], sign_of[at], minlength=n_latents)
    usual = (mean / max(n, 1)).cpu() @ encoder.double().cpu()
    n_peaks = np.maximum(counts, 1)
    delta = sums / torch.from_numpy(n_peaks) - usual * torch.from_numpy(signs / n_peaks)
    return Writers(names, np.where(counts > 0, delta.numpy(), np.nan), counts)


def _written(
    model: PreTrainedModel, layer: int, token_set: TokenSet, windows: np.ndarray, rows: np.ndarray | None = None
) -> Iterator[tuple[list[str], Tensor, np.ndarray]]:
    """Names, writes [component row d] and row numbers, batch by batch, of all tokens or only of `rows`."""
    for batch in token_set.batches(TOKENS_PER_BATCH, windows):
        wanted = batch.real if rows is None else np.isin(batch.rows, rows) & batch.real
        if not wanted.any():
            continue
        keep = np.concatenate([np.zeros((len(wanted), 1), bool), wanted], axis=1)
        ids = torch.from_numpy(batch.ids).to(model.device)
        names, written = decompose(model, layer, ids, torch.from_numpy(keep).to(model.device))
        yield names, written.float(), batch.rows[wanted]


def chosen_windows(
    token_set: TokenSet, peaks: Peaks, n_latents: int, max_tokens: int
) -> Int[np.ndarray, "window"]:
    """Windows that hold `N_PEAKS` peaks of as many latents as can be in `max_tokens`."""
    found, window = np.unique(
        np.searchsorted(token_set.starts, peaks.row, side="right") - 1, return_inverse=True
    )
    lengths = (token_set.stops - token_set.starts)[found]
    missing, taken, used = np.full(n_latents, N_PEAKS), np.zeros(len(found), bool), 0
    while True:
        # greedy cover: the window that serves most latents per token, until none is served
        served = np.bincount(window, (missing > 0)[peaks.latent], minlength=len(found)) / lengths
        served[taken | (lengths > max_tokens - used)] = 0
        best = int(served.argmax()) if len(served) else 0
        if not len(served) or served[best] == 0:
            return found[taken]
        taken[best] = True
        used += int(lengths[best])
        np.subtract.at(missing, peaks.latent[window == best], 1)
