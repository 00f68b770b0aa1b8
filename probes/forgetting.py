"""What does each checkpoint forget of what its root could predict, domain by domain?

    excess = Σ (nats of the checkpoint − nats of its root) / Σ tokens      over held-out documents of one domain

Above 0 is forgetting [McCloskey and Cohen 1989; "alignment tax", Ouyang 2022]. Prose is told by century and by
party as well; stories, facts, sums, letter counts and spellings are the world's documents; chats are scored on
their answers. All checkpoints read the same characters; documents are the cases. The table has bits per byte too,
which do not depend on a tokenizer.

The excess over the root is held against the sign of each document's drawn at random. Where the lab has a stage's
sham (its parent trained on, on the parent's own data, for as many steps), what the stage alone did (checkpoint −
parent: "by its own stage alone") is held against what the sham did (sham − parent): p
is of the difference, signs drawn by document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Plot, beyond
from probes.kit.nulls import described
from probes.kit.plots import bars, of_figures
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.stages import control, held
from probes.kit.texts import (
    DOMAINS,
    PROSE,
    WORLD,
    Losses,
    Text,
    beginnings,
    by_document,
    losses,
    passages,
    some,
    texts,
)
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.recipe import SHAM, SIBLING

READS = ("checkpoint", "corpus")  # roots, shams and siblings besides those asked about
OVER_ROOT, OWN_PART = "excess loss", "by its own stage alone"
LEAST = 3  # documents of a domain, a century or a party


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], n: int = 16, per_address: int = 2, seed: int = 0
) -> Finding:
    """`n` documents of each domain, `per_address` passages of each address."""
    at_least(3, n=n)
    at_least(1, per_address=per_address)
    at_least(0, seed=seed)
    asked = [each for each in checkpoints if each.name != each.lineage()[0]]
    if not asked:
        raise LackingError(
            "none of these checkpoints descends from another, so none can have forgotten anything: name sft or "
            f"grpo too (`python -m workbench grow {lab.name}`)"
        )
    read = {domain: drawn(lab, domain, n, per_address, seed) for domain in DOMAINS}
    figures, rows, left_out = list[Figure](), list[dict[str, Any]](), dict[str, None]()
    for checkpoint in asked:
        for where, of in groups(read):
            if len({each.document for each in of}) < LEAST:
                left_out[where] = None
                continue
            found, row = excess(checkpoint, where, of, seed)
            figures += found
            rows.append(row)
    if not figures:
        raise LackingError("no domain of the corpus has three held-out documents: grow the lab with more text")
    return Finding(
        claim(figures, [each.address for each in asked]),
        figures,
        "the sign of each document's excess drawn at random; a stage's own part is held against its sham's (the "
        "parent trained on, on its own data, for as many steps), where the lab has one",
        f"More addresses: {len({t.document for t in read[PROSE]})} are read, a century or a party by fewer."
        + (f" Fewer than {LEAST} documents, so left out: {', '.join(left_out)}." if left_out else ""),
        [*pictures(figures), in_bits(rows)],
        rows,
    )


def drawn(lab: Lab, domain: str, n: int, per_address: int, seed: int) -> tuple[Text, ...]:
    """Held-out texts of a domain; of the world's their beginnings."""
    held_out = some(texts(lab, domain, "heldout"), n, seed)
    if domain == PROSE:
        return passages(held_out, per_address, seed)
    return beginnings(held_out) if domain in WORLD else held_out


def groups(read: dict[str, tuple[Text, ...]]) -> Iterator[tuple[str, tuple[Text, ...]]]:
    """Domains, and prose by century and by party, with their texts."""
    yield from ((domain, of) for domain, of in read.items() if of)
    prose = read[PROSE]
    for century in sorted({each.year // 100 for each in prose if each.year}):
        yield (
            f"prose of {century}00–{century}99",
            tuple(t for t in prose if t.year and t.year // 100 == century),
        )
    for party in sorted({each.party for each in prose} - {""}):
        yield f"{party} prose", tuple(t for t in prose if t.party == party)


def excess(
    checkpoint: Checkpoint, where: str, of: tuple[Text, ...], seed: int
) -> tuple[list[Figure], dict[str, Any]]:
    """Figures and row of one domain. Of a century or a party, a part of prose, no more than describes it."""

    def read(who: Checkpoint | None) -> Losses | None:
        return None if who is None else by_document(of, losses(who, of))

    root = Checkpoint.of(checkpoint.lab, checkpoint.lineage()[0])
    parent = Checkpoint.of(checkpoint.lab, checkpoint.parent or root.name)
    sham, sibling = (read(control(checkpoint, kind)) for kind in (SHAM, SIBLING))
    first, before, own = read(root), read(parent), read(checkpoint)
    assert first is not None
    assert before is not None
    assert own is not None
    placed = {"checkpoint": checkpoint.address, "where": where}
    moved, none = own.less(first), np.zeros(len(own.nats))
    found = [held(OVER_ROOT, none, moved, None, "documents", seed, **placed)]
    if sham is not None and where in DOMAINS:
        pair = (own.less(before), sham.less(before))
        found.append(held(OWN_PART, none, *pair, "documents", seed, **placed))
    if where not in DOMAINS:
        found = [described(each) for each in found]
    told = {
        "checkpoint": checkpoint.address, "domain": where, "documents": len(own.nats), "root": root.name,
        "bits per byte": round(own.bits_per_byte, 3), "root's": round(first.bits_per_byte, 3),
        "excess, nats per token": round(float(moved.mean()), 3),
        OWN_PART: round(float(own.less(before).mean()), 3),
    }  # fmt: skip
    for name, other in ((SHAM, sham), (SIBLING, sibling)):
        told[f"the {name}'s"] = None if other is None else round(float(other.less(before).mean()), 3)
    return found, told


def pictures(figures: Sequence[Figure]) -> list[Plot]:
    """Excess over the root; and of each stage alone, beside its sham's."""
    titles = {OVER_ROOT: "Loss above the root's", OWN_PART: "What each stage alone did to the loss"}
    of = {name: [f for f in figures if f.name == name] for name in titles}
    return [
        of_figures(title, "nats per token", of[name], f"{title} by domain and checkpoint, beside the null")
        for name, title in titles.items()
        if of[name]
    ]


def in_bits(rows: Sequence[dict[str, Any]]) -> Plot:
    """Bits per byte of each checkpoint by domain, and of the root."""
    points = [{"row": r["domain"], "series": r["checkpoint"], "x": r["bits per byte"]} for r in rows]
    roots = {(r["domain"], r["root"]): r["root's"] for r in rows}
    points += [{"row": where, "series": root, "x": value} for (where, root), value in roots.items()]
    return bars(
        "Bits per byte", "bits per byte", points, "bits per byte by domain and checkpoint, the root too"
    )


def claim(figures: Sequence[Figure], addresses: Sequence[str]) -> str:
    """The domain that loses most, how many do, and what of it the stage alone did, by checkpoint."""
    found, told = beyond(figures), []
    for address in addresses:
        whole, own = (
            [f for f in found if (f.checkpoint, f.name) == (address, n)] for n in (OVER_ROOT, OWN_PART)
        )
        domains = [f for f in figures if (f.checkpoint, f.name) == (address, OVER_ROOT) and f.where in DOMAINS]
        parts = [
            f"{verb} {_most(part)} (of {len(domains)} domains {len(part)})"
            for verb, up in (("loses most on", True), ("gains on", False))
            if (part := [f for f in whole if (f.value > 0) is up])
        ] or ["is not shown to forget anything"]
        if any((f.checkpoint, f.name) == (address, OWN_PART) for f in figures):
            parts.append(
                f"its own stage alone (less its parent) did otherwise than a sham of it in {len(own)} domains, "
                f"most on {_most(own)}, the sham {max(own, key=lambda f: abs(f.value)).null.value:+.2f}"
                if own else "its own stage alone (less its parent) is not shown to do otherwise than a sham of it"
            )  # fmt: skip
        told.append(f"{address} {', '.join(parts)}")
    return f"Against the root, in nats per token: {'; '.join(told)}."


def _most(of: Sequence[Figure]) -> str:
    most = max(of, key=lambda f: abs(f.value))
    return f"{most.where} {most.value:+.2f}"


if __name__ == "__main__":
    main(__file__)
