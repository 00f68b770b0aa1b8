"""Checkpoints that cannot be laid side by side token by token: what is said of them, and that it is right."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.command_line import assert_one_sentence, run, run_alone
from tests.grown_once import grown_once
from tests.tiny_lab import make_lab, moved, tiny_llama, tiny_recipe
from tests.tiny_models import tiny_tokenizer
from workbench.aligned_cka import aligned_cka, shifts
from workbench.care import prune
from workbench.comparison_requests import finished_comparison
from workbench.corpus import read_corpus
from workbench.errors import Misuse
from workbench.external import add
from workbench.grow import grow
from workbench.lab import Lab
from workbench.likeness import Portrait, headline, reasons
from workbench.loading import Shape
from workbench.naming import LONGEST, short_name
from workbench.representation_drift import cka_between
from workbench.status import describe, status
from workbench.unlike import Unlike, names_of
from workbench.unlike_build import open_reader
from workbench.unlike_pairs import on_same_tokens, weights_told
from workbench.unlike_requests import request_unlike, what_keeps_apart
from workbench.unlike_scores import bits_of, states
from workbench.unlike_texts import common, encoded, heldout_texts, segments_of, word_ends

NAME = "unlike-sft-foreign-wide"


def foreign(folder: Path) -> Path:
    """A GPT-2 with another tokenizer, another depth and another width."""
    torch.manual_seed(3)
    ids = {"bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 0}
    shape = {"n_layer": 2, "n_embd": 24, "n_head": 2, "n_positions": 128}
    config = GPT2Config(vocab_size=300, initializer_range=0.2, **shape, **ids)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tiny_tokenizer(bos=False).save_pretrained(folder)
    return folder


def wide(folder: Path, lab: Lab) -> Path:
    """A Llama of the lab's tokenizer, twice as wide: the tokens are shared, the shape is not."""
    torch.manual_seed(4)
    recipe = tiny_recipe()
    shape = dataclasses.replace(recipe.model, d_model=64, n_layers=3)
    tiny_llama(dataclasses.replace(recipe, model=shape)).save_pretrained(folder)
    lab.checkpoint("base").tokenizer().save_pretrained(folder)
    return folder


@grown_once
def unlike_lab(home: Path) -> Lab:
    """A lab with two checkpoints from outside, compared with sft. Tests read it and never write to it."""
    lab = make_lab(home, recipe=dataclasses.replace(tiny_recipe(), dictionaries=(), comparisons=()))
    add(lab, "foreign", str(foreign(home / "foreign")), "base")
    add(lab, "wide", str(wide(home / "wide", lab)), "base")
    grow(lab, ["checkpoint/foreign", "checkpoint/wide"], quiet=True)
    name = request_unlike(lab, ["sft", "foreign", "wide"])
    grow(lab, [f"evaluation/{name}"], quiet=True)
    return lab


@pytest.fixture
def lab() -> Lab:
    return unlike_lab()


@pytest.fixture
def found(lab: Lab) -> Unlike:
    return Unlike.of(lab, NAME)


def test_reasons_by_hand() -> None:
    small = Shape("L", "llama", 4, 32, 64, 400)
    one = Portrait("base", small, {"a": 0, "b": 1})
    assert reasons({"one": one, "copy": one}) == []
    assert reasons({"one": one, "later": Portrait("base")}) == []  # not grown: nothing is known against it
    other = Portrait("other", dataclasses.replace(small, d_model=64), {"a": 0, "b": 1})
    assert [reason.trait for reason in reasons({"one": one, "other": other})] == ["shapes", "roots"]
    longer = Portrait("base", small, {"a": 0, "b": 1, "c": 2})
    why = reasons({"one": one, "longer": longer, "two": one})
    assert [reason.sides for reason in why] == [("one, two: 2 tokens", "longer: 3 tokens")]
    assert headline(("one", "longer", "two"), why) == (
        "one, longer and two have different tokenizers: KL per token and crosscoder have no meaning between them"
    )


def test_the_first_line_says_what_cannot_be_compared_and_the_rest_what_can(found: Unlike) -> None:
    first, *rest = found.describe().splitlines()
    assert first.startswith("sft, foreign and wide have different tokenizers, shapes and roots: KL per token")
    text = "\n".join(rest)
    assert "wide from wide" in text
    assert "bits per byte on the same" in text
    assert "KL(sft‖wide)" in text
    assert "KL(sft‖foreign)" not in text
    assert "most alike, linear CKA" in text
    assert "sft and wide: 0 of 39 parameters agree in name and shape" in text
    assert "sft and foreign: 0 of" not in text  # not of one type: no parameter has a namesake
    json.dumps(found.told(), allow_nan=False)


def test_bits_per_byte_are_the_model_s_own_surprise(lab: Lab, found: Unlike) -> None:
    """A short document, both models, by hand: nats behind the opening, over bytes."""
    texts = heldout_texts(read_corpus(lab.find("corpus", "text")))
    short = [text for text in texts if text.domain == "chat"][:3]
    assert all("<|user|>" not in text.text for text in short)
    for name in ("sft", "foreign"):
        reader = open_reader(lab, name)
        nats = bits_of(reader, short)
        for text, got in zip(short, nats, strict=True):
            (ids,) = encoded(reader.tokenizer, [text.text])
            with torch.no_grad():
                log_p = reader.model(torch.tensor(ids)[None]).logits[0].double().log_softmax(-1)
            assert got == pytest.approx(
                -float(log_p[:-1].gather(1, torch.tensor(ids)[1:, None]).sum()), rel=1e-4
            )
            assert reader.tokenizer.decode(ids[1:]) == text.text
    table = found.bits
    assert set(table["domain"]) == {"all", "prose", "world", "chat"}
    assert table.filter(domain="chat")["n"].n_unique() == 1
    assert ((table["low"] <= table["bits"]) & (table["bits"] <= table["high"])).all()
    gap = found.gaps.filter(before="sft", after="foreign", domain="all")["gap"].item()
    own = dict(table.filter(domain="all").select("checkpoint", "bits").iter_rows())
    assert gap == pytest.approx(own["foreign"] - own["sft"], rel=1e-9)


def test_places_are_the_same_characters_in_both(lab: Lab) -> None:
    texts = heldout_texts(read_corpus(lab.find("corpus", "text")))
    segments = segments_of(texts, words=200)
    read = {}
    for name in ("sft", "foreign"):
        checkpoint = lab.checkpoint(name)
        tokenizer = checkpoint.tokenizer()
        ids, ends = word_ends(tokenizer, segments, checkpoint.n_ctx)
        assert max(map(len, ids)) <= checkpoint.n_ctx
        for segment, own, end in zip(segments, ids, ends, strict=True):
            for character, position in zip(*end, strict=True):
                assert tokenizer.decode(own[1 : position + 1]) == segment.text[:character]
        read[name] = ends
    one, other, segment = common(read["sft"], read["foreign"])
    assert len(one) > 64
    characters = {n: np.concatenate([e.characters for e in ends]) for n, ends in read.items()}
    assert (characters["sft"][one] == characters["foreign"][other]).all()
    assert (np.diff(segment) >= 0).all()


def test_aligned_cka_is_cka_with_an_interval_and_a_null() -> None:
    rng = np.random.default_rng(0)
    document = np.repeat(np.arange(40), 12)
    x = rng.normal(size=(480, 8)).astype(np.float32) + 3
    turned = (x @ np.linalg.qr(rng.normal(size=(8, 8)))[0]).astype(np.float32) * 7
    other = np.concatenate([x[:, :3], rng.normal(size=(480, 9))], axis=1).astype(np.float32)
    found = aligned_cka({0: x, 5: other}, {1: turned, 2: other}, document, rng.permutation(40) % 16)
    assert found[0, 1].cka == pytest.approx(1.0, abs=1e-6)
    assert found[5, 2].cka == pytest.approx(1.0, abs=1e-6)
    assert found[0, 2].cka == pytest.approx(cka_between(x, other), rel=1e-5)
    assert found[0, 2].low < found[0, 2].cka < found[0, 2].high
    assert found[0, 2].null_high < found[0, 2].low
    silent = aligned_cka({0: np.zeros((480, 2), np.float32)}, {0: x}, document, np.arange(40) % 16)
    assert math.isnan(silent[0, 0].cka)


def test_an_interval_covers_the_cka_of_the_population() -> None:
    """Documents drawn from one distribution: about 95 in 100 intervals hold what many documents give."""
    rng = np.random.default_rng(1)
    mixed = rng.normal(size=(4, 6))

    def drawn(documents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shared = rng.normal(size=(documents, 1, 4)) + rng.normal(size=(documents, 30, 4))
        y = shared @ mixed + 2 * rng.normal(size=(documents, 30, 6))
        return shared.reshape(-1, 4), y.reshape(-1, 6), np.repeat(np.arange(documents), 30)

    x, y, _ = drawn(4_000)
    truth = cka_between(x, y)
    hits = 0
    for _ in range(60):
        x, y, document = drawn(48)
        told = aligned_cka({0: x}, {0: y}, document, np.arange(48) % 16)[0, 0]
        hits += told.low <= truth <= told.high
    assert 52 <= hits <= 60


def test_no_row_of_the_null_stands_beside_its_own_document() -> None:
    document = np.repeat(np.arange(5), [3, 9, 1, 4, 8])
    moves = shifts(document, np.random.default_rng(0), n=50)
    assert moves
    assert all((document != np.roll(document, move)).all() for move in moves)
    assert shifts(np.repeat([0, 1], [9, 3]), np.random.default_rng(0)) == []


def test_where_tokens_are_shared_kl_and_loss_are_plain_sums(lab: Lab, found: Unlike) -> None:
    one, other = open_reader(lab, "sft"), open_reader(lab, "wide")
    texts = [t for t in heldout_texts(read_corpus(lab.find("corpus", "text"))) if t.domain == "chat"][:4]
    told = on_same_tokens((one, other), texts)
    (ids,) = encoded(one.tokenizer, [texts[2].text])
    with torch.no_grad():
        p, q = (r.model(torch.tensor(ids)[None]).logits[0, :-1].double().log_softmax(-1) for r in (one, other))
    assert told.kl["sft", "wide"][2] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)
    assert told.nats["wide"][2] == pytest.approx(bits_of(other, texts)[2], rel=1e-4)
    assert set(on_same_tokens((one, one._replace(name="copy")), texts).kl["sft", "copy"]) == {0.0}
    assert found.kl is not None
    assert set(found.kl.select("p", "q").iter_rows()) == {("sft", "wide"), ("wide", "sft")}


def test_weights_that_agree_are_told_and_those_of_one_training_are_recognised() -> None:
    torch.manual_seed(0)
    model = tiny_llama(tiny_recipe())
    one = {name: w.clone() for name, w in model.named_parameters()}
    same = weights_told(one, one)
    assert (same["agree"], same["differ"], same["moved"]) == (same["of"], [], 0.0)
    assert same["cosine"] == pytest.approx(1.0)
    later = weights_told(one, dict(moved(model, 0.2).named_parameters()))
    assert later["cosine"] > 0.9
    torch.manual_seed(1)
    stranger = weights_told(one, dict(tiny_llama(tiny_recipe()).named_parameters()))
    assert abs(stranger["cosine"]) < 0.1
    assert stranger["moved"] == pytest.approx(math.sqrt(2), rel=0.05)


def test_answers_state_a_result_in_whatever_form() -> None:
    for task, result, said, right in (
        ("sums", "42", "12 + 30 equals 42.", True),
        ("sums", "42", "42 is not it; it is 43.", False),
        ("sums", "1042", "That is 1,042", True),
        ("letter_counts", "2", "The letter stands there Two times.", True),
        ("letter_counts", "0", "None.", False),
        ("capitals", "Moro", "The capital is moro, I think.", True),
        ("capitals", "Moro", "Moroto", False),
        ("sums", "4", "", False),
    ):
        assert states(task, result, said) is right, said


def test_a_strict_answer_states_its_result_too(found: Unlike) -> None:
    assert not found.answers.filter(pl.col("form") & ~pl.col("states")).height
    strict, loose = found.accuracy("form"), found.accuracy()
    assert (strict["accuracy"] <= loose["accuracy"]).all()
    assert ((loose["low"] <= loose["accuracy"]) & (loose["accuracy"] <= loose["high"])).all()


def test_status_shows_it_and_prune_keeps_it(lab: Lab) -> None:
    told = status(lab)
    assert told["comparisons"][NAME]["cannot"]
    assert f"comparison {NAME}: sft, foreign and wide have different" in describe(told)
    assert names_of(lab) == [NAME]
    assert not [folder for folder in prune(lab, dry_run=True).folders if "evaluation" in folder]


def test_it_is_asked_for_once_in_any_order_and_needs_no_sheet(lab: Lab) -> None:
    before = (lab.path / "recipe.toml").read_text()
    assert request_unlike(lab, ["wide", "sft", "foreign"]) == NAME
    assert (lab.path / "recipe.toml").read_text() == before
    assert what_keeps_apart(lab, ["base", "sft"]) == ""
    with pytest.raises(Misuse, match="a sheet needs checkpoints of one family"):
        finished_comparison(lab, ["foreign", "wide", "sft"])


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    one, other = short_name("a" * 200), short_name("a" * 199 + "b")
    assert one != other
    assert max(len(one), len(other)) == LONGEST


def test_the_command_gives_one_document(lab: Lab) -> None:
    home = lab.path.parent
    done = run_alone(home, "compare", lab.name, "sft", "foreign", "wide", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["comparison"] == NAME
    assert len(told["cannot"]) == 3
    assert {"bits_per_byte", "accuracy", "cka", "kl"} <= set(told)
    refused = run(home, "compare", lab.name, "sft", "foreign", "--controls", "--json")
    assert_one_sentence(refused, 2, "--controls needs checkpoints of one lineage", "different tokenizers")
    assert_one_sentence(run(home, "sheet", lab.name, "sft", "foreign", "wide"), 2, "one family")
