"""One token of a text that two checkpoints read: what each expected there, and the latents behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import polars as pl
import streamlit as st

from pages.components import frame, panels, read_beside, store, theme, words
from pages.components.panels import Mark, Panel, Row
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.comparison import Comparison
    from workbench.difference_shares import Shares
    from workbench.parted_predictions import Parted

N_LATENTS = 12
N_BEFORE = 8  # tokens named before the chosen one


class At(NamedTuple):
    """A token, `row` of `parted`, with all ids before it; `shown` names any id of the vocabulary."""

    parted: Parted
    row: int
    before: tuple[int, ...]
    vocabulary: Sequence[str]


def lines(parted: Parted, row: int, pair: tuple[str, str], vocabulary: Sequence[str]) -> list[str]:
    """What is said of a token on hover."""
    first, second = pair
    said = []
    for m, name in enumerate(pair):
        likeliest, p = vocabulary[parted.top_ids[m, row, 0]], words.number(float(parted.top_p[m, m, row, 0]))
        given = words.probability(parted.log_p[m, row])
        said.append(f"{name} gives it {given}" + (f", expects {likeliest} ({p})" if p != given else ""))
    return [
        *said,
        f"KL({second} ‖ {first}) {words.number(parted.kl[1, row])} nats",
        f"KL({first} ‖ {second}) {words.number(parted.kl[0, row])} nats",
        "entropy "
        + ", ".join(f"{n} {words.number(e)}" for n, e in zip(pair, parted.entropy[:, row], strict=True)),
    ]


def table(parted: Parted, pair: tuple[str, str], vocabulary: Sequence[str]) -> pl.DataFrame:
    """A row a token: its figures under both."""
    first, second = pair
    return pl.DataFrame(
        {
            "token": [vocabulary[i] for i in parted.ids],
            **{f"log p {name}": parted.log_p[m] for m, name in enumerate(pair)},
            f"KL({second} ‖ {first})": parted.kl[1],
            f"KL({first} ‖ {second})": parted.kl[0],
            **{f"entropy {name}": parted.entropy[m] for m, name in enumerate(pair)},
        }
    )


def view(lab: Lab, comparison: Comparison, pair: tuple[str, str], at: At, key: str) -> None:
    """Both distributions beside each other; below, the latents."""
    token = at.vocabulary[at.parted.ids[at.row]]
    before = " ".join(at.vocabulary[i] for i in at.before[-N_BEFORE:])
    told = lines(at.parted, at.row, pair, at.vocabulary)
    frame.caption(
        f"What each expected where {token} stands, after: {'… ' if len(at.before) > N_BEFORE else ''}{before}. "
        f"Of {token} itself: {'; '.join(told)}. Ticks: what the other gives the same token."
    )
    drawn = [_expected(at, m, name, pair[1 - m]) for m, name in enumerate(pair)]
    panels.draw(drawn, f"{key}-expected", 2)
    _latents(lab, comparison, pair, at, key)


def _expected(at: At, m: int, name: str, other: str) -> Panel:
    ids = at.parted.top_ids[m, at.row].tolist()
    own, others = (at.parted.top_p[reader, m, at.row].tolist() for reader in (m, 1 - m))
    colour, shown = theme.colours([name])[name], [at.vocabulary[i] for i in ids]
    rows = [
        Row(
            label=token,
            value=p,
            text=words.number(p),
            colour=colour,
            marks=[Mark(symbol=panels.TICK, value=q)],
            said=[f"{name} {words.number(p)}", f"{other} {words.number(q)}"],
        )
        for token, p, q in zip(shown, own, others, strict=True)
    ]
    likeliest = pl.DataFrame({"token": shown, "id": ids, f"p {name}": own, f"p {other}": others})
    alt = f"the {len(ids)} tokens that {name} holds likeliest, with what {other} gives them"
    return Panel(panels.bars(rows, "probability", 0.0, 1.0), alt, likeliest, f"{name} expects")


def _latents(lab: Lab, comparison: Comparison, pair: tuple[str, str], at: At, key: str) -> None:
    """What the difference of the two streams is made of where the prediction is made: at the token before."""
    from workbench.difference_shares import unreadable

    st.markdown("##### The latents behind it")
    if why := unreadable(comparison.dictionary, comparison.checkpoints, *pair):
        frame.note(why)
        return
    here = at.vocabulary[at.before[-1]]
    if len(at.before) == 1:
        frame.note(f"This token is predicted at {here}, the beginning, which no dictionary was trained on.")
        return
    found = read_beside.behind(lab, comparison, pair, at.before)
    if found is None:
        frame.note(f"The two streams are equal at {here}: there is no difference to share out.")
        return
    panels.draw([_shares(lab, comparison, pair, found, here)], f"{key}-latents")


def _shares(lab: Lab, comparison: Comparison, pair: tuple[str, str], found: Shares, here: str) -> Panel:
    norms = [f"w_{name}" for name in comparison.checkpoints]
    known = store.features(lab, comparison.dictionary).rows.select(
        "latent", pl.coalesce("own_label", "label", "top_token").alias("label"), *norms
    )
    parts = found.table(known, N_LATENTS)
    colour, muted = theme.colours(pair)[pair[1]], theme.palette().muted
    rows = []
    for part in parts.iter_rows(named=True):
        row = Row(
            label=part["what"],
            value=part["share"],
            text=f"{part['share']:+.1%}",
            colour=colour if part["share"] > 0 and part["latent"] is not None else muted,
        )
        if (latent := part["latent"]) is not None:
            held = {"lab": lab.name, "dictionary": comparison.dictionary, "latent": latent}
            row |= Row(
                label=f"{latent}: {part['label'] or '–'}",
                link=f"features?{urlencode(held)}",
                said=[
                    f"fires with {words.number(part['activation'])}",
                    *(f"{words.share(part[w])} of its norm in {w.removeprefix('w_')}" for w in norms),
                ],
            )
        rows.append(row)
    first, second = pair
    return Panel(
        panels.bars(rows, f"share of the difference from {first} to {second}"),
        f"what the difference between the streams of {first} and {second} is made of",
        parts,
        "",
        f"Where the prediction is made, at {here}, the stream of {second} is off that of {first} by "
        f"{words.share(found.moved)} of its length. Each of the {len(found.latents)} latents of "
        f"{comparison.dictionary} that fire there takes part by its activation times what its two decoders differ "
        "by, projected on that difference; below zero it works against it. All rows add up to 100 %; the last is "
        "what the crosscoder does not explain. A latent's name leads to its page.",
    )
