"""The Tokenize and Embed stages of the Trace page and the panel behind one token, run without a browser."""

from __future__ import annotations

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from tests.test_pages import errors, opened, sentences
from workbench.lab import Lab

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
