"""How often the latents fire, in one picture from the commonest to the rarest.

The curve of sixteen thousand latents is that of every fifty-fifth: more points than pixels cost the browser a
second without a graphics card and show nothing. The table and the map reach each latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import polars as pl

from pages.components import charts, frame, show, theme

if TYPE_CHECKING:
    from workbench.features import FeatureTable


MOST = 300  # points


def view(table: FeatureTable, chosen: int, colour: str) -> None:
    """The picture; a click chooses a latent."""
    ranked = table.table.sort("density", descending=True).select("latent", "density", "top_token")
    firing = ranked.filter(pl.col("density") > 0).with_row_index("rank", offset=1)
    every = -(-len(firing) // MOST)
    each = f"every {every}th of them is drawn" if every > 1 else "each is a point"
    frame.caption(
        f"How often latents fire, from the commonest to the rarest: {len(firing):,} of {len(ranked):,} do, "
        f"{each}. Click one to see it."
    )
    picture = _picture(firing, every, chosen, colour)
    show.clickable(picture, "densities", f"density of every latent of {table.name}", ranked, "latent")


def _picture(firing: pl.DataFrame, every: int, chosen: int, colour: str) -> go.Figure:
    made = charts.figure(430)
    drawn = firing.gather_every(max(1, every))
    made.add_trace(
        go.Scatter(
            x=drawn["rank"].to_numpy(),  # arrays go to the browser as bytes, lists as text
            y=drawn["density"].to_numpy(),
            mode="markers",
            marker={"color": colour, "size": 5, "opacity": 0.75},
            customdata=drawn["latent"].to_numpy()[:, None],
            hovertext=np.array([charts.plain(token) for token in drawn["top_token"]], dtype=object),
            hovertemplate="latent %{customdata[0]}: %{hovertext}<br>fires on %{y:.2~p}<extra></extra>",
        )
    )
    if len(row := firing.filter(pl.col("latent") == chosen)):
        made.add_trace(ring(row["rank"].to_list(), row["density"].to_list()))
    made.update_xaxes(title="latents, commonest first")
    made.update_yaxes(title="share of tokens it fires on", type="log", tickformat=".1~p", nticks=8)
    return made


def ring(x: list[float], y: list[float]) -> go.Scatter:
    """A ring round the chosen latent."""
    marker = {"size": 16, "symbol": "circle-open", "color": theme.palette().ink, "line": {"width": 2.5}}
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, hoverinfo="skip", showlegend=False)
