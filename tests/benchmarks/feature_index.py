"""All that dashboards show of every latent: from the feature index, beside a dense pass through SAELens.

    python -m tests.benchmarks.feature_index [--json] [--quick]

For each latent: density, largest activation, its 20 strongest tokens, 5 examples from each of 6 equal
intervals, a histogram of 40 bins, its 10 most co-active latents. Ours encodes the tokens once into
`saes.FeatureIndex` and reads slices of it. The peer opens the same dictionary as a SAELens class, encodes in
chunks and keeps running figures over the dense latents, as a program without an index has to: strongest tokens
by merging, the histogram and the intervals in a second pass once the largest activation is known, co-activation
as a dense product. Activations are superposed sparse features (see `sae_training`), float32 in memory for both.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time

import numpy as np
import torch
from torch import Tensor

import saes
from tests.benchmarks import report
from tests.benchmarks.sae_training import superposed
from workbench.device import keep_freed_memory

D, N_LATENTS, K = 128, 2_048, 16
N_TOP, N_INTERVALS, PER_INTERVAL, BINS, N_COACTIVE = 20, 6, 5, 40, 10
CHUNK = 4_096


@dataclasses.dataclass
class Dashboards:
    """What both make; compared before anything is timed."""

    density: np.ndarray  # [latent]
    largest: np.ndarray  # [latent]
    top: np.ndarray  # [latent, N_TOP] values
    histogram: np.ndarray  # [latent, BINS]
    coactive: np.ndarray  # [latent, N_COACTIVE] counts, largest first
    n_examples: int


def from_index(dictionary: saes.Dictionary, x: Tensor) -> Dashboards:
    """One encoding pass, then slices."""
    index = saes.FeatureIndex.build(dictionary, saes.TensorActivations(x[:, None]))
    top, bins = np.zeros((N_LATENTS, N_TOP), np.float32), np.zeros((N_LATENTS, BINS), np.int64)
    n_examples = 0
    for latent in range(N_LATENTS):
        strongest = index.top(latent, N_TOP).values
        top[latent, : len(strongest)] = strongest
        bins[latent] = index.histogram(latent, BINS).counts
        examples = index.interval_examples(latent, N_INTERVALS, PER_INTERVAL)
        n_examples += sum(len(group.tokens) for group in examples)
    pairs = index.coactivation()
    counts = np.zeros((N_LATENTS, N_LATENTS), np.int64)
    counts[pairs.first, pairs.second] = counts[pairs.second, pairs.first] = pairs.counts
    coactive = -np.sort(-counts, axis=1)[:, :N_COACTIVE]
    return Dashboards(index.densities(), top[:, 0], top, bins, coactive, n_examples)


@torch.no_grad()
def from_dense(sae: torch.nn.Module, x: Tensor) -> Dashboards:
    """Two passes of the SAELens class, everything kept dense."""
    counts, n = torch.zeros(N_LATENTS), len(x)
    together = torch.zeros(N_LATENTS, N_LATENTS)
    top = torch.zeros(N_TOP, N_LATENTS)
    for part in x.split(CHUNK):
        latents = sae.encode(part)
        on = (latents > 0).float()
        counts += on.sum(dim=0)
        together += on.T @ on
        top = torch.cat([top, latents]).topk(N_TOP, dim=0).values
    largest = top[0].clamp_min(1e-12)
    bins = torch.zeros(N_LATENTS, BINS + 1)
    kept = torch.zeros(N_LATENTS, N_INTERVALS + 1)
    for part in x.split(CHUNK):
        share = sae.encode(part) / largest
        rows, columns = share.nonzero(as_tuple=True)
        values = share[rows, columns]
        where = (values * BINS).long().clamp_max(BINS - 1)
        bins.view(-1).index_add_(0, columns * (BINS + 1) + where, torch.ones(len(where)))
        interval = (values * N_INTERVALS).ceil().long().clamp(1, N_INTERVALS) - 1
        kept.view(-1).index_add_(0, columns * (N_INTERVALS + 1) + interval, torch.ones(len(interval)))
    together.fill_diagonal_(0)
    coactive = together.topk(N_COACTIVE, dim=1).values.long().numpy()
    n_examples = int(kept[:, :N_INTERVALS].clamp_max(PER_INTERVAL).sum())
    return Dashboards(
        (counts / n).numpy(), top[0].numpy(), top.T.numpy(), bins[:, :BINS].long().numpy(), coactive, n_examples
    )


def agree(ours: Dashboards, theirs: Dashboards) -> None:
    """Stop if the two do not make the same dashboards (activations at a threshold's edge may differ)."""
    if not np.allclose(ours.density, theirs.density, atol=1e-5) or not np.allclose(
        ours.top, theirs.top, atol=1e-3
    ):
        sys.exit("the index and the dense pass disagree: nothing to compare")
    if abs(ours.histogram - theirs.histogram).sum() > ours.histogram.sum() // 200:
        sys.exit("the index and the dense pass draw different histograms: nothing to compare")
    if (
        abs(ours.coactive - theirs.coactive).max() > 2
        or abs(ours.n_examples - theirs.n_examples) > N_LATENTS // 50
    ):
        sys.exit("the index and the dense pass count differently: nothing to compare")


def compare(n_tokens: int) -> report.Row:
    """A dictionary trained for a moment on such activations, then both ways of looking at `n_tokens`."""
    import sae_lens

    x = superposed(n_tokens, D, 2 * N_LATENTS)
    config = saes.TrainConfig(n_latents=N_LATENTS, k=K, n_steps=60)
    dictionary = saes.fit(saes.TensorActivations(x[:200_000, None]), config)
    with tempfile.TemporaryDirectory() as folder:
        saes.save(dictionary, folder)
        sae = sae_lens.SAE.load_from_disk(folder)
    few = x[:20_000]
    agree(from_index(dictionary, few), from_dense(sae, few))

    def timed(make: object, of: object) -> dict[str, float]:
        began = time.perf_counter()
        make(of, x)  # type: ignore[operator]
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens_per_s": n_tokens / seconds}

    timed(from_index, dictionary)
    peak = report.peak_memory()
    runs = {"ours": lambda: timed(from_index, dictionary), "sae_lens_dense": lambda: timed(from_dense, sae)}
    medians = report.in_turn(runs, 3)
    mine = medians.pop("ours") | {"whole_process_peak_gib": peak}
    config_shown = {"n_tokens": n_tokens, "d": D, "n_latents": N_LATENTS, "k": K}
    return report.Row.of(config_shown, mine, medians, "tokens_per_s")


def main() -> None:
    switches = report.parse("Dashboards of all latents from the feature index, beside a dense pass.")
    keep_freed_memory()  # for both
    row = compare(60_000 if switches.quick else 1_000_000)
    report.write("feature_index", [row], switches.json)


if __name__ == "__main__":
    sys.exit(main())
