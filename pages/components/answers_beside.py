"""Two checkpoints answer the same prompt: both answers, token by token, and what lies behind a chosen token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.components import frame, parted_token, read_beside, show, theme, words
from pages.components.tokens import Strip, Token, readable, strips
from workbench.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.answering import Answer, Answers
    from workbench.comparison import Comparison

LEAST = 0.1  # nats at full tint: differences smaller than any that matter stay pale
OF, TOKEN = "ask_of", "ask_token"  # the chosen token: whose answer, and its place in the text


@st.fragment
def view(lab: Lab, comparison: Comparison) -> None:
    """Controls; then, as soon as there is a prompt, the answers. A fragment: nothing else is drawn again."""
    with frame.sentences():
        ask = _controls(lab, comparison)
        if ask is None:
            return
        if not ask.text.strip():
            frame.note(
                f"Write a question or the beginning of a text: {ask.first} and {ask.second} go on from it, and "
                "each reads what the other wrote."
            )
            return
        found = read_beside.answers(lab, ask)
        if found.prompt.note:
            frame.note(found.prompt.note)
        frame.note(_compared(ask, found))
        above = st.container()
        answer, place = _chosen(ask, found)
        vocabulary, pair = read_beside.heldout(lab, comparison).vocabulary, (ask.first, ask.second)
        with above:
            _answers(ask, found, answer, place, vocabulary)
        at = parted_token.At(answer.parted, place - 1, tuple(answer.ids[:place]), vocabulary)
        parted_token.view(lab, comparison, pair, at, "answers")
        show.twin(parted_token.table(answer.parted, pair, vocabulary), "answer-tokens", "All tokens as a table")


def _controls(lab: Lab, comparison: Comparison) -> read_beside.Ask | None:
    known = read_beside.addresses(lab, comparison)
    if len(known) < 2:
        frame.note("There are no two checkpoints to ask yet: the Lab page shows how far they are.")
        return None
    frame.doubted("ask_a", "checkpoint", known)
    frame.doubted("ask_b", "checkpoint", known)
    left, right = st.columns([3, 2], gap="large")
    with left:
        text = st.text_area(
            "Prompt", "", key="ask", bind="query-params", height=104, on_change=_forget,
            placeholder="Which town is the capital of …?", help="Ctrl+Enter asks it.",
        )  # fmt: skip
        chat = st.toggle(
            "Ask it as a question in chat form", True, key="ask_chat", bind="query-params", on_change=_forget
        )
    with right:
        *_, before, after = comparison.checkpoints
        first = st.selectbox(
            "One", known, known.index(before), key="ask_a", bind="query-params", on_change=_forget
        )
        others = [address for address in known if address != first]
        second = st.selectbox(
            "The other", others, others.index(after) if after in others else 0, key="ask_b", bind="query-params",
            on_change=_forget,
        )  # fmt: skip
        heat, seed = st.columns([3, 1])
        temperature = heat.slider(
            "Temperature (0: the likeliest token each time)", 0.0, 1.5, 0.0, 0.1, key="ask_heat",
            bind="query-params", on_change=_forget,
        )  # fmt: skip
        number = seed.number_input("Seed", 0, 9999, 0, key="ask_seed", bind="query-params", on_change=_forget)
    return read_beside.Ask(str(first), str(second), text, chat, float(temperature), int(number))


def _forget() -> None:
    """Another text: the token that was chosen in the last one means nothing in it."""
    for key in (OF, TOKEN):
        st.session_state.pop(key, None)


def _answers(
    ask: read_beside.Ask, found: Answers, chosen: Answer, place: int, vocabulary: Sequence[str]
) -> None:
    """Prompt and answers (one where they agree) as tokens; `place` of `chosen` is marked."""
    first, second = found.first, found.second
    most = max(LEAST, float(first.parted.kl[1].max()), float(second.parted.kl[1].max()))
    frame.caption(
        f"Tinted by KL({ask.second} ‖ {ask.first}) of the predictions of each token, from what stands before it; "
        f"full tint is {words.number(most)} nats. Click a token, or walk with the arrow keys and press Enter."
    )
    texts = [(first, 0, first.n_prompt, ["prompt", f"{first.n_prompt} tokens"])]
    for answer in (first,) if found.differ_at is None else (first, second):
        who = f"{first.author} and {second.author}" if found.differ_at is None else answer.author
        texts.append((answer, answer.n_prompt, len(answer.tokens), [who, *_told(answer, ask)]))
    drawn = []
    for answer, start, stop, head in texts:
        strip = Strip(
            tokens=_tokens(answer, (ask.first, ask.second), start, stop, vocabulary),
            max=most,
            head=head,
            label=head[0],
        )
        if start <= place < stop and (start == 0 or answer is chosen):
            strip["chosen"] = place - start
        drawn.append(strip)

    def choose(text: int, token: int) -> None:
        answer, start, *_ = texts[text]
        st.session_state[OF] = answer.author
        st.session_state[TOKEN] = max(1, start + token)

    strips(drawn, theme.palette().accent, "answers", choose=choose)


def _compared(ask: read_beside.Ask, found: Answers) -> str:
    """Whether they agree, and where they part."""
    if found.differ_at is None:
        return f"{ask.first} and {ask.second} give the same answer, token for token."
    n, texts = found.differ_at - found.first.n_prompt, (found.first, found.second)
    said = [
        f"{answer.author} goes on with {answer.tokens[found.differ_at].shown}"
        if found.differ_at < len(answer.tokens)
        else f"{answer.author} has ended"
        for answer in texts
    ]
    agree = "They part at the first token of the answer" if n == 0 else f"Their answers agree on {n} tokens"
    return f"{agree}; {', '.join(said)}."


def _told(answer: Answer, ask: read_beside.Ask) -> list[str]:
    """An answer's figures over its head."""
    end = "ended by itself" if answer.ended else "cut"
    first, second = (words.number(value) for value in answer.log_p)
    return [
        f"{answer.n_answer} tokens, {end}",
        f"log p of the answer: {first} nats in {ask.first}, {second} in {ask.second}",
        f"KL({ask.second} ‖ {ask.first}) {words.number(answer.kl[1])} nats per token",
    ]


def _tokens(
    answer: Answer, pair: tuple[str, str], start: int, stop: int, vocabulary: Sequence[str]
) -> list[Token]:
    made = []
    for place in range(start, stop):
        token = answer.tokens[place]
        drawn = Token(text=readable(token), special=token.special, lines=["given: nothing predicts it"])
        if place:
            lines = parted_token.lines(answer.parted, place - 1, pair, vocabulary)
            drawn |= Token(value=float(answer.parted.kl[1, place - 1]), lines=lines)
        made.append(drawn)
    return made


def _chosen(ask: read_beside.Ask, found: Answers) -> tuple[Answer, int]:
    """Whose answer a token is of, and its place in prompt and answer: widgets, so that the address holds them."""
    pair, answer = (ask.first, ask.second), found.first
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    if found.differ_at is not None:
        if st.session_state.get(OF, pair[0]) not in pair:
            st.session_state.pop(OF)
        author = left.radio("A token of", pair, key=OF, bind="query-params", horizontal=True)
        answer = found.second if author == ask.second else found.first
    last = len(answer.tokens) - 1
    if int(st.session_state.get(TOKEN) or 1) > last:
        st.session_state.pop(TOKEN)
    start = answer.farthest if found.differ_at is None else min(found.differ_at, last)
    place = right.number_input(
        "Its place in the text (or click it)", 1, last, start, key=TOKEN, bind="query-params", width=260
    )
    return answer, int(place)
