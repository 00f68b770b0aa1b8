"""What dashboards show beyond the table: exact sums, cosines by hand, planted sources, whole intervals."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from tests.test_followed_factors import index_of
from tests.tiny_lab import shared_lab
from tests.tiny_models import FAMILIES, tiny_model
from workbench.aligned_neurons import aligned, read_directions, write_directions
from workbench.examples import N_INTERVALS, PER_INTERVAL
from workbench.feature_parts import writer_columns
from workbench.features import FeatureTable
from workbench.residual_writers import (
    MAX_TOKENS,
    SAMPLE_TOKENS,
    NotASum,
    Peaks,
    chosen_windows,
    decompose,
    writers,
)
from workbench.site import decoder_layers, read_resid_post
from workbench.source_shares import source_shares


@pytest.fixture(scope="module")
def table():
    return FeatureTable.of(shared_lab(), "sae-sft")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_add_up_to_the_stream(family):
    """Embedding, every head and every MLP sum to resid_post in each family, layer by layer."""
    model = tiny_model(family)
    ids = torch.randint(5, 300, (3, 12), generator=torch.Generator().manual_seed(0))
    keep = torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    for layer in range(3):
        names, written = decompose(model, layer, ids, keep)
        stream = read_resid_post(model, layer, ids)[keep]
        torch.testing.assert_close(written.sum(dim=0), stream, rtol=1e-4, atol=1e-4)
        assert len(names) == len(set(names)) == len(written)
        assert [n for n in names if n.startswith(f"head {layer}.")] == [f"head {layer}.{h}" for h in range(4)]
        assert names[0] == "embedding"


def test_a_head_is_what_is_lost_without_it():
    """Zeroing a head's slice of W_O takes exactly its part away from the first layer's stream (Llama)."""
    model = tiny_model("llama", n_layers=1)
    ids, keep = torch.arange(5, 15)[None], torch.ones(1, 10, dtype=torch.bool)
    attention = decoder_layers(model)[0].self_attn
    names, written = decompose(model, 0, ids, keep)
    size = attention.o_proj.weight.shape[1] // 4
    with torch.no_grad():
        attention.o_proj.weight[:, 2 * size : 3 * size] = 0
    _, without = decompose(model, 0, ids, keep)
    place = names.index("head 0.2")
    assert without[place].abs().max() == 0
    torch.testing.assert_close(without[names.index("head 0.1")], written[names.index("head 0.1")])


def test_a_stream_that_is_no_sum_is_refused():
    model = tiny_model("llama")
    handle = decoder_layers(model)[1].register_forward_hook(lambda m, i, o: o * 1.5)
    with pytest.raises(NotASum, match="misses the stream"):
        decompose(model, 1, torch.arange(5, 15)[None], torch.ones(1, 10, dtype=torch.bool))
    handle.remove()


def peaks_of(excerpts):
    return Peaks(*(excerpts[c].to_numpy().astype(np.int64) for c in ("latent", "peak")), np.ones(len(excerpts)))


def test_deltas_add_up_to_the_change_of_the_preactivation(table):
    """Σ_c Δ_c,j is E_top[pre_j] − E[pre_j], from stored activations."""
    model, d = table.lab.checkpoint("sft").model(), table.dictionary
    excerpts, tokens = table.excerpts, table.token_set
    peaks = peaks_of(excerpts)
    found = writers(model, table._readers[2].layer, tokens, d.W_enc[0], peaks)
    pre = d.preactivations(table.activations[np.arange(len(tokens))]).numpy()
    sample = tokens.sample_windows(SAMPLE_TOKENS, seed=0)
    rows = np.concatenate([np.arange(tokens.starts[w], tokens.stops[w]) for w in sample])
    inside = chosen_windows(tokens, peaks, d.n_latents, MAX_TOKENS)
    window = np.searchsorted(tokens.starts, peaks.row, side="right") - 1
    for latent in np.flatnonzero(found.n_peaks)[:20]:
        own = peaks.row[(peaks.latent == latent) & np.isin(window, inside)]
        assert len(own) == found.n_peaks[latent]
        expected = pre[own, latent].mean() - pre[rows, latent].mean()
        assert found.delta[:, latent].sum() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_peaks_below_zero_are_written_by_what_pushes_down(table):
    """A latent turned upside down, its peaks' signs with it, is written by the same components as much."""
    model, W_enc, layer = (
        table.lab.checkpoint("sft").model(),
        table.dictionary.W_enc[0],
        table._readers[2].layer,
    )
    peaks = peaks_of(table.excerpts)
    up, down = (
        writers(model, layer, table.token_set, s * W_enc, peaks._replace(sign=s * peaks.sign)) for s in (1, -1)
    )
    np.testing.assert_allclose(up.delta, down.delta, rtol=1e-5, atol=1e-6)


def test_the_table_names_the_largest_writer(table):
    part = table.parts["writers"]
    latent = int(part["latent"][0])
    own = part.filter(pl.col("latent") == latent)
    assert own["share"].sum() == pytest.approx(1.0, abs=1e-4)
    row = table.row(latent)
    assert row["writer"] == own.sort("delta", descending=True)["component"][0]
    assert row["writer_share"] == pytest.approx(own.sort("delta", descending=True)["share"][0])
    empty = writer_columns(part.head(0), "sft", 4)
    assert empty["writer"].to_list() == [None] * 4


def test_a_budget_chooses_fewer_windows(table):
    excerpts, tokens = table.excerpts, table.token_set
    peaks = peaks_of(excerpts)
    lengths = tokens.stops - tokens.starts
    few, many = (chosen_windows(tokens, peaks, 96, budget) for budget in (300, 60_000))
    assert 0 < lengths[few].sum() <= 300 < lengths[many].sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_by_hand(family):
    """A decoder that is a neuron's own direction is found with cosine 1, its opposite with -1."""
    model = tiny_model(family)
    for directions in (write_directions(model, 1), read_directions(model, 2)):
        assert directions.shape == (64 if family != "gpt2" else 128, 32)
        found = aligned(torch.stack([3 * directions[7], -directions[9]]), directions)
        assert found.neurons[:, 0].tolist() == [7, 9]
        np.testing.assert_allclose(found.cosines[:, 0], [1, -1], atol=1e-5)
    assert read_directions(model, 3) is None


def test_written_direction_is_what_the_neuron_adds():
    """One unit of neuron 5 moves a Llama MLP's output by its direction."""
    mlp = decoder_layers(tiny_model("llama"))[1].mlp
    hidden = torch.zeros(1, 64)
    hidden[0, 5] = 1.0
    torch.testing.assert_close(mlp.down_proj(hidden)[0], write_directions(tiny_model("llama"), 1)[5])


def test_planted_sources_are_found(table):
    """A latent on one president's texts, one on chats, one everywhere."""
    tokens, rng = table.token_set, np.random.default_rng(0)
    year = tokens.documents["year"].cast(pl.String).to_numpy()[tokens.document]
    some = next(v for v in year if v is not None)
    domain = tokens.domain[tokens.document]
    columns = [(year == some) * 1.0, (domain == "chat") * 1.0, (rng.random(len(tokens)) < 0.3) * 1.0]
    found = source_shares(index_of(columns), tokens)
    first = found.filter((pl.col("latent") == 0) & (pl.col("attribute") == "year")).row(0, named=True)
    assert first["value"] == some
    assert first["count"] == (year == some).sum()
    assert first["lift"] == pytest.approx((year != None).sum() / (year == some).sum())  # noqa: E711
    assert first["documents"] == first["documents_with"] == 1
    chat = found.filter((pl.col("latent") == 1) & (pl.col("attribute") == "domain")).row(0, named=True)
    assert (chat["value"], chat["expected"]) == (
        "chat",
        pytest.approx((domain == "chat").sum() * chat["count"] / len(tokens)),
    )
    assert found.filter(pl.col("latent") == 2)["lift"].max() < 1.3


def test_intervals_hold_what_they_say(table):
    """Every excerpt lies in its fifth of the latent's largest activation, in one window, around its peak."""
    part, largest = table.parts["intervals"], table.table["max_activation"]
    assert 2 < part["interval"].max() < N_INTERVALS  # the weakest may lie below every threshold
    assert part.group_by("latent", "interval").len()["len"].max() <= PER_INTERVAL
    share = part["value"].to_numpy() / largest.to_numpy()[part["latent"].to_numpy()]
    place = N_INTERVALS - np.ceil(share * N_INTERVALS - 1e-6).clip(1, N_INTERVALS)
    assert (place == part["interval"].to_numpy()).mean() > 0.99
    for row in part.head(50).iter_rows(named=True):
        assert row["start"] <= row["peak"] < row["stop"]
        assert table.token_set.window_of(row["start"]) == table.token_set.window_of(row["stop"] - 1)


def test_neighbours_of_the_table_share_tokens(table):
    part = table.parts["neighbours"]
    for row in part.filter(pl.col("relation") == "coactive").head(30).iter_rows(named=True):
        a, b = (set(table.index.entries(row[c]).tokens.tolist()) for c in ("latent", "other"))
        assert row["count"] == len(a & b)
        assert row["jaccard"] == pytest.approx(len(a & b) / len(a | b))
