"""A checkpoint opened for its edges: every write into the residual stream read, every read of it changed.

The stream is linear, so an edge u→v is taken out of a run by adding to what v reads

    x_v ← x_v + Σ_u (1 − C_uv) (a_u^corr − a_u)

where a_u is what u writes in this very run and a_u^corr what it wrote on the corrupt prompt [Conmy 2023; Hanna
2024]. With all edges in C this is the clean run, with none the corrupt one: `residual` tells how nearly, and a
family whose parts do not add up (a norm behind the attention, scaled residuals) is refused there.

It stands on TransformerLens' bridge with split q, k and v inputs, raw weights, nothing folded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.circuits.graph import LOGITS, READS, Graph
from workbench.circuits.pairs import Pairs, logit_difference
from workbench.errors import Failure

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOLERANCE = 1e-3  # of |m_clean − m_corrupt|, at least of 1
_ROOM, _MOST_TOKENS = 2**28, 2_048
_LEVEL = 1  # of hooks of one run, by which they are removed: those of the bridge's owner stay

Written = Float[Tensor, "pair position sender d_model"]
Kept = Bool[Tensor, "pair sender receiver"]
Read = tuple[int, str]  # layer and kind: q, k, v, mlp, logits
Hook = Callable[[Tensor, Any], Tensor | None]


class CircuitModel:
    """One bridge of its own: hooks mutate it, so it is never shared between threads."""

    def __init__(self, bridge: TransformerBridge) -> None:
        bridge.set_use_split_qkv_input(True)
        bridge.set_use_attn_result(True)
        bridge.set_use_hook_mlp_in(True)
        for weight in bridge.original_model.parameters():
            weight.requires_grad_(False)
        config = bridge.cfg
        kv = config.n_key_value_heads or config.n_heads
        self.graph = Graph(config.n_layers, config.n_heads, kv, bool(config.parallel_attn_mlp))
        self.bridge, self.d_model = bridge, config.d_model
        self.device = next(bridge.original_model.parameters()).device
        known = bridge.hook_dict
        missing = [name for name in self._names() if name not in known]
        if missing:
            raise Failure(
                f"{type(bridge.original_model).__name__} has no {missing[0]}: its circuits cannot be read edge by "
                "edge"
            )
        # run_with_hooks looks all names of the bridge up for each hook, which takes as long as a block
        self._points = {name: known[name] for name in self._names()}

    @property
    def tokens_at_once(self) -> int:
        """So many tokens that what is read and written at them stays within `_ROOM` bytes."""
        of_a_token = 4 * self.d_model * max(len(self.graph.senders), len(self.graph.receivers))
        return max(1, min(_MOST_TOKENS, _ROOM // of_a_token))

    def _names(self) -> list[str]:
        return ["unembed.hook_in", *(self._read(*at) for at in self.reads), *dict(self._all_writes())]

    @functools.cached_property
    def reads(self) -> list[Read]:
        """Layer and kind of every read, in the order in which they are computed."""
        within = [(layer, kind) for layer in range(self.graph.n_layers) for kind in (*READS, "mlp")]
        return [*within, (self.graph.n_layers, LOGITS)]

    def _read(self, layer: int, read: str) -> str:
        """The hook at which a receiver reads."""
        if read == LOGITS:
            return "ln_final.hook_in"
        return f"blocks.{layer}.hook_mlp_in" if read == "mlp" else f"blocks.{layer}.hook_{read}_input"

    def _writes(self, layer: int) -> Iterator[tuple[str, slice]]:
        """The hooks at which a layer's senders write, and which senders; before layer 0 stands the embedding."""
        if layer == 0:
            yield "blocks.0.hook_resid_pre", slice(0, 1)
        first = 1 + layer * (self.graph.n_heads + 1)
        yield f"blocks.{layer}.attn.hook_result", slice(first, first + self.graph.n_heads)
        yield f"blocks.{layer}.hook_mlp_out", slice(first + self.graph.n_heads, first + self.graph.n_heads + 1)

    def _all_writes(self) -> Iterator[tuple[str, slice]]:
        for layer in range(self.graph.n_layers):
            yield from self._writes(layer)

    def run(
        self, ids: Int[Tensor, "row position"], last: Int[Tensor, "row"], hooks: list[tuple[str, Hook]]
    ) -> Float[Tensor, "row vocab"]:
        """Logits behind each row's last token; nothing else is unembedded. `KeyError` for an unknown hook."""
        rows = torch.arange(len(ids), device=ids.device)

        def behind_last(x: Tensor, hook: Any) -> Tensor:
            return x[rows, last][:, None]

        at = [(self._points[name], hook) for name, hook in (*hooks, ("unembed.hook_in", behind_last))]
        try:
            for point, hook in at:
                point.add_hook(hook, level=_LEVEL)  # type: ignore[arg-type]  # its first parameter is `x` here
            return self.bridge(ids)[:, 0]
        finally:
            for point, _ in at:
                point.remove_hooks(level=_LEVEL)

    def written(self, ids: Int[Tensor, "row position"]) -> Written:
        """What every sender writes at every position."""
        kept = torch.zeros(*ids.shape, len(self.graph.senders), self.d_model, device=self.device)

        def keep(of: slice) -> Hook:
            def hook(x: Tensor, hook: Any) -> None:
                kept[:, :, of] = x if x.ndim == 4 else x[:, :, None]

            return hook

        with torch.no_grad():
            last = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
            self.run(ids, last, [(name, keep(of)) for name, of in self._all_writes()])
        return kept

    def scores(self, ids: Int[Tensor, "row position"], pairs: Pairs) -> Float[Tensor, "pair"]:
        """m of prompts as they are."""
        with torch.no_grad():
            return logit_difference(self.run(ids, pairs.last, []), pairs.target, pairs.foil)

    def gradients(
        self, pairs: Pairs, embedding: Float[Tensor, "pair position d_model"]
    ) -> dict[Read, Float[Tensor, "pair position head d_model"]]:
        """∂m/∂x_v by layer and kind of read, of a run that has `embedding` in the place of what the embedding
        wrote."""
        read, hooks = dict[Read, Tensor](), list[tuple[str, Hook]]()

        def enter(x: Tensor, hook: Any) -> Tensor:
            return embedding.detach().requires_grad_(True)

        def reader(layer: int, kind: str) -> Hook:
            def hook(x: Tensor, hook: Any) -> Tensor:
                # a view of its own: its gradient is that of this reader and not of the stream
                read[layer, kind] = x.view_as(x)
                return read[layer, kind]

            return hook

        hooks.append(("blocks.0.hook_resid_pre", enter))
        hooks += [(self._read(*at), reader(*at)) for at in self.reads]
        with torch.enable_grad():
            m = logit_difference(self.run(pairs.clean, pairs.last, hooks), pairs.target, pairs.foil)
            found = torch.autograd.grad(m.sum(), list(read.values()))
        by_head = (each if each.ndim == 4 else each[:, :, None] for each in found)
        return dict(zip(read, by_head, strict=True))

    @torch.no_grad()
    def patched(self, pairs: Pairs, corrupt: Written, kept: Kept) -> Float[Tensor, "pair"]:
        """m of each pair's clean prompt when the edges outside its own `kept` carry what `corrupt` says."""
        graph = self.graph
        gap = torch.zeros_like(corrupt)  # a_u^corr − a_u, of the senders that have written
        out = (~kept).to(corrupt.dtype)  # 1 − C

        def wrote(of: slice) -> Hook:
            def hook(x: Tensor, hook: Any) -> None:
                gap[:, :, of] = corrupt[:, :, of] - (x if x.ndim == 4 else x[:, :, None])

            return hook

        def reader(layer: int, kind: str) -> Hook | None:
            at = graph.slice_of(layer, kind)
            n = graph.receivers[at.start].n_senders
            weight = out[:, :n, at]
            if not bool(weight.any()):
                return None

            def hook(x: Tensor, hook: Any) -> Tensor:
                rows, positions = x.shape[:2]
                flat = gap[:, :, :n].transpose(2, 3).reshape(rows, positions * self.d_model, n)
                added = torch.bmm(flat, weight).view(rows, positions, self.d_model, -1)
                return x + (added.transpose(2, 3) if x.ndim == 4 else added[..., 0])

            return hook

        hooks = [(self._read(*at), found) for at in self.reads if (found := reader(*at))]
        hooks += [(name, wrote(of)) for name, of in self._all_writes()]
        return logit_difference(self.run(pairs.clean, pairs.last, hooks), pairs.target, pairs.foil)

    @torch.no_grad()
    def nudged(
        self, pairs: Pairs, receiver: Int[Tensor, "pair"], by: Float[Tensor, "pair position d_model"]
    ) -> Float[Tensor, "pair"]:
        """m of each pair's clean prompt when one receiver, its own, reads so much more than it does."""
        hooks: list[tuple[str, Hook]] = []

        def reader(rows: Tensor, head: Tensor) -> Hook:
            def hook(x: Tensor, hook: Any) -> Tensor:
                changed = x.clone()
                if x.ndim == 4:
                    changed[rows, :, head] += by[rows]
                else:
                    changed[rows] += by[rows]
                return changed

            return hook

        for layer, kind in self.reads:
            of = self.graph.slice_of(layer, kind)
            rows = ((receiver >= of.start) & (receiver < of.stop)).nonzero()[:, 0]
            if len(rows):
                hooks.append((self._read(layer, kind), reader(rows, receiver[rows] - of.start)))
        return logit_difference(self.run(pairs.clean, pairs.last, hooks), pairs.target, pairs.foil)

    def residual(self, pairs: Pairs) -> float:
        """How far a run with every edge corrupt is from the corrupt run, as a share of |m_clean − m_corr| (at
        least of 1). `Failure` where that is no rounding: the family's parts do not add up to its stream."""
        none = torch.zeros(len(pairs), *self.graph.edges.shape, dtype=torch.bool, device=self.device)
        rebuilt = self.patched(pairs, self.written(pairs.corrupt), none)
        true, clean = self.scores(pairs.corrupt, pairs), self.scores(pairs.clean, pairs)
        gap = float((rebuilt - true).abs().max()) / max(1.0, float((clean - true).abs().max()))
        if not gap <= TOLERANCE:
            raise Failure(
                f"what the parts of {type(self.bridge.original_model).__name__} write does not add up to its "
                f"residual stream (off by {gap:.2g} of the effect): its edges cannot be patched one by one"
            )
        return gap
