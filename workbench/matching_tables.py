"""The tables of separately trained SAEs matched with one another, from their codes and decoders.

`pairs`       a row for each matched pair, of each two SAEs and each criterion of the assignment
`nulls`       what chance gives the first two: decoders rotated, tokens shuffled within their domain. It hangs on
              how many latents there are and how often they fire, which SAEs of one setting share: it serves all
`best`        for each latent the nearest of the other SAE, whoever else wants that
`shares`      MCC and shares of matched latents, with their intervals and what chance gives
`unmatched`   latents that have no counterpart in the other checkpoint's SAE

Intervals: of a mean correlation by bootstrap over blocks of documents, the pairs kept, its shift taken off
(what is rare correlates less where some of its documents are missing); of a mean cosine, which is not made of
documents, over pairs; of shares Wilson's, over the latents of the second SAE that fire often enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from saes.latent_matching import (
    CORRELATION,
    COSINE,
    CRITERIA,
    AllPairs,
    Codes,
    Resampler,
    random_rotation,
    resampled_correlation,
)
from saes.matching import Matching
from workbench.intervals import wilson
from workbench.joint_decoders import shuffled_within
from workbench.matching import BOUNDS

RESAMPLES = 400  # of pairs, for mean cosines
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "pairs": {"kind": pl.String, "a": pl.String, "b": pl.String, "by": pl.String, "latent_a": pl.Int64,
              "latent_b": pl.Int64, "cosine": pl.Float64, "correlation": pl.Float64},
    "nulls": {"a": pl.String, "b": pl.String, "by": pl.String, "cosine": pl.Float64, "correlation": pl.Float64},
    "best": {"kind": pl.String, "own": pl.String, "other": pl.String, "latent": pl.Int64, "fires": pl.Int64,
             "cosine": pl.Float64, "cosine_latent": pl.Int64, "correlation": pl.Float64,
             "correlation_latent": pl.Int64},
    "shares": {"kind": pl.String, "a": pl.String, "b": pl.String, "by": pl.String, "figure": pl.String,
               "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "null": pl.Float64, "n": pl.Int64},
    "unmatched": {"own": pl.String, "other": pl.String, "latent": pl.Int64, "fires": pl.Int64,
                  "cosine": pl.Float64, "correlation": pl.Float64, "seed_correlation": pl.Float64,
                  "label": pl.String},
}  # fmt: skip


class Side(NamedTuple):
    """An SAE that is matched: the decoders of the latents in its codes, row by row."""

    name: str
    codes: Codes
    decoders: Float[np.ndarray, "latent d"]


class Tokens(NamedTuple):
    """The tokens that correlations are taken over: the block of documents and the domain of each."""

    block: Int[np.ndarray, "token"]
    domain: Int[np.ndarray, "token"]


def matched(
    kind: str, a: Side, b: Side, tokens: Tokens, null: pl.DataFrame | None = None, seed: int = 0
) -> dict[str, pl.DataFrame]:
    """`pairs`, `best` and `shares` of two SAEs; `null`: what `chance` gives SAEs like these."""
    found = AllPairs.of(a.decoders, b.decoders, a.codes, b.codes)
    resampler = Resampler.of(tokens.block, seed)
    sides = [(side.codes, resampler.moments(side.codes)) for side in (a, b)]
    pairs_, shares = [], []
    for criterion in CRITERIA:
        pairs = found.matched(criterion)
        at = _values(found, pairs)
        numbers = a.codes.latent[pairs.rows], b.codes.latent[pairs.columns]
        columns = {"latent_a": numbers[0], "latent_b": numbers[1], **at}
        pairs_.append(_typed("pairs", columns | {"kind": kind, "a": a.name, "b": b.name, "by": criterion}))
        of_null = None if null is None else null.filter(by=criterion)
        samples = resampled_correlation(sides[0], sides[1], pairs, resampler)
        same = numbers[0] == numbers[1]
        rows = _shares(at, of_null, same, samples, len(b.codes.latent), seed)
        names = ("figure", "value", "low", "high", "null", "n")
        told = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        shares.append(_typed("shares", told | {"kind": kind, "a": a.name, "b": b.name, "by": criterion}))
    best = [_best(kind, a, b, found, True), _best(kind, b, a, found, False)]
    return {"pairs": pl.concat(pairs_), "best": pl.concat(best), "shares": pl.concat(shares)}


def chance(a: Side, b: Side, tokens: Tokens, seed: int = 0) -> pl.DataFrame:
    """`nulls`: the pairs when `b`'s decoders are rotated and its tokens shuffled within their domain."""
    order = shuffled_within(tokens.domain, np.random.default_rng(seed))
    turned = b.decoders @ random_rotation(b.decoders.shape[1], seed)
    found = AllPairs.of(a.decoders, turned, a.codes, b.codes.shuffled(order))
    parts = [_values(found, found.matched(by)) | {"a": a.name, "b": b.name, "by": by} for by in CRITERIA]
    return pl.concat(_typed("nulls", part) for part in parts)


def unmatched(best: pl.DataFrame, pairs: Mapping[tuple[str, str], str | None]) -> pl.DataFrame:
    """Latents without counterpart: for each (own, other) of `pairs` those of `own` that no latent of `other` comes
    near by either bound. Its value there is the name of another seed of `own`, if there is one: a latent that this
    one has too (`seed_correlation`) is no accident of training. Labels are filled in by who knows them."""
    found = []
    for (own, other), again in pairs.items():
        rows = best.filter(own=own, other=other)
        far = rows.filter(
            pl.col(COSINE) < BOUNDS[COSINE], pl.col(CORRELATION) < BOUNDS[CORRELATION]
        ).with_columns(label=pl.lit(None, pl.String))
        if again is None:
            far = far.with_columns(seed_correlation=pl.lit(None, pl.Float64))
        else:
            twin = best.filter(own=own, other=again).select("latent", seed_correlation=CORRELATION)
            far = far.join(twin, on="latent", how="left", maintain_order="left")
        found.append(
            far.select(*SCHEMAS["unmatched"]).sort(
                "seed_correlation", "fires", descending=True, nulls_last=True
            )
        )
    return pl.concat(found) if found else pl.DataFrame(schema=dict(SCHEMAS["unmatched"]))


def _values(found: AllPairs, pairs: Matching) -> dict[str, Float[np.ndarray, "pair"]]:
    return {COSINE: found.cosine[pairs], CORRELATION: found.correlation[pairs]}


def _shares(
    at: Mapping[str, np.ndarray],
    null: pl.DataFrame | None,
    same: np.ndarray,
    samples: Float[np.ndarray, "resample"],
    n: int,
    seed: int,
) -> Iterator[tuple[str, float, float, float, float, int]]:
    """(figure, value, low, high, null, n) of one assignment; `n` latents of the second SAE could be matched."""
    nothing = float("nan")
    for figure, drawn in ((COSINE, _resampled_mean(at[COSINE], seed)), (CORRELATION, samples)):
        low, high = np.quantile(drawn - drawn.mean(), (0.025, 0.975)) + at[figure].mean()
        chance_ = nothing if null is None else float(null[figure].to_numpy().mean())
        yield figure, float(at[figure].mean()), float(low), float(high), chance_, len(at[figure])
    for figure, bound in BOUNDS.items():
        hits = int((at[figure] >= bound).sum())
        chance_ = nothing if null is None else float((null[figure] >= bound).sum()) / n
        yield f"{figure} ≥ {bound:g}", hits / n, *wilson(hits, n), chance_, n
    yield "same number", int(same.sum()) / n, *wilson(int(same.sum()), n), 1 / n, n


def _resampled_mean(values: Float[np.ndarray, "pair"], seed: int) -> Float[np.ndarray, "resample"]:
    rng = np.random.default_rng(seed)
    return np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)])


def _best(kind: str, own: Side, other: Side, found: AllPairs, of_own: bool) -> pl.DataFrame:
    """For each latent of `own` the nearest of `other`."""
    columns: dict[str, Any] = {"latent": own.codes.latent, "fires": own.codes.fires}
    for criterion in (COSINE, CORRELATION):
        nearest = found.best(criterion, of_own)
        columns |= {criterion: nearest.value, f"{criterion}_latent": other.codes.latent[nearest.latent]}
    return _typed("best", columns | {"kind": kind, "own": own.name, "other": other.name})


def _typed(name: str, columns: Mapping[str, Any]) -> pl.DataFrame:
    """A table with the columns of `SCHEMAS`; a constant stands for a column of it."""
    long = pl.DataFrame({key: value for key, value in columns.items() if not isinstance(value, str)})
    filled = long.with_columns(pl.lit(v).alias(k) for k, v in columns.items() if isinstance(v, str))
    return filled.select(pl.col(c).cast(t) for c, t in SCHEMAS[name].items())
