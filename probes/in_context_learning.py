"""How much does each checkpoint learn from the text in front, domain by domain?

    in-context learning score = loss late in the window − loss early in it                          [Olsson 2022]
    context's worth           = loss late, another document's text far in front − loss late, the own text there

A window of L tokens has four quarters. Early is the second, late the last; the quarter directly in front of either
is always the document's own, so that late differs from early by the first half alone: the far context. For the
second figure that half is another held-out document's of the same domain. The tokens scored, their places and what
stands directly in front are the same then, so what is left is what the far context says of this document; the score
alone mixes it with how hard beginnings are and with what a place by itself brings.

Losses are nats per token; windows of one document are one case. The score is held against the same with the foreign
half in front, the context's worth against the sign of each document's difference drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Plot, beyond
from probes.kit.nulls import beside, mean_figure, mean_of
from probes.kit.plots import lines, of_figures
from probes.kit.readings import opened
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.stages import DRAWS, FLIPPED, of_control
from probes.kit.texts import DOMAINS, PROSE, some, texts, tokenised
from workbench.bits_per_byte import model_nats
from workbench.checkpoint import Checkpoint
from workbench.intervals import ratio_intervals
from workbench.lab import Lab
from workbench.token_sets import leading_id

READS = ("corpus",)
LEAST, LONGEST = 24, 255  # tokens of a window
QUARTERS = ("first", "second (early)", "third", "last (late)")
WORTH, SCORE = "context's worth", "in-context learning score"


class Windows(NamedTuple):
    """Windows of equal length as they are, and with another document's first half; the case (document) of each."""

    own: Int[np.ndarray, "window token"]
    foreign: Int[np.ndarray, "window token"]
    case: Int[np.ndarray, " window"]


class Read(NamedTuple):
    """Loss by document and quarter, as it is and with the foreign half."""

    own: Float[np.ndarray, "document quarter"]
    foreign: Float[np.ndarray, "document quarter"]

    @property
    def worth(self) -> Float[np.ndarray, " document"]:
        return self.foreign[:, 3] - self.own[:, 3]


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], n: int = 16, per_address: int = 4, seed: int = 0
) -> Finding:
    """`n` documents of each domain that are long enough, `per_address` windows of each address."""
    at_least(3, n=n)
    at_least(1, per_address=per_address)
    at_least(0, seed=seed)
    found: dict[tuple[str, str], Read] = {}
    for checkpoint in checkpoints:
        for domain in DOMAINS:
            windows = cut(checkpoint, domain, n, per_address, seed)
            if windows is not None:
                found[checkpoint.address, domain] = read(checkpoint, windows)
    if not found:
        raise LackingError(
            f"no domain has three held-out documents of {LEAST} tokens that these checkpoints can read: grow the "
            "lab with longer text (`--corpus`), or name a checkpoint that reads more tokens"
        )
    worth = [_worth(*place, each, seed) for place, each in found.items()]
    scores = [_score(*place, each, seed) for place, each in found.items()]
    return Finding(
        claim(worth, scores, [each.address for each in checkpoints]),
        [*worth, *scores],
        "another document's text of the same domain far in front, so that the place in the window is the same; the "
        "sign of each document's difference drawn at random",
        "Longer windows: a model that reads 128 tokens has some sixty of far context. Documents of the world "
        "follow one form, so that another one's text says as much of the form as the own does.",
        [
            of_figures(
                "What the far context is worth", "nats per token", worth, "worth by domain and checkpoint"
            ),
            by_quarter(found),
            of_figures(
                "Loss late less loss early", "nats per token", scores, "score, and with foreign context"
            ),
        ],
        rows(found),
    )


def cut(checkpoint: Checkpoint, domain: str, n: int, per_address: int, seed: int) -> Windows | None:
    """Windows of a domain as long as half of its documents are, and as the model reads; None of short documents."""
    tokenizer = opened(checkpoint).tokenizer
    documents = [
        d.ids for d in tokenised(tokenizer, some(texts(checkpoint.lab, domain, "heldout"), 2 * n, seed))
    ]
    if not documents:
        return None
    length = min(checkpoint.n_ctx - 1, LONGEST, int(np.median([len(ids) for ids in documents]))) // 4 * 4
    documents = [ids for ids in documents if len(ids) >= length][:n]
    if length < LEAST or len(documents) < 3:
        return None
    rng = np.random.default_rng(seed)
    pieces, case = [], []
    for number, ids in enumerate(documents):
        places = rng.permutation(len(ids) // length)[:per_address] if domain == PROSE else [0]
        pieces += [ids[place * length : (place + 1) * length] for place in places]
        case += [number] * len(places)
    return Windows(np.stack(pieces), swapped(np.stack(pieces), np.array(case), rng), np.array(case))


def swapped(
    own: Int[np.ndarray, "window token"], case: Int[np.ndarray, " window"], rng: np.random.Generator
) -> Int[np.ndarray, "window token"]:
    """Each window with the first half of another document's."""
    foreign, half = own.copy(), own.shape[1] // 2
    for row, document in enumerate(case):
        foreign[row, :half] = own[rng.choice(np.flatnonzero(case != document)), :half]
    return foreign


def read(checkpoint: Checkpoint, windows: Windows) -> Read:
    """The losses of a checkpoint by document and quarter."""
    model, tokenizer = opened(checkpoint)
    bos, length = leading_id(tokenizer), windows.own.shape[1]
    n = np.bincount(windows.case)
    by_document = []
    for ids in (windows.own, windows.foreign):
        whole = [np.concatenate([[bos], row]) for row in ids]
        nats = np.stack(model_nats(model, whole, length + 1, bos_id=bos))
        quarters = nats.reshape(len(nats), 4, length // 4).mean(axis=2)
        by_document.append(np.stack([np.bincount(windows.case, q) / n for q in quarters.T], axis=1))
    return Read(*by_document)


def _worth(address: str, domain: str, each: Read, seed: int) -> Figure:
    return mean_figure(
        WORTH, each.worth, "documents", FLIPPED, seed=seed, draws=DRAWS, checkpoint=address, where=domain
    )


def _score(address: str, domain: str, each: Read, seed: int) -> Figure:
    """Late less early; beside it the same with the foreign half in front of late."""
    score, other = each.own[:, 3] - each.own[:, 1], each.foreign[:, 3] - each.own[:, 1]
    value, low, high, _ = mean_of(score, FLIPPED, seed)
    null = beside(of_control(other, score - other, "foreign context", seed))
    return Figure(SCORE, value, low, high, len(score), "documents", null, address, domain)


def by_quarter(found: dict[tuple[str, str], Read]) -> Plot:
    """Loss along the window, all domains together, with the own and the foreign half."""
    points = []
    for address in dict.fromkeys(address for address, _ in found):
        for kind in Read._fields:
            losses = np.concatenate([getattr(each, kind) for (a, _), each in found.items() if a == address])
            ends = ratio_intervals(losses, np.ones(len(losses)))
            series = address if kind == "own" else f"null {address} (foreign context)"
            at = range(4) if kind == "own" else range(3, 4)
            points += [
                {"series": series, "x": QUARTERS[q], "y": float(losses[:, q].mean()), "low": float(ends[q, 0]),
                 "high": float(ends[q, 1]), "n": len(losses)}
                for q in at
            ]  # fmt: skip
    alt = "mean loss in each quarter of the window by checkpoint, and in the last with foreign context (grey)"
    return lines("Loss along the window", "quarter of the window", "nats per token", points, alt)


def rows(found: dict[tuple[str, str], Read]) -> list[dict[str, Any]]:
    """One row a checkpoint and domain."""
    return [
        {
            "checkpoint": address, "domain": domain, "documents": len(each.own),
            "early": round(float(each.own[:, 1].mean()), 3), "late": round(float(each.own[:, 3].mean()), 3),
            "late, foreign context": round(float(each.foreign[:, 3].mean()), 3),
        }
        for (address, domain), each in found.items()
    ]  # fmt: skip


def claim(worth: Sequence[Figure], scores: Sequence[Figure], addresses: Sequence[str]) -> str:
    """In which domains the far context helps, and where it does harm."""
    found, said = beyond(worth), []
    for address in addresses:
        if address not in {f.checkpoint for f in worth}:
            continue
        mine = [f for f in found if f.checkpoint == address]
        helps = [f"{f.where} {f.value:.3f}" for f in mine if f.value > 0]
        harms = [f"{f.where} {f.value:.3f}" for f in mine if f.value < 0]
        told = (
            f"helps {address} in {', '.join(helps)}"
            if helps
            else f"is not shown to help {address} in any domain"
        )
        said.append(told + (f" and harms it in {', '.join(harms)}" if harms else ""))
    lower = sum(f.high < 0 for f in scores)
    unread = [address for address in addresses if address not in {f.checkpoint for f in worth}]
    but = f"; no window of {', '.join(unread)} could be read" if unread else ""
    return (
        f"What stands far in front, beyond its place, {'; '.join(said)} (nats per token); the score by itself "
        f"(not tested) has an interval "
        f"below zero in {lower} of {len(scores)}{but}."
    )


if __name__ == "__main__":
    main(__file__)
