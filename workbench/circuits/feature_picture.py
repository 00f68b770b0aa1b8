"""Where the nodes of a feature circuit are drawn (a row a site, the earliest lowest, logits on top); its edges."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from workbench.circuits.circuit_picture import widths
from workbench.circuits.feature_words import ERROR, node_name
from workbench.circuits.found_feature_circuits import FoundFeatureCircuit
from workbench.intervals import bracketed

LOGITS = "logits"
DRAWN = 40  # edges between two sites
_ENDS = ("low", "high", "n")
_EDGE = {
    "source": pl.String, "target": pl.String, "weight": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "n": pl.Int64,
}  # fmt: skip


class FeaturePicture(NamedTuple):
    """Nodes: `id`, `site`, `node`, `name`, `said`, x, y. Edges: `source` and `target` (ids), x0, y0, x1, y1,
    weight, low, high, n, `width`, `said`. What goes to the logits is the AtP score of a node of the last site."""

    nodes: pl.DataFrame
    edges: pl.DataFrame


def node_id(site: str, node: int) -> str:
    """`blocks.1.hook_resid_post/12`, or `…/error`.

    >>> node_id("blocks.1.hook_resid_post", -1)
    'blocks.1.hook_resid_post/error'
    """
    return f"{site}/{'error' if node == ERROR else node}"


def picture(found: FoundFeatureCircuit, drawn: int = DRAWN) -> FeaturePicture:
    """The strongest edges between looked-into nodes, and the nodes that they join."""
    edges = _between(found, drawn)
    last = found.nodes(found.sites[-1], "AtP")
    joined = set(edges["target"]) | set(edges["source"])
    out = [
        (node_id(found.sites[-1], node), LOGITS, score, *ends)
        for node, score, *ends in last.select("node", "score", *_ENDS).iter_rows()
        if node_id(found.sites[-1], node) in joined
    ]
    straight = pl.DataFrame(out, schema=_EDGE, orient="row")
    edges = pl.concat([edges, straight])
    nodes = _placed(found, joined)
    at = {each: (x, y) for each, x, y in nodes.select("id", "x", "y").iter_rows()}
    ways = [(*at[source], *at[target]) for source, target in edges.select("source", "target").iter_rows()]
    names = dict(nodes.select("id", "name").iter_rows())
    said = [
        f"{names[s]} → {names[t]}: {bracketed(weight, low, high)}"
        for s, t, weight, low, high in edges.select("source", "target", "weight", "low", "high").iter_rows()
    ]
    wide = widths(np.array(edges["weight"].to_list(), dtype=float)).tolist()
    placed = pl.DataFrame(ways, schema=["x0", "y0", "x1", "y1"], orient="row")
    more = [pl.Series("width", wide, dtype=pl.Float64), pl.Series("said", said, dtype=pl.String)]
    return FeaturePicture(nodes, edges.hstack(placed).with_columns(more))


def _between(found: FoundFeatureCircuit, drawn: int) -> pl.DataFrame:
    """The `drawn` strongest edges of each two sites whose ends were both looked into."""
    rows = []
    for early, late in zip(found.sites, found.sites[1:], strict=False):
        known = [*found.foremost(early), ERROR]
        table = found.table("edges").filter(pl.col("from").is_in(known), early=early, late=late)
        best = table.sort(pl.col("weight").abs(), descending=True).head(drawn)
        for start, end, weight, *ends in best.select("from", "to", "weight", *_ENDS).iter_rows():
            rows.append((node_id(early, start), node_id(late, end), weight, *ends))
    return pl.DataFrame(rows, schema=_EDGE, orient="row")


def _placed(found: FoundFeatureCircuit, joined: set[str]) -> pl.DataFrame:
    """Nodes of a row from left to right by score, spread over the same width."""
    rows = []
    for y, site in enumerate(found.sites):
        here = [each for each in found.nodes(site).to_dicts() if node_id(site, each["node"]) in joined]
        here.sort(key=lambda each: each["score"])
        for i, each in enumerate(here):
            said = f"{node_name(each['node'])} of {site}: {bracketed(each['score'], each['low'], each['high'])}"
            short = "error" if each["node"] == ERROR else str(each["node"])
            said += f", {each['label']}" if each["label"] else ""
            x = (i + 0.5) / len(here)
            rows.append((node_id(site, each["node"]), site, each["node"], short, said, x, float(y)))
    rows.append((LOGITS, LOGITS, ERROR, LOGITS, LOGITS, 0.5, float(len(found.sites))))
    return pl.DataFrame(rows, schema=["id", "site", "node", "name", "said", "x", "y"], orient="row")
