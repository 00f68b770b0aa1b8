"""KL in the text itself: a held-out document, tinted by how far two checkpoints' predictions of its tokens part."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import polars as pl
import streamlit as st

from pages.components import frame, parted_token, read_beside, show, theme, words
from pages.components.answers_beside import LEAST
from pages.components.tokens import Strip, Token, from_shown, strips
from workbench.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.comparison import Comparison
    from workbench.document_parted import DocumentRead

DOCUMENT = "text_document"


@st.fragment
def view(lab: Lab, comparison: Comparison) -> None:
    """The choice of a document; then its tokens. A fragment: models are opened for it alone."""
    with frame.sentences():
        pair, domain, document = _controls(lab, comparison)
        if document is None:
            frame.note("Choose a document: both checkpoints read it, and its tokens show where they part.")
            return
        found = read_beside.document(lab, comparison, pair, document)
        _figures(comparison, pair, domain, found)
        _text(found, pair, read_beside.heldout(lab, comparison).vocabulary)


def _controls(lab: Lab, comparison: Comparison) -> tuple[tuple[str, str], str, int | None]:
    pairs = {f"{a} → {b}": (a, b) for a, b in itertools.combinations(comparison.checkpoints, 2)}
    domains = sorted(set(read_beside.heldout(lab, comparison).domain.tolist()))
    left, middle, right = st.columns([2, 2, 5])
    pair = left.selectbox("From and to", list(pairs), key="text_pair", bind="query-params")
    domain = middle.selectbox(
        "Domain", domains, key="text_domain", bind="query-params",
        on_change=_forget,
    )  # fmt: skip
    begun = read_beside.beginnings(lab, comparison, str(domain))
    known = {f"{number}: {text}": number for number, text in begun.items()}
    asked = st.query_params.get(DOCUMENT)
    if asked is not None and asked not in known and DOCUMENT not in st.session_state:
        frame.note(f"there is no document {asked!r} in {domain}: choose another.", error=True)
    document = right.selectbox(
        "Held-out document", list(known), index=None, key=DOCUMENT, bind="query-params",
        placeholder=f"one of {len(known):,}, by its first words",
    )  # fmt: skip
    return pairs[str(pair)], str(domain), None if document is None else known[document]


def _forget() -> None:
    """Another domain has other documents."""
    st.session_state[DOCUMENT] = None


def _figures(comparison: Comparison, pair: tuple[str, str], domain: str, found: DocumentRead) -> None:
    """The document beside its domain, and the tokens that carry most."""
    before, after = pair
    read, kl = len(found.parted), f"KL({after} ‖ {before})"
    part = f"{read:,}" if read == found.n_tokens else f"the first {read:,} of {found.n_tokens:,}"
    pairs = [(f"{kl} of this document, {part} tokens", f"{words.number(found.mean_kl(1))} nats per token")]
    whole = comparison.kl.filter(pl.col("p") == after, pl.col("q") == before, pl.col("domain") == domain)
    for row in whole.iter_rows(named=True):
        mean, low, high = (words.number(row[key]) for key in ("kl", "low", "high"))
        pairs.append((f"of all {domain}, {row['n']:,} tokens", f"{mean} ({low}–{high})"))
    frame.facts(pairs)


def _text(found: DocumentRead, pair: tuple[str, str], vocabulary: Sequence[str]) -> None:
    before, after = pair
    parted, most = found.parted, max(LEAST, float(found.parted.kl[1].max()))
    carried = found.carriers(1)
    if not carried:
        frame.note(f"{before} and {after} predict every token of it alike.")
    else:
        named = ", ".join(
            f"{vocabulary[parted.ids[row]]} (token {row + 1:,}: {words.number(kl)} nats, {words.share(share)})"
            for row, kl, share in carried
        )
        together = words.share(sum(c.share for c in carried))
        frame.note(f"{together} of it is on {len(carried)} of {len(parted):,} tokens: {named}.")
    frame.caption(
        f"Tinted by KL({after} ‖ {before}) of the predictions of each token; full tint is {words.number(most)} "
        "nats. Each part is read on its own, as the comparison reads it."
    )
    drawn = []
    for start, stop in itertools.pairwise([*found.windows, len(parted)]):
        tokens = [
            from_shown(vocabulary[parted.ids[row]])
            | Token(value=float(parted.kl[1, row]), lines=parted_token.lines(parted, row, pair, vocabulary))
            for row in range(start, stop)
        ]
        head = [f"tokens {start + 1:,} to {stop:,}"]
        drawn.append(Strip(tokens=tokens, max=most, head=head, label=head[0]))
    strips(drawn, theme.palette().accent, "document")
    show.twin(parted_token.table(parted, pair, vocabulary), "document-tokens", "All tokens as a table")
