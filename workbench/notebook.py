"""What a notebook shows of a lab, a feature table, a latent: plain HTML with no script, every text escaped.

    Lab.open("demo").show()      FeatureTable.of(lab, "sae-sft").show()      ….show(17)

An object has `_repr_html_`, which notebooks call, and reads as text elsewhere. Colours are translucent, so that
light and dark notebooks both work.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.annotations import said
from workbench.vocabulary import read

if TYPE_CHECKING:
    from workbench.dashboard import Dashboard, Example, Histogram
    from workbench.features import FeatureTable
    from workbench.lab import Lab

BLUE, RED = "47, 102, 144", "177, 68, 90"  # rgb
N_EXAMPLES, N_ROWS, BAR = 6, 15, 120  # texts of a latent, rows of a table, pixels of a full bar
STYLE = "font-family: system-ui, sans-serif; line-height: 1.5; max-width: 70rem"


@dataclasses.dataclass(frozen=True)
class Shown:
    """Something to look at: `html` in a notebook, `text` elsewhere."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return f'<div style="{STYLE}">{self.html}</div>'

    def __repr__(self) -> str:
        return self.text


def show_lab(lab: Lab) -> Shown:
    """Checkpoints with their figures, dictionaries with theirs, what is not grown yet."""
    from workbench.status import describe, status

    found = status(lab)
    checkpoints = [
        (name, entry.get("parent") or "", entry.get("steps"), _figures(entry["metrics"]))
        for name, entry in found["checkpoints"].items()
    ]
    dictionaries = [
        (name, f"{e['kind']}, {e['arch']}", e["d_sae"], e["site"], _figures(e["metrics"]))
        for name, e in found["dictionaries"].items()
    ]
    waiting = [s["step"] for s in found["steps"] if s["state"] != "done"]
    parts = [f"<h3>Lab {_safe(lab.name)}</h3>"]
    parts += [_table(("checkpoint", "from", "steps", "figures on held-out texts"), checkpoints)]
    parts += [_table(("dictionary", "kind", "latents", "site", "figures"), dictionaries)]
    parts += [f"<p>Not grown yet: {_safe(', '.join(waiting))}</p>"] if waiting else []
    return Shown("".join(parts), describe(found))


def show_table(table: FeatureTable, rows: int = N_ROWS) -> Shown:
    """The latents whose labels predict them best, one a row."""
    from workbench.latent_listing import listed, printed

    best = table.table.sort(["label_score", "latent"], descending=[True, False], nulls_last=True).head(rows)
    found = listed(table, best["latent"].to_list(), rows)
    body = [
        (
            f"{'★ ' if row['star'] else ''}{row['latent']}",
            row["label"] or "  ".join((row["top_tokens"] or [])[:3]),
            row["label_score"],
            f"{row['density']:.3%}",
            row["factor"] or "",
            " ".join(row["promoted"][:5]),
        )
        for row in found
    ]
    titles = ("latent", "label", "correlation", "fires on", "factor", "promotes")
    head = (
        f"<h3>{_safe(table.name)}: {table.table.height:,} latents of {_safe(', '.join(table.checkpoints))}</h3>"
    )
    return Shown(head + _table(titles, body), printed(found, table.table.height))


def show_latent(table: FeatureTable, latent: int) -> Shown:
    """One latent: label and figures, strongest texts, histogram, promoted tokens, what writes it, neighbours."""
    found = table.dashboard(latent)
    row = said(found.row, found.annotations[latent])
    name = row["label"] or "  ".join((row["top_tokens"] or ["never fires"])[:3])
    facts = [f"fires on {row['density']:.3%} of tokens", f"strongest {row['max_activation']:.3g}"]
    if row["label"] and row["label_score"] is not None and row["label_kind"] != "person":
        facts.append(f"label against activation r = {row['label_score']:.2f}")
    if row["factor"]:
        facts.append(f"follows {row['factor']} (F1 {row['factor_f1']:.2f})")
    if row["writer"]:
        facts.append(f"mostly written by {row['writer']} ({row['writer_share']:.0%})")
    pictures = [("activation, where it fires", _histogram(found.histogram)), *_lists(found)]
    columns = "".join(f"<div><b>{_safe(title)}</b>{body}</div>" for title, body in pictures if body)
    texts = "".join(_strip(e, row["max_activation"]) for e in found.examples[:N_EXAMPLES])
    head = f"<h3>Latent {latent} of {_safe(table.name)}: {_safe(name)}</h3><p>{_safe(' · '.join(facts))}</p>"
    flow = f'<div style="display: flex; flex-wrap: wrap; gap: 1.5rem">{columns}</div>'
    return Shown(head + texts + flow, f"latent {latent} of {table.name}: {name}; {', '.join(facts)}")


def _lists(found: Dashboard) -> list[tuple[str, str]]:
    """Bars of promoted tokens by checkpoint, writers, factors, neighbours."""
    lists = [(f"promotes in {name}", _bars(logits.promoted[:8])) for name, logits in found.logits.items()]
    parts = found.parts
    last = list(found.logits)[-1]
    writers = parts["writers"].filter(parts["writers"]["checkpoint"] == last).sort("delta", descending=True)
    lists.append(("written by", _bars(_pairs(writers, "component", "share"))))
    lists.append(("factors (F1)", _bars(_pairs(parts["factors"].sort("rank"), "factor", "f1"))))
    for relation, value in (("coactive", "jaccard"), ("similar", "cosine")):
        rows = parts["neighbours"].filter(parts["neighbours"]["relation"] == relation).sort("rank")
        names = [f"{other}: {called or '–'}" for other, called in rows.select("other", "called").iter_rows()]
        lists.append((f"{relation} latents", _bars(list(zip(names, rows[value].to_list(), strict=True)))))
    return lists


def _pairs(rows: Any, name: str, value: str) -> list[tuple[str, float]]:
    return [(str(n), float(v)) for n, v in rows.select(name, value).head(6).iter_rows()]


def _safe(text: object) -> str:
    return html.escape(str(text))


def _figures(metrics: Mapping[str, Any]) -> str:
    """Figures that are plain numbers, three digits each."""
    return ", ".join(f"{key} {value:.3g}" for key, value in metrics.items() if isinstance(value, float))


def _table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f'<th style="text-align: left">{_safe(title)}</th>' for title in titles)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align: left">{_cell(value)}</td>' for value in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else _safe(value)


def _strip(example: Example, strongest: float) -> str:
    """A text, each token tinted by its activation, in another colour below zero."""
    spans = []
    for token, value in zip(example.tokens, example.values, strict=True):
        try:
            text = read(token).decode("utf-8")
        except UnicodeDecodeError:
            text = token
        strength = min(1.0, abs(value) / max(strongest, 1e-9)) * 0.75
        tint = f"background: rgba({BLUE if value > 0 else RED}, {strength:.2f})" if value else ""
        shown = _safe(text.replace("\n", "↵"))
        spans.append(f'<span style="{tint}" title="{value:.3g}">{shown}</span>' if tint else shown)
    return f'<p style="white-space: pre-wrap; margin: 0.3rem 0">{"".join(spans)}</p>'


def _bars(pairs: Sequence[tuple[str, float]]) -> str:
    largest = max((abs(value) for _, value in pairs), default=0.0) or 1.0
    rows = "".join(
        f"<tr><td>{_safe(name[:40])}</td>"
        f'<td><div style="width: {BAR * abs(value) / largest:.0f}px; height: 0.8em; '
        f'background: rgba({BLUE}, {0.8 if value >= 0 else 0.3})"></div></td><td>{value:.3g}</td></tr>'
        for name, value in pairs
    )
    return f"<table><tbody>{rows}</tbody></table>" if pairs else ""


def _histogram(histogram: Histogram) -> str:
    """Counts as an inline drawing; heights are logarithmic, since activations have long tails."""
    import math

    edges, counts = histogram
    heights = [math.log1p(count) for count in counts]
    if not any(heights):
        return ""
    step, top = 5, max(heights)
    bars = "".join(
        f'<rect x="{i * step}" y="{60 - 60 * h / top:.1f}" width="{step - 1}" height="{60 * h / top:.1f}">'
        f"<title>{edges[i]:.3g} to {edges[i + 1]:.3g}: {counts[i]:,}</title></rect>"
        for i, h in enumerate(heights)
    )
    size = f'width="{step * len(counts)}" height="60"'
    return f'<br><svg {size} fill="rgba({BLUE}, 0.8)" role="img" aria-label="histogram">{bars}</svg>'
