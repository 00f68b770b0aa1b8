"""Checkpoints side by side through one crosscoder: which latents they share, and how their predictions differ.

Kind of a latent, from its relative norms w_m = ‖d^m‖ / Σ_m‖d^m‖ over N checkpoints (bounds in `BOUNDS`):

    shared        every |w_m − 1/N| ≤ shared
    exclusive:m   w_m ≥ exclusive
    absent:m      N ≥ 3, w_m ≤ absent, and the others share: every |w_m' − 1/(N − 1)| ≤ shared
    between       anything else

`cosine_<a>_<b>` is the angle between a latent's two decoders: a shared latent may have rotated. A kind is a
reading of norms, no proof that the other checkpoint lacks the feature [Minder 2025].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from workbench.grow import Build
from workbench.lab import Lab
from workbench.part_tables import read_part

if TYPE_CHECKING:
    import polars as pl

BOUNDS: Mapping[str, float] = {"exclusive": 0.8, "absent": 0.1, "shared": 0.1}
SHARED, BETWEEN = "shared", "between"
COMPARED_TOKENS = 100_000  # of the held-out set, for KL and loss
COLUMNS = {
    "kl": ("p", "q", "domain", "kl", "low", "high", "n"),
    "loss": ("checkpoint", "domain", "loss", "low", "high", "n"),
    "excess": ("checkpoint", "domain", "excess", "low", "high", "n"),
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A finished comparison, read."""

    name: str
    checkpoints: tuple[str, ...]
    dictionary: str
    bounds: Mapping[str, float]
    path: Path

    @classmethod
    def of(cls, lab: Lab, name: str) -> Comparison:
        """The comparison called `name`; `Misuse` where there is none, or not yet."""
        artefact = lab.find("comparison", name)
        config = artefact.config
        return cls(
            name, tuple(config["checkpoints"]), config["dictionary"], artefact.figures["bounds"], artefact.path
        )

    @cached_property
    def latents(self) -> pl.DataFrame:
        """latent, w_<checkpoint>…, kind, cosine_<a>_<b>…, density, density_<checkpoint>…, top_token, label."""
        columns = ["latent", "kind", "density", "top_token", "label", *(f"w_{c}" for c in self.checkpoints)]
        return read_part(self.path, "latents", columns)

    @cached_property
    def kl(self) -> pl.DataFrame:
        """p, q, domain, kl (KL(p‖q), nats per token), low, high, n (tokens)."""
        return read_part(self.path, "kl", COLUMNS["kl"])

    @cached_property
    def loss(self) -> pl.DataFrame:
        """checkpoint, domain, loss (nats per token), low, high, n (tokens)."""
        return read_part(self.path, "loss", COLUMNS["loss"])

    @cached_property
    def excess_loss(self) -> pl.DataFrame:
        """checkpoint, domain, excess (its loss less that of the first checkpoint, nats per token), low, high, n."""
        return read_part(self.path, "excess", COLUMNS["excess"])


def kinds(
    relative: Float[np.ndarray, "latent checkpoint"],
    checkpoints: Sequence[str],
    bounds: Mapping[str, float] = BOUNDS,
) -> list[str]:
    """The kind of each latent (see the module's head); the first that applies."""
    n = relative.shape[1]
    found = np.full(len(relative), BETWEEN, dtype=object)
    for m, name in enumerate(checkpoints):
        others = np.delete(relative, m, axis=1)
        if n >= 3:
            even = (np.abs(others - 1 / (n - 1)) <= bounds["shared"]).all(axis=1)
            found[even & (relative[:, m] <= bounds["absent"])] = f"absent:{name}"
    for m, name in enumerate(checkpoints):
        found[relative[:, m] >= bounds["exclusive"]] = f"exclusive:{name}"
    found[(np.abs(relative - 1 / n) <= bounds["shared"]).all(axis=1)] = SHARED
    return found.tolist()


def decoder_cosines(
    decoders: Float[np.ndarray, "latent checkpoint d"], checkpoints: Sequence[str]
) -> dict[str, Float[np.ndarray, "latent"]]:
    """cos(d^a, d^b) for every pair; NaN where one of the two is zero."""
    norms = np.linalg.norm(decoders, axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = decoders / norms
    return {
        f"cosine_{checkpoints[a]}_{checkpoints[b]}": (unit[:, a] * unit[:, b]).sum(axis=1)
        for a, b in combinations(range(len(checkpoints)), 2)
    }


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `comparison/<name>`: `latents.parquet`, `kl.parquet`, `loss.parquet`, `excess.parquet`."""
    from workbench.behaviour import behaviour
    from workbench.checkpoint import fast_models
    from workbench.dictionary_folder import open_dictionary
    from workbench.features import read_table
    from workbench.tokens import TokenSet

    names = tuple(build.config["checkpoints"])
    used = build.config["dictionary"]
    dictionary = open_dictionary(build.parents[f"dictionary/{used}"].path, used)
    features = read_table(build.parents[f"features/{used}"].path / "table.parquet")
    latents = latent_table(features, dictionary.W_dec.numpy(), names)
    latents.write_parquet(build.draft.path / "latents.parquet")
    tokens = build.lab.find("activations", f"tokens-{build.plan.family(names[0])}")
    token_set = TokenSet(tokens.path, "heldout")
    windows = token_set.sample_windows(COMPARED_TOKENS, seed=1)
    models = fast_models(build.lab, names)
    total = int((token_set.stops - token_set.starts)[windows].sum())
    build.progress.start(total, "tokens", label=f"compare {', '.join(names)}")
    found = behaviour(models, token_set, windows, build.progress.advance)
    kl, loss = found.kl_table(), found.loss_table()
    kl.write_parquet(build.draft.path / "kl.parquet")
    loss.write_parquet(build.draft.path / "loss.parquet")
    found.excess_table().write_parquet(build.draft.path / "excess.parquet")
    return {"bounds": dict(BOUNDS), **_figures(latents, kl, loss), "tokens": total}


def latent_table(
    features: pl.DataFrame, decoders: Float[np.ndarray, "latent checkpoint d"], checkpoints: Sequence[str]
) -> pl.DataFrame:
    """The comparison's rows, from a crosscoder's feature table and its decoders."""
    import polars as pl

    shares = [f"w_{name}" for name in checkpoints]
    densities = [f"density_{name}" for name in checkpoints]
    label = pl.coalesce("label", "top_token").alias("label")
    return features.select(
        "latent",
        *shares,
        pl.Series("kind", kinds(features.select(shares).to_numpy(), checkpoints), dtype=pl.String),
        *(pl.Series(name, values) for name, values in decoder_cosines(decoders, checkpoints).items()),
        "density",
        *densities,
        "top_token",
        label,
    )


def _figures(latents: pl.DataFrame, kl: pl.DataFrame, loss: pl.DataFrame) -> dict[str, Any]:
    """Counts of kinds among latents that fire, and KL and loss over all domains."""
    alive = latents.filter(latents["density"] > 0)
    everywhere = kl.filter(kl["domain"] == "all")
    return {
        "kinds": dict(sorted(alive["kind"].value_counts().iter_rows())),
        "silent": latents.height - alive.height,
        "kl": {f"{row['p']}|{row['q']}": row["kl"] for row in everywhere.iter_rows(named=True)},
        "loss": dict(loss.filter(loss["domain"] == "all").select("checkpoint", "loss").iter_rows()),
    }
