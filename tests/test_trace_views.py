"""The Tokenize and Embed stages of the Trace page and the panel behind one token, run without a browser."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from pages.components import (
    asked,
    frame,
    store,
    theme,
    through_training,
    token_store,
    trace_behind,
    trace_embed,
    trace_languages,
    trace_store,
)
from pages.components.tokens import Strip
from tests.test_pages import TIMEOUT, errors, opened, sentences
from tests.tiny_models import tiny_model, tiny_tokenizer
from workbench.circuits.found_lenses import FoundLens
from workbench.errors import Failure
from workbench.lab import Lab
from workbench.prompt import read_prompt
from workbench.tokenization import Merges
from workbench.trace import Trace, trace
from workbench.vocabulary import TokenText

pytestmark = pytest.mark.usefixtures("one_thread")

ODD = "a\x00b \u202e شلام 👩‍🚒 <|user|> café"


@pytest.fixture(autouse=True)
def _default_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARBLE_LAB", "tiny")


def tables(app: AppTest) -> list[pl.DataFrame]:
    return [pl.from_pandas(frame.value) for frame in app.dataframe]


@pytest.mark.parametrize("pair", [("base", "sft"), ("base@0", "sft@8"), ("grpo", "none")])
def test_tokenize_draws(tiny_lab: Lab, pair: tuple[str, str]) -> None:
    app = opened(
        "trace", stage="Tokenize", prompt="Fellow citizens of the Senate", token="2", a=pair[0], b=pair[1]
    )
    assert not app.exception
    assert errors(app) == []
    assert [h.value for h in app.header] == [
        "Tokens", "How many r in strawberry?", "The same sentence in other languages",
    ]  # fmt: skip
    steps = tables(app)[0]
    assert steps.columns == ["step", "merge", "makes", "number in the list", "the piece then"]
    for makes, then in steps.select("makes", "the piece then").iter_rows():
        assert makes in then.split(" · ")


def test_odd_text_is_shown_as_it_is(tiny_lab: Lab) -> None:
    """Control characters, right-to-left, joined emoji, markers as plain text: no exception, no raw control sign."""
    for token in ("0", "1", "3", "9"):
        app = opened("trace", stage="Tokenize", prompt=ODD, token=token, b="none")
        assert not app.exception
        assert errors(app) == []
        assert not any(sign in text for text in sentences(app) for sign in ("\x00", "\u202e"))


def test_a_wrong_letter_is_one_sentence(tiny_lab: Lab) -> None:
    app = opened("trace", stage="Tokenize", word="banana", letter="an", b="none")
    assert not app.exception
    [sentence] = errors(app)
    assert "single character" in sentence


@pytest.mark.parametrize("pair", [("base", "sft"), ("base@0", "none")])
def test_embed_draws(tiny_lab: Lab, pair: tuple[str, str]) -> None:
    contexts = "the letter is here\nhow many letter\nno letter"
    app = opened("trace", stage="Embed", a=pair[0], b=pair[1], contexts=contexts, marked="the")
    assert not app.exception
    assert errors(app) == []
    assert [h.value for h in app.header] == [
        "Nearest tokens", "All tokens on a plane", "Analogies", "The same word in several contexts",
    ]  # fmt: skip


def test_a_sentence_without_the_word_is_named(tiny_lab: Lab) -> None:
    app = opened("trace", stage="Embed", b="none", contexts="the letter\nnothing here")
    assert not app.exception
    [sentence] = errors(app)
    assert "nothing here" in sentence


@pytest.mark.parametrize("stage", ["Tokenize", "Predict"])
def test_behind_one_token(tiny_lab: Lab, stage: str) -> None:
    """One click away under any stage; grpo has an SAE in the tiny lab or is told how to get one."""
    app = opened("trace", stage=stage, a="sft", b="base@0", token="2", behind="true")
    assert not app.exception
    assert errors(app) == []
    folded = opened("trace", stage=stage, a="sft", b="base@0", token="2")
    assert len(folded.expander) < len(app.expander)  # tables of latents and neurons come with it


def test_a_place_that_no_text_has_is_said(tiny_lab: Lab) -> None:
    app = opened("trace", stage="Tokenize", prompt="a letter", token="99", b="none")
    assert errors(app) == []
    assert any("there is none at place 99: the last is shown" in text for text in sentences(app))


def test_a_checkpoint_does_not_stand_beside_itself(tiny_lab: Lab) -> None:
    app = opened("trace", stage="Tokenize", a="sft", b="sft")
    [sentence] = errors(app)
    assert "sft cannot stand beside itself" in sentence


def traced(text: str, d_vocab: int = 300) -> Trace:
    """A trace by a tokenizer that was trained on `text`."""
    tokenizer, model = tiny_tokenizer(text=text), tiny_model("llama")
    model.resize_token_embeddings(d_vocab, mean_resizing=False)
    return trace(model, tokenizer, read_prompt(tokenizer, "hello this is a test", 64))


def tokenized(monkeypatch: pytest.MonkeyPatch, traces: Mapping[str, Trace], **query: str) -> AppTest:
    """The Tokenize stage of traces that no lab holds, each of the tokenizer that is called as it is."""

    def script() -> None:
        import streamlit as st

        from pages.components import asked, theme, trace_tokenize

        given = st.session_state["given"]
        trace_tokenize.view(None, asked.Question("", False, ()), given, theme.colours(list(given)))

    def reader(_: object, text: str) -> token_store.Reader:
        tokenizer = tiny_tokenizer(text=text)
        return token_store.Reader(tokenizer, Merges.of(tokenizer), text)

    monkeypatch.setattr(token_store, "reader", reader)
    for module, name in ((trace_behind, "view"), (trace_languages, "letter"), (trace_languages, "costs")):
        monkeypatch.setattr(module, name, lambda *_: None)
    app = AppTest.from_function(script, default_timeout=TIMEOUT)
    app.session_state["given"] = traces
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


def test_with_two_tokenizers_each_has_its_own_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place of the longer text is there, and the shorter one shows its last; both tokens are taken apart."""
    traces = {text: traced(text) for text in ("hello this is a test", "marbles")}
    short, long = (len(t.prompt.tokens) for t in traces.values())
    assert short < long
    app = tokenized(monkeypatch, traces, token=str(long - 1))
    assert not app.exception
    assert app.number_input[0].value == long - 1
    assert not any("there is none at place" in text for text in sentences(app))
    assert [h.value for h in app.subheader] == [f"How this token was made in {name}" for name in traces]
    last = [t.prompt.tokens[-1] for t in traces.values()]
    assert all(f"<dd>{token.id}</dd>" in text for token, text in zip(last, _facts(app), strict=True))


def _facts(app: AppTest) -> list[str]:
    return [text for text in sentences(app) if "marble-facts" in text]


def test_unequal_vocabularies_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "hello this is a test"
    app = tokenized(monkeypatch, {text: traced(text), f"{text} ": traced(text, 304)})
    assert not app.exception
    assert any("know unequal numbers of ids" in each for each in sentences(app))


class _Lab:
    """A lab whose lens has been fitted `n` times."""

    path, n = Path("nowhere"), 1

    def find(self, kind: str, name: str) -> SimpleNamespace:
        return SimpleNamespace(id=f"{name}-{self.n}")


def test_a_damaged_lens_is_not_told_as_one_that_was_never_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise Failure("cannot be read as a tuned lens")

    monkeypatch.setattr(FoundLens, "of", damaged)
    with pytest.raises(Failure, match="cannot be read"):
        trace_store.tuned(_Lab(), "base")


def test_a_lens_that_was_fitted_again_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, read = _Lab(), list[str]()
    monkeypatch.setattr(store, "path_of", lambda *_: "path")
    monkeypatch.setattr(store, "loaded", lambda *_: SimpleNamespace(lock=nullcontext(), model=0, tokenizer=0))
    monkeypatch.setattr("workbench.trace.read_again", lambda *_: read.append("once"))
    lens = SimpleNamespace(checked_for=lambda model: None)
    for lab.n in (1, 1, 2):
        trace_store.read_again(lab, "base", SimpleNamespace(prompt=SimpleNamespace(ids=(1,))), lens)
    assert len(read) == 2


def test_added_checkpoints_keep_their_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two that were added has another colour than when it is looked at alone."""
    colour = theme.colours(["one", "two"])
    tagged: dict[str, str] = {}
    monkeypatch.setattr(frame, "name_tag", lambda name, hue: tagged.update({name: hue}))
    monkeypatch.setattr(token_store, "spaces", lambda *_: {})
    trace_embed._planes(None, {"one": 0, "two": 0}, colour)
    assert tagged == colour
    drawn: list[Strip] = []
    said = SimpleNamespace(tokens=[TokenText(0, b"a", "a", False)], log_p=np.zeros(1), probabilities=np.ones(1))
    monkeypatch.setattr("workbench.through_training.moments", lambda *_: ["one", "two"])
    monkeypatch.setattr(trace_store, "at_moment", lambda *_: said)
    monkeypatch.setattr(through_training, "strips", lambda strips, *_: drawn.extend(strips))
    monkeypatch.setattr(through_training.st, "toggle", lambda *_, **__: True)
    through_training.view(None, asked.Question("", False, ("two",)), colour)
    assert [strip["tokens"][0]["colour"] for strip in drawn] == list(colour.values())
