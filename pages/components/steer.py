"""Steering and ablation, live: a text written with a latent turned up, down or off, beside the text without;
and what each dose does to the promoted tokens and to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from pages.components import asked, charts, frame, latent, show, steered, store, theme, words
from pages.components.tokens import Strip, running, strips
from workbench.lab import Lab

if TYPE_CHECKING:
    from workbench.features import FeatureTable
    from workbench.sampling import Continuation
    from workbench.steering import Dose, Effect

ADD, ABLATE = "add its direction", "take it away"
LEAST = (0.01, 0.01)  # room on either side of the marks: a probability, and nats per token


def view(lab: Lab, table: FeatureTable, chosen: int) -> None:
    """Controls, the two texts, and the responses."""
    found = store.dashboard(lab, table.name, chosen)
    latent.name(found)
    what, ask = _controls(lab, table)
    unit = steered.unit(lab, table.name, chosen)
    if what == ADD:
        ask = ask._replace(times=_strength(unit))
    columns = st.columns(2, gap="large")
    colour = theme.colours([ask.address])[ask.address]
    done = f"with {words.number(ask.times)} × {words.number(unit)} added" if what == ADD else "taken away"
    for column, name, edit in zip(
        columns, ("as it is", done), (None, "add" if what == ADD else "ablate"), strict=True
    ):
        with column:
            frame.name_tag(ask.address, colour, name)
            drawn = steered.texts(lab, table.name, chosen, ask, edit)
            strips([_strip(i, text) for i, text in enumerate(drawn, 1)], colour, f"steer-{edit}")
    if what == ADD:
        _doses(lab, table, chosen, ask, unit, colour)
    else:
        _ablation(lab, table, chosen, ask)


def _controls(lab: Lab, table: FeatureTable) -> tuple[str, steered.Ask]:
    left, right = st.columns([3, 2], gap="large")
    with left:
        text = st.text_area(
            "Text to go on from", asked.PROMPT, key="steer_prompt", bind="query-params", height=80
        )
        chat = st.toggle("Ask it as a question in chat form", key="steer_chat", bind="query-params")
    with right:
        addresses = [a for a in store.addresses(lab) if "@" not in a]
        own = table.checkpoints[-1]
        address = st.selectbox(
            "Checkpoint", addresses, addresses.index(own) if own in addresses else 0, key="steer_in",
            bind="query-params",
        )  # fmt: skip
        what = st.segmented_control(
            "What is done", [ADD, ABLATE], default=ADD, required=True, key="steer_by", bind="query-params"
        )
    with left:
        temperature = st.slider(
            "Temperature (0: the likeliest token each time)", 0.0, 1.5, 0.0, 0.1, key="steer_heat",
            bind="query-params", width=360,
        )  # fmt: skip
    return str(what), steered.Ask(str(address), text, chat, 0.0, float(temperature))


def _strength(unit: float) -> float:
    label = f"Strength, in times its strongest activation ({words.number(unit)})"
    return float(st.slider(label, -4.0, 4.0, 2.0, 0.25, key="strength", bind="query-params"))


def _strip(number: int, drawn: Continuation) -> Strip:
    lines = [
        [f"id {t.id}", f"probability {words.probability(p)}"]
        for t, p in zip(drawn.tokens, drawn.log_p.tolist(), strict=True)
    ]
    end = "ended by itself" if drawn.ended else f"cut after {len(drawn.tokens)} tokens"
    return Strip(tokens=running(drawn.tokens, lines), head=[f"{number}", end], label=f"text {number}")


def _doses(lab: Lab, table: FeatureTable, chosen: int, ask: steered.Ask, unit: float, colour: str) -> None:
    tokens, dose = steered.dose(lab, table.name, chosen, ask)
    frame.caption(
        f"Left, the probability that the next token after the text is one of those the latent promotes most "
        f"({'  '.join(tokens)}). Right, the loss on a few held-out windows, which says what the push breaks. "
        "Grey lines are random directions of equal length: what any push of this size does."
    )
    made = _dose_picture(dose, ask.times * unit, colour)
    show.chart(made, "doses", "promoted tokens and loss against the strength of steering", _dose_table(dose))


def _dose_picture(dose: Dose, now: float, colour: str) -> go.Figure:
    made = make_subplots(1, 2, horizontal_spacing=0.1)
    made.update_layout(charts.figure(330).layout)
    muted = theme.palette().muted
    for at, (rows, title) in enumerate(
        ((dose.promoted, "probability of its promoted tokens"), (dose.loss, "held-out loss, nats per token")), 1
    ):
        for i, row in reversed(list(enumerate(rows))):  # the latent's own on top
            own = i == 0
            made.add_trace(
                go.Scatter(
                    x=dose.strengths,
                    y=row,
                    mode="lines+markers",
                    name="the latent" if own else "random directions",
                    showlegend=at == 1 and i <= 1,
                    line={"color": colour if own else muted, "width": 2.5 if own else 1.2,
                          "dash": "solid" if own else "dot"},
                    marker={"size": 8 if own else 4, "symbol": "circle" if own else "diamond"},
                    hovertemplate="strength %{x:.3g}: %{y:.4g}<extra></extra>",
                ),
                row=1,
                col=at,
            )  # fmt: skip
        made.add_vline(now, line={"color": theme.palette().ink, "width": 1, "dash": "dash"}, row=1, col=at)
        made.update_yaxes(title=title, row=1, col=at, automargin=True)
        made.update_xaxes(title="strength, in units of its activation", row=1, col=at)
    made.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}, uirevision="keep"
    )
    return made


def _dose_table(dose: Dose) -> pl.DataFrame:
    names = ["the latent", *(f"random {i}" for i in range(1, len(dose.promoted)))]
    return pl.DataFrame(
        [
            {"direction": name, "strength": s, "probability": p, "loss": loss}
            for name, chances, losses in zip(names, dose.promoted, dose.loss, strict=True)
            for s, p, loss in zip(dose.strengths.tolist(), chances.tolist(), losses.tolist(), strict=True)
        ]
    )


def _ablation(lab: Lab, table: FeatureTable, chosen: int, ask: steered.Ask) -> None:
    tokens, effects = steered.ablation(lab, table.name, chosen, ask)
    if not ask.chat:
        values = store.on_text(lab, table.name, chosen, ask.text)[1]
        if n_on := sum(value != 0 for value in values):
            frame.note(f"The latent fires on {n_on} of the text's {len(values)} tokens.")
        else:
            frame.note(
                f"The latent fires on none of the text's {len(values)} tokens, so taking it away changes nothing "
                "there: try one of the texts that its dashboard shows."
            )
    frame.caption(
        "What the latent adds is subtracted wherever it fires; all else, the dictionary's error too, stays. "
        f"The probability is that of its promoted tokens ({'  '.join(tokens)}) after the text; the loss is on "
        "a few held-out windows. A random direction of equal length, subtracted as often, is the control."
    )
    colour = theme.colours([ask.address])[ask.address]
    st.plotly_chart(
        _effect_picture(effects, colour),
        key="ablated",
        alt="promoted tokens and held-out loss as it is, without the latent, without random directions",
        config=show.CONFIG,
    )
    st.dataframe(_effect_table(effects), key="ablation", hide_index=True)


def _effect_picture(effects: list[Effect], colour: str) -> go.Figure:
    """A row a stream; the loss not from zero, since what one latent does to it is small beside it."""
    made = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.05)
    made.update_layout(charts.figure(90 + 30 * len(effects)).layout)
    palette = theme.palette()
    tints = [palette.ink, colour, *[palette.muted] * (len(effects) - 2)]
    marks = ["line-ns-open", "circle", *["diamond-open"] * (len(effects) - 2)]
    panels = (
        ([e.promoted for e in effects], "probability of its promoted tokens"),
        ([e.loss for e in effects], "held-out loss, nats per token"),
    )
    for at, (values, title) in enumerate(panels, 1):
        made.add_trace(
            go.Scatter(
                x=values,
                y=list(range(len(effects))),
                mode="markers",
                marker={"color": tints, "symbol": marks, "size": 11, "line": {"width": 2, "color": tints}},
                hovertemplate="%{x:.5g}<extra></extra>",
                cliponaxis=False,
            ),
            row=1,
            col=at,
        )
        made.add_vline(values[0], line={"color": palette.muted, "width": 1.5, "dash": "dot"}, row=1, col=at)
        room = max(LEAST[at - 1], (max(values) - min(values)) * 0.1)  # no noise blown up to fill the picture
        ends = [max(0.0, min(values) - room), max(values) + room]
        made.update_xaxes(title=title, nticks=5, range=ends, row=1, col=at)
    names = [e.name for e in effects]
    made.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    return made


def _effect_table(effects: list[Effect]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"stream": e.name, "probability of its tokens": e.promoted, "nats per held-out token": e.loss}
            for e in effects
        ]
    )
