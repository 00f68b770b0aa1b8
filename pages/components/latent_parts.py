"""What one latent follows, what writes it, its neighbours, where its texts come from: a small picture of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pages.components import panels, theme, words
from pages.components.panels import Mark, Panel, Row

if TYPE_CHECKING:
    from workbench.dashboard import Dashboard

N_WRITERS, N_SOURCES, N_NEIGHBOURS = 8, 6, 6


def pictures(found: Dashboard, colour: str) -> list[Panel]:
    """All of them; what has nothing to show is left out."""
    parts, near = found.parts, found.parts["neighbours"].sort("rank")
    drawn = [
        (_factors, parts["factors"]),
        (_writers, parts["writers"]),
        (_coactive, near.filter(relation="coactive").head(N_NEIGHBOURS)),
        (_similar, near.filter(relation="similar").head(N_NEIGHBOURS)),
        (_sources, parts["sources"]),
        (_neurons, parts["neurons"]),
    ]
    return [draw(rows, colour) for draw, rows in drawn if len(rows)]


def _factors(rows: pl.DataFrame, colour: str) -> Panel:
    rows = rows.sort("rank")
    shown = [
        Row(
            label=row["factor"],
            value=row["f1"],
            text=f"{row['f1']:.2f}",
            colour=colour,
            marks=[Mark(symbol=panels.RING, value=row["ap"]), Mark(symbol=panels.TICK, value=row["auroc"])],
            said=[f"F1 {row['f1']:.3f}", f"average precision {row['ap']:.3f}", f"AUROC {row['auroc']:.3f}"],
        )
        for row in rows.iter_rows(named=True)
    ]
    return Panel(
        panels.bars(shown, "F1, average precision, AUROC", 0.0, 1.0),
        "F1, average precision and AUROC of the factors it follows",
        rows.drop("latent"),
        "Factors it follows",
        "Chosen on one half of the documents, scored on the other. Bar: F1; ring: average precision; "
        "tick: AUROC, where one half is chance.",
    )


def _writers(rows: pl.DataFrame, colour: str) -> Panel:
    several = rows["checkpoint"].n_unique() > 1
    last = rows["checkpoint"][-1]
    kept = rows.filter(checkpoint=last).sort(pl.col("share").abs(), descending=True).head(N_WRITERS)
    muted = theme.palette().muted
    shown = [
        Row(
            label=name,
            value=share,
            text=f"{share:.0%}".replace("-0%", "0%"),
            colour=colour if share > 0 else muted,
        )
        for name, share in kept.select("component", "share").iter_rows()
    ]
    return Panel(
        panels.bars(shown, "share of what lifts it" + (f", in {last}" if several else "")),
        "share of embedding, heads and MLPs in what makes it fire",
        rows.drop("latent"),
        "What writes it",
        "Share of each part of the model in what lifts the latent's preactivation on its strongest tokens "
        f"above its mean; all parts add up to 100 % (on {rows['peaks'][0]} tokens). Negative: argues against.",
    )


def _sources(rows: pl.DataFrame, colour: str) -> Panel:
    kept = rows.sort(pl.col("count") * pl.col("lift").log(), descending=True).head(N_SOURCES)
    kept = kept.sort("lift", descending=True)
    shown = [
        Row(
            label=_value(row["attribute"], row["value"]),
            value=row["lift"],
            text=f"× {row['lift']:.3g} · {row['count']:,} in {row['documents']}",
            colour=colour,
            said=[
                f"{row['lift']:.3g} times its share",
                f"{row['count']:,} tokens in {row['documents']} documents",
            ],
        )
        for row in kept.iter_rows(named=True)
    ]
    return Panel(
        panels.bars(shown, "times its share of all tokens", rule=1.0),
        "over-represented sources of the texts it fires on",
        rows.drop("latent"),
        "Where its texts come from",
        "Texts on which it fires more than their share; the figure is how many times more, on how many tokens, "
        "in how many documents. Presidents, parties and years are of the addresses.",
    )


def _value(attribute: str, value: str) -> str:
    return value if attribute in ("president", "year") else f"{attribute}: {value}"


def _coactive(rows: pl.DataFrame, colour: str) -> Panel:
    return Panel(
        _neighbours(rows, "jaccard", "share of tokens in common (Jaccard)", colour),
        "latents nearest by tokens in common",
        rows.select("other", "called", "jaccard", "other_density", "count"),
        "Fires together with",
        "Latents that fire on the same tokens, among all of them: shared tokens over tokens of either. "
        "Click one to see it.",
    )


def _similar(rows: pl.DataFrame, colour: str) -> Panel:
    return Panel(
        _neighbours(rows, "cosine", "cosine of the two decoders", colour),
        "latents nearest by cosine",
        rows.select("other", "called", "cosine", "other_density"),
        "Points the same way",
        "Latents whose decoders have the largest cosine with its own. Click one to see it.",
    )


def _neighbours(rows: pl.DataFrame, value: str, x_title: str, colour: str) -> dict[str, object]:
    shown = [
        Row(
            label=f"{row['other']}: {row['called'] or '–'}",
            value=row[value],
            text=words.number(row[value]),
            colour=colour,
            said=[
                f"{value} {words.number(row[value])}",
                *([f"{row['count']:,} tokens in common"] if value == "jaccard" else []),
                f"it fires on {words.share(row['other_density'])} of tokens",
            ],
            go=row["other"],
        )
        for row in rows.iter_rows(named=True)
    ]
    return panels.bars(shown, x_title)


def _neurons(rows: pl.DataFrame, colour: str) -> Panel:
    kept = rows.filter(checkpoint=rows["checkpoint"][-1]).sort("side", "rank", descending=[True, False])
    muted = theme.palette().muted
    shown = [
        Row(
            label=f"{'writes' if side == 'written' else 'reads'}: {layer}.{neuron}",
            value=cosine,
            text=words.number(cosine),
            colour=colour if side == "written" else muted,
        )
        for side, layer, neuron, cosine in kept.select("side", "layer", "neuron", "cosine").iter_rows()
    ]
    return Panel(
        panels.bars(shown, "cosine with its decoder", -1.0, 1.0),
        "cosines with MLP neurons that write or read along it",
        rows.drop("latent"),
        "Neurons along it",
        "Cosine of its decoder with what single MLP neurons write in its layer, and with what those of the "
        "next layer read. Near 1, the latent is that neuron.",
    )
