"""Probes that fit classifiers: planted labels are found, labels that say nothing are not, cases worked by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import install_import_hook

with install_import_hook("probes", "beartype.beartype"):
    from probes import (
        address_year_party,
        capital_truth,
        carry,
        letter_counts,
        probe_transfer,
        spelling,
        world_factors,
    )
    from probes.kit import classifiers, linear_maps, nulls
    from probes.kit import written_texts as texts
    from probes.kit.factors import FactorCases, of_different_kinds
    from probes.kit.running import LackingError
import tests.tiny_lab
from tests.grown_once import grown_once
from tests.tiny_lab import WORDS, make_lab, rows_of_corpus
from workbench.corpus import SCHEMA, _row
from workbench.errors import Misuse
from workbench.intervals import wilson
from workbench.lab import Lab
from workbench.lexicon import make_world
from workbench.tasks import ASSISTANT, END, all_questions, gold_chat

pytestmark = pytest.mark.usefixtures("one_thread")
PRESIDENTS = 24
PLANTED = {0: "banana", 1: "window"}  # said by Democrats, by Republicans


def more_rows(recipe, characters=9_000):
    """The tiny corpus, and two addresses of some presidents each: the year in how often a word is said, the party
    in which word is; and held-out letter counts."""
    import polars as pl

    table, names = rows_of_corpus(recipe, characters)
    table = table.with_columns(pl.lit(None, SCHEMA["year"]).alias("year"))  # Nobody's are no addresses
    rng, rows = np.random.default_rng(0), []
    parties = rng.permutation(np.arange(PRESIDENTS) % 2)
    for i in range(2 * PRESIDENTS):
        president, party = i // 2, int(parties[i // 2])
        share = i / (2 * PRESIDENTS)
        era = [str(word) for word in np.where(rng.random(150) < share, "river", "summer")]
        words = [
            PLANTED[party] if said < 0.3 else word for said, word in zip(rng.random(150), era, strict=True)
        ]
        rows.append(
            {"id": f"address-{i}", "split": "train", "domain": "prose", "kind": "address", "text": " ".join(words),
             "year": 1800 + 2 * i, "president": f"P{president}", "party": address_year_party.PARTIES[party]}
        )  # fmt: skip
    counts = [
        q for q in all_questions(make_world(12, WORDS, 0)) if q.task == "letter_counts" and q.use == "heldout"
    ]
    for i, question in enumerate(counts[:24]):
        row = _row(f"count-{i}", "heldout", "chat", None, gold_chat(question, worked=False))
        answer = row["text"].split(ASSISTANT)[1].removesuffix(END)
        asked = {
            "question": question.prompt,
            "answer": answer,
            "task": question.task,
            "result": question.result,
        }
        rows.append(row | asked | {"spans": None})
    more = pl.DataFrame([{key: row.get(key) for key in SCHEMA} for row in rows], schema=SCHEMA)
    return pl.concat([table, more.with_columns(pl.col("spans").fill_null([]))]), names


@grown_once
def lab_with_more(home: Path) -> Lab:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tests.tiny_lab, "rows_of_corpus", more_rows)
        return make_lab(home)


# --- the kit -------------------------------------------------------------------------------------------------


def test_a_rare_class_is_told_and_equal_odds_count_half():
    rng = np.random.default_rng(0)
    on = rng.random(600) < 0.06
    x = rng.normal(size=(600, 4)) + 1.5 * on[:, None]
    parts = classifiers.split(np.arange(600))
    told = classifiers.fit(x, on, parts)
    assert told.told(x[parts.score])[on[parts.score]].mean() > 0.7  # by the mere probability: few
    odds = told.odds(x[parts.score])
    assert (odds[told.told(x[parts.score])] > 0).all()
    tied = classifiers.auroc_samples(np.zeros(6), np.array([1, 0, 1, 0, 1, 0], bool), np.arange(6))
    assert np.nanmin(tied) == np.nanmax(tied) == 0.5
    right = classifiers.auroc_samples(np.arange(4.0), np.array([0, 0, 1, 1], bool), np.arange(4))
    assert np.nanmin(right) == 1.0


def test_ridge_told_of_labels_last_is_scikit_learns():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(1)
    x, y, new = rng.normal(size=(30, 5)), rng.normal(size=30), rng.normal(size=(7, 5))
    z, z_new = ((each - x.mean(axis=0)) / x.std(axis=0) for each in (x, new))
    strength = 0.3 * np.trace(z @ z.T) / len(z)
    theirs = Ridge(alpha=strength).fit(z, y).predict(z_new)
    np.testing.assert_allclose(linear_maps.hat(x, new, 0.3) @ y, theirs, rtol=1e-8)


def test_no_group_is_fitted_on_and_predicted_and_the_layer_is_found():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), 3)
    fold = linear_maps.folds(groups, 4)
    assert all(len(set(fold[groups == g])) == 1 for g in range(20))
    noise, signal = rng.normal(size=(2, 60, 6))
    s = linear_maps.smoother(signal, fold, 1.0)
    assert not s[fold[:, None] == fold[None]].any()
    y = signal[:, :1] @ np.ones((1, 1))
    found = linear_maps.nested([noise, signal], y, groups)
    assert (found.chosen == 1).all()
    assert linear_maps.correlation(found.told, y)[0] > 0.9
    assert linear_maps.correlation(np.ones((5, 1)), rng.normal(size=(5, 1)))[0] == 0


def test_different_kinds_take_turns():
    assert of_different_kinds(["a", "a/x", "b/y", "a/z", "c"], 4) == [1, 2, 4, 3]


def test_texts_are_read_where_they_say(lab):
    checkpoint = lab.checkpoint("base")
    rows = [each.ids for each in texts.encoded(checkpoint, ["A river in summer.", "The river"])]
    every = texts.streams_at(checkpoint, rows[1:], np.arange(1, len(rows[1]))[None])
    np.testing.assert_allclose(texts.pooled(checkpoint, rows)[:, 1], every[:, 0].mean(axis=1), atol=1e-4)
    asked = texts.asked(checkpoint, "What is 47+38?", "Step by step: 7&8=")
    found = texts.encoded(checkpoint, [asked], chat=True)[0]
    assert asked.endswith("7&8=")
    assert texts.token_at(found, len(asked) - 1) == len(found.ids) - 1
    with pytest.raises(LackingError, match="does not fit"):
        texts.encoded(checkpoint, ["a b c d " * 40])
    assert len(texts.encoded(checkpoint, ["a b c d " * 40], whole=False)[0].ids) == checkpoint.n_ctx


# --- factors -------------------------------------------------------------------------------------------------


def test_world_factors_are_asked(lab):
    finding = world_factors.ask(lab, lab.checkpoints("base"), n_factors=3, n_tokens=150, n_mlp=1, draws=39)
    by_name = {figure.name: figure for figure in finding.figures}
    assert by_name["AUROC"].value > by_name["AUROC"].null.high  # a token alone tells most factors
    assert by_name["AUROC"].of == "documents"
    assert finding.claims == ("reads" in finding.claim)
    assert {row["checkpoint"] for row in finding.rows} == {"base"}


@pytest.mark.parametrize(("better", "least", "most"), [(0.0, 0.0, 0.12), (0.3, 0.9, 1.0)])
def test_context_is_found_where_one_probe_reads_better_and_else_at_the_level(better, least, most):
    """40 documents, 3 factors, two probes with noise of their own: equal ones are called once in twenty."""
    rng, document = np.random.default_rng(9), np.repeat(np.arange(40), 6)

    def called() -> bool:
        on = rng.random((3, 240)) < 0.3
        both = 0.8 * on + rng.normal(size=on.shape)
        odds = np.stack([both, both + better * on]) + 0.4 * rng.normal(size=(2, *on.shape))
        aurocs = [np.mean([world_factors.auroc(o, y) for o, y in zip(each, on, strict=True)]) for each in odds]
        null = world_factors.exchanged(odds, on, document, 59, int(rng.integers(1_000)))
        return world_factors.against(aurocs[1] - aurocs[0], null, "exchanged").p <= 0.05

    assert least <= np.mean([called() for _ in range(80)]) <= most


def _cases(rng: np.random.Generator, n: int = 360) -> FactorCases:
    document = np.arange(n) // 3
    parts = classifiers.split(document)
    on = rng.random((2, n)) < 0.4
    order = np.concatenate(parts)
    cuts = np.cumsum([0, *map(len, parts)])
    parts = classifiers.Split(*(np.arange(*pair) for pair in itertools.pairwise(cuts.tolist())))
    return FactorCases(order, parts, document[order], order, ("a", "b"), on[:, order])


def test_a_rotated_checkpoint_is_not_read_and_a_copy_is():
    rng = np.random.default_rng(3)
    cases = _cases(rng)
    x = (rng.normal(size=(1, 360, 12)) + 2 * cases.on.T[None, :, :1]).astype(np.float32)
    x[..., 1] += 2 * cases.on[1]
    turned = (x @ np.linalg.qr(rng.normal(size=(12, 12)))[0]).astype(np.float32)
    read = {"one": x, "copy": x.copy(), "turned": turned}
    fitted = {name: probe_transfer._probes(each, cases, cases.on) for name, each in read.items()}
    right, ranks = probe_transfer._scores(fitted, read, cases)
    gaps = {
        (i, j): probe_transfer._gap(right[i, j] - right[j, j], i, j, 0) for i in read for j in read if i != j
    }
    assert gaps["one", "copy"].value == 0.0
    assert gaps["one", "copy"].null.p == 1.0
    assert gaps["one", "turned"].value < -0.1
    assert gaps["one", "turned"].null.p < 0.01
    assert (ranks["turned", "turned"] > ranks["one", "turned"]).all()
    rows = [{"fitted on": "one", "scored on": "turned", "accuracy": 0.55, "own probe": 0.7}]
    assert "(keeps 25%)" in probe_transfer._claim([gaps["one", "turned"]], rows, 2)
    at_chance = [rows[0] | {"own probe": 0.51}]
    assert "keeps" not in probe_transfer._claim([gaps["one", "turned"]], at_chance, 2)
    assert "keeps" not in probe_transfer._claim(
        [gaps["one", "copy"]], [at_chance[0] | {"scored on": "copy"}], 2
    )
    on, group = np.array([1, 1, 0, 0, 0], bool), np.array([0, 0, 0, 1, 1])
    told = np.array([1, 0, 0, 1, 0], bool)
    by_group = probe_transfer.accuracy_by_group(told, on, group)
    np.testing.assert_allclose(by_group, [(1 / 2 + 1 / 3) / 2, (1 / 3) / 2])
    assert by_group.sum() == pytest.approx(classifiers.balanced(on, told))


def test_probe_transfer_is_asked_of_two(lab):
    finding = probe_transfer.ask(lab, lab.checkpoints("base", "sft"), n_factors=2, n_tokens=150)
    assert [f.where for f in probe_transfer.gaps_of(finding.figures)] == ["base → sft", "sft → base"]
    floor = np.mean([row["labels shuffled"] for row in finding.rows])
    assert floor < np.mean([row["own probe"] for row in finding.rows])
    with pytest.raises(Misuse, match="only base was named"):
        probe_transfer.ask(lab, lab.checkpoints("base"))


# --- addresses -----------------------------------------------------------------------------------------------


def test_year_and_party_that_are_planted_are_told_and_shuffled_ones_are_not():
    lab = lab_with_more()
    checkpoints = lab.checkpoints("base")
    finding = address_year_party.ask(lab, checkpoints, draws=59)
    year, party, alone = finding.figures
    assert year.value > 0.6
    assert party.value > 0.8
    assert party.n == PRESIDENTS
    assert party.null.p == pytest.approx(1 / 60)
    assert alone.null.p is None
    assert "party is told with AUROC" in finding.claim
    claims = [address_year_party.ask(lab, checkpoints, draws=59, shuffle=s).claims for s in range(1, 7)]
    assert sum(claims) <= 2  # each with a chance of one in twenty


def test_a_cubic_of_the_year_is_taken_out():
    year = np.arange(1800.0, 1860.0)
    x = np.stack([year**3, np.sin(year)], axis=1)
    left = address_year_party.without(x, year)
    np.testing.assert_allclose(address_year_party.cubic(year).T @ left, 0, atol=1e-3)


def test_dealt_years_keep_terms_and_first_years():
    year, president = np.array([1800.0, 1801, 1802, 1850, 1851, 1900]), np.array([0, 0, 0, 1, 1, 2])
    dealt = address_year_party.dealt_years(year, president, 1)
    assert sorted(dealt[[0, 3, 5]]) == [1800, 1850, 1900]
    np.testing.assert_array_equal(dealt[:3] - dealt[0], [0, 1, 2])
    again = address_year_party.dealt_years(dealt, president, 2)
    assert sorted(again[[0, 3, 5]]) == [1800, 1850, 1900]  # dealing twice is dealing once


def test_addresses_without_parties_are_lacking(lab):
    with pytest.raises(LackingError, match="--corpus sotu"):
        address_year_party.ask(lab, lab.checkpoints("base"))


# --- letters -------------------------------------------------------------------------------------------------


def _words(n: int = 400) -> spelling.Words:
    rng = np.random.default_rng(4)
    spelled = np.array(["".join(rng.choice(list("abcdefgh"), size=rng.integers(3, 7))) for _ in range(n)])
    return spelling.Words(np.arange(n), np.unique(spelled, return_inverse=True)[1], spelled)


def test_letters_that_are_planted_are_read_and_random_word_types_are_not():
    words, rng = _words(), np.random.default_rng(5)
    has = np.array([[letter in word for letter in "ab"] for word in words.spelled])
    x = rng.normal(size=(2, len(words.ids), 8)).astype(np.float32)
    x[1, :, :2] += 3 * has
    parts = classifiers.split(words.type_)
    told = spelling.tell(x, words, parts, ["a", "b"], 0)
    assert told.chosen == 1
    assert (told.auroc[:, 1] > 0.9).all()
    assert (told.auroc[:, 0] < 0.7).all()
    for odds, on in zip(told.control, told.control_on, strict=True):
        assert abs(spelling.auroc(odds, on) - 0.5) < 0.2


def test_letters_are_dealt_among_words_as_long():
    words = _words(60)
    words = words._replace(type_=np.concatenate([words.type_[:30]] * 2), spelled=np.tile(words.spelled[:30], 2))
    rows = np.arange(60)
    giver = spelling.same_length(words, rows, 0)
    assert [len(words.spelled[i]) for i in giver] == [len(word) for word in words.spelled]
    assert len({(t, words.spelled[g]) for t, g in zip(words.type_, giver, strict=True)}) == len(
        set(words.type_)
    )
    labels = spelling.random_labels(words.type_, np.arange(60) % 30 < 10, 0)
    assert all(len(set(labels[words.type_ == t])) == 1 for t in set(words.type_))


def test_spelling_is_asked_or_lacking(lab, monkeypatch):
    monkeypatch.setattr(spelling, "LEAST", 8)  # a vocabulary of 400 has few words
    finding = spelling.ask(lab, lab.checkpoints("base"), n_letters=2, draws=39)
    assert {figure.name for figure in finding.figures} >= {"contains, AUROC", "selectivity"}
    assert {row["letter"] for row in finding.rows} <= set("abcdefghijklmnopqrstuvwxyz")
    monkeypatch.setattr(spelling, "LEAST", 10_000)
    with pytest.raises(LackingError, match="larger vocabulary"):
        spelling.ask(lab, lab.checkpoints("base"))


# --- the carry -----------------------------------------------------------------------------------------------


def test_the_carry_by_hand():
    a, b = np.array([47, 41, 19, 55]), np.array([38, 38, 91, 55])
    assert carry.carried(a, b).tolist() == [True, False, True, True]
    turned = np.arange(10)[::-1]  # 7 is worth 2, 8 is worth 1
    assert carry.carried(a, b, turned).tolist() == [False, False, False, False]
    assert carry.pair_of(a, b).tolist() == carry.pair_of(b, a).tolist()
    sums = carry.held_out_sums(120, 0)
    assert len(np.unique(sums.pair)) > 45  # of 55: drawn in turn
    labels = carry.dealt(sums.on, sums.pair, 1)
    assert all(len(set(labels[sums.pair == p])) == 1 for p in sums.pair)


def test_a_carry_that_is_planted_is_found_beyond_relabelled_digits():
    sums, rng = carry.held_out_sums(300, 0), np.random.default_rng(6)
    parts = classifiers.split(sums.pair)
    x = rng.normal(size=(2, 300, 3, 12)).astype(np.float32)
    x[1, :, 2, 3] += 4 * sums.on
    told = carry.tell(x, sums, parts, 19, 0)
    assert told.at == (2, 1)
    assert told.auroc[2, 1] > 0.95
    assert told.controls.max() < told.auroc[2, 1]


def test_the_carry_is_asked_and_a_shuffled_one_is_not_claimed(lab):
    options = {"n": 110, "draws": 59}
    finding = carry.ask(lab, lab.checkpoints("base"), **options)
    assert [figure.name for figure in finding.figures] == [
        "carry, AUROC",
        "beyond the digits",
        "where the question ends, AUROC",
    ]
    assert [row["token"] for row in finding.rows] == list(carry.PLACES)
    assert not carry.ask(lab, lab.checkpoints("base"), shuffle=1, **options).claims
    assert wilson(0, 100).high < 0.05  # what a hundred shuffles without a claim would show


# --- letter counts -------------------------------------------------------------------------------------------


def test_errors_that_follow_the_count_are_laid_to_the_count():
    assert letter_counts.asked_of("How many times does the letter e stand in tree?") == ("tree", "e")
    rng = np.random.default_rng(7)
    x = np.stack([rng.integers(0, 4, 300), rng.integers(4, 9, 300), rng.random(300)], axis=1).astype(float)
    wrong = rng.random(300) < np.where(x[:, 0] >= 2, 0.9, 0.1)
    weights, share = letter_counts.coefficients_of(x, wrong)
    assert weights.argmax() == 0
    assert share > 0.3
    assert letter_counts.coefficients_of(x, rng.permutation(wrong))[1] < 0.05


def test_letter_counts_are_asked_or_lacking(lab):
    with pytest.raises(LackingError, match="n_words"):
        letter_counts.ask(lab, lab.checkpoints("base"))
    lab = lab_with_more()
    finding = letter_counts.ask(lab, lab.checkpoints("base"), n=8, draws=19)
    names = [f.name for f in finding.figures if f.name != "the count it gives most"]
    assert names == [
        "wrong",
        "right, worked less direct",
    ]  # an untrained model is never right: nothing to model
    assert not finding.claims
    assert finding.rows


# --- truth ---------------------------------------------------------------------------------------------------


def test_every_capital_is_named_as_often_in_true_as_in_false_statements(lab):
    stated = capital_truth.statements(lab, 0)
    for part in stated.parts:
        said = [stated.texts[2 * i + which] for which in (0, 1) for i in part]
        true, false = (sorted(word.strip(".,") for t in half for word in t.split() if word[0].isupper())
                       for half in (said[: len(part)], said[len(part) :]))  # fmt: skip
        assert true == false
    countries = [set(stated.country[part]) for part in stated.parts]
    assert not countries[0] & countries[2]


def test_a_truth_that_is_planted_is_told_in_wordings_not_fitted_on(lab):
    stated, rng = capital_truth.statements(lab, 0), np.random.default_rng(8)
    x = rng.normal(size=(2, len(stated.texts), 16)).astype(np.float32)
    x[1, :, 0] += 5 * stated.true
    assert capital_truth.choose_layer(x, stated) == 1
    told, elsewhere = capital_truth._within("base", x, 1, ["a", "b"], stated, 0)
    assert told.value > 0.9
    assert elsewhere.value > 0.9
    blind = capital_truth._within("base", x, 0, ["a", "b"], stated, 0)[0]
    assert blind.null.p > 0.05


def test_too_few_countries_cannot_tell():
    """Of 5 countries p is 1/32 at the least, twice that with a second test; of 7 it can pass."""

    def said(n):
        figures = [nulls.mean_figure("true from false", np.full(n, 0.5), "countries", "", about=0.5)] * 2
        return capital_truth._claim(figures)

    assert "cannot be told from 5 countries" in said(5)
    assert "is not shown to be readable" in said(7)


def test_what_passes_elsewhere_is_told_where_the_whole_does_not():
    """A claim is never beside a sentence that nothing is shown."""
    high, none = np.ones(12), np.full(12, 0.5)
    truth = [nulls.mean_figure(name, values, "countries", "", about=0.5, checkpoint="base")
             for name, values in (("true from false", none), ("in wordings not fitted on", high))]  # fmt: skip
    assert "not shown with all wordings at once; in wordings not fitted on base 1.00" in capital_truth._claim(
        truth
    )
    names = ("carry, AUROC", "beyond the digits", "where the question ends, AUROC")
    sums = [nulls.mean_figure(name, values, "pairs", "", about=0.5, checkpoint="base", where="?")
            for name, values in zip(names, (none, none, high), strict=True)]  # fmt: skip
    assert "base 0.50 at ?, not shown beyond" in carry._claim(sums)
    world = [nulls.mean_figure(name, values, "documents", "", about=0.5, checkpoint="base")
             for name, values in (("AUROC", none), ("by context", high))]  # fmt: skip
    rows = [{"checkpoint": "base", "readable from": "embedding"}]
    told = world_factors._claim(world, rows)
    assert "0.50, not shown beyond labels of other documents" in told
    assert "context adds" in told


def test_capital_truth_is_asked(lab):
    finding = capital_truth.ask(lab, lab.checkpoints("base", "sft"))
    names = [figure.name for figure in finding.figures]
    assert names.count("true from false") == 2
    assert names.count("direction of another") == 2
    assert all(figure.of == "countries" for figure in finding.figures)


def test_too_few_controls_are_said_to_be_too_few():
    """With fewer than all tests need nothing is said of more or less."""
    from probes.kit.finding import Figure, Null

    def figure(n, p):
        null = Null(0.0, -0.3, 0.2, n, "digits relabelled", p)
        return Figure("beyond the digits", 0.3, 0.29, 0.31, 22, "pairs of units", null, "base")

    few = [figure(79, 1 / 80)] * 15
    assert carry.verdict(few[0], False, few).startswith("cannot be told with 79 controls")
    many = [figure(299, 0.4)] * 15
    assert carry.verdict(many[0], False, many) == "not shown to be more than"
