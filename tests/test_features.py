"""The feature table says what the models and the dictionary say; planted truths are found."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest
import torch

from tests.tiny_lab import shared_lab
from workbench.errors import Failure, Misuse
from workbench.examples import top_excerpts
from workbench.features import DENSITY, FeatureTable, read_table
from workbench.vocabulary import read


@pytest.fixture(scope="module")
def lab():
    return shared_lab()


@pytest.fixture(scope="module", params=["crosscoder", "sae-sft"])
def table(request, lab):
    return FeatureTable.of(lab, request.param)


def test_rows_are_what_the_dictionary_does(table):
    """Densities, means and peaks against a dense pass; own density is the density."""
    x = table.activations[np.arange(len(table.token_set))]
    dense = table.dictionary.encode(x).numpy()
    fires = dense > 0
    row = table.table
    np.testing.assert_allclose(row["density"].to_numpy(), fires.mean(axis=0), atol=2 / len(dense))
    np.testing.assert_allclose(row["max_activation"].to_numpy(), dense.max(axis=0), rtol=1e-4)
    means = dense.sum(axis=0) / np.maximum(fires.sum(axis=0), 1)
    np.testing.assert_allclose(row["mean_activation"].to_numpy(), means, rtol=2e-2)
    assert row["latent"].to_list() == list(range(table.dictionary.n_latents))
    assert {f"{DENSITY}{name}" for name in ("base", "sft", "grpo")} <= set(row.columns)
    if table.name == "sae-sft":
        assert row["density_sft"].to_list() == row["density"].to_list()
    else:
        author = table.token_set.documents["author"].fill_null("").to_numpy()[table.token_set.document]
        np.testing.assert_allclose(row["density_grpo"], fires[author == "grpo"].mean(axis=0), atol=0.02)
        shares = row.select("w_base", "w_sft", "w_grpo").sum_horizontal()
        np.testing.assert_allclose(shares, 1.0, rtol=1e-5)


def test_search_finds_exactly_the_latents_whose_excerpts_hold_the_text(table):
    tokens = table.token_set
    data = [read(shown) for shown in tokens.vocabulary]
    for text in ("capital", "<script>", "ZZZ nowhere"):
        expected = set()
        for latent in range(table.index.n_latents):
            for found in top_excerpts(table.index, tokens, latent):
                shown = b"".join(data[i] for i in tokens.tokens[found.start : found.stop])
                if text.lower() in shown.decode(errors="replace").lower():
                    expected.add(latent)
        assert set(table.search(text)["latent"]) == expected
        assert bool(expected) == (text != "ZZZ nowhere")


def test_a_dashboard_agrees_with_the_model(table):
    """Values are the index's, contributions and bias add up to the preactivation, text is plain strings."""
    latent = int(table.table.sort("density", descending=True)["latent"][0])
    found = table.dashboard(latent)
    assert found.row["latent"] == latent
    assert sum(found.histogram.counts) == len(table.index.entries(latent).tokens)
    assert len(found.histogram.edges) == len(found.histogram.counts) + 1
    peaks = [example.values[example.peak] for example in found.examples]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == pytest.approx(found.row["max_activation"])
    bias = float(table.dictionary.b_enc[latent])
    for example in found.examples:
        assert len(example.tokens) == len(example.values)
        assert set(example.contributions) == set(table.checkpoints)
        total = bias + sum(np.array(values) for values in example.contributions.values())
        on = np.array(example.values) > 0
        np.testing.assert_allclose(total[on], np.array(example.values)[on], rtol=1e-3, atol=1e-4)
        assert all(type(token) is str for token in example.tokens)
    assert set(found.logits) == set(table.checkpoints)
    assert found.densities.keys() == {"base", "sft", "grpo"}


def test_promoted_tokens_go_through_the_right_head(table):
    """Top of (d ⊙ γ) W_U with each checkpoint's own decoder and unembedding, by hand."""
    for m, name in enumerate(table.checkpoints):
        model = table.lab.checkpoint(name).model()
        with torch.no_grad():
            logits = model.lm_head(table.dictionary.W_dec[5, m] * model.model.norm.weight)
        promoted = table.dashboard(5).logits[name].promoted
        best = int(logits.argmax())
        assert promoted[0][0] == table.token_set.vocabulary[best]
        assert promoted[0][1] == pytest.approx(float(logits[best]), rel=1e-4)
        assert table.dashboard(5).logits[name].suppressed[0][1] == pytest.approx(float(logits.min()), rel=1e-4)


def test_fires_on_is_what_is_stored(table):
    """A held-out document typed in gives the latents that its stored tokens have."""
    tokens = table.token_set
    document = tokens.documents.filter(pl.col("domain") == "world").row(0, named=True)
    window = tokens.window_of(document["start"])
    start, stop = int(tokens.starts[window]), int(tokens.stops[window])
    text = b"".join(read(tokens.vocabulary[i]) for i in tokens.tokens[start:stop]).decode()
    found = table.fires_on(text)
    dense = table.dictionary.encode(table.activations[np.arange(start, stop)])
    expected = {int(j) for j in (dense > 0).any(dim=0).nonzero()}
    assert len(set(found["latent"]) ^ expected) <= 0.05 * len(expected)
    best = found.row(0, named=True)
    assert best["value"] == pytest.approx(float(dense.max()), rel=1e-3)
    with pytest.raises(Misuse, match="empty"):
        table.fires_on("")


def test_a_dashboard_reads_quickly(table):
    table.dashboard(0)
    began = time.process_time()
    for latent in range(1, 11):
        table.dashboard(latent)
    assert (time.process_time() - began) / 10 < 0.1


def test_bad_requests_are_sentences(lab, table, tmp_path):
    with pytest.raises(Misuse, match="no latent 96"):
        table.row(96)
    with pytest.raises(Misuse, match="did you mean 'crosscoder'"):
        FeatureTable.of(lab, "croscoder")
    table.table.drop("factor").write_parquet(tmp_path / "table.parquet")
    with pytest.raises(Failure, match="column 'factor' is None"):
        read_table(tmp_path / "table.parquet")
    (tmp_path / "table.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(Failure, match="cannot be read"):
        read_table(tmp_path / "table.parquet")


def test_a_dashboard_holds_every_part_of_its_latent(table):
    """Intervals count all activations, neighbours have names, nothing belongs to another latent."""
    latent = int(table.table.sort("density", descending=True)["latent"][3])
    found = table.dashboard(latent)
    assert sum(part.count for part in found.intervals) == len(table.index.entries(latent).tokens)
    for part in found.intervals:
        for example in part.examples:
            assert part.low - 1e-6 <= example.values[example.peak] <= part.high * (1 + 1e-6)
    assert all((rows["latent"] == latent).all() for rows in found.parts.values())
    assert found.parts["neighbours"]["called"].null_count() == 0
    assert latent not in found.parts["neighbours"]["other"]
    silent = table.table.filter(pl.col("density") == 0)["latent"]
    for quiet in silent[:1]:
        assert table.dashboard(int(quiet)).intervals == []
