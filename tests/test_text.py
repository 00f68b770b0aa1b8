"""Laws of the text: bytes survive, factors stay on their characters, no split shares a document."""

from __future__ import annotations

import random
import re
from pathlib import Path

import polars as pl
import pytest

from workbench import tokenizer as tokenizers
from workbench.corpus import read_corpus
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.lexicon import leaf_factors, make_world, with_ancestors
from workbench.tasks import ASSISTANT, END, REWARDED, USER, all_questions, gold_chat, judge
from workbench.windows import prose_places
from workbench.world import counts_document, sums_document, world_documents

WORDS = ("between", "letter", "strawberry", "people", "committee", "states", "union", "which")


@pytest.fixture(scope="module")
def byte_tokenizer() -> tokenizers.PreTrainedTokenizerFast:
    rng = random.Random(0)
    world = make_world(8, WORDS, 0)
    documents = world_documents(rng, world, [(12, 30), (47, 38)], [("letter", "t"), ("union", "n")], 20_000)
    return tokenizers.as_pretrained(tokenizers.train((d.text for d in documents), 400), 64)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "plain words",
        "naïve café",
        "日本語 и русский",
        "🙂🙃 ‮right-to-left‬",
        "a\x00b\x07\t\r\n",
        "<b>&amp;</b>",
    ],
)
def test_decode_undoes_encode_on_any_text(
    byte_tokenizer: tokenizers.PreTrainedTokenizerFast, text: str
) -> None:
    ids = tokenizers.encode(byte_tokenizer, [text], chat=False)[0].ids
    assert byte_tokenizer.decode(ids[1:]) == text


def test_decode_undoes_encode_on_random_characters(byte_tokenizer: tokenizers.PreTrainedTokenizerFast) -> None:
    rng = random.Random(1)
    texts = [
        "".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(160, 0xD7FF)))) for _ in range(50))
        for _ in range(200)
    ]
    for text, encoded in zip(texts, tokenizers.encode(byte_tokenizer, texts, chat=False), strict=True):
        assert byte_tokenizer.decode(encoded.ids[1:]) == text


def test_chat_markers_are_tokens_only_in_chats(byte_tokenizer: tokenizers.PreTrainedTokenizerFast) -> None:
    text = "<|user|>hello<|assistant|>yes<|end|>"
    chat = tokenizers.encode(byte_tokenizer, [text], chat=True)[0].ids
    plain = tokenizers.encode(byte_tokenizer, [text], chat=False)[0].ids
    assert [i for i in chat if i < 5] == [1, 2, 3, 4]
    assert [i for i in plain if i < 5] == [1]
    assert byte_tokenizer.decode(plain[1:]) == text


def test_digits_stand_alone(byte_tokenizer: tokenizers.PreTrainedTokenizerFast) -> None:
    ids = tokenizers.encode(byte_tokenizer, ["in 1862, 47+38=85"], chat=False)[0].ids
    pieces = [byte_tokenizer.decode([i]) for i in ids[1:]]
    assert all(len(p.strip()) == 1 for p in pieces if any(c.isdigit() for c in p))


def test_the_template_renders_what_training_saw(byte_tokenizer: tokenizers.PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "What is 1+1?"}, {"role": "assistant", "content": "It is 2."}]
    rendered = byte_tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered == "<|bos|><|user|>What is 1+1?<|assistant|>It is 2.<|end|>"


def test_world_is_deep_and_wide() -> None:
    leaves = leaf_factors(make_world(60, WORDS, 0))
    assert len(leaves) == len(set(leaves)) >= 300
    assert max(leaf.count("/") for leaf in leaves) >= 3
    assert set(leaves) < set(with_ancestors(leaves))


def test_factor_spans_cover_what_they_name() -> None:
    world = make_world(8, WORDS, 0)
    documents = world_documents(random.Random(0), world, [(12, 39), (47, 38)], [("letter", "t")], 30_000)
    documents += [gold_chat(q, worked=True) for q in all_questions(world)[:400]]
    named = {"entity", "property", "time", "letter"}
    checked = 0
    for document in documents:
        for span in document.spans:
            covered = document.text[span.start : span.end]
            assert covered
            if span.factor.split("/")[0] in named:
                assert covered == span.factor.rsplit("/", 1)[1]
                checked += 1
            if span.factor.startswith("number/"):
                assert covered == span.factor.rsplit("/", 1)[1]
    assert checked > 1_000


def test_a_gold_answer_is_right_and_well_formed() -> None:
    for question in all_questions(make_world(8, WORDS, 0))[::9]:
        for worked in (False, True):
            answer = gold_chat(question, worked).text.split("<|assistant|>")[1].removesuffix("<|end|>")
            judged = judge(question.task, question.result, answer, ended=True)
            assert judged.right, (question, answer)
            assert judged.well_formed
            assert judged.worked == (worked and question.task in ("sums", "letter_counts"))
            assert not judge(question.task, question.result, answer, ended=False).well_formed


def test_worked_answers_hold_line_by_line() -> None:
    for question in all_questions(make_world(3, WORDS, 0))[::9]:
        text = gold_chat(question, worked=True).text
        if question.task == "sums":
            steps = text.split("Step by step: ")[1].split(", so")[0].split(", ")
            assert all(
                eval(left.replace("&", "+")) == int(right) for left, right in (s.split("=") for s in steps)
            )


def test_sums_of_documents_are_right_in_every_wording() -> None:
    pairs = [(a, b) for a in range(10, 100, 7) for b in range(11, 100, 11)]
    lines = sums_document(random.Random(0), pairs * 3).text.replace("?\n", "? ").splitlines()
    for line in lines:
        for left, right in re.findall(r"([\d+&-]+)=(\d+)", line):
            assert eval(left.replace("&", "+")) == int(right), line
        if " It is " in line or ", so " in line or ", and get " in line:
            asked, result = re.findall(r"\d+\+\d+", line)[0], re.findall(r"(\d+)\.$", line)[0]
            assert eval(asked) == int(result), line


def test_counts_of_documents_are_right() -> None:
    prompts = [(word, letter) for word in WORDS for letter in "aent"]
    for line in counts_document(random.Random(0), prompts * 3).text.replace("?\n", "? ").splitlines():
        counted, word = re.findall(r"letter (\w) (?:stand )?in (\w+)", line)[0]
        assert int(re.findall(r"(\d+)\.$", line)[0]) == word.count(counted), line
        if steps := re.findall(r"(\w)/(\w)(\d?)", line):
            assert "".join(spelled for spelled, _, _ in steps) == word
            assert {beside for _, beside, _ in steps} == {counted}
            hits = [int(n) for spelled, beside, n in steps if spelled == beside]
            assert hits == list(range(1, word.count(counted) + 1))


def test_base_asks_as_the_chat_does() -> None:
    """Word for word, a line's end where the chat has its marker: what base looks up by distance serves there."""
    sums = sums_document(random.Random(0), [(37, 48), (12, 30)] * 20).text
    counts = counts_document(random.Random(0), [("letter", "t"), ("union", "n")] * 20).text
    asked = [q for q in all_questions(make_world(3, ("letter", "union"), 0)) if q.task in REWARDED]
    written = {(37, 48), (12, 30), ("letter", "t"), ("union", "n")}
    checked = 0
    for question in asked:
        about = tuple(map(int, question.about)) if question.task == "sums" else question.about
        for worked in (False, True) if about in written else ():
            chat = gold_chat(question, worked).text
            as_written = chat.removeprefix(USER).replace(ASSISTANT, "\n").replace(END, "\n")
            assert as_written in (sums if question.task == "sums" else counts)
            checked += 1
    assert checked == 2 * len(written)


def test_the_share_of_prose_changes_as_told_and_evenly() -> None:
    for share, first in ((0.4, 0.4), (0.42, 0.1), (0.5, 0.9)):
        is_prose = prose_places(1_000, share, first)
        assert is_prose.sum() == round(1_000 * share)
        for at in range(0, 1_000, 100):  # each hundred holds what the line says, to one window
            middle = first + 2 * (share - first) * (at + 50) / 1_000
            assert abs(is_prose[at : at + 100].sum() - 100 * middle) <= 1
    with pytest.raises(Misuse, match=r"would end at 1\.1"):
        prose_places(10, 0.6, 0.1)


def test_the_world_weighs_more_in_the_vocabulary() -> None:
    rows = pl.DataFrame({"domain": ["prose", "world"], "text": ["zebra", "quagga"]})
    texts = list(tokenizers.weighted_texts(rows))
    assert texts.count("zebra") == 1
    assert texts.count("quagga") == tokenizers.WORLD_WEIGHT > 1


@pytest.mark.parametrize(
    "completion",
    ["It is 86.", "It is 85", "85.", "It is 85. It is 85.", "Step by step: so it is 85.", "", "It is  85."],
)
def test_wrong_or_misshapen_answers_do_not_count(completion: str) -> None:
    assert not judge("sums", "85", completion, ended=True).right


def test_no_split_shares_a_document_or_a_question(tiny_lab: Lab) -> None:
    documents = read_corpus(tiny_lab.find("corpus", "text")).documents
    for column in ("id", "text"):
        assert documents.group_by(column).agg(pl.col("split").n_unique())["split"].max() == 1
    asked = documents.filter(pl.col("domain") == "chat")
    assert asked.group_by("question").agg(pl.col("split").n_unique())["split"].max() == 1
    used = asked.filter(pl.col("split") == "train").group_by("question").agg(pl.col("stage").n_unique())
    assert used["stage"].max() == 1


def test_held_out_sums_stand_in_no_training_document(tiny_lab: Lab) -> None:
    documents = read_corpus(tiny_lab.find("corpus", "text")).documents
    training = "\n".join(documents.filter(pl.col("split") == "train")["text"])
    held = documents.filter((pl.col("split") == "heldout") & (pl.col("task") == "sums"))["question"]
    for question in held[:500]:
        a, b = question.removeprefix("What is ").removesuffix("?").split("+")
        assert f"{a}+{b}" not in training
        assert f"{b}+{a}" not in training


def test_corpus_files_are_there(tiny_lab: Lab) -> None:
    artefact = tiny_lab.find("corpus", "text")
    assert {Path(p).name for p in artefact.manifest["files"]} == {"documents.parquet", "factors.json"}
