"""Activation patching: what a part of the model is worth to m, measured by putting another value in its place.

    denoise   clean into corrupt    effect = (m_p − m_corr) / (m_clean − m_corr)     1: the part alone restores m
    noise     corrupt into clean    effect = (m_clean − m_p) / (m_clean − m_corr)    1: without it nothing is left
    zero, mean, resample            as noise; what is put into clean is 0, the clean prompts' mean at the position,
                                    or what stands there in another clean prompt of the same length

[Meng 2022; Heimersheim 2024; resample: Chan 2022]. One sign for all: positive means that the part works for what
the clean prompt asks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from workbench.circuits.edits import Put
from workbench.circuits.grids import LAYER, POSITION, Grid, grid_cells, grid_of
from workbench.circuits.pairs import Pairs
from workbench.circuits.places import ATTN_OUT, RESID_MID, STREAM, Cell, known_point
from workbench.circuits.replay import Replay, Run
from workbench.errors import Misuse, unknown

DENOISE, NOISE, ZERO, MEAN, RESAMPLE = "denoise", "noise", "zero", "mean", "resample"
_INTO_CLEAN = "{} into clean: 0 leaves the clean logit difference, 1 brings it down to the corrupt one"
CONVENTIONS = {
    DENOISE: "clean into corrupt: 0 leaves the corrupt logit difference, 1 restores the clean one",
    NOISE: _INTO_CLEAN.format("corrupt"),
    ZERO: _INTO_CLEAN.format("zero"),
    MEAN: _INTO_CLEAN.format("the mean of the clean prompts"),
    RESAMPLE: _INTO_CLEAN.format("another clean prompt"),
}


class Patching:
    """One model and one task's pairs; the clean and the corrupt run are made once, whatever is patched."""

    def __init__(self, model: PreTrainedModel, pairs: Pairs, seed: int = 0) -> None:
        self.model = model
        self.replay = Replay(model, pairs)
        self.pairs = self.replay.pairs
        self.seed = seed
        self._runs: dict[bool, Run] = {}

    def grid(self, point: str, direction: str = DENOISE, axes: Sequence[str] = (LAYER, POSITION)) -> Grid:
        """One patch for every cell along `axes`; what is no axis is replaced in whole."""
        cells, shape = grid_cells(self.model, self.pairs, point, axes)
        m, m_from, m_to = self._patched([[cell] for cell in cells], direction)
        found = m.T.reshape(len(self.pairs), *shape)
        return grid_of(self.pairs, point, axes, CONVENTIONS[direction], found, m_from, m_to)

    def joint(self, sets: Sequence[Sequence[Cell]], direction: str = DENOISE) -> Grid:
        """One patch for every set, all of its cells at once."""
        m, m_from, m_to = self._patched(sets, direction)
        return grid_of(self.pairs, "joint", ("set",), CONVENTIONS[direction], m.T, m_from, m_to)

    def run(self, clean: bool, points: Iterable[str] = ()) -> Run:
        """The clean or the corrupt run, with what stands at `points`."""
        wanted = {ATTN_OUT if known_point(point) == RESID_MID else point for point in points} - set(STREAM)
        run = self._runs.get(clean)
        had = {point for point, _ in run.at} if run else set()
        if run is None or wanted - had:
            made = self.replay.record(self.pairs.clean if clean else self.pairs.corrupt, sorted(wanted - had))
            run = made if run is None else dataclasses.replace(run, at=run.at | made.at)
            self._runs[clean] = run
        return run

    def exchange(self, points: Iterable[str], direction: str) -> tuple[Run, Put, Float[Tensor, "pair"]]:
        """The run into which a direction puts values, what it puts there, and m where an effect is 1."""
        if direction not in CONVENTIONS:
            raise unknown("direction of patching", direction, CONVENTIONS)
        points = set(points)
        clean, corrupt = self.run(True, points), self.run(False, points)
        base, other = (corrupt, clean) if direction == DENOISE else (clean, corrupt)
        put = other.value if direction in (DENOISE, NOISE) else self._ablated(clean, direction)
        return base, put, other.m

    def _patched(
        self, sets: Sequence[Sequence[Cell]], direction: str
    ) -> tuple[Float[Tensor, "set pair"], Float[Tensor, "pair"], Float[Tensor, "pair"]]:
        """m with each set replaced, m with nothing replaced, and what an effect of 1 would bring it to."""
        base, put, m_to = self.exchange((cell.point for cells in sets for cell in cells), direction)
        return self.replay.patched(base, put, sets), base.m, m_to

    def _ablated(self, clean: Run, how: str) -> Put:
        """What an ablation puts in the place of what stands in the clean run."""
        if how == ZERO:
            return lambda point, layer: torch.zeros_like(clean.value(point, layer))
        if how == MEAN:
            return lambda point, layer: _means(clean.value(point, layer), self.pairs.last)
        partners = other_prompts(self.pairs.last, self.seed)
        return lambda point, layer: clean.value(point, layer)[partners]


def _means(
    values: Float[Tensor, "pair position ..."], last: Int[Tensor, "pair"]
) -> Float[Tensor, "pair position ..."]:
    """The mean at each position over the pairs that have it, for every pair."""
    there = torch.arange(values.shape[1], device=last.device) <= last[:, None]
    there = there.view(*there.shape, *(1,) * (values.dim() - 2))
    return (values.where(there, 0).sum(dim=0) / there.sum(dim=0).clamp_min(1)).expand_as(values)


def other_prompts(last: Int[Tensor, "pair"], seed: int) -> Int[Tensor, "pair"]:
    """For each pair another of the same length, drawn at random, each used once."""
    rng = np.random.default_rng(seed)
    lengths = last.cpu().numpy()
    partner = np.empty(len(lengths), dtype=np.int64)
    for length in np.unique(lengths):
        rows = rng.permutation(np.flatnonzero(lengths == length))
        if len(rows) == 1:
            raise Misuse(
                f"only one prompt has {length + 1} tokens, so that no other can stand in for it: "
                "ablate by mean or zero, or give another prompt of that length"
            )
        partner[rows] = np.roll(rows, 1)
    return torch.from_numpy(partner).to(last.device)
