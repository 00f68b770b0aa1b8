"""A letter in a word's tokens, asked for live; one sentence in many languages, and what each costs in tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from pages.components import charts, frame, show, theme, token_store, words
from pages.components.tokens import Strip, Token, strips
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.sentence_costs import Cost
    from workbench.tokenization import Counted

YOURS = "your text"


def letter(lab: Lab, addresses: Sequence[str], colour: Mapping[str, str]) -> None:
    """How many of a letter stand in a word, in which tokens, and what chat checkpoints say."""
    from workbench.letter_counts import question
    from workbench.tokenization import letters

    st.header("How many r in strawberry?", anchor=False)
    left, right, _ = st.columns([2, 1, 4])
    word = left.text_input("Word", "strawberry", key="word", bind="query-params")
    wanted = right.text_input("Letter", "r", key="letter", bind="query-params", max_chars=4)
    with frame.sentences():
        asked = question(word, wanted)
        counted = {a: letters(token_store.reader(lab, a).tokenizer, asked, word, wanted) for a in addresses}
        alike = len({tuple(h.token.id for h in c.held) for c in counted.values()}) == 1
        for address, found in list(counted.items())[: 1 if alike else None]:
            _held(address, found, colour[address])
        ids = next(iter(counted.values())).held
        frame.caption(
            f"The model reads {len(ids)} {'id' if len(ids) == 1 else 'ids'}, "
            f"{', '.join(str(h.token.id) for h in ids)}: no id says which letters it holds. How many "
            "there are in each token has to be learned by heart, or the word spelled out, before "
            "anything can be counted."
        )
        for address in addresses:
            _answer(lab, address, counted[address], colour[address])


def _held(address: str, found: Counted, colour: str) -> None:
    made = []
    for held in found.held:
        part = [f"and some bytes of {held.n_parts} more"] if held.n_parts else []
        made.append(
            Token(
                text=held.token.shown,
                value=float(held.n_whole + held.n_parts),
                lines=[f"id {held.token.id}", f"{found.letter} × {held.n_whole}", *part],
                under=f"{held.n_whole}" + ("+" if held.n_parts else ""),
            )
        )
    most = max(1.0, *(token["value"] for token in made)) if made else 1.0
    head = [f"{found.n} × {found.letter} in {found.word}", f"as {address} reads it"]
    strip = Strip(tokens=made, max=most, head=head, label=f"tokens of {found.word}")
    strips([strip], colour, f"letters-{address}", boxed=True)


def _answer(lab: Lab, address: str, found: Counted, colour: str) -> None:
    reader = token_store.reader(lab, address)
    if Checkpoint.of(lab, address).stage == "base" or not reader.tokenizer.chat_template:
        frame.name_tag(address, colour, "no chat checkpoint: it continues texts and is not asked")
        return
    said = token_store.answer(lab, address, found.word, found.letter, found.n)
    if said.said is None:
        verdict = f"names no number; right is {said.right}"
    else:
        verdict = f"says {said.said}, " + ("right" if said.said == said.right else f"right is {said.right}")
    frame.name_tag(address, colour, verdict)
    frame.caption(f"“{said.text.strip()}”")


def costs(lab: Lab, first: str, text: str) -> None:
    """The sentence in many languages, by tokenizer, and the text that is traced."""
    from workbench.sentence_costs import SENTENCES, cost
    from workbench.sentence_costs import costs as cost_of_each

    st.header("The same sentence in other languages", anchor=False)
    found = {}
    for address, reader in token_store.readers(lab, first).items():
        found[address] = cost_of_each(reader.tokenizer, SENTENCES)
        if text.strip():
            found[address].append(cost(reader.tokenizer, YOURS, text))
    frame.caption(
        "“The water in the river is cold today.”, and what its translations cost. A tokenizer learned "
        "its merges from some text; what that did not hold is read in small pieces, at the worst a byte "
        "a token (a dot on the diamond). Counts are exact, of this one sentence; translations differ in "
        "length, so bytes stand beside them."
    )
    show.chart(
        _picture(found),
        "costs",
        "Tokens that one sentence costs in many languages, beside its bytes",
        _table(found),
    )


def _picture(found: Mapping[str, list[Cost]]) -> go.Figure:
    (first, *_), colours = found, theme.colours(list(found))
    rows = [c for c in found[first] if c.language != YOURS]
    made = charts.figure(90 + 28 * len(rows))
    places = list(range(len(rows)))
    made.add_trace(
        go.Scatter(
            x=[c.n_bytes for c in rows],
            y=places,
            mode="markers",
            name="bytes",
            marker={
                "symbol": "diamond-open",
                "size": 11,
                "color": theme.palette().muted,
                "line": {"width": 1.5},
            },
            hovertemplate="%{x} bytes<extra></extra>",
        )
    )
    symbols = theme.symbols(list(found))
    for address, each in found.items():
        own = [c for c in each if c.language != YOURS]
        made.add_trace(
            go.Scatter(
                x=[c.n_tokens for c in own],
                y=places,
                mode="markers+text" if len(found) == 1 else "markers",
                name=f"tokens, as {address} reads it",
                text=[f"\u2003{c.per_character:.2f} a character" for c in own],
                textposition="middle right",
                cliponaxis=False,
                marker={"size": 9, "color": colours[address], "symbol": symbols[address]},
                customdata=[
                    f"{charts.plain(c.text)}<br>{c.n_tokens} tokens: {words.number(c.per_character)} a character, "
                    f"{words.number(c.per_byte)} a byte"
                    for c in own
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    made.update_yaxes(
        tickvals=places, ticktext=[c.language for c in rows], autorange="reversed", showgrid=False
    )
    widest = max(c.n_bytes for c in rows)
    made.update_xaxes(title="tokens (bytes: open diamonds)", range=[0, widest * 1.25])
    charts.legend_above(made)
    return made


def _table(found: Mapping[str, list[Cost]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "language": c.language,
                "text": c.text,
                "tokenizer of": address,
                "tokens": c.n_tokens,
                "characters": c.n_characters,
                "bytes": c.n_bytes,
                "tokens a character": c.per_character,
                "tokens a byte": c.per_byte,
            }
            for address, each in found.items()
            for c in each
        ]
    )
