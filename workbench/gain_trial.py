"""One way of switching latents, tried on one gain: their order, how few it takes, accuracy by dose in both
directions beside as many matched latents, and what the same does to other tasks and to prose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.behaviour import EVERYWHERE
from workbench.evaluation import MAX_ANSWER
from workbench.gains import ALL, MATCHED, OFF, ON, SET, Gap
from workbench.generation import Completion
from workbench.intervals import ratio_interval, wilson
from workbench.joint_reading import JointReading
from workbench.mediation import (
    AMPLIFY,
    DIFFERENCE,
    Asked,
    Mover,
    answer_nats,
    as_mask,
    attribution,
    recovered,
    size_matched,
)
from workbench.tasks import judge
from workbench.tokens import TokenSet

DOSES = (0.5, 1.0, 3.0)
SPILLED_DOSES = (1.0, 3.0)
SIZES = (1, 2, 4, 8, 16, 64)
SHOWN = (1, 4, 16, 64)  # of those, how far the curve tells them
SPARE = 4  # tokens beyond the longest answer
ENOUGH = 0.8  # of what the best number closes on the searched questions: the set is the fewest that do

Rows = list[tuple[Any, ...]]


class Posed(NamedTuple):
    """Questions of one task as prompts, with their right results; rows of both prompt and the stage's answer, and
    where the answer's tokens are."""

    task: str
    prompts: list[list[int]]
    results: list[str]
    ids: Int[Tensor, "row pos"]
    at: Bool[Tensor, "row pos_1"]

    @property
    def room(self) -> int:
        """Tokens that an answer may have: the longest of the stage's own and a few more. One that has not ended by
        then is wrong."""
        return min(MAX_ANSWER, int(self.at.sum(dim=1).max()) + SPARE)


class Elsewhere(NamedTuple):
    """Other tasks with their accuracy as it is, by model and task; held-out prose."""

    tasks: Sequence[Posed]
    before: Mapping[tuple[str, str], float]
    tokens: TokenSet
    windows: Int[np.ndarray, "window"]


class Trial:
    """One mover on one gap: `searched` questions find the order, `judged` ones judge it."""

    def __init__(
        self,
        gap: Gap,
        mover: Mover,
        reading: JointReading,
        searched: Posed,
        judged: Posed,
        elsewhere: Elsewhere,
    ) -> None:
        self.gap, self.mover, self.reading = gap, mover, reading
        self.posed, self.elsewhere = judged, elsewhere
        self.searched, self.judged = (
            Asked.of(reading, mover, each.ids, each.at) for each in (searched, judged)
        )
        self.key = (gap.stage, gap.task, mover.name)

    def tables(self) -> Iterator[tuple[str, Rows]]:
        """(table, rows), as `workbench.gain_build` names them."""
        n, rng = self.enough, np.random.default_rng(0)
        per_answer = self.nats / len(self.searched.ids)
        yield (
            "carriers",
            [
                (*self.key, rank, latent, per_answer[latent], rank < n)
                for rank, latent in enumerate(self.order[: max(n, SIZES[-1])])
            ],
        )
        if self.mover.name != AMPLIFY:  # more of a latent leaves the way between the two: no share is closed
            yield "curve", list(self.curve(rng))
        matched = size_matched(self.order, self.sizes, n, rng)
        yield "answers", list(self.answers(matched))
        if self.mover.name != DIFFERENCE:  # what the streams differ by is no handle of its own
            yield "spill", list(self.spill())

    @cached_property
    def _attributed(self) -> tuple[np.ndarray, np.ndarray]:
        return attribution(self.reading, self.mover, self.searched)

    @property
    def nats(self) -> np.ndarray:
        return self._attributed[0]

    @property
    def sizes(self) -> np.ndarray:
        return self._attributed[1]

    @cached_property
    def order(self) -> list[int]:
        """Latents that write anything, foremost first."""
        return [int(j) for j in np.argsort(-self.nats, kind="stable") if self.sizes[j] > 0]

    @cached_property
    def tried(self) -> list[int]:
        """Numbers of first latents that are tried."""
        return [*(s for s in SIZES if s < len(self.order)), len(self.order)]

    @cached_property
    def enough(self) -> int:
        """The fewest first latents that close `ENOUGH` of what the best of all numbers does, switched on."""
        start, end = self._ends(self.searched)
        closed = [recovered(self._moved(self.searched, self.order[:s], ON), start, end) for s in self.tried]
        return next(s for s, share in zip(self.tried, closed, strict=True) if share >= ENOUGH * max(closed))

    def _mask(self, latents: Sequence[int]) -> Bool[Tensor, "latent"]:
        return as_mask(latents, self.mover.n_latents, self.mover.on.device)

    def _ends(self, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        parent, stage = (answer_nats(self.reading, m, asked) for m in (self.gap.parent, self.gap.stage))
        return parent, stage

    def _moved(self, asked: Asked, latents: Sequence[int], way: str) -> np.ndarray:
        stream = asked.moved(self.mover, self._mask(latents), way)
        return answer_nats(self.reading, self.mover.moved(way), asked, stream)

    def curve(self, rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
        """Share of the gap in log p that the first latents close, both ways, beside as many matched."""
        start, end = self._ends(self.judged)
        for size in (s for s in self.tried if s in SHOWN or s == len(self.order)):
            likewise = size_matched(self.order, self.sizes, size, rng)
            for latents, chosen in ((SET, self.order[:size]), (MATCHED, likewise)):
                for way in (ON, OFF) if chosen else ():
                    a, b = (start, end) if way == ON else (end, start)
                    moved = self._moved(self.judged, chosen, way)
                    ends = ratio_interval(moved - a, b - a)
                    yield (*self.key, way, latents, size, recovered(moved, a, b), *ends, len(a))

    def answers(self, matched: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """Accuracy of the moved model: the set and as many matched by dose, all latents."""
        tried: list[tuple[str, Sequence[int], float]] = [
            (SET, self.order[: self.enough], dose) for dose in DOSES
        ]
        if self.mover.name != AMPLIFY:  # all of them twice is the whole stream twice
            tried.append((ALL, self.order, 1.0))
        tried += [(MATCHED, matched, dose) for dose in DOSES if matched]
        for way in (ON, OFF):
            said = self._said(self.posed, [(chosen, dose) for _, chosen, dose in tried], way)
            for (latents, chosen, dose), each in zip(tried, said, strict=True):
                yield (*self.key, way, latents, len(chosen), dose, *scored(self.posed, each))

    def _said(
        self, posed: Posed, tried: Sequence[tuple[Sequence[int], float]], way: str
    ) -> list[list[Completion]]:
        """Answers with each of some sets switched by its dose."""
        moves = [self.mover.move(self._mask(chosen), way, dose) for chosen, dose in tried]
        return self.reading.answers_each(self.mover.moved(way), posed.prompts, posed.room, moves)

    def spill(self) -> Iterator[tuple[Any, ...]]:
        """Other tasks and prose, before and after."""
        chosen = self.order[: self.enough]
        for way in (ON, OFF):
            name = self.mover.moved(way)
            for posed in self.elsewhere.tasks:
                said = self._said(posed, [(chosen, dose) for dose in SPILLED_DOSES], way)
                for dose, each in zip(SPILLED_DOSES, said, strict=True):
                    before = self.elsewhere.before[name, posed.task]
                    yield (*self.key, way, dose, posed.task, before, *scored(posed, each)[:4])
            for dose, losses in zip(SPILLED_DOSES, self._text_losses(chosen, way), strict=True):
                yield (*self.key, way, dose, EVERYWHERE, *losses)

    def _text_losses(self, chosen: Sequence[int], way: str) -> Iterator[tuple[float, float, float, float, int]]:
        """By dose: nats per token of held-out prose before and after; the interval is of the excess, laid on the
        former."""
        tokens, name = self.elsewhere.tokens, self.mover.moved(way)
        moves = [self.mover.move(self._mask(chosen), way, dose) for dose in SPILLED_DOSES]
        n = np.zeros(tokens.documents.height)
        nats = np.zeros((1 + len(moves), len(n)))
        for batch in tokens.batches(4_096, self.elsewhere.windows):
            ids = torch.from_numpy(batch.ids)
            streams = self.reading.streams(ids)
            flat = {each: stream.flatten(0, 1) for each, stream in streams.items()}
            moved = [move(flat).view_as(streams[name]) for move in moves]
            where = tokens.document[batch.rows[batch.real]]
            n += np.bincount(where, minlength=len(n))
            for row, stream in enumerate((None, *moved)):
                with torch.no_grad():
                    told = -self.reading.log_p(name, ids, stream).double().cpu().numpy()[batch.real]
                nats[row] += np.bincount(where, told, minlength=len(n))
        before, *afters = nats[:, n > 0]
        n = n[n > 0]
        start = float(before.sum() / n.sum())
        for after in afters:
            low, high = ratio_interval(after - before, n)
            yield start, float(after.sum() / n.sum()), start + low, start + high, int(n.sum())


def scored(posed: Posed, said: Sequence[Completion]) -> tuple[float, float, float, int, float]:
    """Accuracy with its Wilson interval, n, and the share that is well formed."""
    judged = [judge(posed.task, r, s.text, s.ended) for r, s in zip(posed.results, said, strict=True)]
    hits, n = sum(j.right for j in judged), len(judged)
    return hits / n, *wilson(hits, n), n, sum(j.well_formed for j in judged) / n
