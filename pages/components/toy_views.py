"""What is shown of the toy model: its geometry, what an SAE finds, shapes by sparsity, the phase diagram."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import streamlit as st

from pages.components import charts, frame, show, toy_figures, toy_tables, words
from saes.phase_diagram import PHASES, PhaseDiagram
from saes.recovery import Recovery
from saes.toy_model import Toy, dimensionality, features_per_dimension, nearest_shape, represented


def geometry(toy: Toy, key: str) -> None:
    """Where the columns of W lie: arrows in up to three dimensions, WᵀW above."""
    m, n = toy.W.shape
    made = toy_figures.geometry(toy.W)
    what = "the features' directions" if m <= 3 else "WᵀW: how features overlap"
    st.plotly_chart(made, key=key, alt=f"{what}: {n} features in {m} dimensions", config=show.CONFIG)


def held(toy: Toy) -> None:
    """Key figures and the table of features."""
    n = toy.W.shape[1]
    own, kept = dimensionality(toy.W).tolist(), represented(toy.W)
    frame.facts(
        [
            ("features held", f"{len(kept)} of {n}"),
            ("features per dimension", words.number(features_per_dimension(toy.W))),
            ("loss", words.number(toy.loss)),
        ]
    )
    table = pl.DataFrame(
        {
            "feature": range(n),
            "length": toy.W.norm(dim=0).tolist(),
            "dimensionality": own,
            "nearest shape": [nearest_shape(own[i]) if i in kept else "not held" for i in range(n)],
        }
    )
    show.twin(table, "geometry", "Every feature as a table")
    frame.caption(
        "Each arrow (in more than three dimensions each row) is a feature, its column of W. "
        "A feature's dimensionality is the share of a dimension that it has to itself: 1 when alone, 1/2 in an "
        "antipodal pair, 2/5 in a pentagon."
    )


def recovered(found: Recovery) -> None:
    """How well an SAE's directions are the features'."""
    frame.caption(
        "A TopK SAE with one latent a feature sees only h, never x. Each feature is paired with a latent so "
        "that the cosines are largest. In few dimensions random directions come close too: see beside. FVU is "
        "the share of variance that the SAE leaves unexplained, L0 how many latents are on at once."
    )
    frame.facts(
        [
            ("MCC, mean |cosine| of pairs", words.number(found.matched.mcc)),
            ("random directions", words.number(found.random_mcc)),
            ("FVU", words.number(found.fvu)),
            ("L0", words.number(found.l0)),
        ]
    )
    names = [f"feature {found.features[i]}" for i in found.matched.features]
    values = [float(v) for v in found.matched.cosines]
    table = pl.DataFrame({"feature": names, "latent": found.matched.latents.tolist(), "cosine": values})
    made = charts.bars(
        names,
        values,
        toy_figures.accent(),
        "cosine of feature and paired latent",
        [words.number(v) for v in values],
        22,
    )
    show.chart(made, "recovered", "cosine of every feature with the latent paired with it", table)


def swept(toys: Sequence[Toy]) -> None:
    """Features per dimension, and every held feature's dimensionality, at every sparsity [Elhage 2022]."""
    frame.caption(
        "The same n, m and importance at every density 1 − S, best of a few seeds; rarer features to the right. "
        "Above: features per dimension, ‖W‖²/m; at 1 every dimension holds one feature, above it they share. "
        "Below: each point is a feature that is held; the lines are what regular shapes would give. Triangles "
        "and tetrahedra are seldom the best."
    )
    per_dimension, shapes = toy_tables.per_dimension(toys), toy_tables.shapes(toys)
    made = toy_figures.per_dimension(per_dimension)
    show.chart(made, "per-dimension", "features per dimension at every sparsity", per_dimension)
    made = toy_figures.sweep(shapes)
    show.chart(made, "sweep", "dimensionality of every feature at every sparsity", shapes)


def phases(found: PhaseDiagram) -> None:
    """Two features, one dimension: what becomes of the second."""
    frame.caption(
        "Two features, one dimension. Across: how much the second matters beside the first. Up: how often a "
        "feature is on. Rare features share the dimension; frequent ones must be chosen between."
    )
    cells = [
        (float(density), float(ratio), PHASES[int(found.phase[d, r])])
        for d, density in enumerate(found.densities)
        for r, ratio in enumerate(found.ratios)
    ]
    table = pl.DataFrame(cells, schema=["density", "relative importance", "second feature"], orient="row")
    made = toy_figures.phases(found)
    show.chart(made, "phases", "phase diagram: not represented, dedicated or superposed", table)
