"""Behind one token: the latents that are on there, and the neurons that write most, in each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import polars as pl
import streamlit as st

from pages.components import asked, frame, panels, store, theme, token_store, words
from pages.components.panels import Panel, Row
from pages.components.tokens import Strip, Token, strips
from workbench.lab import Lab
from workbench.recipe import stage_of

if TYPE_CHECKING:
    from workbench.behind_token import Latents, Neurons
    from workbench.prompt import Prompt
    from workbench.trace import Trace

TOKEN = "token"
N_LATENTS = 12


def place(traces: Mapping[str, Trace]) -> int:
    """The token that is looked at, by its place in the longest prompt: the address's, else the last."""
    n = max(len(trace.prompt.tokens) for trace in traces.values())
    asked = st.number_input(
        "Token, by its place from 0 (or click it)", 0, None, None, key=TOKEN, bind="query-params", width=260,
        placeholder="the last",
    )  # fmt: skip
    if asked is not None and asked >= n:
        frame.note(f"The text has {n} tokens, so there is none at place {int(asked)}: the last is shown.")
    return n - 1 if asked is None else min(int(asked), n - 1)


def choose(strip: int, token: int) -> None:
    """A click on a token of the prompt."""
    st.session_state[TOKEN] = token


def view(
    lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str], position: int
) -> None:
    """The panel, one click away: it runs each model once more, and opens feature tables."""
    if _asked_for():
        _beside(lab, question, traces, colour, position)


def below(lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str]) -> None:
    """The panel below a stage that has no choice of a token of its own."""
    if not _asked_for():
        return
    prompt, position = next(iter(traces.values())).prompt, place(traces)
    strip(prompt, position, theme.palette().accent, "behind-tokens")
    _beside(lab, question, traces, colour, position)


def strip(prompt: Prompt, position: int, colour: str, key: str) -> None:
    """The prompt's tokens, the one at `position` chosen (the last of a shorter prompt); a click chooses another."""
    made = [Token(text=t.shown, lines=[f"id {t.id}"], special=t.special) for t in prompt.tokens]
    shown = Strip(tokens=made, chosen=min(position, len(made) - 1), label="tokens of the prompt")
    strips([shown], colour, key, boxed=True, choose=choose)


def _asked_for() -> bool:
    return bool(st.toggle("Behind one token: latents and neurons", key="behind", bind="query-params"))


def _beside(
    lab: Lab, question: asked.Question, traces: Mapping[str, Trace], colour: Mapping[str, str], position: int
) -> None:
    for column, (address, trace) in zip(st.columns(len(traces), gap="large"), traces.items(), strict=True):
        with column, frame.sentences():
            at = min(position, len(trace.prompt.tokens) - 1)
            frame.name_tag(address, colour[address], f"at {trace.prompt.tokens[at].shown}")
            _latents(lab, question, address, trace.prompt, at, colour[address])
            _neurons(lab, address, trace.prompt, at, colour[address])


def _latents(lab: Lab, question: asked.Question, address: str, prompt: Prompt, at: int, colour: str) -> None:
    from workbench.behind_token import saes_of

    names = saes_of(lab, address)
    if not names:
        frame.note(
            f"{stage_of(address)} has no SAE with a feature table: `python -m workbench sae {lab.name} "
            f"--checkpoint {stage_of(address)}` trains one."
        )
        return
    name = names[0]
    if len(names) > 1:
        name = str(st.selectbox("SAE", names, key=f"sae_{address}", bind="query-params"))
    if at == 0 and prompt.tokens[0].special:
        frame.note(f"{prompt.tokens[0].shown} is the beginning of every text: no dictionary was trained on it.")
        return
    found, layer = token_store.latents(lab, address, question.text, question.chat, at, name)
    known = store.features(lab, name).rows.select(
        "latent", pl.coalesce("own_label", "label", "top_token").alias("label")
    )
    called = dict(known.iter_rows())
    rows = [
        Row(
            label=f"{latent}: {called[latent] or '–'}",
            value=share,
            text=f"{share:+.1%}",
            colour=colour if share > 0 else theme.palette().muted,
            link=f"features?{urlencode({'lab': lab.name, 'dictionary': name, 'latent': latent})}",
            said=[f"activation {words.number(value)}", f"share {share:+.2%}"],
        )
        for latent, value, share in _listed(found)[:N_LATENTS]
    ]
    if len(found.ids) > N_LATENTS:
        rest = float(found.shares[N_LATENTS:].sum())
        rows.append(_muted(f"{len(found.ids) - N_LATENTS} more latents", rest))
    rows.append(_muted("not explained", found.error))
    table = pl.DataFrame(
        {
            "latent": found.ids,
            "label": [called[i] for i in found.ids.tolist()],
            "activation": found.values,
            "share": found.shares,
        }
    )
    reads = store.features(lab, name).checkpoints[0]
    of = "" if reads == address else f" {name} was trained on {reads}, not on this snapshot."
    caption = (
        f"{len(found.ids)} latents of {name} are on in the stream after block {layer}. Each takes part by its "
        "activation times its decoder, projected on the stream less b_dec; all rows add up to 100 %. A name leads "
        f"to the latent's page.{of}"
    )
    made = panels.bars(rows, "share of the stream")
    panels.draw(
        [Panel(made, f"latents of {name} that are on", table, "Latents", caption)], f"latents-{address}"
    )


def _muted(label: str, share: float) -> Row:
    """A bar that is no single latent's."""
    return Row(label=label, value=share, text=f"{share:+.1%}", colour=theme.palette().muted)


def _listed(found: Latents) -> list[tuple[int, float, float]]:
    return list(zip(found.ids.tolist(), found.values.tolist(), found.shares.tolist(), strict=True))


def _neurons(lab: Lab, address: str, prompt: Prompt, at: int, colour: str) -> None:
    tokens, _ = token_store.vocabulary(lab, address)
    layers = token_store.neurons(lab, address, prompt.ids, at)
    most = max(float(each.sizes.max()) for each in layers)
    drawn = [_layer(each, [t.shown for t in tokens], most, colour) for each in layers]
    panels.draw(drawn, f"neurons-{address}")


def _layer(found: Neurons, shown: list[str], most: float, colour: str) -> Panel:
    rows, names = [], []
    for i, neuron in enumerate(found.ids.tolist()):
        promoted = [shown[t] if t < len(shown) else f"id {t}" for t in found.promoted[i].tolist()]
        names.append("  ".join(promoted))
        rows.append(
            Row(
                label=f"{neuron}: {'  '.join(promoted[:3])}",
                value=float(found.sizes[i]),
                text=words.number(float(found.sizes[i])),
                colour=colour,
                said=[
                    f"h {words.number(float(found.activations[i]))}",
                    *(
                        f"{name} {logit:+.2f}"
                        for name, logit in zip(promoted, found.logits[i].tolist(), strict=True)
                    ),
                ],
            )
        )
    table = pl.DataFrame(
        {"neuron": found.ids, "h": found.activations, "|h|·‖w‖": found.sizes, "promotes": names}
    )
    return Panel(
        panels.bars(rows, "|h| · ‖w‖", 0.0, most),
        f"the {len(rows)} neurons of block {found.layer} that write most",
        table,
        f"MLP of block {found.layer}",
        "A neuron writes its activation h times its output weights w into the stream: |h| · ‖w‖ is the length of "
        f"that. These hold {words.share(found.share)} of the sum over all neurons of the block. Beside each, "
        "the tokens that it promotes as it is on here; on hover, by how much, in "
        "logits before the final norm's scale.",
    )
