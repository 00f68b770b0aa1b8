"""Do bf16 or int8 weights change what a checkpoint's latents say, and is that more than a training stage changes?

Each checkpoint reads held-out windows as it is (float32) and cut, and its own SAE encodes both. Per token, with A
and B the latents that are on:

    churn = 1 − |A ∩ B| / |A ∪ B|        mean over the tokens of a document; 0 where nothing changed

Beside it the correlation of activations, the share of latents that are switched on or off anywhere, nats a token
and KL(float32 ‖ cut). Cuts, in float32 carriers that give the rounded numbers on any processor: *bf16*, weights
and what every module gives back; *int8*, of every linear map (a Conv1D is one) the weight by output channel and its
input by token, symmetric, scales by the greatest (what dynamic quantisation does; the function of torch that does
it, `torch.ao.quantization.quantize_dynamic`, is deprecated in 2.13 and its successor is not in the requirements).
Held against the same model twice, against Gaussian noise of the norm of int8's errors (weights and inputs), and
against what a stage changes: the next checkpoint through this one's SAE. [LLM.int8(): Dettmers 2022.]
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Null, beyond
from probes.kit.nulls import mean_figure, mean_of
from probes.kit.plots import bars
from probes.kit.pushes import kl
from probes.kit.readings import held_out, one_a_document, opened
from probes.kit.settings import at_least
from probes.kit.subjects import one_family, sae_of
from saes.dictionary import Dictionary
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.lens import recorded_stream

READS = ("activations", "dictionary")
BF16, INT8, NOISE, TWICE, STAGE = "bf16", "int8", "noise as large as int8's", "the same twice", "the next stage"
LONGEST = 48  # tokens of a window


class Reading(NamedTuple):
    """What one model makes of the windows, at their real tokens."""

    latents: Float[Tensor, "token latent"]
    log_p: Float[Tensor, "token vocab"]


class Changed(NamedTuple):
    """What a cut changed, by document; correlation and switched latents over all tokens."""

    churn: Float[np.ndarray, " document"]
    loss: Float[np.ndarray, " document"]
    apart: Float[np.ndarray, " document"]
    correlation: float
    switched: float


def ask(lab: Lab, checkpoints: Sequence[Checkpoint], n: int = 32, seed: int = 0) -> Finding:
    at_least(4, n=n)
    at_least(0, seed=seed)
    one_family(lab, checkpoints)
    saes = {each.address: sae_of(lab, each) for each in checkpoints}
    tokens = held_out(checkpoints[0])
    chosen = one_a_document(tokens, n, seed)
    batch = next(tokens.batches(10**9, chosen))
    ids, real = torch.from_numpy(batch.ids[:, : LONGEST + 1]), torch.from_numpy(batch.real[:, :LONGEST])
    following = dict(pairwise(checkpoints))
    figures, rows = list[Figure](), list[dict[str, Any]]()
    for checkpoint in checkpoints:
        _, dictionary, layer = saes[checkpoint.address]
        model = opened(checkpoint).model

        def reading(model: Any, d: Dictionary = dictionary, at: int = layer) -> Reading:
            return read(model, d, at, ids, real)

        plain, found = reading(model), dict[str, Changed]()
        for name, cut in ((BF16, bf16), (INT8, int8), (NOISE, noise(seed)), (TWICE, None)):
            with cut_down(model, cut):
                found[name] = changed(plain, reading(model), ids, real)
        if (later := following.get(checkpoint)) is not None:
            found[STAGE] = changed(plain, reading(opened(later).model), ids, real)
        figures += _figures(checkpoint.address, found)
        rows += [_row(checkpoint.address, name, each) for name, each in found.items()]
    alt = "Churn of active latents by cut for each checkpoint, with intervals over documents"
    return Finding(
        _claim(figures, rows),
        figures,
        "the same model read twice; for differences the sign of each document's drawn at random",
        "A larger model with outlier features, which lose most by int8, or four-bit weights; an SAE with another "
        "threshold, since churn is of latents near it.",
        [bars("Active latents changed", "1 − Jaccard of active sets", rows, alt, 0.0)],
        rows,
    )


Cut = tuple[
    Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], bool
]  # of weights, of inputs, of all outputs


def to_bf16(x: Float[Tensor, "*where d"]) -> Float[Tensor, "*where d"]:
    """The nearest bfloat16, in the type that it came in."""
    return x.bfloat16().to(x)


def to_int8(x: Float[Tensor, "*where d"]) -> Float[Tensor, "*where d"]:
    """Symmetric int8 by row: s round(x / s), s = max |x| / 127.

    >>> to_int8(torch.tensor([[127.0, 0.4, -63.6]]))
    tensor([[127.,   0., -64.]])
    """
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
    return (x / scale).round() * scale


bf16: Cut = (to_bf16, to_bf16, True)
int8: Cut = (to_int8, to_int8, False)


def noise(seed: int) -> Cut:
    """Gaussian noise of the norm of int8's error: of a weight over the whole matrix, of an input by token."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(x: Tensor, dim: Any) -> Tensor:
        made = torch.randn(x.shape, generator=generator).to(x)
        size = (to_int8(x) - x).norm(dim=dim, keepdim=True)
        return x + made / made.norm(dim=dim, keepdim=True) * size

    return (lambda w: drawn(w, (0, 1)), lambda x: drawn(x, -1), False)


@contextlib.contextmanager
def cut_down(model: nn.Module, cut: Cut | None) -> Iterator[None]:
    """Inside, linear maps run with rounded weights and inputs and, where asked for, every module's output is
    rounded; weights themselves are left as they are (an unembedding may share its own with the embedding)."""
    if cut is None:
        yield
        return
    weight, given, everywhere = cut
    handles, maps = [], [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D)]
    for module in maps:
        kept = module.weight.detach()
        by_output = kept.T if isinstance(module, Conv1D) else kept
        module.forward = _rounded(weight(by_output), module.bias, given)  # type: ignore[method-assign, assignment]
    if everywhere:
        handles = [m.register_forward_hook(_rounding(given)) for m in model.modules() if not list(m.children())]
        handles += [m.register_forward_hook(_rounding(given)) for m in _blocks(model)]
    try:
        yield
    finally:
        for module in maps:
            module.__dict__.pop("forward", None)
        for handle in handles:
            handle.remove()


def _rounded(
    weight: Tensor, bias: Tensor | None, given: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    return lambda x: F.linear(given(x), weight, bias)


def _rounding(cut: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(cut(o) if isinstance(o, Tensor) and o.is_floating_point() else o for o in output)
        return cut(output) if isinstance(output, Tensor) and output.is_floating_point() else output

    return hook


def _blocks(model: Any) -> list[nn.Module]:
    from workbench.site import decoder_layers

    return list(decoder_layers(model))


@torch.inference_mode()
def read(
    model: Any, dictionary: Dictionary, layer: int, ids: Int[Tensor, "row position"], real: Tensor
) -> Reading:
    """Latents of the SAE and log p of the next token, at the real tokens."""
    with recorded_stream(model) as resid:
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits
    kept = real.to(model.device)
    x = resid[layer + 1][:, 1:][kept].float()
    return Reading(dictionary.encode(x[:, None]), logits[:, :-1][kept].float().log_softmax(-1))


def churn(a: Tensor, b: Tensor) -> Float[np.ndarray, " token"]:
    """1 − Jaccard of the latents that are on, by token; 0 where none is on in either."""
    on, other = a > 0, b > 0
    both, either = (on & other).sum(dim=1).double(), (on | other).sum(dim=1).double()
    return torch.where(either > 0, 1 - both / either.clamp_min(1), 0.0).cpu().numpy()


def changed(plain: Reading, cut: Reading, ids: Tensor, real: Tensor) -> Changed:
    """Every measure of a cut beside the model as it is."""
    row, place = torch.nonzero(real, as_tuple=True)
    n = np.bincount(row.numpy())
    targets = ids[row, place + 1].to(plain.log_p.device)[:, None]
    loss = (plain.log_p.gather(1, targets) - cut.log_p.gather(1, targets))[:, 0]
    apart = kl(plain.log_p, cut.log_p)
    of = row.numpy()

    def by_document(values: Any) -> np.ndarray:
        return np.bincount(of, np.asarray(values, float)) / n

    on = (plain.latents > 0) | (cut.latents > 0)
    pairs = torch.stack([plain.latents[on], cut.latents[on]]).double()
    correlation = float(torch.corrcoef(pairs)[0, 1]) if pairs.shape[1] > 2 else 1.0
    alive = on.any(dim=0)
    switched = ((plain.latents > 0) != (cut.latents > 0)).any(dim=0)
    share = float((switched & alive).sum() / alive.sum().clamp_min(1))
    measures = (churn(plain.latents, cut.latents), loss.double().cpu(), apart.double().cpu())
    moved, lost, parted = (by_document(each) for each in measures)
    return Changed(moved, lost, parted, correlation, share)


def _figures(name: str, found: dict[str, Changed]) -> list[Figure]:
    """Churn of each cut, beside the same twice; int8 less noise and less the stage, which claims rest on."""
    at: dict[str, Any] = {"checkpoint": name}
    twice = float(found[TWICE].churn.mean())
    made = []
    for cut, each in found.items():
        if cut != TWICE:
            value, low, high, _ = mean_of(each.churn, cut)
            null = Null(twice, twice, twice, len(each.churn), TWICE)
            made.append(Figure("churn", value, low, high, len(each.churn), "documents", null, **at, where=cut))
    pairs = [(INT8, NOISE), *([(BF16, STAGE), (INT8, STAGE)] if STAGE in found else [])]
    made += [
        mean_figure("churn, difference", found[a].churn - found[b].churn, "documents", "signs at random",
                    where=f"{a} less {b}", **at)
        for a, b in pairs
    ]  # fmt: skip
    return made


def _row(name: str, cut: str, each: Changed) -> dict[str, Any]:
    value, low, high, _ = mean_of(each.churn, cut)
    return {
        "row": cut, "series": name, "x": value, "low": low, "high": high, "correlation": each.correlation,
        "latents switched anywhere": each.switched, "loss more, nats a token": float(each.loss.mean()),
        "KL, nats a token": float(each.apart.mean()), "n": len(each.churn),
    }  # fmt: skip


def _claim(figures: Sequence[Figure], rows: Sequence[dict[str, Any]]) -> str:
    passed = {(f.checkpoint, f.where): f.value for f in beyond(figures)}
    by = {(row["series"], row["row"]): row["x"] for row in rows}
    parts = list[str]()
    for name in dict.fromkeys(row["series"] for row in rows):
        told = f"of {name}'s active latents bf16 changes {by[name, BF16]:.1%} and int8 {by[name, INT8]:.1%}"
        worse = passed.get((name, f"{INT8} less {NOISE}"))
        told += (
            f", int8 not shown to change more or fewer than noise of its size ({by[name, NOISE]:.1%})"
            if worse is None
            else f", int8 {'more' if worse > 0 else 'fewer'} than noise of its size ({by[name, NOISE]:.1%})"
        )  # fmt: skip
        if (name, STAGE) in by:
            gaps = {cut: passed.get((name, f"{cut} less {STAGE}")) for cut in (BF16, INT8)}
            words = [f"{cut} {'not told from' if g is None else 'more than' if g > 0 else 'fewer than'} it"
                     for cut, g in gaps.items()]  # fmt: skip
            told += f"; the next stage changes {by[name, STAGE]:.1%} ({', '.join(words)})"
        parts.append(told[0].upper() + told[1:])
    return f"{'. '.join(parts)}."


if __name__ == "__main__":
    main(__file__)
