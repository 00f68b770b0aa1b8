"""Places in a decoder layer at which activations are read or replaced, by name; knows no torch.

    resid_post  `blocks.L.hook_resid_post`  the residual stream after the layer
    mlp_in      `blocks.L.mlp.hook_in`      what the MLP reads: the stream, normed
    mlp_out     `blocks.L.hook_mlp_out`     what the MLP writes

The long names are TransformerLens'. (Its `hook_mlp_in` is the stream *before* the norm, and
`ln2.hook_normalized` lacks the norm's gain: neither is what the MLP multiplies.)
"""

from __future__ import annotations

from typing import NamedTuple

from workbench.errors import Misuse

RESID_POST, MLP_IN, MLP_OUT = "resid_post", "mlp_in", "mlp_out"
HOOKS = {MLP_IN: "mlp.hook_in", MLP_OUT: "hook_mlp_out", RESID_POST: "hook_resid_post"}  # as they are reached


class Site(NamedTuple):
    """One point of one layer."""

    layer: int
    point: str = RESID_POST

    @property
    def name(self) -> str:
        """The site's name in TransformerLens."""
        return f"blocks.{self.layer}.{HOOKS[self.point]}"

    @property
    def order(self) -> tuple[int, int]:
        """Sites with a smaller one are computed before."""
        return self.layer, list(HOOKS).index(self.point)


def parse_site(written: str, n_layers: int) -> Site:
    """`2` (that layer's resid_post), `2.mlp_out` or `blocks.2.hook_mlp_out`, if the model has it."""
    layer, _, point = written.strip().removeprefix("blocks.").partition(".")
    points = {name: name for name in HOOKS} | {hook: name for name, hook in HOOKS.items()} | {"": RESID_POST}
    if not layer.isdecimal() or int(layer) >= n_layers or point not in points:
        raise Misuse(f"there is no site {written!r}: {valid_sites(n_layers)}")
    return Site(int(layer), points[point])


def valid_sites(n_layers: int) -> str:
    """The sites of a model, for a sentence."""
    names = ", ".join(f"blocks.0.{hook} to blocks.{n_layers - 1}.{hook}" for hook in reversed(HOOKS.values()))
    return f"the model's sites are {names}"
