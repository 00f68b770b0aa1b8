"""The tables and sentences of a comparison of unlike checkpoints, from what each of them said."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from workbench.behaviour import EVERYWHERE
from workbench.bits_per_byte import BitsPerByte, bits_per_byte
from workbench.evaluation import proportion
from workbench.unlike_pairs import RELATED
from workbench.unlike_texts import Text


def bits_tables(nats: Mapping[str, np.ndarray], texts: Sequence[Text]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bits per byte (checkpoint, domain, bits, low, high, n, bytes) and the gap of every pair, paired by document
    (before, after, domain, gap, low, high, n, bytes); n is documents."""
    sizes, where = np.array([text.n_bytes for text in texts]), np.array([text.domain for text in texts])
    domains = [EVERYWHERE, *dict.fromkeys(where.tolist())]
    bits = [
        {"checkpoint": name, "domain": domain, **_told("bits", own, sizes, where, domain)}
        for name, own in nats.items()
        for domain in domains
    ]
    gaps = [
        {"before": a, "after": b, "domain": domain, **_told("gap", nats[b] - nats[a], sizes, where, domain)}
        for a, b in itertools.combinations(nats, 2)
        for domain in domains
    ]
    return pl.DataFrame(bits), pl.DataFrame(gaps)


def _told(what: str, nats: np.ndarray, sizes: np.ndarray, where: np.ndarray, domain: str) -> dict[str, Any]:
    inside = (where == domain) | (domain == EVERYWHERE)
    found: BitsPerByte = bits_per_byte([np.array([n]) for n in nats[inside]], sizes[inside].tolist())
    alone = inside.sum() < 2
    low, high = (None, None) if alone else (found.low, found.high)
    return {what: found.mean, "low": low, "high": high, "n": found.n, "bytes": int(sizes[inside].sum())}


def answers_told(answers: pl.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """By checkpoint and task: the share of answers that state the result, that have the lab's form too, and the
    share of the commonest result: what one would reach who always said that."""
    found: dict[str, Any] = {}
    for name in names:
        own = answers.filter(checkpoint=name)
        found[name] = {}
        for (task,), rows in own.group_by("task", maintain_order=True):
            commonest = int(rows["result"].value_counts()["count"].max() or 0)  # type: ignore[arg-type]
            found[name][str(task)] = {
                "states": proportion(int(rows["states"].sum()), rows.height)._asdict(),
                "form": proportion(int(rows["form"].sum()), rows.height)._asdict(),
                "commonest": commonest / rows.height,
            }
    return found


def cka_sentence(cka: pl.DataFrame) -> list[str]:
    """Of each pair, the two layers that are most alike, beside the null of those."""
    told = []
    for (a, b), rows in cka.group_by("before", "after", maintain_order=True):
        usable = rows.filter(pl.col("cka").is_not_nan())
        if not usable.height:
            continue
        best = usable.sort("cka", descending=True).row(0, named=True)
        told.append(
            f"{a} and {b}: of all layers, {best['layer_before']} and {best['layer_after']} are most alike, "
            f"linear CKA {best['cka']:.3f} [{best['low']:.3f}, {best['high']:.3f}] where words end "
            f"(n {best['n']:,} words; "
            f"with texts shuffled {best['null']:.3f}, at most {best['null_high']:.3f})"
        )
    return told


def weights_sentence(a: str, b: str, told: Mapping[str, Any], alike: bool) -> list[str]:
    """Which parameters agree in shape; and where all do, whether one may come from the other."""
    agreeing = ", ".join(told["agreeing"][:3]) + (" and others" if told["agree"] > 3 else "")
    which = f" ({agreeing})" if told["agree"] else ""
    found = [f"{a} and {b}: {told['agree']} of {told['of']} parameters agree in name and shape{which}"]
    if alike and not told["differ"] and told["cosine"] is not None:
        found[0] += f", and the cosine of all matrices is {told['cosine']:.3f}"
        if told["cosine"] > RELATED:
            found.append(
                f"{a} and {b} look like checkpoints of one training: `add` the later one again with --parent, "
                "and everything can be compared"
            )
    return found
