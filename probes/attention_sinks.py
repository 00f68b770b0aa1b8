"""Do heads park their attention on the first token, and what did each stage change in that?

Windows of held-out documents, BOS first. Of every head, over queries from place `FROM` on:

    share at BOS = mean A[q, 0]        beside the share of even attention, mean 1 / (q + 1)

A head is a sink head where that share is at least 0.3 [Gu 2024]. Beside it: the same with BOS replaced by an
ordinary token (is it the token or the place?); the norm of BOS's value and of its residual stream over the median
of the other tokens (small values and massive activations go with sinks [Xiao 2023; Sun 2024]); and what is lost,
in nats a token from `FROM` on, when BOS's value is set to zero in every head, less what is lost when an earlier
token drawn at random loses its own. Along the snapshots of the first checkpoint, if it has any, the share is told
too: when a sink forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, beyond
from probes.kit.nulls import described, mean_figure, mean_of
from probes.kit.plots import bars, heat, lines
from probes.kit.readings import held_out
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.subjects import one_family
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.lens import given_patterns, recorded_stream, trunk

READS = ("activations",)
FROM, LONGEST = 16, 48  # the first query that counts, and the tokens of a window
SINK = 0.3
VALUES = ("v_proj", "value")  # what families call a head's way from stream to values
SNAPSHOTS = 4
LOST = "lost without BOS's value, more than without another's"


class Read(NamedTuple):
    """What one checkpoint does with its first token."""

    share: Float[np.ndarray, "layer head document"]
    replaced: Float[np.ndarray, "layer head document"]  # with an ordinary token in its place
    stream: Float[np.ndarray, " layer"]  # norm of BOS's stream over the median of others
    value: Float[np.ndarray, " layer"]  # the same of values; NaN where the family's cannot be read
    lost: Float[np.ndarray, "2 document"]  # nats a token without BOS's value, without another's


def ask(lab: Lab, checkpoints: Sequence[Checkpoint], n: int = 40, seed: int = 0) -> Finding:
    at_least(10, n=n)
    at_least(0, seed=seed)
    one_family(lab, checkpoints)
    ids = beginnings(checkpoints[0], n, seed)
    even = float(np.mean(1 / (np.arange(FROM, ids.shape[1]) + 1)))
    reads = {each.address: read(each, ids, seed) for each in checkpoints}
    figures, previous = list[Figure](), ""
    for name, found in reads.items():
        figures += _figures(name, found, even)
        if previous:
            more = found.share.mean(axis=(0, 1)) - reads[previous].share.mean(axis=(0, 1))
            at = {"checkpoint": name, "where": f"from {previous}"}
            figures.append(mean_figure("share at BOS, change", more, "documents", "signs at random", **at))
        previous = name
    cells = [
        {"row": f"{name}, block {layer}", "column": f"head {head}", "value": float(value)}
        for name, found in reads.items()
        for (layer, head), value in np.ndenumerate(found.share.mean(axis=2))
    ]
    rows = [_row(name, found) for name, found in reads.items()]
    plots = [
        heat("Attention at BOS", cells, "Each head's attention at BOS by checkpoint, block and head", "share"),
        bars("What is lost without a value", "nats a token", _losses(reads),
             "Loss added when BOS's value or another token's is set to zero, with intervals over documents", 0.0),
    ]  # fmt: skip
    if grown := _snapshots(checkpoints[0], ids):
        alt = (
            f"Mean share at BOS along the snapshots of {checkpoints[0].name}, the first "
            "checkpoint asked about, alone, with intervals over documents; even attention is dashed"
        )
        plots.append(
            lines(
                f"When a sink forms, in {checkpoints[0].name}",
                f"step of {checkpoints[0].name}",
                "share at BOS",
                grown,
                alt,
                even,
            )
        )
    return Finding(
        _claim(figures, reads, even),
        figures,
        f"even attention over the keys a query may read ({even:.3f} at the first); for losses an earlier token "
        "drawn at random; for changes the sign of each document's drawn at random",
        "Longer windows and longer training: sinks are known from models that are larger and read thousands of "
        "tokens.",
        plots,
        rows,
    )


def beginnings(checkpoint: Checkpoint, n: int, seed: int) -> Int[Tensor, "document position"]:
    """BOS and the first `LONGEST` tokens of a window of each of `n` documents long enough."""
    tokens = held_out(checkpoint)
    lengths = tokens.stops - tokens.starts
    for longest in (LONGEST, 2 * FROM):
        long = np.flatnonzero(lengths >= longest)
        _, first = np.unique(np.asarray(tokens.document)[tokens.starts[long]], return_index=True)
        if len(first) >= 10:
            chosen = long[np.sort(np.random.default_rng(seed).permutation(first)[:n])]
            rows = tokens.starts[chosen, None] + np.arange(longest)
            bos = np.full((len(rows), 1), tokens.settings["bos"])
            return torch.from_numpy(np.concatenate([bos, tokens.tokens[rows]], axis=1).astype(np.int64))
    raise LackingError(
        f"fewer than ten held-out documents have {2 * FROM} tokens: raise activations.heldout_tokens in "
        f"recipe.toml and run `python -m workbench grow {checkpoint.lab.name}`"
    )


def read(checkpoint: Checkpoint, ids: Int[Tensor, "document position"], seed: int) -> Read:
    """One pass with patterns, one with another first token, two with values taken away."""
    from workbench.device import best_device

    model = checkpoint.model(best_device())  # eager: fused attention gives no patterns
    ids, rng = ids.to(model.device), np.random.default_rng(seed)
    values = dict[int, Tensor]()
    projections = _values(model)
    handles = [
        p.register_forward_hook(lambda m, i, out, at=at: values.update({at: out})) for at, p in projections
    ]
    with recorded_stream(model) as resid:
        share, plain = _shares(model, ids)
    for handle in handles:
        handle.remove()
    other = ids.clone()
    other[:, 0] = ids[torch.arange(len(ids)), torch.from_numpy(rng.integers(1, FROM, len(ids))).to(ids)]
    lost = np.full((2, len(ids)), np.nan)
    if projections:
        drawn = torch.from_numpy(rng.integers(1, FROM - 1, len(ids))).to(ids)
        places = (torch.zeros_like(drawn), drawn)
        lost = np.stack([_without(model, projections, ids, place) - plain for place in places])
    sizes = np.array([_ratio(values[layer]) if layer in values else np.nan for layer in range(len(resid) - 1)])
    return Read(share, _shares(model, other)[0], np.array([_ratio(x) for x in resid[1:]]), sizes, lost)


@torch.inference_mode()
def _shares(model: Any, ids: Tensor) -> tuple[Float[np.ndarray, "layer head document"], np.ndarray]:
    """Mean attention at the first token of queries from `FROM` on, and nats a token there, by document."""
    shares, nats = list[Tensor](), list[np.ndarray]()
    for part in ids.split(16):
        out = model(input_ids=part, output_attentions=True, use_cache=False)
        patterns = given_patterns(model, out)
        shares.append(torch.stack([p[:, :, FROM:, 0].float().mean(dim=2).T for p in patterns]))
        nats.append(_nats(out.logits, part))
    return torch.cat(shares, dim=2).double().cpu().numpy(), np.concatenate(nats)


def _nats(logits: Tensor, ids: Tensor) -> Float[np.ndarray, " document"]:
    log_p = logits[:, FROM:-1].float().log_softmax(-1)
    return -log_p.gather(2, ids[:, FROM + 1 :, None])[..., 0].mean(dim=1).double().cpu().numpy()


def _values(model: Any) -> list[tuple[int, Any]]:
    """Each block's projection to values, where it has one of its own."""
    found = []
    for layer, block in enumerate(trunk(model).blocks):
        found += [(layer, m) for name, m in block.named_modules() if name.rpartition(".")[2] in VALUES]
    return found


@torch.inference_mode()
def _without(model: Any, projections: Sequence[tuple[int, Any]], ids: Tensor, place: Tensor) -> np.ndarray:
    """Nats a token where the value at one place of each document is zero in every head of every block."""
    rows = torch.arange(len(ids), device=ids.device)

    def silence(module: Any, inputs: object, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[rows, place] = 0
        return changed

    handles = [module.register_forward_hook(silence) for _, module in projections]
    try:
        return _nats(model(input_ids=ids, use_cache=False).logits, ids)
    finally:
        for handle in handles:
            handle.remove()


def _ratio(x: Float[Tensor, "document position d"]) -> float:
    """Norm at the first place over the median of the others."""
    norm = x.float().norm(dim=-1)
    return float(norm[:, 0].mean() / norm[:, 1:].median())


def _figures(name: str, found: Read, even: float) -> list[Figure]:
    at: dict[str, Any] = {"checkpoint": name}
    share, other = found.share.mean(axis=(0, 1)), found.replaced.mean(axis=(0, 1))
    made = [
        mean_figure("share at BOS", share, "documents", "even attention", about=even, **at),
        described(mean_figure("share at the first token, BOS replaced", other, "documents", "even attention",
                               about=even, **at)),
    ]  # fmt: skip
    if np.isfinite(found.lost).all():
        more = found.lost[0] - found.lost[1]
        made.append(mean_figure(LOST, more, "documents", "signs at random", **at))
    return made


def _row(name: str, found: Read) -> dict[str, Any]:
    share = found.share.mean(axis=2)
    best = np.unravel_index(int(share.argmax()), share.shape)
    row: dict[str, Any] = {"checkpoint": name, "sink heads": int((share >= SINK).sum()), "heads": share.size}
    row |= {"most": float(share.max()), "its block": int(best[0]), "its head": int(best[1])}
    for layer, (stream, value) in enumerate(zip(found.stream, found.value, strict=True)):
        row[f"stream norm ratio, block {layer}"] = float(stream)
        if np.isfinite(value):
            row[f"value norm ratio, block {layer}"] = float(value)
    return row


def _losses(reads: dict[str, Read]) -> list[dict[str, Any]]:
    rows = []
    for name, found in reads.items():
        for label, values in zip(("BOS", "another token"), found.lost, strict=True):
            if np.isfinite(values).all():
                value, low, high, _ = mean_of(values, label)
                rows.append(
                    {"row": label, "series": name, "x": value, "low": low, "high": high, "n": len(values)}
                )
    return rows


def _snapshots(checkpoint: Checkpoint, ids: Tensor) -> list[dict[str, Any]]:
    """The share along the first checkpoint's own snapshots, if there are any."""
    from workbench.device import best_device

    steps = checkpoint.snapshots() if checkpoint.step is None else []
    if len(steps) < 2:
        return []
    rows = []
    for step in sorted({steps[i] for i in np.linspace(0, len(steps) - 1, SNAPSHOTS).astype(int)}):
        model = checkpoint.at(step).model(best_device())
        values = _shares(model, ids[:16].to(model.device))[0].mean(axis=(0, 1))
        value, low, high, _ = mean_of(values, "share at BOS")
        rows.append(
            {"series": checkpoint.name, "x": step, "y": value, "low": low, "high": high, "n": len(values)}
        )
    return rows


def _claim(figures: Sequence[Figure], reads: dict[str, Read], even: float) -> str:
    found = beyond(figures)
    heads = ", ".join(
        f"{name} {int((r.share.mean(axis=2) >= SINK).sum())} of {r.share.shape[0] * r.share.shape[1]}"
        for name, r in reads.items()
    )
    told = ", ".join(f"{f.checkpoint} {f.value:.3f}" for f in figures if f.name == "share at BOS")
    sides = {
        word: [f.checkpoint for f in found if f.name == "share at BOS" and (f.value > even) == (word == "More")]
        for word in ("More", "Less")
    }
    heads_ = [f"{word} attention than even lies on BOS in {', '.join(of)}" for word, of in sides.items() if of]
    head = "; ".join(heads_) or "No more and no less attention than even is shown to lie on BOS"
    moved = [f"{f.checkpoint} {f.value:+.2g} {f.where}" for f in found if f.name.endswith("change")]
    changed = (
        f"changed by stage: {', '.join(moved)}"
        if moved
        else "no stage is shown to have changed that"
        if len(reads) > 1
        else ""
    )
    lost = {
        word: [f"{f.checkpoint} {f.value:+.3f}" for f in found if f.name == LOST and (f.value > 0) == up]
        for word, up in (("more", True), ("less", False))
    }
    told_lost = [
        f"rises {word} than without another token's: {', '.join(of)}" for word, of in lost.items() if of
    ]
    costs = (
        f"without BOS's value the loss, in nats a token, {' and '.join(told_lost)}"
        if told_lost
        else "BOS's value is not shown to be worth more or less than another token's"
        if any(f.name == LOST for f in figures)
        else "values of this family cannot be taken away one token at a time"
    )
    parts = (f"{head} (share {told}; even {even:.3f}; sink heads {heads})", changed, costs)
    return f"{'; '.join(part for part in parts if part)}."


if __name__ == "__main__":
    main(__file__)
