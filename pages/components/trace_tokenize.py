"""Tokenize: the text as the model sees it, what a token is made of, and the merges that made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl
import streamlit as st

from pages.components import asked, frame, show, theme, token_store, trace_behind, trace_languages, words
from pages.components.tokens import Strip, Token, strips
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.tokenization import Piece
    from workbench.trace import Trace


def view(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """Tokens, one of them taken apart; a letter in a word; a sentence in many languages."""
    st.header("Tokens", anchor=False)
    (first, *rest) = traces
    same = all(traces[a].prompt.ids == traces[first].prompt.ids for a in rest)
    if rest and not same:
        frame.note(
            "The two checkpoints have different tokenizers: a place is counted in each one's own tokens."
        )
    beside: dict[str, Trace] = {}
    for address in rest if same else ():
        if traces[address].logits.shape == traces[first].logits.shape:
            beside[address] = traces[address]
        else:
            frame.note(
                f"{first} and {address} know unequal numbers of ids: their predictions are not compared one by one."
            )
    place = trace_behind.place(traces)
    drawn = {
        a: (t, min(place, len(t.prompt.tokens) - 1)) for a, t in list(traces.items())[: 1 if same else None]
    }
    _kinds()
    for address, (trace, at) in drawn.items():
        _tokens(address, trace, at, beside)
    for address, (trace, at) in drawn.items():
        with frame.sentences():
            st.subheader("How this token was made" + (f" in {address}" if len(drawn) > 1 else ""), anchor=False)
            _one(lab, address, trace, at)
    trace_behind.view(lab, question, traces, colour, place)
    trace_languages.letter(lab, list(traces), colour)
    trace_languages.costs(lab, first, question.text)


def kind_colours() -> dict[str, str]:
    """A colour for each kind of token."""
    from workbench.finer_kinds import DIGITS, LETTERS, MARKERS, PART, SIGNS, SPACE

    palette = theme.palette()
    first, second, third, *_ = palette.others
    return {
        MARKERS: palette.alarm,
        LETTERS: palette.accent,
        DIGITS: first,
        SIGNS: second,
        PART: third,
        SPACE: palette.muted,
    }


def _kinds() -> None:
    """What the tints mean."""
    tags = [Token(text=kind, value=1.0, colour=hue, lines=[kind]) for kind, hue in kind_colours().items()]
    strips([Strip(tokens=tags, max=2.0, label="kinds of tokens")], theme.palette().accent, "kinds", boxed=True)


def _tokens(address: str, trace: Trace, place: int, others: Mapping[str, Trace]) -> None:
    """Every token in its box with its id, tinted by kind; on hover its bytes and characters."""
    from workbench.finer_kinds import kind_of
    from workbench.tokenization import pieces
    from workbench.trace import divergence

    found = pieces(trace.prompt.tokens)
    parted = {name: divergence(other, trace).tolist() for name, other in others.items()}
    hues, made = kind_colours(), []
    for i, piece in enumerate(found):
        kind = kind_of(piece.token)
        lines = [f"place {i}", f"id {piece.token.id}", *_said(piece), kind]
        lines += [f"KL({name} ‖ {address}) {words.number(kl[i])} nats" for name, kl in parted.items()]
        made.append(
            Token(
                text=piece.token.shown,
                value=1.0,
                colour=hues[kind],
                lines=lines,
                under=str(piece.token.id),
                special=piece.token.special,
            )
        )
    strip = Strip(tokens=made, max=2.0, label=f"tokens of the prompt in {address}", chosen=place)
    strips([strip], theme.palette().accent, f"tokens-{address}", boxed=True, choose=trace_behind.choose)
    n = sum(not piece.token.special for piece in found)
    characters = sum(len(piece.token.data) for piece in found if not piece.token.special)
    frame.caption(
        f"{len(found)} tokens in {address}; {n} of them stand for {characters} bytes of text. Tinted by "
        "kind; ␣ is a blank, ↵ a line break, ⟨…⟩ bytes that are no printable character. Click one to "
        "take it apart."
    )
    show.twin(_table(found, parted, address), f"tokens-{address}-pieces")


def _said(piece: Piece) -> list[str]:
    """Bytes and characters of a token in words."""
    if piece.token.special:
        return ["a marker: it stands for no text"]
    part = "" if piece.whole else ", of which it holds some of the bytes"
    return [f"bytes {piece.hexadecimal}", f"characters {piece.characters}{part}"]


def _table(found: list[Piece], parted: Mapping[str, list[float]], address: str) -> pl.DataFrame:
    from workbench.finer_kinds import kind_of

    return pl.DataFrame(
        {
            "place": range(len(found)),
            "token": [p.token.shown for p in found],
            "id": [p.token.id for p in found],
            "bytes": [p.hexadecimal for p in found],
            "characters": [p.characters for p in found],
            "whole characters": [p.whole for p in found],
            "kind": [kind_of(p.token) for p in found],
            **{f"KL({name} ‖ {address}), nats": kl for name, kl in parted.items()},
        }
    )


def _one(lab: Lab, address: str, trace: Trace, place: int) -> None:
    """The chosen token: its bytes, and the merges that made it, in order."""
    from workbench.tokenization import MOST_LETTERS, origin, pieces, why_not
    from workbench.vocabulary import shown

    piece = pieces(trace.prompt.tokens)[place]
    frame.facts(
        [
            ("token", piece.token.shown),
            ("id", str(piece.token.id)),
            ("bytes", piece.hexadecimal if len(piece.token.data) < 40 else f"{len(piece.token.data)} bytes"),
            ("characters", (piece.characters or "none") + ("" if piece.whole else " (in part)")),
        ]
    )
    reader = token_store.reader(lab, address)
    if reader.merges is None:
        frame.note(why_not(reader.tokenizer))
        return
    found = origin(reader.tokenizer, reader.merges, trace.prompt, place)
    if found is None:
        frame.note("This token is a marker: it stands in the vocabulary whole and is never merged.")
        return
    if found.replayed.too_long:
        frame.note(
            f"Its piece of the text is longer than {MOST_LETTERS:,} bytes: too long to replay its merges."
        )
        return
    if not found.exact:
        frame.note("The text was cut inside this piece: how its whole was merged cannot be shown.")
        return
    if found.replayed.at_once:
        frame.note("This piece stands in the vocabulary whole: the tokenizer takes it without merging.")
        return
    if not found.own:
        frame.note("This token is a single byte: no merge of the list joins it to its neighbours here.")
        return
    whole = "".join(token.shown for token in found.piece)
    frame.caption(
        f"Its piece of the text is {whole}, at first a byte at a time. Of all neighbours, those that "
        f"stand first in the list of {len(reader.merges.ranks):,} merges are joined, again and again. "
        f"{len(found.own)} of the piece's {len(found.replayed.merges)} merges made this token."
    )
    rows = [
        {
            "step": found.replayed.merges.index(m) + 1,
            "merge": f"{shown(m.left)} + {shown(m.right)}",
            "makes": shown(m.left + m.right),
            "number in the list": m.rank + 1,
            "the piece then": " · ".join(shown(part) for part in m.parts),
        }
        for m in found.own
    ]
    st.dataframe(pl.DataFrame(rows), key=f"merges-{address}", hide_index=True)
