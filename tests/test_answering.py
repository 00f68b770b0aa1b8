"""Two checkpoints on one text: laws of KL, a hand-check against torch, and shares that add up to the difference."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from tests.tiny_lab import shared_lab
from workbench.answering import Answers, Voice, answers, read_by_both
from workbench.behaviour import behaviour
from workbench.comparison import Comparison
from workbench.difference_shares import BIAS, ERROR, OTHERS, difference_shares, streams, unreadable
from workbench.document_parted import MOST_TOKENS, beginnings, read_document, windows_of
from workbench.errors import Misuse
from workbench.features import FeatureTable
from workbench.parted_predictions import TOP, carriers, first_difference, joined, parted
from workbench.points import Site
from workbench.sampling import Sampling
from workbench.tokens import TokenSet, token_set

QUESTION = "What is the capital of the land between the rivers?"


@pytest.fixture(scope="module")
def voices() -> dict[str, Voice]:
    torch.set_num_threads(1)
    lab = shared_lab()
    return {name: Voice.of(lab.checkpoint(name)) for name in ("base", "sft", "grpo")}


@pytest.fixture(scope="module")
def heldout() -> TokenSet:
    return token_set(shared_lab(), "base")


@pytest.fixture(scope="module")
def asked(voices: dict[str, Voice]) -> Answers:
    return answers(voices["base"], voices["grpo"], QUESTION, chat=True, length=12)


def test_figures_of_every_token_are_torchs_own(voices: dict[str, Voice], asked: Answers) -> None:
    """Prompt and answer, both answers, from two plain forward passes."""
    for answer in (asked.first, asked.second):
        ids = torch.tensor([answer.ids])
        log_p = []
        for name in ("base", "grpo"):
            with torch.inference_mode():
                log_p.append(voices[name].model(ids).logits[0, :-1].double().log_softmax(-1))
        read, rows = answer.parted, torch.arange(len(answer.ids) - 1)
        assert len(read) == len(answer.ids) - 1
        for m, own in enumerate(log_p):
            other = log_p[1 - m]
            np.testing.assert_allclose(read.log_p[m], own[rows, ids[0, 1:]], atol=1e-6)
            kl = F.kl_div(other, own, reduction="none", log_target=True).sum(-1)
            np.testing.assert_allclose(read.kl[m], kl, atol=1e-6)
            entropy = torch.distributions.Categorical(logits=own).entropy()
            np.testing.assert_allclose(read.entropy[m], entropy, atol=1e-5)
            best = own.topk(TOP).indices
            assert (read.top_ids[m] == best.numpy()).all()
            for reader, p in enumerate(log_p):
                np.testing.assert_allclose(read.top_p[reader, m], p.exp().gather(1, best), atol=1e-6)
        assert (read.kl >= 0).all()
        assert read.kl.max() > 1e-3


def test_log_p_adds_up_to_the_models_own_loss(voices: dict[str, Voice], asked: Answers) -> None:
    ids = torch.tensor([asked.second.ids])
    with torch.inference_mode():
        loss = voices["base"].model(ids, labels=ids).loss
    assert -asked.second.parted.log_p[0].mean() == pytest.approx(float(loss), abs=1e-5)


def test_a_checkpoint_beside_itself_agrees_exactly(voices: dict[str, Voice]) -> None:
    again = Voice.of(shared_lab().checkpoint("sft"))
    same = answers(voices["sft"], again, QUESTION, length=8)
    assert same.differ_at is None
    assert (same.first.parted.kl == 0).all()
    assert carriers(same.first.parted.kl[0]) == []


def test_each_writes_its_own_greedy_answer(voices: dict[str, Voice], asked: Answers) -> None:
    for name, answer in (("base", asked.first), ("grpo", asked.second)):
        ids = torch.tensor([asked.prompt.ids])
        out = voices[name].model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12
        )
        assert answer.ids == out[0].tolist()
        assert answer.n_prompt == len(asked.prompt.ids)


def test_what_is_drawn_depends_on_the_seed_alone(voices: dict[str, Voice]) -> None:
    drawn = [
        answers(voices["base"], voices["sft"], QUESTION, sampling=Sampling(1.0), seed=seed, length=8).first.ids
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_prompts_that_cannot_be_read_as_they_are(voices: dict[str, Voice]) -> None:
    with pytest.raises(Misuse, match="the prompt is empty"):
        answers(voices["base"], voices["sft"], "  \n")
    long = answers(voices["base"], voices["sft"], "river " * 400, length=8)
    assert "are left out" in long.prompt.note
    assert len(long.first.tokens) <= voices["base"].n_ctx
    other = answers(voices["base"], voices["sft"], "Привет, 世界 🙂", length=4)
    assert b"".join(t.data for t in other.prompt.tokens[1:]).decode() == "Привет, 世界 🙂"


def test_another_tokenizer_is_refused(voices: dict[str, Voice]) -> None:
    class Other:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    stranger = voices["sft"]._replace(name="stranger", tokenizer=Other())  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="base and stranger do not share a tokenizer"):
        answers(voices["base"], stranger, QUESTION)
    with pytest.raises(Misuse, match="one lineage"):
        parted([1, 2], np.zeros((2, 4)), np.zeros((2, 5)))


def test_kl_of_two_coins_by_hand() -> None:
    """p = (1/2, 1/2), q = (3/4, 1/4): KL(p‖q) = ½ ln ⅔ + ½ ln 2, KL(q‖p) = ¾ ln 3/2 + ¼ ln ½."""
    p, q = np.log([[0.5, 0.5]] * 2), np.log([[0.75, 0.25]] * 2)
    read = parted([0, 1], p, q)
    assert read.kl[:, 0] == pytest.approx(
        [0.5 * np.log(2 / 3) + 0.5 * np.log(2), 0.75 * np.log(1.5) + 0.25 * np.log(0.5)]
    )
    assert np.exp(read.log_p[:, 0]) == pytest.approx([0.5, 0.25])
    assert read.entropy[0, 0] == pytest.approx(np.log(2))
    assert read.top_ids[1, 0].tolist() == [0, 1]
    assert read.top_p[0, 1, 0] == pytest.approx([0.5, 0.5])


def test_a_text_in_pieces_is_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts of large vocabularies are read some rows at a time."""
    rng = np.random.default_rng(0)
    ids, one, other = [3, 1, 4, 1, 5], rng.normal(size=(5, 9)), rng.normal(size=(5, 9))
    whole = parted(ids, one, other)
    monkeypatch.setattr("workbench.parted_predictions.NUMBERS", 9)
    pieces = parted(ids, one, other)
    for name in ("ids", "log_p", "kl", "entropy", "top_ids", "top_p"):
        assert (getattr(whole, name) == getattr(pieces, name)).all()
    assert len(joined([whole, whole])) == 8


def test_where_two_answers_part() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2


def test_carriers_are_the_largest_with_their_shares() -> None:
    found = carriers(np.array([1.0, 0.0, 6.0, 3.0]), n=3)
    assert [(c.row, c.share) for c in found] == [(2, 0.6), (3, 0.3), (0, 0.1)]
    assert len(carriers(np.array([0.0, 2.0]))) == 1


def test_a_documents_kl_is_what_the_comparison_counts_of_it(
    voices: dict[str, Voice], heldout: TokenSet
) -> None:
    document = int(heldout.document[heldout.starts[3]])
    found = read_document(voices["base"], voices["sft"], heldout, document, most=10**6)
    models = {name: voices[name].model for name in ("base", "sft")}
    counted = behaviour(models, heldout, windows_of(heldout, document))
    assert len(found.parted) == found.n_tokens == counted.n_tokens[document]
    assert found.parted.kl[1].sum() == pytest.approx(counted.kl["sft", "base"][document], rel=1e-4)
    assert -found.parted.log_p[0].sum() == pytest.approx(counted.nats["base"][document], rel=1e-5)
    assert found.mean_kl(1) == pytest.approx(found.parted.kl[1].sum() / found.n_tokens)


def test_a_long_document_is_read_in_whole_windows(voices: dict[str, Voice], heldout: TokenSet) -> None:
    lengths = heldout.stops - heldout.starts
    document = int(np.bincount(heldout.document).argmax())
    windows = windows_of(heldout, document)
    assert len(windows) > 1
    most = int(lengths[windows[0]]) + 1
    found = read_document(voices["base"], voices["sft"], heldout, document, most)
    assert found.windows == [0]
    assert len(found.parted) == lengths[windows[0]] < found.n_tokens <= MOST_TOKENS
    with pytest.raises(Misuse, match="there is no document 100000"):
        read_document(voices["base"], voices["sft"], heldout, 100_000)


def test_documents_are_told_by_how_they_begin(heldout: TokenSet) -> None:
    prose = beginnings(heldout, "prose")
    assert set(prose) == set(np.flatnonzero(heldout.domain == "prose"))
    assert all(text.startswith("Fellow") for text in prose.values())


def test_shares_of_a_difference_add_up_to_one_with_what_is_left(
    voices: dict[str, Voice], asked: Answers
) -> None:
    """The oracle is the dictionary's own reconstruction."""
    comparison, table = _crosscoder()
    x = streams(
        [voices[name] for name in comparison.checkpoints], Site(table.layer or 1, table.point), asked.first.ids
    )
    dictionary = table.dictionary
    for place in (1, 5, len(x) - 1):
        found = difference_shares(dictionary, x[place], "base", "grpo")
        assert found is not None
        delta = (x[place, 2] - x[place, 0]).double()
        code = dictionary.encode(x[place : place + 1])
        left = (x[place] - dictionary.decode(code)[0]).double()
        assert found.error == pytest.approx(float((left[2] - left[0]) @ delta / (delta @ delta)), abs=1e-4)
        assert found.shares.sum() + found.bias + found.error == pytest.approx(1, abs=1e-9)
        assert sorted(found.latents) == code[0].nonzero()[:, 0].tolist()
        assert (np.diff(np.abs(found.shares)) <= 0).all()
        back = difference_shares(dictionary, x[place], "grpo", "base")
        assert back is not None
        np.testing.assert_allclose(back.shares, found.shares)
    assert difference_shares(dictionary, x[1], "sft", "sft") is None


def test_the_table_of_shares_ends_with_the_error_and_adds_up(voices: dict[str, Voice], asked: Answers) -> None:
    comparison, table = _crosscoder()
    x = streams(
        [voices[name] for name in comparison.checkpoints], Site(table.layer or 1, table.point), asked.first.ids
    )
    found = difference_shares(table.dictionary, x[3], "base", "sft")
    assert found is not None
    assert len(found.latents) > 2
    rows = found.table(comparison.latents.select("latent", "label", "w_base"), 2)
    assert rows["what"].to_list() == [
        f"latent {found.latents[0]}",
        f"latent {found.latents[1]}",
        OTHERS,
        BIAS,
        ERROR,
    ]
    assert rows["share"].sum() == pytest.approx(1)
    assert rows.columns == ["what", "latent", "activation", "share", "label", "w_base"]
    assert (
        rows["w_base"][0] == comparison.latents.filter(pl.col("latent") == int(found.latents[0]))["w_base"][0]
    )


def test_a_snapshot_that_the_crosscoder_does_not_read_is_said() -> None:
    assert unreadable("crosscoder", ("base", "sft"), "base", "sft") == ""
    assert "never trained on sft@4" in unreadable("crosscoder", ("base", "sft"), "base", "sft@4")


def _crosscoder() -> tuple[Comparison, FeatureTable]:
    lab = shared_lab()
    comparison = Comparison.of(lab, "base-sft-grpo")
    return comparison, FeatureTable.of(lab, comparison.dictionary)


def test_both_read_what_nobody_wrote(voices: dict[str, Voice]) -> None:
    """Teacher-forced: any ids will do."""
    read = read_by_both(voices["base"], voices["sft"], [1, 7, 7, 7])
    assert read.ids.tolist() == [7, 7, 7]
