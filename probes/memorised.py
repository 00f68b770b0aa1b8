"""Has each checkpoint memorised its training documents, or does it do as well on twins that it has not seen?

    gap = loss on unseen documents − loss on seen ones       nats per token, mean over matched pairs
    membership AUROC = P(loss of a seen document < loss of an unseen one)        [Yeom 2018; Carlini 2022]

Seen documents are of the train split (of the stages that a checkpoint went through), unseen ones of the held-out
split of the same domain: other addresses, other stories, sums and words that stand in no training document. Each
unseen document is paired with a seen one of its kind, task and form, the nearest in length (of addresses: in
year, and passages of equal length are read). Of a chat the answer alone is scored.

The null draws at random which of each pair was seen. Beside it stands the root before its first step, which has
seen nothing: what it shows is how alike the twins are. A domain that no stage of a checkpoint was trained on is
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from probes.kit.commands import main
from probes.kit.finding import LEVEL, Figure, Finding, beyond
from probes.kit.nulls import against, described, mean_figure
from probes.kit.plots import of_figures
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.stages import DRAWS
from probes.kit.texts import (
    CHATS,
    DOMAINS,
    PROSE,
    Losses,
    Text,
    by_document,
    losses,
    passages,
    some,
    texts,
)
from workbench.checkpoint import Checkpoint
from workbench.errors import MarbleError
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.tasks import OPENINGS

READS = ("corpus",)
PERMUTED = 199  # of the AUROC
POOL = 600  # seen documents that a twin is looked for among
GAP, AUROC = "gap", "membership AUROC"


class Twins(NamedTuple):
    """Documents by pair: the i-th seen one is the twin of the i-th unseen one."""

    domain: str
    seen: tuple[Text, ...]
    unseen: tuple[Text, ...]


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], n: int = 24, per_address: int = 2, seed: int = 0
) -> Finding:
    """`n` pairs of a domain, thrice as many chats, which are short; `per_address` passages of each address."""
    at_least(3, n=n)
    at_least(1, per_address=per_address)
    at_least(0, seed=seed)
    outside = {each.name for each in Plan.of(lab).recipe.added}
    asked = [each for each in checkpoints if each.lineage()[0] not in outside]
    if not asked:
        raise LackingError(
            "what these checkpoints were trained on is not in the lab, so nothing is known to be seen or unseen: "
            f"name checkpoints that the lab grew (`python -m workbench grow {lab.name}`)"
        )
    read = [twins for domain in DOMAINS if len((twins := drawn(lab, domain, n, per_address, seed)).unseen) > 2]
    figures = [
        figure
        for checkpoint in asked
        for twins in read
        if twins.domain != CHATS or taught_chats(checkpoint)
        for figure in told(checkpoint, twins, seed)
    ]
    if not figures:
        raise LackingError(
            "no domain has three held-out documents with twins in the train split: "
            f"`python -m workbench grow {lab.name}` with a larger corpus"
        )
    figures += [described(figure) for figure in untrained(asked, read, seed)]
    gaps, aurocs = ([f for f in figures if f.name == name] for name in (GAP, AUROC))
    alt = "by domain and checkpoint, the root before its first step among them, beside pairs dealt at random"
    return Finding(
        claim(gaps, [each.address for each in asked]),
        figures,
        "which of each pair was seen, drawn at random; the root before its first step, which has seen nothing, is "
        "beside the others as a figure of its own",
        "Longer training on fewer documents, or exact repeats: each document is met about once here. Loss is a "
        "weak test of membership; a reference model would find less.",
        [
            of_figures("Loss on unseen less on seen documents", "nats per token", gaps, f"gap {alt}"),
            of_figures("Membership told by the loss", "AUROC", aurocs, f"AUROC {alt}"),
        ],
        rows(figures),
    )


def taught_chats(checkpoint: Checkpoint) -> bool:
    """A stage that was trained on the demonstrations is on the checkpoint's way (a sham of base was not)."""
    return any(Checkpoint.of(checkpoint.lab, name).stage not in ("base",) for name in checkpoint.lineage())


def drawn(lab: Lab, domain: str, n: int, per_address: int, seed: int) -> Twins:
    """Pairs of one domain."""
    unseen = some(texts(lab, domain, "heldout"), n * (3 if domain == CHATS else 1), seed)
    pool = some(texts(lab, domain, "train", "sft" if domain == CHATS else None), POOL, seed)
    seen, unseen = matched(pool, unseen)
    if domain == PROSE:
        seen, unseen = (passages(part, per_address, seed) for part in (seen, unseen))
    return Twins(domain, seen, unseen)


def matched(pool: Sequence[Text], unseen: Sequence[Text]) -> tuple[tuple[Text, ...], tuple[Text, ...]]:
    """For each unseen document the nearest of the pool, each used once; those without a twin are left out."""
    free, pairs = set(range(len(pool))), []
    for each in unseen:
        alike = [i for i in free if form(pool[i]) == form(each)]
        if alike:
            best = min(alike, key=lambda i: (distance(pool[i], each), i))
            free.remove(best)
            pairs.append((pool[best], each))
    return tuple(seen for seen, _ in pairs), tuple(twin for _, twin in pairs)


def form(text: Text) -> tuple[str, bool]:
    """Task, and whether the answer shows its steps."""
    return text.task, text.answer.startswith(tuple(OPENINGS.values()))


def distance(one: Text, other: Text) -> int:
    if one.domain == PROSE and one.year and other.year:
        return abs(one.year - other.year)
    return abs(len(one.answer or one.text) - len(other.answer or other.text))


def told(checkpoint: Checkpoint, twins: Twins, seed: int) -> list[Figure]:
    """The gap and the AUROC of one checkpoint and domain."""
    seen, unseen = (per_token(by_document(of, losses(checkpoint, of))) for of in (twins.seen, twins.unseen))
    return compared(seen, unseen, checkpoint.address, twins.domain, seed)


def per_token(found: Losses) -> np.ndarray:
    """The loss of each document."""
    return found.nats / found.tokens


def compared(seen: np.ndarray, unseen: np.ndarray, address: str, domain: str, seed: int = 0) -> list[Figure]:
    """From the losses of matched pairs: which of each was seen is drawn at random."""
    n = min(len(seen), len(unseen))
    seen, unseen = seen[:n], unseen[:n]
    placed = {"checkpoint": address, "where": domain}
    gap = mean_figure(GAP, unseen - seen, "pairs", "seen at random", seed=seed, draws=DRAWS, **placed)
    rng = np.random.default_rng(seed)
    flips = rng.random((PERMUTED, n)) < 0.5
    null = [auroc(np.where(f, unseen, seen), np.where(f, seen, unseen)) for f in flips]
    value, (low, high) = auroc(seen, unseen), auroc_interval(seen, unseen, rng)
    chance = against(value, null, "seen at random")
    return [gap, described(Figure(AUROC, value, low, high, n, "pairs", chance, **placed))]


def auroc(seen: np.ndarray, unseen: np.ndarray) -> float:
    """How often a seen document costs less than an unseen one; ties count half.

    >>> auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    0.875
    """
    less = (seen[:, None] < unseen) + 0.5 * (seen[:, None] == unseen)
    return float(less.mean())


def auroc_interval(
    seen: np.ndarray, unseen: np.ndarray, rng: np.random.Generator, draws: int = 400
) -> tuple[float, float]:
    """95 % interval by bootstrap over pairs."""
    again = [auroc(seen[at], unseen[at]) for at in rng.integers(0, len(seen), (draws, len(seen)))]
    low, high = np.quantile(again, (0.025, 0.975))
    return float(low), float(high)


def untrained(asked: Sequence[Checkpoint], read: Sequence[Twins], seed: int) -> list[Figure]:
    """The same of the root before its first step, where it was kept."""
    root = asked[0].lineage()[0]
    try:
        start = Checkpoint.of(asked[0].lab, f"{root}@0")
    except MarbleError:
        return []
    if start.address in {each.address for each in asked}:
        return []
    return [figure for twins in read for figure in told(start, twins, seed)]


def rows(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """One row a checkpoint and domain."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for f in figures:
        row = found.setdefault(
            (f.checkpoint, f.where), {"checkpoint": f.checkpoint, "domain": f.where, "pairs": f.n}
        )
        row |= {
            f.name: round(f.value, 3),
            f"{f.name}, low": round(f.low, 3),
            f"{f.name}, high": round(f.high, 3),
        }
    return list(found.values())


def claim(gaps: Sequence[Figure], addresses: Sequence[str]) -> str:
    """What is remembered, what is not, by checkpoint."""
    found, said = beyond(gaps), list[str]()
    tests = sum(f.null.p is not None for f in gaps)
    for address in addresses:
        mine = [f for f in gaps if f.checkpoint == address]
        if not mine:
            said.append(f"no document of a domain that {address} was trained on could be read")
            continue
        kept = [
            f"{f.where} {f.value:+.3f} [{f.low:.3f}, {f.high:.3f}]" for f in found if f in mine and f.value > 0
        ]
        odd = [f"{f.where} {f.value:+.3f}" for f in found if f in mine and f.value < 0]
        most = max(mine, key=lambda f: f.value)
        alone = [f.where for f in mine if f not in found and f.null.p is not None and f.null.p <= LEVEL]
        but = (
            f"; by itself {', '.join(alone)} would be, held together with all {tests} tests it is not"
            if alone
            else ""
        )
        nothing = (
            f"{address} is not shown to do better on seen documents in any of {len(mine)} domains "
            f"(most in {most.where}, {most.value:+.3f} [{most.low:.3f}, {most.high:.3f}]{but})"
        )
        told_of = f"{address} knows seen documents better in {', '.join(kept)}" if kept else nothing
        said.append(told_of + (f" (and unseen ones better in {', '.join(odd)})" if odd else ""))
    return f"In nats per token, {'; '.join(said)}."


if __name__ == "__main__":
    main(__file__)
