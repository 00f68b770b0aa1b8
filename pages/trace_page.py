"""Trace: one message through the machine, in one checkpoint or in two beside each other."""

import streamlit as st

from pages.components import asked, frame, heads, lens, next_token, store, theme

lab = frame.begin("Trace", "One message through the machine, layer by layer, in one checkpoint or two.")

with frame.sentences():
    question = asked.question(lab)
    if question is None:
        st.stop()
    traces = {a: store.traced(lab, a, question.text, question.chat) for a in question.checkpoints}
    colour = theme.colours(list(traces))
    first = next(iter(traces.values()))

    st.header("Tokens", anchor=False)
    if first.prompt.note:
        frame.note(first.prompt.note)
    asked.tokens(traces, colour)

    st.header("What each layer would say next", anchor=False)
    frame.caption(
        "The logit lens: the model's own head, read after every layer. Stronger colour, more certain; "
        "underlined where it is the token that truly follows. Hover a cell, or walk with the arrow keys."
    )
    for column, (address, trace) in zip(st.columns(len(traces), gap="large"), traces.items(), strict=True):
        with column:
            frame.name_tag(address, colour[address])
            lens.grid(trace, colour[address], f"logit lens of {address}", f"lens-{address}")
            with st.expander("The same as a table"):
                st.dataframe(lens.table(trace), key=f"lens-table-{address}", hide_index=True)

    st.header("What attention looks back at", anchor=False)
    frame.caption(
        "Rows of small pictures are layers, columns are heads; within each, a row is a token and shows which "
        "earlier tokens it reads. Choose a head to enlarge it, then hover a token."
    )
    chosen = st.selectbox("Head (layer.head)", heads.names(first), key="head", bind="query-params", width=220)
    for column, (address, trace) in zip(st.columns(len(traces), gap="large"), traces.items(), strict=True):
        with column:
            frame.name_tag(address, colour[address])
            heads.grid(trace, chosen, colour[address], f"heads-{address}", "head")
            with st.expander("The same as a table"):
                st.dataframe(heads.table(trace, chosen), key=f"heads-table-{address}", hide_index=True)

    st.header("The next token", anchor=False)
    next_token.view(lab, question, traces, colour)
