"""Own samples: how varied they are, KL on them, and what carries the KL, by hand and by their laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from tests.tiny_lab import shared_lab
from workbench.behaviour import behaviour
from workbench.comparison import Comparison
from workbench.diversity import distinct, first_tokens, grams, repeated
from workbench.evaluation import kl_on_own_samples
from workbench.features import FeatureTable
from workbench.generation import Completion, complete
from workbench.kl_shares import carried, carried_intervals, correlation, nulls, shuffles
from workbench.lab import Lab
from workbench.own_samples import Prompt, Said, figures, kl_rows, scored, spoken_tokens
from workbench.samples import CONTEXT, OWN, PROSE, QUESTIONS, RAISED, SHARED, Samples
from workbench.samples_build import activations_at
from workbench.token_kl import token_kl
from workbench.tokens import token_set

NAME = "base-sft-grpo"
PAIRS = [("base", "sft"), ("base", "grpo"), ("sft", "grpo")]
TWO = [[1, 2, 1, 2], [1, 3]]  # answers


@pytest.fixture(scope="module")
def lab() -> Lab:
    return shared_lab()


@pytest.fixture(scope="module")
def samples(lab: Lab) -> Samples:
    return Samples.of(lab, NAME)


def test_distinct_and_repeated_by_hand() -> None:
    assert distinct([grams(a, 1) for a in TWO])[::3] == (3 / 6, 6)
    assert distinct([grams(a, 2) for a in TWO])[::3] == (3 / 4, 4)  # (1,2) (2,1) (1,2) and (1,3)
    again, pairs = repeated(TWO)
    assert again.tolist() == [1, 0]
    assert pairs.tolist() == [3, 1]
    assert grams([7], 2) == []


def test_the_jackknife_by_hand() -> None:
    """Without [1]: 2 kinds of 2 items; without [1] again the same; without [2]: 1 of 2."""
    found = distinct([[1], [1], [2]])
    spread = np.array([1, 1, 0.5])
    error = 1.959964 * np.sqrt(2 / 3 * ((spread - spread.mean()) ** 2).sum())
    assert found.value == pytest.approx(2 / 3)
    assert found.low == pytest.approx(max(0, 2 / 3 - error))
    assert found.high == pytest.approx(min(1, 2 / 3 + error))


def test_distinct_of_little_or_nothing_has_no_interval() -> None:
    assert np.isnan(distinct([]).value)
    assert np.isnan(distinct([[]]).value)
    assert distinct([[1, 2]]).value == 1
    assert np.isnan(distinct([[1, 2]]).low)


def test_sets_are_cut_to_one_size() -> None:
    answers = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    kept = first_tokens(answers, 5, seed=1)
    assert sum(map(len, kept)) == 5
    assert all(any(part == whole[: len(part)] for whole in answers) for part in kept)
    assert sum(map(len, first_tokens(answers, 100))) == 9


ON = csr_matrix(np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=float))
KL = np.array([0.0, 1.0, 3.0, 0.0])


def test_shares_and_lift_by_hand() -> None:
    found = carried(ON, KL)
    assert found.n.tolist() == [2, 1, 0]
    assert found.kl[:2].tolist() == [2.0, 0.0]
    assert found.share.tolist() == [1.0, 0.0, 0.0]
    assert found.density.tolist() == [0.5, 0.25, 0.0]
    assert found.lift[:2].tolist() == [2.0, 0.0]
    assert found.score[0] == 2.0
    assert np.isnan(found.lift[2])


def test_shares_of_a_partition_add_up_and_lifts_average_to_one() -> None:
    rng = np.random.default_rng(0)
    ids, kl = rng.integers(0, 7, 500), rng.random(500)
    found = carried(csr_matrix((np.ones(500), (ids, np.arange(500))), shape=(7, 500)), kl)
    assert found.share.sum() == pytest.approx(1)
    assert (found.lift * found.density).sum() == pytest.approx(1)


def test_no_kl_has_no_shares() -> None:
    found = carried(ON, np.zeros(4))
    assert np.isnan(found.share).all()


def test_correlation_is_pearson_s() -> None:
    rng = np.random.default_rng(0)
    f = rng.random((3, 200)) * (rng.random((3, 200)) < 0.2)
    kl = rng.random(200) + f[1]
    expected = [np.corrcoef(row, kl)[0, 1] for row in f]
    assert correlation(csr_matrix(f), kl) == pytest.approx(expected)


def test_intervals_hold_the_figure_and_have_no_width_where_documents_are_alike() -> None:
    on = csr_matrix(np.tile([[1.0, 0.0]], 40))
    kl, document = np.tile([3.0, 1.0], 40), np.repeat(np.arange(40), 2)
    (share,), (lift,) = carried_intervals(on, kl, document)
    assert share == pytest.approx((0.75, 0.75))
    assert lift == pytest.approx((1.5, 1.5))


def test_a_shuffle_moves_windows_whole_and_keeps_groups() -> None:
    window = np.repeat([4, 5, 8, 9], [3, 1, 2, 2])
    group = np.array(["a", "a", "a", "b", "a", "a", "b", "b"])
    for source, target in shuffles(window, group, 20, seed=0):
        assert sorted(source) == sorted(target) == list(range(8))
        assert (group[source] == group[target]).all()
        for w in (4, 5, 8, 9):
            places = np.flatnonzero(window[source] == w)
            assert (np.diff(places) == 1).all()
            assert (np.diff(source[places]) == 1).all()


def test_a_null_tells_a_latent_that_carries_from_those_that_do_not() -> None:
    rng = np.random.default_rng(1)
    window = np.repeat(np.arange(100), 20)
    on = csr_matrix((rng.random((30, 2_000)) < 0.1).astype(float))
    kl = rng.random(2_000)
    planted = on.toarray()[3] * 5 + kl
    none, found = nulls(on, np.stack([kl, planted], axis=1), window)
    assert carried(on, planted).score.argmax() == 3
    assert (carried(on, planted).score > found.score).sum() == 1
    assert not (carried(on, kl).score > none.score * 1.1).any()
    again = nulls(on, np.stack([kl, planted], axis=1), window)
    assert again == [none, found]


def test_what_only_a_domain_has_is_no_news_within_it() -> None:
    """KL is high in every window of one domain, and the latent fires on all of that domain: beyond an order at
    random, not beyond an order that keeps domains."""
    window = np.repeat(np.arange(60), 10)
    domain = np.where(window < 12, "chat", "prose")
    on = csr_matrix((domain == "chat").astype(float)[None])
    kl = np.where(domain == "chat", 2.0, 0.1)[:, None]
    (anywhere,), (inside,) = nulls(on, kl, window), nulls(on, kl, window, domain)
    score = carried(on, kl[:, 0]).score[0]
    assert score > anywhere.score
    assert score == pytest.approx(inside.score)


def test_too_rare_for_a_null() -> None:
    (found,) = nulls(ON, KL[:, None], np.arange(4))
    assert np.isnan(found.lift)
    assert np.isnan(found.score)


def test_a_copy_says_the_same(lab: Lab) -> None:
    """KL of a checkpoint from its copy is exactly 0 on what it says, and every other KL is above."""
    base, sft = lab.checkpoint("base"), lab.checkpoint("sft")
    tokenizer = base.tokenizer()
    said = complete(base.model(), tokenizer, [[1, 20, 30], [1, 40]], 12, 1.0, 0)
    models = {"base": base.model(), "copy": base.model(), "sft": sft.model()}
    scores = scored(models, "base", said, tokenizer.pad_token_id)
    assert set(scores.kl) == {("base", "copy"), ("copy", "base"), ("base", "sft"), ("sft", "base")}
    assert (scores.kl["base", "copy"] == 0).all()
    assert (scores.kl["copy", "base"] == 0).all()
    assert (scores.kl["base", "sft"] > 0).all()
    assert kl_on_own_samples(base.model(), base.model(), tokenizer, [[1, 20]]) == 0


def test_scores_are_sums_over_the_sampled_positions(lab: Lab) -> None:
    """Against one sample at a time, without padding."""
    p, q = (lab.checkpoint(name).model() for name in ("base", "sft"))
    said = [
        Completion([1, 20, 30], [40, 41, 42, 43], "", False),
        Completion([1, 50], [60, 4], "", True),
    ]
    scores = scored({"p": p, "q": q}, "p", said, 0)
    for number, each in enumerate(said):
        ids = torch.tensor([[*each.prompt_ids, *each.ids]])
        with torch.no_grad():
            log_p, log_q = (
                m(input_ids=ids).logits[0, len(each.prompt_ids) - 1 : -1].log_softmax(-1) for m in (p, q)
            )
        assert scores.n[number] == len(each.ids) == len(log_p)
        assert scores.kl["p", "q"][number] == pytest.approx(
            float((log_p.exp() * (log_p - log_q)).sum()), rel=1e-4
        )
        assert scores.entropy[number] == pytest.approx(float(-(log_p.exp() * log_p).sum()), rel=1e-4)


def test_figures_by_hand() -> None:
    right, wrong = Completion([1], [7, 8, 4], "It is 12.", True), Completion([1], [7, 7], "It is", False)
    prose = Completion([1], [9, 9, 9, 9], "x", False)
    said = [
        Said(Prompt((1,), "sums", "12"), right),
        Said(Prompt((1,), "sums", "12"), wrong),
        Said(Prompt((1,)), prose),
    ]
    assert spoken_tokens(said) == {QUESTIONS: 4, "sums": 4, PROSE: 4}
    scores = scores_of([3, 2, 4], [3.0, 1.0, 8.0], [0.3, 0.2, 2.0])
    found = {(r.kind, r.figure): r for r in figures(said, scores, spoken_tokens(said))}
    assert found[QUESTIONS, "length"].value == 2.5
    assert found[QUESTIONS, "ended"].value == 0.5
    assert found[QUESTIONS, "entropy"][2::3] == (4 / 5, 5)
    assert found["sums", "accuracy"].value == 0.5
    assert found[QUESTIONS, "distinct_1"][2::3] == (2 / 4, 4)  # 7 8, 7 7: the token that ends is left out
    assert found[PROSE, "repeated"][2::3] == (2 / 3, 3)
    assert (PROSE, "accuracy") not in found
    rows = {(pair, r.kind): r.value for pair, r in kl_rows(said, scores)}
    assert rows[("a", "b"), QUESTIONS] == pytest.approx(0.5 / 5)
    assert rows[("a", "b"), PROSE] == pytest.approx(2.0 / 4)


def scores_of(n: list[int], entropy: list[float], kl: list[float]):
    from workbench.own_samples import Scores

    return Scores(np.array(n, dtype=float), np.array(entropy), {("a", "b"): np.array(kl)})


def test_kl_token_by_token_adds_up_to_behaviour_s(lab: Lab) -> None:
    tokens = token_set(lab, "base")
    models = {name: lab.checkpoint(name).model() for name in ("base", "sft")}
    windows = tokens.sample_windows(600, seed=0)
    found, summed = token_kl(models, tokens, windows), behaviour(models, tokens, windows)
    assert found.kl["base", "sft"].sum() == pytest.approx(summed.kl["sft", "base"].sum(), rel=1e-5)
    assert len(found.context) == summed.n_tokens.sum()
    inside = found.row >= 0
    assert (found.row[inside] == found.predicted[inside] - 1).all()
    assert (found.context[inside] == tokens.tokens[found.row[inside]]).all()
    assert (np.asarray(tokens.position)[found.predicted[~inside]] == 1).all()
    assert (found.context[~inside] == tokens.settings["bos"]).all()
    assert (np.diff(found.predicted) > 0).all()


def test_the_token_that_was_raised_is_the_one_that_gained_most(lab: Lab) -> None:
    tokens = token_set(lab, "base")
    models = {name: lab.checkpoint(name).model() for name in ("base", "sft")}
    found = token_kl(models, tokens, np.array([0]))
    ids = torch.tensor([[tokens.settings["bos"], *tokens.tokens[: tokens.stops[0]].tolist()]])
    with torch.no_grad():
        p = {name: model(input_ids=ids).logits[0, :-1].softmax(-1) for name, model in models.items()}
    assert found.raised["base", "sft"].tolist() == (p["sft"] - p["base"]).argmax(-1).tolist()


def test_activations_stand_at_their_rows(lab: Lab) -> None:
    index = FeatureTable.of(lab, "crosscoder").index
    rows = np.array([3, 9, 10, 50])
    found = activations_at(index, rows).toarray()
    for latent in np.flatnonzero(np.diff(index.starts))[:20]:
        tokens, values = index.entries(int(latent))
        at = dict(zip(tokens.tolist(), values.tolist(), strict=True))
        assert found[latent].tolist() == pytest.approx([at.get(int(row), 0.0) for row in rows])


def test_every_checkpoint_with_a_chat_form_is_asked(samples: Samples) -> None:
    kinds = {name: set(samples.said.filter(checkpoint=name)["kind"]) for name in ("base", "sft", "grpo")}
    assert kinds["base"] == kinds["sft"] == kinds["grpo"] >= {QUESTIONS, PROSE, "sums"}
    assert set(samples.kl.select("p", "q").iter_rows()) == {
        (p, q) for a, b in PAIRS for p, q in ((a, b), (b, a))
    }


def test_every_figure_lies_in_its_interval(samples: Samples) -> None:
    for table, value in ((samples.said, "value"), (samples.kl, "kl"), (samples.tokens, "share")):
        known = table.drop_nulls(["low", "high"])
        assert len(known)
        assert (known["low"] <= known[value] + 1e-9).all()
        assert (known[value] <= known["high"] + 1e-9).all()
    assert (samples.kl["kl"] > 0).all()


def test_tables_hold_the_largest_of_every_pair(samples: Samples) -> None:
    for before, after in PAIRS:
        for by in (CONTEXT, RAISED):
            rows = samples.tokens.filter(before=before, after=after, by=by)
            assert rows["share"].is_sorted(descending=True)
            assert 0 < rows["share"].sum() <= 1 + 1e-9
        latents = samples.latents.filter(before=before, after=after)
        assert latents["score"].is_sorted(descending=True)
        assert (latents["score"] - latents["lift"] * latents["share"]).abs().max() < 1e-12
        assert (latents["lift"] - latents["share"] / latents["density"]).abs().max() < 1e-9
        null = samples.figures["null"][f"{before}|{after}"]["null"]
        assert latents["beyond"].sum() == min(null["beyond"], latents.height)


def test_own_samples_stand_beside_shared_text(lab: Lab, samples: Samples) -> None:
    comparison = Comparison.of(lab, NAME)
    table = samples.beside_shared(comparison)
    by_text = {t: set(table.filter(text=t).select("pair", "kind").iter_rows()) for t in (OWN, SHARED)}
    assert by_text[SHARED] <= by_text[OWN]
    assert ("KL(sft‖base)", QUESTIONS) in by_text[OWN]
    row = table.filter(text=SHARED, pair="KL(sft‖base)", kind=PROSE).row(0, named=True)
    assert row["kl"] == comparison.kl.filter(p="sft", q="base", domain="prose")["kl"].item()
