"""Is a tone one direction of the stream, and does adding that direction change the tone of what is written?

Two registers: addresses before and since a year (`contrast=years`), or prose and world stories
(`contrast=domains`). Documents that no checkpoint was trained on are dealt into halves, each register apart. On
the first half

    δ_l = mean over later documents − mean over earlier ones of the document's mean resid_post_l
    w(v) = log share of token v in the later documents − the same in the earlier (add-½; tokens met `LEAST` times)

and layer l is that at which 2 δ_l shifts the tone there most. On the second half: AUROC of ⟨δ_l, document's
mean⟩, and

    shift = E_{p + 2 δ_l}[w] − E_p[w]        mean over the first places of the second of a
                                             document's four windows, nats a token

A model that has no such direction is shifted as random directions of equal norm shift it. Transferred: the first
checkpoint's δ in the others. [Turner 2023: activation addition; Rimsky 2024: difference of means; Chen 2025:
persona vectors.]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, beyond
from probes.kit.nulls import against, described, mean_of, predicted
from probes.kit.plots import lines
from probes.kit.pushes import log_p_at, streams_of
from probes.kit.readings import opened, row_names, tokens_of
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.subjects import one_family
from workbench.checkpoint import Checkpoint
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.linear_probes import auroc
from workbench.steering import random_directions
from workbench.tokens import SETS, TokenSet

READS = ("activations",)
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
STRENGTH = 2.0  # reported
READ, STEERED = 64, 24  # tokens of a window that are read, and that are steered
LEAST = 10  # times that a token of w is met
MOST_DOCUMENTS = 40  # of a register
LEAST_DOCUMENTS = 5  # of a register in each half: its names can be dealt in 252 ways, of 3 and 3 in 20 alone


class Texts(NamedTuple):
    """Windows of each document, BOS first, of one length; `later` and `fit` of each document."""

    ids: Int[np.ndarray, "document window position"]
    later: np.ndarray
    fit: np.ndarray
    tone: Float[np.ndarray, " vocab"]  # w


def ask(
    lab: Lab,
    checkpoints: Sequence[Checkpoint],
    contrast: str = "years",
    year: int = 1900,
    n_random: int = 12,
    seed: int = 0,
) -> Finding:
    at_least(3, n_random=n_random)
    at_least(0, seed=seed)
    one_family(lab, checkpoints)
    texts = read(checkpoints[0], contrast, year, seed)
    figures, rows = list[Figure](), list[dict[str, Any]]()
    curves, told = list[dict[str, Any]](), list[dict[str, Any]]()
    first: tuple[int, np.ndarray] | None = None
    for checkpoint in checkpoints:
        model = opened(checkpoint).model
        means = document_means(model, texts)
        deltas = np.stack([_difference(each, texts, texts.later) for each in means])
        halves = [Tone(model, texts, np.flatnonzero(texts.fit == half)) for half in (True, False)]
        layer = int(
            np.argmax([halves[0].shift(at_layer, STRENGTH * d).mean() for at_layer, d in enumerate(deltas)])
        )
        at: dict[str, Any] = {"checkpoint": checkpoint.address}
        figures.append(_auroc(means[layer], texts, seed, **at))
        told += [
            _told(checkpoint.address, name, each, texts, seed)
            for name, each in zip(row_names(checkpoint)[1:], means, strict=True)
        ]
        effect = [halves[1].shift(layer, s * deltas[layer]) for s in STRENGTHS]
        random = random_directions(torch.from_numpy(deltas[layer]), n_random, seed).numpy() * STRENGTH
        draws = [float(halves[1].shift(layer, each).mean()) for each in random]
        own = effect[STRENGTHS.index(STRENGTH)]
        figures.append(_shifted("shift of tone", own, draws, **at))
        curves += [_point(checkpoint.address, s, e) for s, e in zip(STRENGTHS, effect, strict=True)]
        row: dict[str, Any] = {**at, "layer": row_names(checkpoint)[layer + 1], "shift": float(own.mean())}
        row["apart"] = halves[1].apart
        if first is not None:
            given = halves[1].shift(first[0], STRENGTH * first[1])
            made = _shifted(f"shift by {checkpoints[0].address}'s direction", given, draws, **at)
            figures.append(described(made))
            row["cosine with first"] = _cosine(first[1], deltas[first[0]])
        first = first or (layer, deltas[layer])
        rows.append(row)
    alt = "Shift of tone by strength for each checkpoint, with intervals over documents; 0 is none"
    by_layer = "AUROC on other documents by block for each checkpoint, with intervals; 0.5 is chance"
    layers = lines("The direction, layer by layer", "layer", "AUROC", told, by_layer, 0.5)
    plot = lines("What adding the direction does", "times δ", "shift, nats a token", curves, alt, 0.0)
    return Finding(
        _claim(figures, texts, rows),
        figures,
        "for AUROC the registers' names dealt anew over documents and δ fitted again; for shifts random directions "
        "of equal norm at the same layer",
        "Registers that differ in subject as well as in tone (addresses of two centuries do) would be told and "
        "moved by subject alone; the same shift between two registers of one subject would show a tone.",
        [layers, plot],
        rows,
    )


def read(checkpoint: Checkpoint, contrast: str, year: int, seed: int, windows: int = 4) -> Texts:
    """The two registers' documents, dealt into halves, and w of the first half's tokens."""
    if contrast not in ("years", "domains"):
        raise Misuse(f"contrast={contrast!r} was given: choose years or domains")
    kept, later = list[np.ndarray](), list[bool]()
    whole, length = list[np.ndarray](), READ
    for tokens in (tokens_of(checkpoint, name) for name in SETS):
        for document, is_later in _registers(tokens, contrast, year):
            rows = np.arange(document["start"], document["stop"])
            cut = [np.asarray(tokens.tokens[rows[at : at + READ]]) for at in range(0, len(rows), READ)]
            cut = [each for each in cut if len(each) == READ] or [cut[0]]
            length = min(length, len(cut[0]))
            kept.append(
                np.array([np.resize(cut[i], READ) for i in np.linspace(0, len(cut) - 1, windows).astype(int)])
            )
            whole.append(np.asarray(tokens.tokens[rows]))
            later.append(is_later)
    name, rng = np.array(later, bool), np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(name == side))[:MOST_DOCUMENTS] for side in (False, True)]
    if min(map(len, chosen)) < 2 * LEAST_DOCUMENTS:
        found = f"{len(chosen[0])} and {len(chosen[1])} documents"
        other = "domains" if contrast == "years" else "years"
        raise LackingError(
            f"the two registers of contrast={contrast} have {found} that no checkpoint was trained on, and "
            f"{2 * LEAST_DOCUMENTS} each are needed: grow the lab on text with years, or try --set contrast={other}"
        )
    order = np.concatenate(chosen)
    fit = np.concatenate([np.arange(len(each)) < len(each) // 2 for each in chosen])
    length = max(8, length)
    ids = np.stack([kept[i] for i in order])[:, :, :length]
    bos = np.full((*ids.shape[:2], 1), tokens.settings["bos"])
    vocabulary = len(tokens.vocabulary)
    counts = [
        np.bincount(np.concatenate([whole[i] for i, f in zip(order, fit, strict=True) if f and name[i] == side]),
                    minlength=vocabulary) for side in (False, True)
    ]  # fmt: skip
    return Texts(
        np.concatenate([bos, ids], axis=2).astype(np.int64), name[order], fit, tone(counts[0], counts[1])
    )


def _registers(tokens: TokenSet, contrast: str, year: int) -> list[tuple[dict[str, Any], bool]]:
    rows = tokens.documents.sort("start").to_dicts()
    if contrast == "years":
        return [(r, r["year"] >= year) for r in rows if r["domain"] == "prose" and r["year"] is not None]
    return [(r, r["domain"] == "world") for r in rows if r["domain"] == "prose" or r["kind"] == "story"]


def tone(earlier: Int[np.ndarray, " vocab"], later: Int[np.ndarray, " vocab"]) -> Float[np.ndarray, " vocab"]:
    """w from counts of tokens: log ratio of shares, add-½; 0 for tokens met fewer than `LEAST` times.

    >>> tone(np.array([30, 10, 2]), np.array([10, 30, 0])).round(2)
    array([-1.04,  1.09,  0.  ])
    """
    shares = [(each + 0.5) / (each.sum() + 0.5 * len(each)) for each in (earlier, later)]
    return np.where(earlier + later >= LEAST, np.log(shares[1]) - np.log(shares[0]), 0.0)


def document_means(model: Any, texts: Texts) -> Float[np.ndarray, "layer document d"]:
    """Mean resid_post of each document, BOS left out."""
    n, windows, width = texts.ids.shape
    found = [
        streams_of(model, torch.from_numpy(part.reshape(-1, width)))[:, :, 1:].mean(dim=2)
        for part in np.array_split(texts.ids, max(1, n * windows * width // 4_096))
    ]
    joined = torch.cat(found, dim=1)
    return joined.view(len(joined), n, windows, -1).mean(dim=2).numpy()


def _difference(means: np.ndarray, texts: Texts, later: np.ndarray) -> Float[np.ndarray, " d"]:
    return means[texts.fit & later].mean(axis=0) - means[texts.fit & ~later].mean(axis=0)


class Tone:
    """E[w] of what a model predicts in the middle of some documents, with a vector and without."""

    def __init__(self, model: Any, texts: Texts, documents: Int[np.ndarray, " chosen"]) -> None:
        self.model, self.w = model, torch.from_numpy(texts.tone).float()
        self.ids = torch.from_numpy(texts.ids[documents, 1, : STEERED + 1])
        self.where = torch.ones_like(self.ids, dtype=torch.bool)
        self.where[:, 0] = False
        self.plain = self._expected(None, None)
        sides = [self.plain[texts.later[documents] == side].mean() for side in (True, False)]
        self.apart = float(sides[0] - sides[1])  # the registers themselves

    def _expected(self, layer: int | None, vector: torch.Tensor | None) -> Float[np.ndarray, " chosen"]:
        log_p = log_p_at(self.model, self.ids, self.where, layer, vector, self.where)
        return (log_p.exp().cpu() @ self.w).view(len(self.ids), -1).mean(dim=1).double().numpy()

    def shift(self, layer: int, vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, " chosen"]:
        """By document."""
        return self._expected(layer, torch.from_numpy(vector)[None].float()) - self.plain


def _auroc(means: np.ndarray, texts: Texts, seed: int, n: int = 499, **placed: str) -> Figure:
    """AUROC on the second half, its interval over documents, and the same of registers dealt anew in each half."""
    score, rng = ~texts.fit, np.random.default_rng(seed)

    def told(later: np.ndarray) -> float:
        return auroc(means[score] @ _difference(means, texts, later), later[score])

    projected, on = means[score] @ _difference(means, texts, texts.later), texts.later[score]
    both = [(projected[on == side], np.full((on == side).sum(), side)) for side in (True, False)]
    again = [
        auroc(np.concatenate([rng.choice(x, len(x)) for x, _ in both]), np.concatenate([o for _, o in both]))
        for _ in range(n)
    ]
    low, high = np.quantile(again, (0.025, 0.975))
    draws = list[float]()
    for _ in range(n):
        later = texts.later.copy()
        for half in (np.flatnonzero(texts.fit), np.flatnonzero(score)):
            later[half] = rng.permutation(later[half])
        draws.append(told(later))
    null = against(told(texts.later), draws, "registers dealt anew")
    return Figure(
        "AUROC", told(texts.later), float(low), float(high), int(score.sum()), "documents", null, **placed
    )


def _shifted(name: str, values: np.ndarray, draws: Sequence[float], **placed: str) -> Figure:
    value, low, high, _ = mean_of(values, name)
    null = predicted(value, draws, "random directions of equal norm")
    return Figure(name, value, low, high, len(values), "documents", null, **placed)


def _told(name: str, layer: str, means: np.ndarray, texts: Texts, seed: int) -> dict[str, Any]:
    found = _auroc(means, texts, seed, n=99)
    return {"series": name, "x": layer, "y": found.value, "low": found.low, "high": found.high}


def _point(name: str, strength: float, values: np.ndarray) -> dict[str, Any]:
    value, low, high, _ = mean_of(values, name)
    return {"series": name, "x": strength, "y": value, "low": low, "high": high}


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _claim(figures: Sequence[Figure], texts: Texts, rows: Sequence[dict[str, Any]]) -> str:
    found = beyond(figures)
    told = ", ".join(f"{f.checkpoint} {f.value:.2f}" for f in found if f.name == "AUROC")
    apart = {row["checkpoint"]: row["apart"] for row in rows}
    moved = ", ".join(
        f"{f.checkpoint} by {f.value:+.2f} nats a token (the registers lie {apart[f.checkpoint]:.2f} apart)"
        for f in found
        if f.name == "shift of tone"
    )
    parts = [
        f"The two registers are told apart along one direction (AUROC on other documents: {told})"
        if told
        else "No direction is shown to tell the two registers apart on other documents",
        f"adding twice that difference of means to the stream moves the tone of what is predicted: {moved}"
        if moved
        else "adding the direction is not shown to move the tone further than random directions do",
    ]
    return f"{parts[0]}; {parts[1]}."


if __name__ == "__main__":
    main(__file__)
