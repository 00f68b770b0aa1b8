"""A dictionary's ground truth, read: its tables, and what they say in one plain sentence, whoever wins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.lab import Lab
from workbench.part_tables import read_part
from workbench.points import MLP_IN, MLP_OUT, RESID_POST

if TYPE_CHECKING:
    import polars as pl

LATENTS, NEURONS, PCA, RANDOM_DENSE, RANDOM_SPARSE = POOLS = (
    "latents", "neurons", "pca", "random_dense", "random_sparse",
)  # fmt: skip
SAID: Mapping[str, str] = {
    LATENTS: "the latents",
    NEURONS: "the neurons",
    PCA: "PCA directions",
    RANDOM_DENSE: "random directions",
    RANDOM_SPARSE: "a random dictionary",
}
WHOLE: Mapping[str, str] = {  # what stands at a point, as sentences call it
    RESID_POST: "the whole stream",
    MLP_IN: "the MLP's whole input",
    MLP_OUT: "the MLP's whole output",
}
METRICS: Mapping[str, str] = {"unit_auroc": "AUROC", "unit_ap": "average precision", "unit_f1": "F1"}
SHOWN = (
    *METRICS, "mcc", "probe_1_ap", "probe_1_f1", "probe_5_auroc", "probe_5_ap", "probe_5_f1",
)  # fmt: skip
TABLES = ("units", "matched", "absorption", "splitting", "composition", "causal")


@dataclasses.dataclass(frozen=True)
class Truth:
    """The finished artefact `evaluation/truth-<dictionary>`."""

    dictionary: str
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, lab: Lab, dictionary: str) -> Truth:
        """The ground truth of a dictionary; `Misuse` where it was not evaluated."""
        artefact = lab.find("evaluation", f"truth-{dictionary}")
        return cls(dictionary, artefact.figures, artefact.path)

    @cached_property
    def units(self) -> pl.DataFrame:
        """Each pool's best unit for each factor (`workbench.truth_tables.UNITS`)."""
        return self.table("units")

    def table(self, name: str) -> pl.DataFrame:
        """One of `TABLES`."""
        return read_part(self.path, name, (), "evaluate again")

    def levels(self) -> pl.DataFrame:
        """candidates, pool, metric, mean, low, high, n (factors): single units at the latents' numbers of
        candidates."""
        import polars as pl

        n = self.figures["factors"]
        return pl.DataFrame(
            {"candidates": int(candidates), "pool": pool, "metric": metric, **means[metric], "n": n}
            for candidates, told in self.figures["levels"].items()
            if LATENTS in told["pools"]
            for pool, means in told["pools"].items()
            for metric in METRICS
        )

    def structure(self) -> pl.DataFrame:
        """figure, pool, value, low, high, n: shares absorbed, split and composed, with Wilson intervals."""
        import polars as pl

        from workbench.intervals import wilson

        rows = []
        for pool in self.figures["splitting"]:
            absorbed, split, composed = (
                self.figures[about][pool] for about in ("absorption", "splitting", "composition")
            )
            counted = {
                "tokens absorbed": (round((absorbed["share"] or 0.0) * absorbed["tokens"]), absorbed["tokens"]),
                "factors split": (split["split"], split["factors"]),
                "latents composed": (composed["composed_at_f1_0.5"], composed["latents"]),
            }
            for figure, (hits, n) in counted.items():
                if n:
                    low, high = wilson(hits, n)
                    bounds = {"value": hits / n, "low": low, "high": high, "n": n}
                    rows.append({"figure": figure, "pool": SAID[pool], **bounds})
        columns = {"figure": pl.String, "pool": pl.String, "value": pl.Float64}
        return pl.DataFrame(rows, schema=columns | {"low": pl.Float64, "high": pl.Float64, "n": pl.Int64})

    def clamped(self) -> pl.DataFrame:
        """group, series, value, low, high, n: p(other answer) as it is, swapped, and at the ceilings."""
        import polars as pl

        shown = {
            "as it is": ("swap", "clean"),
            "best latents swapped": ("swap", "p"),
            "random latents": ("swap", "p_random"),
            "all latents": ("code", "p"),
            self.figures["whole"].removeprefix("the "): ("patch", "p"),
        }
        rows = []
        for group, modes in self.figures["causal"].items():
            for series, (mode, column) in shown.items():
                bounds = modes[mode]["intervals"][column]
                place = {"group": group, "series": series, "value": bounds["mean"]}
                rows.append(place | {"low": bounds["low"], "high": bounds["high"], "n": modes[mode]["n"]})
        columns = {"group": pl.String, "series": pl.String, "value": pl.Float64}
        return pl.DataFrame(rows, schema=columns | {"low": pl.Float64, "high": pl.Float64, "n": pl.Int64})


def sentence(figures: Mapping[str, Any]) -> str:
    """What the ground truth says: who is ahead at each number of candidates that the latents have."""
    levels = sorted(
        (int(n), told["pools"]) for n, told in figures["levels"].items() if LATENTS in told["pools"]
    )
    parts = [_leaders(n, pools) for n, pools in levels]
    return f"Over {figures['factors']} factors, {'; '.join(parts)}. {_causal_sentence(figures)}"


def _leaders(n: int, pools: Mapping[str, Any]) -> str:
    told = []
    for metric, name in METRICS.items():
        order = sorted(pools, key=lambda pool: -pools[pool][metric]["mean"])
        beside = order[1] if order[0] == LATENTS else LATENTS
        first, second = (pools[pool][metric] for pool in (order[0], beside))
        apart = "" if first["low"] > second["high"] else ", too close to call"
        told.append(
            f"{name} is highest for {SAID[order[0]]} ({first['mean']:.2f}; {SAID[beside]} "
            f"{second['mean']:.2f}{apart})"
        )
    return f"with {n} candidates each of {', '.join(SAID[pool] for pool in pools)}: " + ", ".join(told)


def _causal_sentence(figures: Mapping[str, Any]) -> str:
    causal, everything = figures["causal"], figures["whole"]
    if not causal:
        return (
            "Nothing was clamped: the model goes on with none of the texts rightly, or no factor has a latent."
        )
    told = []
    for group, modes in causal.items():
        swap, whole = modes["swap"], modes["patch"]
        if whole["ahead"]["low"] <= 0:
            told.append(f"{group}: not read from there, not even {everything} changes it (n {whole['n']})")
            continue
        low, high = swap["ahead"]["low"], swap["ahead"]["high"]
        verdict = "more than" if low > 0 else ("less than" if high < 0 else "no more than")
        told.append(
            f"{group}: {swap['clean']:.3f} to {swap['p']:.3f}, {verdict} random latents of equal norm "
            f"({swap['p_random']:.3f}), all latents {modes['code']['p']:.3f}, {everything} "
            f"{whole['p']:.3f} (n {swap['n']})"
        )
    return "The other answer's probability when a factor's best latents are swapped: " + "; ".join(told) + "."


def describe(name: str, figures: Mapping[str, Any]) -> str:
    """The figures as a table a person can read."""
    lines = [
        f"{name}: {figures['factors']} factors (on in at least {figures['least_tokens']} tokens of "
        f"{figures['least_documents']} documents of each half), {figures['tokens']:,} labelled tokens, "
        f"{' + '.join(map(str, figures['documents']))} documents",
        "mean over factors, unit and threshold chosen on one half of the documents and scored on the other; "
        "95 % intervals over documents",
    ]
    for n, told in sorted(figures["levels"].items(), key=lambda item: int(item[0])):
        columns = [m for m in SHOWN if m in next(iter(told["pools"].values()))]
        lines += ["", f"{n} candidates".ljust(16) + "".join(c.removeprefix("unit_").rjust(19) for c in columns)]
        for pool, found in told["pools"].items():
            lines.append(pool.ljust(16) + "".join(_cell(found[c]) for c in columns))
    chance = figures["chance"]
    lines += ["", f"chance: AUROC {chance['auroc']}, AP {chance['ap']:.3f}, F1 {chance['f1']:.3f}"]
    lines += _structure_lines(figures)
    for group, modes in figures["causal"].items():
        for mode, found in modes.items():
            lines.append(
                f"{mode} {group}: p(other answer) {found['clean']:.3f} -> {found['p']:.3f}, random "
                f"{found['p_random']:.3f}; turned {found['turned']:.2f}, random {found['turned_random']:.2f}; "
                f"KL aside {_bounds(found, 'aside')}, random {_bounds(found, 'aside_random')}; n {found['n']}"
            )
    return "\n".join([*lines, "", sentence(figures)])


def _cell(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3f} {found['low']:.3f}–{found['high']:.3f}".rjust(19)


def _bounds(found: Mapping[str, Any], column: str) -> str:
    interval = found["intervals"][column]
    return f"{interval['mean']:.3f} {interval['low']:.3f}–{interval['high']:.3f}"


def _structure_lines(figures: Mapping[str, Any]) -> list[str]:
    lines = []
    for pool in figures["splitting"]:
        absorbed, split = figures["absorption"][pool], figures["splitting"][pool]
        composed = figures["composition"][pool]
        share = "none to look at" if absorbed["share"] is None else f"{absorbed['share']:.4f} of tokens"
        lines.append(
            f"{pool}: absorbed {share} ({absorbed['held']} of {absorbed['parents']} parents have a latent of "
            f"their own); {split['split']} of {split['factors']} factors split over several latents "
            f"(F1 {split['f1_alone']:.3f} alone, {split['f1_together']:.3f} together); "
            f"{composed['composed_at_f1_0.5']} of {composed['latents']} latents follow two factors together "
            f"(F1 at least 0.5) better than one"
        )
    return lines
