"""How often the latents fire, in one picture from the commonest to the rarest.

The curve of sixteen thousand latents is that of every fifty-fifth: more points than pixels show nothing more. The
table and the map reach each latent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from pages.components import frame, panels, words
from pages.components.panels import Panel

if TYPE_CHECKING:
    from workbench.features import FeatureTable


MOST = 300  # points


def view(table: FeatureTable, chosen: int, colour: str) -> None:
    """The picture; a click chooses a latent."""
    ranked = table.by_density
    n = int((ranked["density"] > 0).sum())
    if not n:
        frame.caption("No latent fired on the held-out tokens: there is no density to draw.")
        return
    every = -(-n // MOST)
    each = f"every {every}th of them is drawn" if every > 1 else "each is a point"
    caption = (
        f"How often latents fire, from the commonest to the rarest: {n:,} of {len(ranked):,} do, "
        f"{each}. Click one to see it."
    )
    drawn = _curve(ranked.head(n), every, chosen) | {"colour": colour}
    panel = Panel(drawn, f"density of every latent of {table.name}", ranked, caption=caption)
    panels.draw([panel], "densities", chooser="latent")


def _curve(firing: pl.DataFrame, every: int, chosen: int) -> dict[str, Any]:
    """Rank against density, the latter logarithmic: places of the dots and the ticks, each a share of its axis."""
    n, shares = len(firing), firing["density"]
    low, high = math.floor(math.log10(shares[-1])), math.log10(shares[0]) + 0.1

    def place(rank: int, density: float) -> dict[str, float]:
        return {"x": (rank - 1) / max(1, n - 1), "y": (math.log10(density) - low) / (high - low)}

    dots = [
        {
            **place(rank, density),
            "go": latent,
            "said": [f"latent {latent}: {token or '–'}", f"on {words.share(density)}"],
        }
        for rank, latent, density, token in firing.gather_every(max(1, every)).iter_rows()
    ]
    own = firing.filter(latent=chosen).select("rank", "density")
    return {
        "height": 380,
        "dots": dots,
        "ring": place(*own.row(0)) if len(own) else None,
        "x_title": "latents, commonest first",
        "y_title": "share of tokens it fires on",
        "x_ticks": [
            {"at": (t - 1) / max(1, n - 1), "label": f"{t:,.0f}"} for t in [1, *panels.ticks(0, n, 4)[1:]]
        ],
        "y_ticks": [
            {"at": (e - low) / (high - low), "label": f"{100 * 10.0**e:g}%"}
            for e in range(low, math.floor(high) + 1)
        ],
    }
