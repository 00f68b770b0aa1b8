"""The dashboard of one latent: where it fires and how often, what it follows and promotes, what writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import streamlit as st

from pages.components import frame, label_editor, latent_parts, panels, theme, words
from pages.components.panels import Panel, Row
from pages.components.tokens import Strip, Token, from_shown, strips
from workbench.annotations import said

if TYPE_CHECKING:
    from workbench.dashboard import Dashboard, Example, Logits

FEW = 8  # examples shown until more are asked for
STRONGEST, ALL_STRENGTHS = "strongest", "all strengths"
FEW_EACH = 2  # of every strength


def name(found: Dashboard) -> None:
    """What a latent is called by: a person's label before ours, and its star."""
    told = found.annotations[found.latent]
    star = "★ " if told.star else ""
    called = _literal(words.label(said(found.row, told)))
    st.subheader(f"{star}Latent {found.latent}: {called}", anchor=False)


def headline(found: Dashboard) -> None:
    """What a latent is called by, and its key figures."""
    ours, told = found.row, found.annotations[found.latent]
    row = said(ours, told)
    name(found)
    pairs = [
        ("fires on", f"{words.share(row['density'])} of tokens"),
        ("mean when on", words.number(row["mean_activation"])),
        ("strongest", words.number(row["max_activation"])),
    ]
    if ours["label"] is not None:
        if told.label is not None:
            pairs.append(("our label", ours["label"]))
        pairs.append(("label against activation", _correlation(ours["label_score"], ours["label_null"])))
        pairs.append(("label tells texts apart", _apart(ours["label_detection"], ours["label_detection_n"])))
    if row["factor"] is not None:
        pairs.append(("best factor", f"{row['factor']} (F1 {words.number(row['factor_f1'])})"))
    if row["writer"] is not None:
        pairs.append(("mostly written by", f"{row['writer']} ({words.share(row['writer_share'])})"))
    frame.facts(pairs)
    if found.explanation is not None:
        _explained(found.explanation)


def _correlation(own: float | None, null: float | None) -> str:
    """A label's score beside that of other latents' labels."""
    said = ["–" if r is None else f"{r:.2f}" for r in (own, null)]
    return f"r = {said[0]} (others' {said[1]})"


def _apart(balanced: float | None, n: float | None) -> str:
    """The common score of labels and explanations in words."""
    return "–" if balanced is None or n is None else f"{balanced:.2f} on {n:.0f} texts (chance 0.50)"


def _explained(explanation: Mapping[str, Any]) -> None:
    """What a language model says of the latent, with its score on the task on which our label is scored."""
    score = _apart(explanation["balanced"], explanation["n"])
    pairs = [(f"explained by {explanation['model']}", explanation["text"])]
    frame.facts([*pairs, ("explanation tells texts apart", score)])


def _literal(text: str) -> str:
    """`text` with what markdown would read in a heading set off. Icons (`:material/…:`) and bare addresses are
    looked for after escapes are gone: a word joiner, which is not seen, keeps them apart."""
    escaped = re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~$:])", r"\\\1", text)
    return re.sub(r"(\\:|@|www\\\.)", "\\1\u2060", escaped)


def dashboard(found: Dashboard, colour: str, key: str, chooser: str = "latent", narrow: bool = False) -> None:
    """One latent of an SAE, or of a crosscoder as a whole; a neighbour that is clicked goes to `chooser`. `narrow`
    where others stand beside it: one thing below the other."""
    headline(found)
    label_editor.editor(found, key)
    if not found.examples:
        frame.caption("It never fired on the held-out tokens: there are no texts to show.")
    left, right = (st.container(), st.container()) if narrow else st.columns([3, 2], gap="large")
    with left:
        examples(found, colour, key)
    with right:
        panels.draw(_figures(found, colour), f"{key}-figures")
    if len(found.logits) > 1:
        _heads(found, key, narrow)
    panels.draw(latent_parts.pictures(found, colour), f"{key}-parts", 1 if narrow else 2, chooser)


def on_text(tokens: Sequence[str], values: Sequence[float], found: Dashboard, colour: str) -> None:
    """The latent on a text of the viewer's own, on the scale of its other texts."""
    frame.caption(f"Latent {found.latent} on your text; the stronger the tint, the stronger it fires.")
    if not any(values):
        frame.caption("It fires on no token of it.")
    peak = max(range(len(values)), key=lambda at: abs(values[at]))
    head = [words.number(values[peak]), "your text"]
    strongest = found.row["max_activation"] or 1.0
    strip = Strip(tokens=_tokens(tokens, values), head=head, peak=peak, max=strongest, label="your text")
    strips([_tinted(strip)], colour, "own-text")


def examples(found: Dashboard, colour: str, key: str) -> None:
    """The texts on which it fires: the strongest, or of every strength."""
    if not found.examples:
        return
    wanted = st.segmented_control(
        "Texts",
        [STRONGEST, ALL_STRENGTHS],
        default=STRONGEST,
        required=True,
        key=f"{key}_texts",
        bind="query-params",
    )
    if wanted == ALL_STRENGTHS:
        _intervals(found, colour, key)
        return
    frame.caption("The texts on which it fires most; the stronger the tint, the stronger it fires.")
    strongest = found.row["max_activation"]
    shown = [_activations(e, strongest, i) for i, e in enumerate(chosen_examples(found, key), 1)]
    strips(shown, colour, f"{key}-examples")


def _intervals(found: Dashboard, colour: str, key: str) -> None:
    """Random texts from each fifth of its activation, the strongest fifth first."""
    frame.caption("Random texts from each fifth of its range: what it means when it is weak, too.")
    strongest = found.row["max_activation"]
    for number, part in enumerate(found.intervals):
        bounds = f"{words.number(part.low)} to {words.number(part.high)}"
        frame.caption(f"{bounds}: {part.count:,} tokens")
        shown = [_activations(e, strongest, i) for i, e in enumerate(part.examples[:FEW_EACH], 1)]
        if shown:
            strips(shown, colour, f"{key}-interval-{number}")


def chosen_examples(found: Dashboard, key: str) -> list[Example]:
    """The first few examples, or all of them."""
    if len(found.examples) <= FEW:
        return found.examples
    more = st.toggle(f"All {len(found.examples)} texts", key=f"{key}_all", bind="query-params")
    return found.examples if more else found.examples[:FEW]


def _strip(example: Example, values: Sequence[float], strongest: float, number: int) -> Strip:
    head = [words.number(values[example.peak]), *origin(example)]
    tokens = _tokens(example.tokens, values)
    return Strip(tokens=tokens, head=head, peak=example.peak, max=strongest, label=f"text {number}")


def _tokens(texts: Sequence[str], values: Sequence[float]) -> list[Token]:
    return [
        from_shown(text) | Token(value=value, lines=[words.number(value)])
        for text, value in zip(texts, values, strict=True)
    ]


def _activations(example: Example, strongest: float, number: int) -> Strip:
    """The latent on a text."""
    return _tinted(_strip(example, example.values, strongest, number))


def _tinted(strip: Strip) -> Strip:
    """Where it fires below zero, the tint is of another colour."""
    for token in strip["tokens"]:
        if token["value"] < 0:
            token |= Token(value=-token["value"], colour=theme.palette().alarm)
    return strip


def origin(example: Example) -> list[str]:
    """Where a text comes from, in words."""
    source = example.source
    parts = [f"{example.domain}, {example.kind}" if example.kind != example.domain else example.domain]
    if source.get("president"):
        parts.append(f"{source['president']}, {source['year']}" if source.get("year") else source["president"])
    if source.get("author"):
        parts.append(f"written by {source['author']}")
    return parts


def _figures(found: Dashboard, colour: str) -> list[Panel]:
    """How strongly and how often it fires, and what a latent of one checkpoint promotes."""
    drawn = [*_histogram(found, colour), *densities(found.densities)]
    if len(found.logits) == 1:
        [(checkpoint, logits)] = found.logits.items()
        drawn.append(tokens_moved(logits, checkpoint, "What it promotes and suppresses"))
    return drawn


def _histogram(found: Dashboard, colour: str) -> list[Panel]:
    edges, counts = found.histogram
    if not counts:
        return []
    table = pl.DataFrame({"from": edges[:-1], "to": edges[1:], "tokens": counts})
    drawn = panels.histogram(edges, counts, colour, "activation, where it fires")
    return [Panel(drawn, f"how strongly latent {found.latent} fires", table)]


def _heads(found: Dashboard, key: str, narrow: bool) -> None:
    """What a crosscoder's latent promotes through the head of each of its checkpoints."""
    st.markdown("##### What it promotes and suppresses, through the head of each checkpoint")
    drawn = []
    for checkpoint, logits in found.logits.items():
        share = _norm_share(found.row, checkpoint)
        drawn.append(tokens_moved(logits, checkpoint, f"{checkpoint}{share and f', {share}'}"))
    panels.draw(drawn, f"{key}-logits", 1 if narrow else len(drawn))


def densities(by_checkpoint: Mapping[str, float]) -> list[Panel]:
    """How often the latent fires in each checkpoint."""
    if not by_checkpoint:
        return []
    colours = theme.colours(list(by_checkpoint))
    rows = [
        Row(label=name, value=value, text=f"{100 * value:.3g}%", colour=colours[name])
        for name, value in by_checkpoint.items()
    ]
    table = pl.DataFrame({"checkpoint": list(by_checkpoint), "share of tokens": list(by_checkpoint.values())})
    alt = "share of held-out tokens on which the latent fires, by checkpoint"
    return [Panel(panels.bars(rows, "share of tokens it fires on"), alt, table)]


def tokens_moved(logits: Logits, checkpoint: str, title: str = "") -> Panel:
    """Bars of the tokens whose logits the latent's decoder raises and lowers most."""
    colour, muted = theme.colours([checkpoint])[checkpoint], theme.palette().muted
    moved = [*logits.promoted, *reversed(logits.suppressed)]
    rows = [
        Row(label=name, value=value, text=words.number(value), colour=colour if value > 0 else muted)
        for name, value in moved
    ]
    table = pl.DataFrame({"token": [name for name, _ in moved], "logits": [value for _, value in moved]})
    alt = f"tokens that the latent promotes and suppresses in {checkpoint}"
    return Panel(panels.bars(rows, "logits per unit of activation"), alt, table, title)


def side_by_side(found: Dashboard, cosines: Mapping[str, float], colours: Mapping[str, str], key: str) -> None:
    """One crosscoder latent in every checkpoint: the same texts, each checkpoint's own contribution."""
    headline(found)
    left, right = st.columns([3, 2], gap="large")
    with left:
        panels.draw(densities(found.densities), f"{key}-densities")
    with right:
        frame.caption(
            "Cosine between the latent's decoders in two checkpoints: 1 means the same direction, less means "
            "that it rotated."
        )
        frame.facts([(pair, words.number(value)) for pair, value in cosines.items()])
    texts = chosen_examples(found, key)
    if not texts:
        frame.caption("It never fired on the held-out tokens: there are no texts to show.")
    else:
        frame.caption(
            "The same texts in every column. The tint is what that checkpoint adds to the latent's "
            "preactivation, on one scale for all; hover a token for the figure."
        )
    strongest = max((v for e in texts for c in e.contributions.values() for v in c), default=1.0)
    for column, name in zip(st.columns(len(found.logits), gap="medium"), found.logits, strict=True):
        with column:
            frame.name_tag(name, colours[name], _norm_share(found.row, name))
            if texts:
                shown = [_strip(e, e.contributions[name], strongest, i) for i, e in enumerate(texts, 1)]
                strips(shown, colours[name], f"{key}-examples-{name}")
            panels.draw([tokens_moved(found.logits[name], name)], f"{key}-logits-{name}")


def _norm_share(row: Mapping[str, Any], checkpoint: str) -> str:
    share = row.get(f"w_{checkpoint}")
    return "" if share is None else f"{words.share(share)} of the decoder's norm"
