"""Latents as a list in a terminal: number, density, label with its score, factor, what is promoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.annotations import said

if TYPE_CHECKING:
    from workbench.features import FeatureTable

SHOWN = (
    "latent", "density", "max_activation", "label", "label_kind", "label_score", "label_detection", "factor",
    "factor_f1", "writer", "top_tokens", "promoted",
)  # fmt: skip


def listed(table: FeatureTable, latents: Sequence[int], rows: int) -> list[dict[str, Any]]:
    """The named latents, or the `rows` that fire most; with what people and language models said of them."""
    from workbench.explanations import read_explanations

    if latents:
        chosen = [table.row(latent) for latent in latents]
    else:
        head = table.table.sort(["density", "latent"], descending=[True, False]).head(rows)
        chosen = list(head.iter_rows(named=True))
    told, explained = table.annotations.all(), read_explanations(table)
    found = []
    for row in chosen:
        latent = row["latent"]
        row = said(row, told[latent]) if latent in told else row
        entry = {name: row[name] for name in SHOWN} | {"star": latent in told and told[latent].star}
        if latent in explained:
            entry["explanation"] = explained[latent]
        found.append(entry)
    return found


def printed(rows: Sequence[Mapping[str, Any]], n_latents: int) -> str:
    """A line a latent, an explanation below it."""
    lines = [
        f"{n_latents:,} latents; here {len(rows)}",
        " latent  fires on  label (correlation on held-out texts)",
    ]
    for row in rows:
        score = "" if row["label_score"] is None else f" ({row['label_score']:.2f})"
        label = row["label"] or "  ".join((row["top_tokens"] or ["never fires"])[:3])
        star = "★" if row["star"] else " "
        lines.append(
            f"{star}{row['latent']:>6}  {row['density']:>8.3%}  {label}{score if row['label'] else ''}"
        )
        if "explanation" in row:
            said_, score_ = row["explanation"]["text"], row["explanation"]["balanced"]
            lines.append(f"                   {said_} (told apart: {score_:.2f}, chance 0.50)")
    return "\n".join(lines)
