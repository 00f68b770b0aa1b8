"""The tables of `workbench.lives_build`: curves of every latent, births and deaths, the row of models, training.

`lives.parquet`    a row a latent and moment: strength, length (of that at its own end) and cosine with intervals
`births.parquet`   a row a latent that fires on `FEWEST` sampled tokens or more
`moments.parquet`  a row a model on the axis, with how many latents are there, and were born and died since the last
`curves.parquet`   loss, reward and KL of the stages on the same axis
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from workbench.intervals import wilson
from workbench.joint_decoders import Reading
from workbench.latent_lives import birth_bounds, lifetimes, manner, resampled, there
from workbench.step_axis import Moment, Stage, place

FEWEST = 20  # sampled tokens that a latent fires on, for a claim about it
CURVES = ("loss", "reward", "kl")
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "lives": {
        "latent": pl.Int64, "moment": pl.Int64, "strength": pl.Float64, "low": pl.Float64, "high": pl.Float64,
        "floor": pl.Float64, "length": pl.Float64, "cosine": pl.Float64, "cosine_low": pl.Float64,
        "cosine_high": pl.Float64, "readable": pl.Float64,
    },
    "births": {
        "latent": pl.Int64, "own": pl.String, "n": pl.Int64, "density": pl.Float64, "final": pl.Float64,
        "born": pl.Int64, "born_stage": pl.String, "born_step": pl.Int64, "born_axis": pl.Int64,
        "born_low": pl.Int64, "born_high": pl.Int64, "sure": pl.Float64, "arrival": pl.String, "died": pl.Int64,
        "died_stage": pl.String, "died_step": pl.Int64, "died_axis": pl.Int64, "departure": pl.String,
        "turn": pl.Float64, "turn_low": pl.Float64, "turn_high": pl.Float64, "turn_floor": pl.Float64,
    },
    "moments": {
        "moment": pl.Int64, "stage": pl.String, "step": pl.Int64, "axis": pl.Int64, "place": pl.Float64,
        "end": pl.Boolean, "there": pl.Int64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64,
        "born": pl.Int64, "died": pl.Int64,
    },
    "curves": {
        "stage": pl.String, "step": pl.Int64, "axis": pl.Int64, "place": pl.Float64, "name": pl.String,
        "value": pl.Float64,
    },
}  # fmt: skip


class Latents(NamedTuple):
    """The latents that are asked: whose decoder is their own, at which moment that was finished, how many of the
    sample's `tokens` they fire on."""

    latent: Int[np.ndarray, "latent"]
    own: Sequence[str]
    end: Int[np.ndarray, "latent"]
    n: Int[np.ndarray, "latent"]
    tokens: int


def tables(axis: Sequence[Moment], latents: Latents, readings: Sequence[Reading]) -> dict[str, pl.DataFrame]:
    """`lives`, `births` and `moments`."""
    over = {
        name: np.stack([getattr(r, name) for r in readings], axis=-1) for name in Reading._fields
    }  # [..., latent, moment]
    asked = latents.n >= FEWEST
    births = birth_table(axis, latents, over, asked)
    return {
        "lives": life_table(latents, over),
        "births": births,
        "moments": moment_table(axis, births, there(over["strength"], over["floor"], latents.end)[asked]),
    }


def life_table(latents: Latents, over: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Curves of all latents, rare ones too: their intervals say what they are worth."""
    n, n_moments = over["strength"].shape
    strength, cosine = over["strength"], over["cosine"]
    wide, bent = half_width(over["strength_influence"]), half_width(over["cosine_influence"])
    with np.errstate(divide="ignore", invalid="ignore"):
        length = over["length"] / over["length"][np.arange(n), latents.end][:, None]
    columns = {
        "latent": np.repeat(latents.latent, n_moments),
        "moment": np.tile(np.arange(n_moments), n),
        "strength": strength.ravel(),
        "low": (strength - wide).ravel(),
        "high": (strength + wide).ravel(),
        "floor": over["floor"].ravel(),
        "length": np.where(np.isfinite(length), length, np.nan).ravel(),
        "cosine": cosine.ravel(),
        "cosine_low": np.clip(cosine - bent, -1, 1).ravel(),
        "cosine_high": np.clip(cosine + bent, -1, 1).ravel(),
        "readable": over["readable"].ravel(),
    }
    return _typed(columns, "lives")


def half_width(influence: Float[np.ndarray, "block latent moment"]) -> Float[np.ndarray, "latent moment"]:
    """Half of a 95 % interval over blocks of documents (Student's t); NaN of one block."""
    from scipy.stats import t

    blocks = len(influence)
    if blocks < 2:
        return np.full(influence.shape[1:], np.nan)
    error = np.sqrt(((influence - influence.mean(axis=0)) ** 2).sum(axis=0) * blocks / (blocks - 1))
    return np.asarray(t.ppf(0.975, blocks - 1) * error)


def birth_table(
    axis: Sequence[Moment],
    latents: Latents,
    over: Mapping[str, np.ndarray],
    asked: np.ndarray,
) -> pl.DataFrame:
    """Births, deaths and turns of the latents that are `asked`."""
    strength, floor, end = over["strength"][asked], over["floor"][asked], latents.end[asked]
    found = lifetimes(strength, floor, end)
    samples = lifetimes(resampled(strength, over["strength_influence"][:, asked]), floor, end)
    names = [moment.stage for moment in axis]
    number = np.array([names.index(name) for name in names])
    bounds = birth_bounds(found.born, samples.born, number)
    arrival, departure = manner(found, over["length"][asked], np.isfinite(over["cosine"][asked]), end)
    columns: dict[str, Any] = {
        "latent": latents.latent[asked],
        "own": [own for own, wanted in zip(latents.own, asked, strict=True) if wanted],
        "n": latents.n[asked],
        "density": latents.n[asked] / latents.tokens,
        "final": strength[np.arange(len(end)), end],
        "born": _known(found.born),
        "born_low": [axis[at].axis if at >= 0 else None for at in bounds.low],
        "born_high": [axis[at].axis if at >= 0 else None for at in bounds.high],
        "sure": bounds.sure,
        "arrival": arrival,
        "died": _known(found.died),
        "departure": departure,
        **_turns(axis, latents.end[asked], over, asked),
    }
    for event, at in (("born", found.born), ("died", found.died)):
        for what in ("stage", "step", "axis"):
            columns[f"{event}_{what}"] = [getattr(axis[m], what) if m >= 0 else None for m in at]
    return _typed(columns, "births")


def _turns(
    axis: Sequence[Moment], end: np.ndarray, over: Mapping[str, np.ndarray], asked: np.ndarray
) -> dict[str, np.ndarray]:
    """Degrees between a latent's direction when the first stage was finished and its own decoder; `turn_floor` is
    the same at its own end, where nothing has turned. None for latents whose own decoder is the first stage's."""
    first = next(number for number, moment in enumerate(axis) if moment.end)
    cosine, bent = over["cosine"][asked], half_width(over["cosine_influence"][:, asked])
    later = end > first
    at = np.where(later, cosine[:, first], np.nan)
    return {
        "turn": degrees(at),
        "turn_low": degrees(at + bent[:, first]),
        "turn_high": degrees(at - bent[:, first]),
        "turn_floor": degrees(np.where(later, cosine[np.arange(len(end)), end], np.nan)),
    }


def degrees(cosine: np.ndarray) -> np.ndarray:
    """The angle of a cosine, which noise may have carried beyond 1."""
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def moment_table(axis: Sequence[Moment], births: pl.DataFrame, here: np.ndarray) -> pl.DataFrame:
    """The axis, with counts over the latents that are above the floor at their own end."""
    n = births["born"].drop_nulls().len()
    count = here[births["born"].is_not_null().to_numpy()].sum(axis=0)
    bounds = [wilson(int(c), n) if n else (0.0, 0.0) for c in count]
    came, went = (births[event].drop_nulls().to_list() for event in ("born", "died"))
    columns = {
        "moment": range(len(axis)),
        **{what: [getattr(m, what) for m in axis] for what in ("stage", "step", "axis", "place", "end")},
        "there": count,
        "low": [low * n for low, _ in bounds],
        "high": [high * n for _, high in bounds],
        "n": [n] * len(axis),
        "born": [came.count(m) for m in range(len(axis))],
        "died": [went.count(m) for m in range(len(axis))],
    }
    return _typed(columns, "moments")


def training_curves(stages: Sequence[Stage], metrics: Mapping[str, pl.DataFrame | None]) -> pl.DataFrame:
    """Loss, reward and KL on the axis. The loss of a stage that has a reward is a surrogate about 0: left out."""
    rows, before = [], 0
    for number, stage in enumerate(stages):
        table = metrics[stage.name]
        if table is not None:
            names = set(table["name"].unique())
            wanted = [n for n in CURVES if n in names and not (n == "loss" and "reward" in names)]
            for name, step, value in (
                table.filter(pl.col("name").is_in(wanted)).select("name", "step", "value").rows()
            ):
                at = place(number, min(step, stage.length), stage.length)
                rows.append((stage.name, step, before + step, at, name, value))
        before += stage.length
    return pl.DataFrame(rows, schema=SCHEMAS["curves"], orient="row").sort(
        pl.col("name").replace_strict({n: at for at, n in enumerate(CURVES)}, return_dtype=pl.Int64), "axis"
    )


def _known(moment: Int[np.ndarray, "latent"]) -> list[int | None]:
    return [int(at) if at >= 0 else None for at in moment]


def _typed(columns: Mapping[str, Any], name: str) -> pl.DataFrame:
    """The columns as `SCHEMAS` says; what is not a number is null."""
    table = pl.DataFrame({what: pl.Series(columns[what], strict=False) for what in SCHEMAS[name]})
    cast = table.select(pl.col(what).cast(kind) for what, kind in SCHEMAS[name].items())
    return cast.with_columns(pl.col(pl.Float64).fill_nan(None))
