"""A model run again from the layer at which something was put in its place, for many patches at once.

Below a patch nothing changes and behind it only the last position is read. So a patch at layer L costs the blocks
from L on; patches of all layers go through the model together, each joining at its own layer: a whole grid is one
pass, cut into batches of `MAX_TOKENS`. A cell at which no pair has another value than before is not run at all
(every position up to the first at which the prompts part). In the top block W_O and the MLP are given the last
position alone: what they write is added to every position of the stream and is right at the one that is read.

Blocks are called with the arguments of an ordinary pass of one row (masks, rotations), which hold for any number of
rows. That a replay without a patch gives the model's own m is checked on the first pair, so that a family whose
blocks or head need more is refused rather than patched wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.circuits.edits import Batch, Edit, Put, before
from workbench.circuits.pairs import Pairs, logit_difference
from workbench.circuits.places import (
    ATTN_OUT,
    MLP_IN,
    MLP_OUT,
    RESID_MID,
    RESID_POST,
    RESID_PRE,
    STREAM,
    Cell,
    Place,
    Z,
    checked_cells,
    place,
)
from workbench.errors import Failure, Misuse
from workbench.lens import Trunk, recorded_stream, trunk
from workbench.site import last_logits, unembedded

MAX_TOKENS = 4_096  # at a time on a processor: a batch of a small model stays in its cache
MAX_TOKENS_ACCELERATOR = 32_768


@dataclasses.dataclass(frozen=True)
class Run:
    """One ordinary pass: `resid[l]` is what block l reads, `resid[n_layers]` what the final norm reads."""

    resid: Float[Tensor, "row pair position d_model"]
    at: dict[tuple[str, int], Float[Tensor, "pair position ..."]]
    m: Float[Tensor, "pair"]

    def value(self, point: str, layer: int) -> Float[Tensor, "pair position ..."]:
        """What stood at a point; of the parts of a block only what was asked for is kept."""
        if point in (RESID_PRE, RESID_POST):
            return self.resid[layer + (point == RESID_POST)]
        if point == RESID_MID:
            return self.resid[layer] + self.at[ATTN_OUT, layer]
        return self.at[point, layer]


class _Call(NamedTuple):
    """What a block is called with beside the stream."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Replay:
    """A model and the prompts that are patched in it."""

    def __init__(self, model: PreTrainedModel, pairs: Pairs, max_tokens: int | None = None) -> None:
        self.model = model
        self.pairs = pairs.to(model.device)
        self.parts: Trunk = trunk(model)
        self.n_layers = len(self.parts.blocks)
        on_processor = model.device.type == "cpu"
        self.max_tokens = max_tokens or (MAX_TOKENS if on_processor else MAX_TOKENS_ACCELERATOR)
        self._checked = False
        self._calls = _calls(model, self.parts, self.pairs.clean[:1])

    @torch.inference_mode()
    def record(self, ids: Int[Tensor, "pair position"], points: Sequence[str]) -> Run:
        """An ordinary pass that keeps the stream and `points` of every layer."""
        points = [ATTN_OUT if point == RESID_MID else point for point in points]
        at: dict[tuple[str, int], Tensor] = {}

        def note(key: tuple[str, int], where: Place) -> Callable[[Tensor], None]:
            return lambda x: at.update({key: where.split(x)})

        with contextlib.ExitStack() as hooks:
            resid = hooks.enter_context(recorded_stream(self.model))
            for point in dict.fromkeys(p for p in points if p not in STREAM):
                for layer in range(self.n_layers):
                    where = place(self.model, point, layer)
                    hooks.enter_context(_at(where, note((point, layer), where)))
            logits = last_logits(self.model, ids, self.pairs.last)
        run = Run(torch.stack(resid), at, logit_difference(logits, self.pairs.target, self.pairs.foil))
        if not self._checked:
            self._check(run, float(logits.abs().max()))
            self._checked = True
        return run

    def patched(self, base: Run, put: Put, sets: Sequence[Sequence[Cell]]) -> Float[Tensor, "set pair"]:
        """m of every pair in the run `base` with the values of `put` at all cells of a set, for each set."""
        checked_cells(self.model, (cell for cells in sets for cell in cells), self.pairs.clean.shape[1])
        if any(cell.point == RESID_MID for cells in sets for cell in cells):
            self._check_resid_mid(base)
        found = base.m.repeat(len(sets), 1)
        changed = _Changed(base, put)
        moving = [i for i, cells in enumerate(sets) if any(changed(cell) for cell in cells)]
        if moving:
            found[moving] = self._patched(base, put, [sets[i] for i in moving], len(self.pairs))
        return found

    @torch.inference_mode()
    def _patched(
        self, base: Run, put: Put, sets: Sequence[Sequence[Cell]], n_pairs: int
    ) -> Float[Tensor, "set pair"]:
        """Sets that begin at the same layer stand together; pairs are cut where one set of them is too much."""
        sets = [[before(cell) for cell in cells] for cells in sets]
        first = [min((cell.layer for cell in cells), default=0) for cells in sets]
        order = sorted(range(len(sets)), key=first.__getitem__)
        width = self.pairs.clean.shape[1]
        of_pairs = max(1, min(n_pairs, self.max_tokens // width))
        of_sets = max(1, self.max_tokens // (width * of_pairs))
        found = base.m.new_empty(len(sets), n_pairs)
        for at in range(0, len(order), of_sets):
            which = order[at : at + of_sets]
            for start in range(0, n_pairs, of_pairs):
                rows = slice(start, min(start + of_pairs, n_pairs))
                batch = Batch([sets[i] for i in which], [first[i] for i in which], rows)
                found[which, rows] = self._replayed(base, put, batch)
        return found

    def _replayed(self, base: Run, put: Put, batch: Batch) -> Float[Tensor, "set pair"]:
        """One batch through the blocks; `stream` [set·pair, position, d] grows where sets begin."""
        target, foil, last = (ids[batch.pairs] for ids in (self.pairs.target, self.pairs.foil, self.pairs.last))
        stream = base.resid[0, :0]
        for layer in range(min(batch.first), self.n_layers + 1):
            if joining := batch.first.count(layer):
                fresh = base.resid[layer, batch.pairs].repeat(joining, 1, 1)
                stream = torch.cat([stream, fresh]) if len(stream) else fresh
            edits = list(batch.edits(layer, put))
            for edit in edits:
                stream = edit.into(stream) if edit.point == RESID_PRE else stream
            rows = last.repeat(len(stream) // len(last))
            if layer < self.n_layers:
                stream = self._block(layer, stream, [e for e in edits if e.point != RESID_PRE], rows)
        read = self.parts.final_norm(stream[torch.arange(len(stream), device=last.device), rows])
        n_sets = len(batch.sets)
        m = logit_difference(self.parts.unembed(read), target.repeat(n_sets), foil.repeat(n_sets))
        return m.view(n_sets, -1)

    def _block(self, layer: int, stream: Tensor, edits: Sequence[Edit], last: Int[Tensor, "row"]) -> Tensor:
        """One block on any rows, with what is put inside it."""
        with contextlib.ExitStack() as hooks:
            for edit in edits:
                point = ATTN_OUT if edit.point == RESID_MID else edit.point
                where = place(self.model, point, layer)
                less = stream if edit.point == RESID_MID else None
                hooks.enter_context(_at(where, functools.partial(edit.into, split=where.split, less=less)))
            if layer == self.n_layers - 1 and not {e.point for e in edits} & {ATTN_OUT, RESID_MID, MLP_OUT}:
                rows = torch.arange(len(stream), device=last.device)
                for point in (Z, MLP_IN):
                    where = place(self.model, point, layer)
                    hooks.enter_context(_at(where, lambda x: x[rows, last][:, None]))
            call = self._calls[layer]
            out = self.parts.blocks[layer](stream, *call.args, **call.kwargs)
        return out if isinstance(out, Tensor) else out[0]

    def _check(self, run: Run, scale: float) -> None:
        """A replay from the embedding gives the model's own m."""
        found = self._patched(run, _nothing, [[]], 1)[0, 0]
        gap = float((found - run.m[0]).abs())
        if not gap <= 256 * torch.finfo(run.m.dtype).eps * max(1.0, scale):
            raise Failure(
                f"the blocks of {type(self.model).__name__}, run one by one, miss its own logit difference by "
                f"{gap:.2g}: its activations cannot be patched here"
            )

    def _check_resid_mid(self, base: Run) -> None:
        """Where the stream between attention and MLP is given, what the block was given no longer matters."""
        mid, other = base.value(RESID_MID, 0), base.resid[0].roll(1, dims=-1)
        found = self._patched(
            base,
            lambda point, _: other if point == RESID_PRE else mid,
            [[Cell(RESID_PRE, 0), Cell(RESID_MID, 0)]],
            1,
        )[0, 0]
        if float((found - base.m[0]).abs()) > 1e-3 * max(1.0, float(base.m[0].abs())):
            raise Misuse(
                f"{type(self.model).__name__} has no resid_mid: its MLP does not read what its attention wrote; "
                "patch attn_out or mlp_out instead"
            )


class _Changed:
    """Whether a cell has another value than in the run into which it is put, on any pair."""

    def __init__(self, base: Run, put: Put) -> None:
        self.base, self.put = base, put
        self._found: dict[tuple[str, int], np.ndarray] = {}

    def __call__(self, cell: Cell) -> bool:
        key = cell.point, cell.layer
        if key not in self._found:
            differs = (self.put(*key) != self.base.value(*key)).any(dim=-1).any(dim=0)
            self._found[key] = differs.cpu().numpy()  # [position] or [position, head]
        at = self._found[key]
        at = at if cell.position is None else at[cell.position]
        return bool((at if cell.head is None else at[..., cell.head]).any())


def _nothing(point: str, layer: int) -> Tensor:
    raise RuntimeError(f"nothing is put at {point} of layer {layer}")


def _calls(model: PreTrainedModel, parts: Trunk, ids: Int[Tensor, "one position"]) -> list[_Call]:
    """What each block is called with on an ordinary pass of one row, beside the stream."""
    found: list[_Call] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        found.append(_Call(args[1:], rest))

    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for block in parts.blocks:
            hooks.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
        hooks.enter_context(unembedded(model, lambda x: x[:, -1:]))
        model(input_ids=ids, use_cache=False)
    return found


@contextlib.contextmanager
def _at(where: Place, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, `change` is given what stands at the place; what it returns, if anything, stands there instead."""

    def before_it(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = change(args[0])
        return None if changed is None else (changed, *args[1:])

    def behind_it(_module: nn.Module, _args: object, output: Any) -> Any:
        alone = isinstance(output, Tensor)
        changed = change(output if alone else output[0])
        return changed if alone or changed is None else (changed, *output[1:])

    if where.at_input:
        handle = where.module.register_forward_pre_hook(before_it)
    else:
        handle = where.module.register_forward_hook(behind_it)
    try:
        yield
    finally:
        handle.remove()
