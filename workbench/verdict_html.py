"""The verdict sheet as HTML: one block that a page can show, or one file that needs nothing else.

All text is escaped. The pictures are placed marks: a dot with its interval, the parent's figure as a ring, sham and
sibling as a cross and a diamond, matched latents as a square, on an axis of the line's own.
"""

from __future__ import annotations

import html
import json

from workbench.gains import MATCHED_MEANS
from workbench.verdict_sheet import RULE, RULES, SORTS, Line, Sheet, StageSheet, controls_of, figures, judged

DARK = "--ink:#e8e5de;--muted:#a4a6a8;--rule:#363a40;--dot:#9fc0d3;--alarm:#f0909a"
STYLE = """
.verdict{--ink:#26282b;--muted:#6c6e70;--rule:#dfdbd3;--dot:#35596e;--alarm:#a8323f;color:var(--ink);
font:15px/1.45 system-ui,sans-serif}
.verdict h2{font-size:1.35em;margin:1.6em 0 .2em}
.verdict h3{font-size:1em;margin:1.1em 0 .3em;color:var(--muted);font-weight:600}
.verdict h3 small{font-size:.9em;font-weight:400}
.verdict .row{display:grid;grid-template-columns:minmax(15em,1fr) 230px minmax(13em,.8fr);gap:.2em 1.2em;
align-items:center;padding:.35em 0;border-top:1px solid var(--rule)}
.verdict .row a{color:inherit}.verdict .figures{color:var(--muted);font-size:.9em;font-variant-numeric:tabular-nums}
.verdict .yes{color:var(--dot);font-weight:600}.verdict .no{color:var(--alarm)}
.verdict .axis{position:relative;display:block;height:22px;margin:0 12px;
background:linear-gradient(var(--rule),var(--rule)) center/100% 1px no-repeat}
.verdict .axis i{position:absolute;top:50%;transform:translate(-50%,-50%);font-style:normal;line-height:1}
.verdict .zero{width:1px;height:16px;background:var(--muted)}
.verdict .axis .whisker{height:3px;background:var(--dot);transform:translate(0,-50%)}
.verdict .dot{width:10px;height:10px;border-radius:50%;background:var(--dot)}
.verdict .ring{width:9px;height:9px;border-radius:50%;border:2px solid var(--muted);box-sizing:border-box}
.verdict .axis .diamond{width:8px;height:8px;border:1.5px solid var(--muted);box-sizing:border-box;
transform:translate(-50%,-50%) rotate(45deg)}
.verdict .square{width:8px;height:8px;border:1.5px solid var(--muted);box-sizing:border-box}
.verdict .cross{color:var(--muted);font-size:17px}
.verdict p{margin:.3em 0;color:var(--muted)}
.verdict ul{margin:.3em 0 .6em;padding-left:1.2em;color:var(--muted)}
@media(max-width:760px){.verdict .row{grid-template-columns:1fr}}
"""
DARK_FILE = (
    "body{margin:0 auto;max-width:70em;padding:1.5em;background:#fbfaf7}"
    f"@media(prefers-color-scheme:dark){{body{{background:#15171a}}.verdict{{{DARK}}}}}"
)
KEY = (
    "A dot is the stage's figure with its 95 % interval, a ring its parent's, a cross the sham's and a diamond "
    "the sibling's, a square that of matched latents, a stroke zero; each line has an axis of its own. The "
    "sham is the parent trained on, on its own data, for as many steps; the sibling is the same stage with another "
    f"seed. {MATCHED_MEANS} Each line leads to its evidence."
)


def block(sheet: Sheet, dark: bool = False, base: str = "") -> str:
    """The sheet without a document around it; links begin with `base`."""
    stages = "".join(_stage(stage, base) for stage in sheet.stages)
    missing = "".join(f"<p>{html.escape(each)}</p>" for each in sheet.missing)
    shade = " dark" if dark else ""
    style = f"{STYLE}.verdict.dark{{{DARK}}}"
    return f'<style>{style}</style><div class="verdict{shade}"><p>{RULE}</p><p>{KEY}</p>{stages}{missing}</div>'


def document(sheet: Sheet, base: str = "http://127.0.0.1:8501/") -> str:
    """One self-contained file, its figures as JSON inside it."""
    title = html.escape(f"{sheet.lab}: {sheet.comparison}, what each stage did")
    data = json.dumps(sheet.as_json(), ensure_ascii=True).replace("</", "<\\/")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{DARK_FILE}</style></head>'
        f"<body><h1>{title}</h1>{block(sheet, base=base)}"
        f'<script type="application/json" id="sheet">{data}</script></body></html>\n'
    )


def _stage(stage: StageSheet, base: str) -> str:
    head = f"<h2>{html.escape(stage.stage)}, from {html.escape(stage.parent)}: {stage.verdict}</h2>"
    parts = [head]
    if stage.notes:
        parts.append("<p>What changed first, by the divergence it accounts for:</p>")
        parts.append(f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in stage.notes)}</ul>")
    for sort in SORTS:
        lines = [line for line in stage.lines if line.sort == sort]
        if lines:
            rows = "".join(_row(line, base) for line in lines)
            parts.append(f"<h3>{sort.capitalize()} <small>· {html.escape(RULES[sort])}</small></h3>{rows}")
    return "".join(parts)


def _row(line: Line, base: str) -> str:
    said = f'<a href="{html.escape(base + line.page)}" target="_self">{html.escape(line.said)}</a>'
    return f'<div class="row"><span>{said}</span>{picture(line)}<span class="figures">{_figures(line)}</span></div>'


def _figures(line: Line) -> str:
    said = judged(line)
    if line.credible is not None:
        said = f'<span class="{"yes" if line.credible else "no"}">{said}</span>'
    return f"{figures(line)}<br>{' · '.join([*controls_of(line), said])}"


def picture(line: Line) -> str:
    """The line's figures on one axis; zero is on it."""
    given = (0.0, line.value, line.low, line.high, line.before, line.sham, line.sibling, line.matched)
    shown = [value for value in given if value is not None]
    low, span = min(shown), (max(shown) - min(shown)) or 1.0

    def at(value: float) -> str:
        return f"left:{100 * (value - low) / span:.1f}%"

    marks = [f'<i class="zero" style="{at(0.0)}"></i>']
    if line.low is not None and line.high is not None:
        width = 100 * (line.high - line.low) / span
        marks.append(f'<i class="whisker" style="{at(line.low)};width:{width:.1f}%"></i>')
    beside = ((line.before, "ring"), (line.sham, "cross"), (line.sibling, "diamond"), (line.matched, "square"))
    for value, kind in beside:
        if value is not None:
            marks.append(f'<i class="{kind}" style="{at(value)}">{"×" if kind == "cross" else ""}</i>')
    marks.append(f'<i class="dot" style="{at(line.value)}"></i>')
    label = html.escape(f"{line.said}: {line.value:.3g}")
    return f'<span class="axis" role="img" aria-label="{label}">{"".join(marks)}</span>'
