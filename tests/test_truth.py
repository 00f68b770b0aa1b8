"""Ground truth in a lab: the artefact, its wiring, and a clamp that changes what it should and no more."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from saes.candidates import SignedUnits, column
from tests.test_pages import opened
from tests.tiny_lab import shared_lab
from workbench.causal import Best, as_case, causal_figures, causal_table
from workbench.clamping import Site, Texts
from workbench.counterfactuals import GROUPS, counterfactuals
from workbench.errors import Failure, Misuse
from workbench.evaluation_requests import request_evaluation
from workbench.features import FeatureTable
from workbench.grow import grow, missing
from workbench.lab import Lab
from workbench.lexicon import ANIMALS, COLOURS, DAYS, OBJECTS, PEOPLE, PLACES, SEASONS, make_world
from workbench.neurons import mlp_output, neurons
from workbench.plan import Plan
from workbench.points import MLP_OUT
from workbench.points import Site as Place
from workbench.recipe import read_recipe, write_recipe
from workbench.site import checked_layer
from workbench.tasks import sum_use
from workbench.tokens import TokenSet
from workbench.truth import POOLS, TABLES, Truth, describe, sentence
from workbench.truth_build import factor_table, labelled_rows
from workbench.world import story_document

NAME = "sae-sft"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    """A copy of the tiny lab with an SAE and the crosscoder evaluated."""
    path = tmp_path_factory.mktemp("truth") / "tiny"
    shutil.copytree(shared_lab().path, path)
    own = Lab(path)
    assert request_evaluation(own, [NAME, "crosscoder"]) == (NAME, "crosscoder")
    grow(own, [f"evaluation/truth-{NAME}", "evaluation/truth-crosscoder"], quiet=True)
    return own


@pytest.fixture(scope="module", params=[NAME, "crosscoder"])
def truth(request, lab) -> Truth:
    return Truth.of(lab, request.param)


@pytest.fixture(scope="module")
def features(lab) -> FeatureTable:
    return FeatureTable.of(lab, NAME)


@pytest.fixture(scope="module")
def site(lab, features) -> Site:
    checkpoint = lab.checkpoint("sft")
    return Site([checkpoint.model()], Place(checkpoint.default_layer), features.dictionary, 0)


def test_every_pool_answers_every_factor_with_as_many_candidates(truth):
    units = truth.units
    smallest = units.filter(pl.col("candidates") == units["candidates"].min())
    assert set(smallest["pool"]) == set(POOLS)
    assert (
        smallest.height == 5 * truth.figures["factors"] * 9
    )  # single units, 1- and 5-sparse probes; 3 metrics
    assert units["n"].min() >= truth.figures["least_tokens"]
    for candidates, pools in truth.figures["levels"].items():
        there = units.filter(pl.col("candidates") == int(candidates))
        for pool, found in pools["pools"].items():
            rows = there.filter((pl.col("pool") == pool) & (pl.col("method") == "unit"))
            assert rows["unit"].n_unique() <= int(candidates)
            for metric in ("auroc", "ap", "f1"):
                mean = rows.filter(pl.col("metric") == metric)["value"].mean()
                assert found[f"unit_{metric}"]["mean"] == pytest.approx(mean)
                assert found[f"unit_{metric}"]["low"] <= found[f"unit_{metric}"]["high"]


def test_figures_are_a_document_and_a_sentence(truth):
    json.dumps(truth.figures, allow_nan=False)
    text = describe(truth.dictionary, truth.figures)
    assert sentence(truth.figures) in text
    assert all(pool in text for pool in POOLS)
    assert f"Over {truth.figures['factors']} factors" in text
    for name in TABLES:
        assert truth.table(name).width > 3
    assert set(truth.table("splitting")["pool"]) == {"latents", "random_sparse"}


def test_the_sentence_names_who_is_ahead(truth):
    """Whichever pool the figures put ahead, first and last."""
    figures = json.loads(json.dumps(truth.figures))
    for ahead, name in (("neurons", "the neurons"), ("latents", "the latents"), ("pca", "PCA directions")):
        smallest = min(figures["levels"], key=int)
        pools = figures["levels"][smallest]["pools"]
        for i, pool in enumerate(pools):
            for metric in ("unit_auroc", "unit_ap", "unit_f1"):
                mean = 0.9 if pool == ahead else 0.1 + i / 100
                pools[pool][metric] = {"mean": mean, "low": mean - 0.001, "high": mean + 0.001}
        figures["levels"] = {smallest: figures["levels"][smallest]}
        said = sentence(figures)
        assert said.count(f"is highest for {name} (0.90") == 3
        assert "too close" not in said


def test_a_latents_row_is_what_the_feature_index_says(lab, features):
    """AUROC of a chosen latent, by hand from the stored index over the second half."""
    from sklearn.metrics import roc_auc_score

    from saes.candidates import SparseUnits
    from saes.factors import halved

    rows = labelled_rows(features.token_set)
    table = factor_table(features.token_set, rows)
    halves = halved(table)
    units = SparseUnits(features.index).on(rows).on(halves.second_rows)
    found = Truth.of(lab, NAME).units.filter(
        (pl.col("pool") == "latents") & (pl.col("method") == "unit") & (pl.col("metric") == "auroc")
    )
    for row in found.sample(10, seed=0).iter_rows(named=True):
        on = halves.second.column(halves.second.names.index(row["factor"]))
        assert on.sum() == row["n"]
        assert row["value"] == pytest.approx(roc_auc_score(on, column(units, row["unit"])), abs=5e-3)


def test_only_labelled_documents_and_no_markers_are_read(features):
    tokens = features.token_set
    rows = labelled_rows(tokens)
    assert set(tokens.domain[tokens.document[rows]]) <= {"world", "chat"}
    assert not tokens.special[rows].any()
    few = labelled_rows(tokens, most=500)
    assert 0 < len(few) <= 500
    assert set(few) <= set(rows)
    whole = np.isin(np.asarray(tokens.document)[rows], np.unique(np.asarray(tokens.document)[few]))
    assert whole.sum() == len(few)


def test_a_parent_is_on_wherever_its_child_is(features):
    table = factor_table(features.token_set, labelled_rows(features.token_set))
    for factor, parent in enumerate(table.parents):
        if parent >= 0:
            assert set(table.tokens_of(factor)) <= set(table.tokens_of(int(parent)))


def test_neurons_times_their_matrix_are_what_the_mlp_writes(lab, features):
    model, layer = lab.checkpoint("sft").model(), 1
    tokens: TokenSet = features.token_set
    rows = np.arange(40, 90)
    found = neurons(model, layer, tokens, rows)
    written = []
    mlp = checked_layer(model, layer).mlp
    handle = mlp.register_forward_hook(lambda module, inputs, output: written.append(output.detach()))
    places = []
    with torch.no_grad():
        for window in sorted({tokens.window_of(int(r)) for r in rows}):
            start, stop = int(tokens.starts[window]), int(tokens.stops[window])
            model(torch.tensor([[tokens.settings["bos"], *tokens.tokens[start:stop].tolist()]]))
            places += range(start, stop)
    handle.remove()
    expected = torch.cat([w[0, 1:] for w in written])[np.isin(places, rows)]
    W = mlp_output(checked_layer(model, layer)).weight
    torch.testing.assert_close(torch.tensor(found.T) @ W.T.detach(), expected, atol=1e-4, rtol=1e-3)
    assert SignedUnits(found).n_units == 2 * len(found)


def texts_of(features: FeatureTable, n: int = 3) -> Texts:
    ids = torch.tensor(np.asarray(features.token_set.tokens[: n * 12]).reshape(n, 12), dtype=torch.long)
    at = torch.zeros_like(ids, dtype=torch.bool)
    at[:, 4:6] = True
    return Texts(ids, at)


def test_a_clamp_to_the_value_it_has_changes_nothing(features, site):
    texts = texts_of(features)
    still = site.differences(texts, [{} for _ in texts.ids])
    assert not still.any()
    torch.testing.assert_close(site.log_probabilities(texts, still), site.log_probabilities(texts))
    one = Texts(texts.ids[:1], texts.at[:1].clone())
    one.at[0] = False
    one.at[0, 4] = True
    x = site._read(one)[0, 4:5]
    f = features.dictionary.encode(x)[0]
    latent = int(f.argmax())
    assert f[latent] > 0
    assert site.differences(one, [{latent: float(f[latent])}]).abs().max() < 1e-5


def test_a_clamp_moves_by_the_difference_at_its_tokens_alone(features, site):
    texts = texts_of(features)
    latent = int(np.diff(features.index.starts).argmax())
    moved = site.differences(texts, [{latent: 7.0}] * 3)
    assert not moved[~texts.at].any()
    f = features.dictionary.encode(site._read(texts)[texts.at])[:, latent]
    expected = (7.0 - f[:, None]) * features.dictionary.W_dec[latent, 0]
    torch.testing.assert_close(moved[texts.at], expected)
    random = site.random_like(moved, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(random.norm(dim=2), moved.norm(dim=2), atol=1e-4, rtol=1e-4)
    before = site.log_probabilities(texts)
    after = site.log_probabilities(texts, moved)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().max() > 1e-3


def test_an_mlps_output_is_read_and_moved_at_the_mlp(features, site):
    """Not in the stream: what a hook on the MLP sees is what is read, and adding to it is adding there."""
    at_mlp = dataclasses.replace(site, place=Place(site.place.layer, MLP_OUT))
    texts, model = texts_of(features), site.models[0]
    seen, delta = [], torch.randn(*texts.ids.shape, features.dictionary.d) * texts.at[:, :, None]
    mlp = checked_layer(model, site.place.layer).mlp

    def hook(module, inputs, output):
        seen.append(output)
        return output + delta

    handle = mlp.register_forward_hook(hook)
    with torch.no_grad():
        expected = model(texts.ids, use_cache=False).logits.log_softmax(-1)
    handle.remove()
    torch.testing.assert_close(at_mlp._read(texts)[:, :, 0], seen[0])
    torch.testing.assert_close(at_mlp.log_probabilities(texts, delta), expected)
    assert (at_mlp._read(texts) - site._read(texts)).abs().max() > 0.1


def test_what_follows_the_clamped_token_counts_aside():
    from workbench.causal import Case, _effect

    about = next(counterfactuals(make_world(12, (), 0), (), 1))
    case = Case(about, [1, 5, 6, 7, 8], [2], [1, 5, 9, 7, 8], 3, 8, 4)
    clean = torch.zeros(1, 5, 10).log_softmax(-1)
    moved = torch.zeros(1, 5, 10)
    moved[0, 2, 3] = 4.0  # the prediction at the clamped token alone
    assert float(_effect([case], clean, moved.log_softmax(-1)).aside) > 0.5
    assert float(_effect([case], clean, clean).aside) == 0


def test_patching_the_whole_stream_makes_the_other_text(features, site):
    """At every token, so that the other text is what the layers above read."""
    texts = texts_of(features)
    everywhere = Texts(texts.ids, torch.ones_like(texts.at))
    others = Texts(texts.ids.flip(1), torch.ones_like(texts.at))
    moved = site.patches(everywhere, others)
    torch.testing.assert_close(
        site.log_probabilities(everywhere, moved), site.log_probabilities(others), atol=1e-3, rtol=1e-3
    )


def test_counterfactual_texts_are_the_worlds_own():
    world = make_world(12, (), 0)
    seen = list(counterfactuals(world, world.countries[:5], 60))
    assert {c.group for c in seen} == set(GROUPS)
    for c in seen:
        assert c.factor.endswith(("plus", "minus", f"/{c.here}"))
        assert c.factor != c.other
        if c.group == "country":
            assert world.capital_of[c.here] in c.answer
            assert world.capital_of[c.there] in c.other_answer
        if c.group in ("units", "tens"):
            text = c.text.removeprefix("<|user|>What is ")
            a, b = int(text[:2]), int(text[3:5])
            assert sum_use(a, b) == "heldout"
            at = 0 if c.group == "units" else c.answer.index(", ") + 2
            assert c.answer[at] == c.here
            assert c.other_answer[0 if c.group == "units" else c.other_answer.index(", ") + 2] == c.there


def test_story_texts_are_worded_as_the_worlds_stories():
    """With every name and thing left out, a text and its answer stand in the stories that base reads."""
    stories = [story_document(random.Random(i)) for i in range(400)]
    blanks = {
        word: "_" for words in (PEOPLE, OBJECTS, COLOURS, DAYS, SEASONS, PLACES, ANIMALS) for word in words
    }

    def shape(text: str) -> str:
        return re.sub(r"\w+", lambda word: blanks.get(word[0], word[0]), text)

    told = "\n".join(shape(story.text) for story in stories)
    seen = [c for c in counterfactuals(make_world(12, (), 0), (), 20) if c.group in ("person", "object")]
    assert len(seen) == 40
    for c in seen:
        assert shape(c.text + c.answer) in told
        assert shape(c.other_text + c.other_answer) in told
        assert c.answer.strip().startswith(c.here)
        assert c.other_answer.strip().startswith(c.there)


def test_the_decisive_token_tells_the_answers_apart(lab):
    tokenizer = lab.checkpoint("sft").tokenizer()
    world = make_world(12, (), 0)
    cases = [as_case(tokenizer, c, 64) for c in counterfactuals(world, world.countries, 40)]
    cases = [c for c in cases if c is not None]
    assert {c.about.group for c in cases} >= {"units", "operator"}
    for case in cases:
        assert case.ids[case.decisive + 1] == case.true_token != case.other_token
        assert tokenizer.decode([case.ids[i] for i in case.at]).strip().find(case.about.here.strip()) >= 0
        changed = {i for i, (a, b) in enumerate(zip(case.ids, case.other_ids, strict=True)) if a != b}
        assert changed <= set(case.at)
        assert max(case.at) <= case.decisive
    assert as_case(tokenizer, cases[0].about, 4) is None


def test_a_latent_that_decides_is_told_from_random_ones(lab, features, site, monkeypatch):
    """Any text counts as gone on with rightly; the clamped latent's decoder is what the head reads as the other
    answer, so that clamping it has to do what random latents of equal norm do not."""
    from workbench import causal

    tokenizer = lab.checkpoint("sft").tokenizer()
    monkeypatch.setattr(causal, "SURE", 0.0)
    world = make_world(12, (), 0)
    case = next(
        c
        for a in counterfactuals(world, (), 40)
        if a.group == "operator" and (c := as_case(tokenizer, a, 64)) is not None
    )
    texts = causal._texts([case])
    delta = torch.zeros(1, len(case.ids), features.dictionary.d, requires_grad=True)
    model = site.models[0]
    from workbench.site import replaced_resid_post

    mask = texts.at[:, :, None].float()

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x + delta * mask

    for _ in range(30):  # up the gradient of the other answer
        with replaced_resid_post(model, site.place.layer, moved):
            log_p = model(texts.ids, use_cache=False).logits[0, case.decisive].log_softmax(-1)
        (gradient,) = torch.autograd.grad(log_p[case.other_token], delta)
        with torch.no_grad():
            delta += 0.3 * gradient / gradient.norm().clamp_min(1e-9)
    W_dec = features.dictionary.W_dec.clone()
    W_dec[5, 0] = torch.nn.functional.normalize((delta.detach() * mask).sum(dim=(0, 1)), dim=0)
    planted = Site(site.models, site.place, dataclasses.replace(features.dictionary, W_dec=W_dec), 0)
    best = {case.about.factor: Best(4, 1.0), case.about.other: Best(5, float(delta.detach().norm()))}
    rows = causal._clamped(planted, [case], best, np.arange(10, 90))
    clamp = next(r for r in rows if r["mode"] == "clamp")
    assert clamp["p"] > clamp["clean"]
    assert clamp["p"] > 1.2 * clamp["p_random"]
    table = causal_table(planted, tokenizer, world, best, np.arange(10, 90), 64)
    assert set(table["group"]) == {"operator"}
    found = causal_figures(table)["operator"]
    assert set(found) == {"clamp", "swap", "code", "patch"}
    assert found["clamp"]["n"] == table.filter(pl.col("mode") == "clamp").height
    for mode in found.values():
        for figure, bounds in mode["intervals"].items():
            assert bounds["mean"] == pytest.approx(mode[figure])
            assert bounds["low"] <= bounds["mean"] <= bounds["high"]
        assert mode["ahead_aside"]["mean"] == pytest.approx(mode["aside"] - mode["aside_random"])


def test_the_page_draws_the_ground_truth_or_says_what_makes_it(lab, monkeypatch):
    monkeypatch.setenv("MARBLE_HOME", str(lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    app = opened("dictionaries")
    assert not app.exception
    box = app.selectbox(key="truth")
    assert box.options == [NAME, "crosscoder"]
    said = " ".join(block.proto.body for block in app.get("html"))
    assert 'role="alert"' not in said
    assert f"Over {Truth.of(lab, NAME).figures['factors']} factors" in said
    charts = [chart.proto.id for chart in app.get("plotly_chart")]
    assert any("truth-pools" in each for each in charts)
    box.select("crosscoder").run()
    assert not app.exception
    bare = shared_lab()
    monkeypatch.setenv("MARBLE_HOME", str(bare.path.parent))
    app = opened("dictionaries")
    assert not app.exception
    said = " ".join(block.proto.body for block in app.get("html"))
    assert f"python -m workbench evaluate {bare.name} NAME" in said
    assert "truth" not in [each.key for each in app.selectbox]


def test_tables_for_pictures_are_the_figures(truth):
    levels = truth.levels()
    for row in levels.sample(8, seed=0).iter_rows(named=True):
        told = truth.figures["levels"][str(row["candidates"])]["pools"][row["pool"]][row["metric"]]
        assert (row["mean"], row["low"], row["high"]) == (told["mean"], told["low"], told["high"])
    structure = truth.structure()
    split = structure.filter((pl.col("figure") == "factors split") & (pl.col("pool") == "the latents"))
    figures = truth.figures["splitting"]["latents"]
    assert split["value"].item() == pytest.approx(figures["split"] / figures["factors"])
    assert structure.filter((pl.col("low") > pl.col("value")) | (pl.col("high") < pl.col("value"))).is_empty()
    clamped = truth.clamped()
    assert set(clamped["group"]) == set(truth.figures["causal"])
    assert clamped.height == 5 * len(truth.figures["causal"])


def test_an_evaluation_is_a_step_of_the_plan_and_nothing_is_made_twice(lab):
    step = Plan.of(lab).step("evaluation", f"truth-{NAME}")
    kinds = [key.split("/")[0] for key in step.parents]
    assert kinds == ["dictionary", "activations", "activations", "checkpoint", "corpus"]
    before = (lab.path / "recipe.toml").read_bytes()
    assert request_evaluation(lab, [NAME]) == (NAME,)
    assert (lab.path / "recipe.toml").read_bytes() == before
    assert missing(lab, [f"evaluation/truth-{NAME}"])[1] == []


def test_bad_requests_are_sentences(lab, tmp_path):
    with pytest.raises(Misuse, match="did you mean 'sae-sft'"):
        request_evaluation(lab, ["sae-stf"])
    with pytest.raises(Misuse, match="evaluation"):
        Truth.of(lab, "sae-base")
    empty = Lab(tmp_path / "bare")
    recipe = dataclasses.replace(read_recipe(lab.path / "recipe.toml"), dictionaries=(), comparisons=())
    write_recipe(empty.path / "recipe.toml", dataclasses.replace(recipe, evaluations=()))
    with pytest.raises(Misuse, match="no dictionaries to evaluate"):
        request_evaluation(empty)
    with pytest.raises(Failure, match="cannot be read"):
        dataclasses.replace(Truth.of(lab, NAME), path=tmp_path).table("units")
