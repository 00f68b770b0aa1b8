"""Superposition in a lab's models: is there more in a layer than it has dimensions, and do neurons show it?

For each checkpoint with an SAE, three readings, each beside its control:

    alive latents / d_model                beside an SAE trained equally on Gaussian activations of equal mean
                                           and covariance: the ratio alone mostly measures the chosen width
    max_{j ≠ i} cos(d_i, d_j), alive ones  beside that of the Gaussian SAE and of as many random directions
    factors a unit follows                 of neurons of the layer's MLP beside latents: polysemanticity

A unit follows a factor if its AUROC is at least `BOUND` (or at most 1 − `BOUND`: neurons carry in either sign)
on one half of the documents and, in the same direction, on the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import Failure, Misuse
from workbench.grow import Build
from workbench.lab import Lab
from workbench.plan import STUDY, activations_name, plan
from workbench.recipe import STAGES, DictionaryConfig, read_recipe, write_recipe

if TYPE_CHECKING:
    import polars as pl
    import torch

    from saes.arrays import Activations
    from saes.dictionary import Dictionary

BOUND = 0.9  # AUROC
SHOWN = 8  # units of each kind whose texts are kept, those that follow most factors
TEXTS = 4  # of each
NEURON, LATENT = "neuron", "latent"
TABLES = {
    "cosines": ("checkpoint", "of", "cosine"),
    "units": ("checkpoint", "kind", "unit", "factors", "names"),
    "shares": ("checkpoint", "kind", "factors", "units", "share"),
    "examples": ("checkpoint", "kind", "unit", "rank", "value", "text"),
}


@dataclasses.dataclass(frozen=True)
class Study:
    """A finished study, read. `figures[checkpoint]` are the manifest's."""

    figures: Mapping[str, Mapping[str, Any]]
    path: Path

    @classmethod
    def of(cls, lab: Lab) -> Study:
        """The study of a lab; `Misuse` where there is none yet."""
        artefact = lab.find("evaluation", STUDY)
        return cls(artefact.figures["checkpoints"], artefact.path)

    @cached_property
    def cosines(self) -> pl.DataFrame:
        """checkpoint, of (dictionary, gaussian, random), cosine."""
        return self._table("cosines")

    @cached_property
    def shares(self) -> pl.DataFrame:
        """checkpoint, kind (neuron, latent), factors, units, share."""
        return self._table("shares")

    @cached_property
    def examples(self) -> pl.DataFrame:
        """checkpoint, kind, unit, rank, value, text, with the unit's factors and their names."""
        on = ["checkpoint", "kind", "unit"]
        return self._table("examples").join(self._table("units"), on=on, how="left", maintain_order="left")

    def _table(self, name: str) -> pl.DataFrame:
        import polars as pl

        path = self.path / f"{name}.parquet"
        try:
            table = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise Failure(
                f"{path} cannot be read ({type(error).__name__}): remove it and study again"
            ) from error
        if missing := set(TABLES[name]) - set(table.columns):
            raise Failure(f"{path} lacks the column {min(missing)!r}: remove it and study again")
        return table


def request(lab: Lab) -> tuple[str, ...]:
    """Enter the study in the recipe: the first SAE of each stage. Returns their names."""
    with lab.writing("superposition"):
        recipe = read_recipe(lab.path / "recipe.toml")
        saes = [d for d in recipe.dictionaries if d.kind == "sae"]
        chosen = [next((d.name for d in saes if d.checkpoints == (stage,)), None) for stage in STAGES]
        names = tuple(name for name in chosen if name is not None)
        if not names:
            raise Misuse(
                f"lab {lab.name!r} has no SAE of {', '.join(STAGES)} to study: "
                f"`python -m workbench sae {lab.name} --checkpoint sft` trains one"
            )
        changed = dataclasses.replace(recipe, superposition=names)
        plan(changed)  # refuses what cannot be built before anything is written
        if changed != recipe:
            write_recipe(lab.path / "recipe.toml", changed)
    return names


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/superposition`."""
    import polars as pl

    from workbench.polysemy import measure

    tables: dict[str, list[pl.DataFrame]] = {name: [] for name in TABLES}
    figures = {}
    for name in build.config["dictionaries"]:
        config = build.plan.recipe.dictionary(name)
        (checkpoint,) = config.checkpoints
        width, cosines = widths(build, config)
        build.progress.start(1, "checkpoints", label=f"neurons of {checkpoint}")
        units, examples = measure(build, config)
        build.progress.advance()
        counts = units.group_by("kind", "factors").agg(pl.len().alias("units")).sort("kind", "factors")
        shares = counts.with_columns(share=pl.col("units") / pl.col("units").sum().over("kind"))
        figures[checkpoint] = {"dictionary": name, **width, **_unit_figures(units)}
        for table, rows in (("cosines", cosines), ("units", units), ("shares", shares), ("examples", examples)):
            tables[table].append(rows.select(pl.lit(checkpoint).alias("checkpoint"), pl.all()))
    for table, parts in tables.items():
        pl.concat(parts).write_parquet(build.draft.path / f"{table}.parquet")
    return {"checkpoints": figures, "bound": BOUND}


def _unit_figures(units: pl.DataFrame) -> dict[str, Any]:
    """Of each kind: how many units, the share that follows a factor, the share of those that follow several."""
    found = {}
    for kind in (NEURON, LATENT):
        factors = units.filter(units["kind"] == kind)["factors"].to_numpy()
        following = int((factors > 0).sum())
        found[f"{kind}s"] = {
            "units": len(factors),
            "following": following / len(factors),
            "polysemantic": int((factors > 1).sum()) / following if following else None,
            "factors_each": int(factors.sum()) / following if following else None,
        }
    return found


def widths(build: Build, config: DictionaryConfig) -> tuple[dict[str, Any], pl.DataFrame]:
    """Alive latents and neighbours' cosines of an SAE, and of one trained equally on a Gaussian."""
    import polars as pl
    import torch

    from saes import folder
    from saes.arrays import ActivationArrays, Part
    from saes.controls import GaussianLike
    from saes.metrics import evaluate
    from workbench.dictionaries import split_rows, trainable
    from workbench.tokens import TokenSet

    (checkpoint,) = config.checkpoints
    source = build.parents[f"activations/{activations_name(checkpoint, config.layer, config.point)}"]
    tokens = next(a for key, a in build.parents.items() if key.startswith("activations/tokens-"))
    fitted, held_back = split_rows(TokenSet(tokens.path, "dictionary"))
    real = Part(ActivationArrays([source.path / "dictionary.npy"]), fitted)
    n_heldout = len(ActivationArrays([source.path / "heldout.npy"]))
    training = GaussianLike(real, len(fitted))
    calibration, heldout = training.another(len(held_back), seed=1), training.another(n_heldout, seed=2)
    own = folder.load(build.parents[f"dictionary/{config.name}"].path)
    control = _trained(build, trainable(config, build.plan.recipe, own.k), training, calibration)
    scores = evaluate(control, heldout)
    known = build.parents[f"dictionary/{config.name}"].figures
    alive = np.diff(np.load(build.parents[f"features/{config.name}"].path / "index" / "starts.npy")) > 0
    control_alive = _alive(control, heldout)
    rng = torch.Generator().manual_seed(0)
    near = {
        "dictionary": _nearest(own.W_dec[torch.from_numpy(alive), 0]),
        "gaussian": _nearest(control.W_dec[torch.from_numpy(control_alive), 0]),
        "random": _nearest(torch.randn(int(alive.sum()), own.d, generator=rng)),
    }
    figures: dict[str, Any] = {"d_model": own.d, "d_sae": own.n_latents}
    figures |= {"alive": int(alive.sum()), "alive_per_dimension": int(alive.sum()) / own.d}
    figures |= {"gaussian_alive": int(control_alive.sum())}
    figures |= {"gaussian_alive_per_dimension": int(control_alive.sum()) / own.d}
    figures |= {"fvu": known["fvu"], "gaussian_fvu": scores.fvu[checkpoint]}
    figures |= {"l0": known["l0"], "gaussian_l0": scores.l0}
    figures |= {f"{of}_cosine": float(np.median(values)) for of, values in near.items() if len(values)}
    rows = [pl.DataFrame({"cosine": v}).select(pl.lit(of).alias("of"), "cosine") for of, v in near.items()]
    return figures, pl.concat(rows)


def _trained(
    build: Build, config: DictionaryConfig, training: Activations, calibration: Activations
) -> Dictionary:
    """An SAE of the same settings as `config`'s."""
    from saes.config import TrainConfig
    from saes.trainer import Step, fit
    from workbench.device import best_device
    from workbench.dictionaries import dictionary_sentences

    shared = ("arch", "k", "batch_size", "lr", "seed")
    settings = {name: getattr(config, name) for name in shared}
    settings |= {"n_latents": config.d_sae, "n_steps": config.steps, "device": best_device()}
    build.progress.start(config.steps, "steps", label=f"Gaussian control of {config.name}")
    done = 0

    def on_step(step: Step) -> None:
        nonlocal done
        build.progress.advance(step.step - done, fvu=step.fvu, dead=step.dead_share)
        done = step.step

    with dictionary_sentences(f"Gaussian control of {config.name}"):
        made = fit(
            training,
            TrainConfig(**settings),
            on_step=on_step,
            names=config.checkpoints,
            calibration=calibration,
        )
    return made.to("cpu")


def _alive(dictionary: Dictionary, activations: Activations) -> np.ndarray:
    from saes.arrays import in_order
    from saes.metrics import Firing

    firing = Firing(dictionary.n_latents)
    for x, _ in in_order(activations):
        firing.add(dictionary.encode_sparse(x).latents, len(x))
    return (firing.densities() > 0).numpy()


def _nearest(rows: torch.Tensor) -> Float[np.ndarray, "latent"]:
    from saes.metrics import nearest_row_cosine

    return nearest_row_cosine(rows).numpy() if len(rows) > 1 else np.zeros(0, np.float32)


def followed(
    first: Float[np.ndarray, "unit factor"], second: Float[np.ndarray, "unit factor"]
) -> Int[np.ndarray, "unit factor"]:
    """1 where a unit follows a factor on both halves, −1 where it does so by its absence, else 0."""
    up = (first >= BOUND) & (second >= BOUND)
    down = (first <= 1 - BOUND) & (second <= 1 - BOUND)
    return up.astype(int) - down.astype(int)
