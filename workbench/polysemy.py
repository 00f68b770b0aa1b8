"""How many of the world's factors each neuron and each latent follows, and texts of those that follow most."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int
from scipy.sparse import csr_matrix

from saes.index import FeatureIndex
from saes.ranking import aurocs
from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.examples import top_excerpts
from workbench.factor_scores import halves, label_matrix
from workbench.features import open_index
from workbench.grow import Build
from workbench.neuron_factors import dense_aurocs, harvest_neurons
from workbench.part_steps import activations_name
from workbench.recipe import DictionaryConfig
from workbench.site import with_fast_attention
from workbench.superposition import LATENT, NEURON, SHOWN, TEXTS, followed
from workbench.tokens import TokenSet
from workbench.vocabulary import read

if TYPE_CHECKING:
    from collections.abc import Sequence

STRONGEST = 400  # of a neuron's tokens, from which its texts are taken
EXAMPLES = {"unit": pl.Int32, "rank": pl.Int32, "value": pl.Float32, "text": pl.String}


class Measured(NamedTuple):
    """Of one checkpoint: units (kind, unit, factors, names), examples (kind, unit, rank, value, text), and how
    many factors the latents of an SAE of another seed follow."""

    units: pl.DataFrame
    examples: pl.DataFrame
    reseeded: Int[np.ndarray, "latent"]


def measure(build: Build, config: DictionaryConfig, reseeded: FeatureIndex) -> Measured:
    """Neurons and latents of a checkpoint; `reseeded` is the index of an SAE of another seed."""
    (checkpoint,) = config.checkpoints
    tokens = next(a for key, a in build.parents.items() if key.startswith("activations/tokens-"))
    token_set = TokenSet(tokens.path, "heldout")
    labels = label_matrix(token_set, len(token_set.factor_names))
    half = np.where(np.asarray(token_set.special), -1, halves(token_set, seed=0))  # no chat markers
    index = open_index(build.parents[f"features/{config.name}"].path, config.name)
    latents = _latents(index, labels, half)
    layer = build.parents[f"activations/{activations_name(checkpoint, config.layer, config.point)}"].figures[
        "layer"
    ]
    model = with_fast_attention(Checkpoint.of(build.lab, checkpoint).model(best_device()))
    wanted = half >= 0
    path = build.draft.path / f".neurons-{checkpoint}.npy"
    values = harvest_neurons(model, layer, token_set, wanted, path)
    kept = np.flatnonzero(wanted)
    neurons = followed(*(dense_aurocs(values, labels[kept], half[kept] == h) for h in (0, 1)))
    most = _most(neurons)
    units = [
        _units(NEURON, neurons, token_set.factor_names),
        _units(LATENT, latents, token_set.factor_names),
    ]
    examples = [
        _texts(NEURON, most, _strongest(values, neurons, most, kept, len(token_set)), token_set),
        _texts(LATENT, _most(latents), index, token_set),
    ]
    del values
    path.unlink()
    again = (_latents(reseeded, labels, half) != 0).sum(axis=1)
    return Measured(pl.concat(units), pl.concat(examples), again)


def _latents(
    index: FeatureIndex, labels: csr_matrix, half: Int[np.ndarray, "token"]
) -> Int[np.ndarray, "latent factor"]:
    found = followed(*(aurocs(index, labels, half == h) for h in (0, 1)))
    found[np.diff(index.starts) == 0] = 0  # a silent latent's AUROC is 1/2 by ties alone
    return found


def _units(kind: str, found: Int[np.ndarray, "unit factor"], names: Sequence[str]) -> pl.DataFrame:
    listed = [[("" if row[f] > 0 else "no ") + names[int(f)] for f in np.flatnonzero(row)] for row in found]
    return pl.DataFrame(
        {
            "kind": [kind] * len(found),
            "unit": pl.Series(range(len(found)), dtype=pl.Int32),
            "factors": pl.Series((found != 0).sum(axis=1), dtype=pl.Int32),
            "names": pl.Series(listed, dtype=pl.List(pl.String)),
        }
    )


def _most(found: Int[np.ndarray, "unit factor"]) -> Int[np.ndarray, "chosen"]:
    """The units that follow most factors, of those that follow any."""
    counts = (found != 0).sum(axis=1)
    best = np.argsort(-counts, kind="stable")[:SHOWN]
    return best[counts[best] > 0]


def _strongest(
    values: np.ndarray,
    found: Int[np.ndarray, "unit factor"],
    units: Int[np.ndarray, "chosen"],
    kept: Int[np.ndarray, "wanted"],
    n_tokens: int,
) -> FeatureIndex:
    """An index of the chosen neurons' strongest tokens, in the sign in which they follow more factors."""
    rows, latents, strengths = [], [], []
    for unit in units:
        column = np.asarray(values[:, unit], dtype=np.float32) * (1 if found[unit].sum() >= 0 else -1)
        best = np.sort(np.argsort(-column, kind="stable")[:STRONGEST])
        best = best[column[best] > 0]
        rows.append(kept[best])
        latents.append(np.full(len(best), unit))
        strengths.append(column[best])
    joined = [np.concatenate([*part, np.zeros(0, dtype)]) for part, dtype in
              ((rows, np.int64), (latents, np.int64), (strengths, np.float32))]  # fmt: skip
    return FeatureIndex.from_entries(*joined, n_latents=found.shape[0], n_tokens=n_tokens)


def _texts(
    kind: str, units: Int[np.ndarray, "chosen"], index: FeatureIndex, token_set: TokenSet
) -> pl.DataFrame:
    data = [read(shown) for shown in token_set.vocabulary]
    rows = []
    for unit in units.tolist():
        for rank, found in enumerate(top_excerpts(index, token_set, unit, TEXTS)):
            text = b"".join(data[i] for i in token_set.tokens[found.start : found.stop])
            rows.append((unit, rank, found.value, text.decode("utf-8", errors="replace")))
    table = pl.DataFrame(rows, schema=EXAMPLES, orient="row")
    return table.select(pl.lit(kind).alias("kind"), pl.all())
