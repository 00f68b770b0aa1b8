"""How well a checkpoint does a task: shown before any circuit, and no circuit is claimed where it does not.

    m = logit(target) − logit(foil) behind the last token, on the clean and on the corrupt prompt

    told_apart = mean of ([m_clean > 0] + [m_corrupt < 0]) / 2

is the accuracy of a choice between the two answers over both prompts. A model that prefers one of them whatever it
reads is right in exactly half of these, however large its m is on the clean ones alone. It does the task if

    the mean of m_clean − m_corrupt lies above 0, its whole interval does: what differs in the prompts moves it
    told_apart lies above ½ with its whole interval, and is ¾ at least: half is known if the rest is guessed

Means, told_apart among them, have bootstrap intervals over pairs, shares Wilson's. Pairs that ask about the same
country or word are not independent: intervals are somewhat narrow.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from workbench.circuits.pairs import Pairs, logit_difference
from workbench.errors import Failure
from workbench.intervals import bracketed, ratio_interval, wilson
from workbench.site import last_logits

_BATCH = 64
CHANCE, KNOWN = 0.5, 0.75  # told_apart of who guesses, and of who knows half of the answers
BAR = f"{KNOWN} (half of the answers known, the rest guessed)"


def choices(n_pairs: int) -> int:
    """How many choices `told_apart` is a share of: one on either prompt of a pair."""
    return 2 * n_pairs


class Estimate(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return bracketed(*self, digits=2)


@dataclasses.dataclass(frozen=True)
class Competence:
    """A checkpoint's figures on n pairs of a task."""

    task: str
    n: int
    m_clean: Estimate
    m_corrupt: Estimate
    gap: Estimate  # mean of m_clean − m_corrupt
    told_apart: Estimate  # share of right choices between target and foil, over both prompts
    target_preferred: Estimate  # share of clean prompts with m > 0
    foil_preferred: Estimate  # share of corrupt prompts with m < 0
    top1: Estimate  # share of clean prompts where no token has a higher logit than the target

    @property
    def does_it(self) -> bool:
        return self.gap.low > 0 and self.told_apart.low > CHANCE and self.told_apart.value >= KNOWN

    @property
    def why_not(self) -> str:
        """A sentence; empty where it does the task."""
        if self.gap.low <= 0:
            return (
                f"the prompts do not move its answer: m is {self.gap} logits higher on clean prompts than on "
                f"corrupt ones (n {self.n} pairs), which may be nothing"
            )
        if not self.does_it:
            return (
                f"it chooses rightly between target and foil in a share of {self.told_apart} of {choices(self.n)} "
                f"choices, on the clean and the corrupt prompt of {self.n} pairs: chance gives {CHANCE}, and {BAR} "
                "is asked for"
            )
        return ""


class Answered(NamedTuple):
    """m of each pair on both prompts, and whether the target is the likeliest token of all on the clean one."""

    clean: Float[np.ndarray, "pair"]
    corrupt: Float[np.ndarray, "pair"]
    first: Bool[np.ndarray, "pair"]


def competence(model: PreTrainedModel, pairs: Pairs) -> Competence:
    """The figures of one checkpoint."""
    return of_answers(pairs.task, answered(model, pairs))


@torch.no_grad()
def answered(model: PreTrainedModel, pairs: Pairs) -> Answered:
    """What the model answers to each pair."""
    parts: list[tuple[Tensor, ...]] = []
    for at in range(0, len(pairs), _BATCH):
        some = pairs[at : at + _BATCH].to(model.device)
        clean, corrupt = (last_logits(model, ids, some.last).float() for ids in (some.clean, some.corrupt))
        m = (logit_difference(logits, some.target, some.foil) for logits in (clean, corrupt))
        parts.append((*m, clean.argmax(dim=1) == some.target))
    found = Answered(*(torch.cat(column).numpy(force=True) for column in zip(*parts, strict=True)))
    if not (np.isfinite(found.clean).all() and np.isfinite(found.corrupt).all()):
        raise Failure(
            f"the model's logits on task {pairs.task!r} are NaN or infinite: it cannot be looked into"
        )
    return found


def of_answers(task: str, found: Answered) -> Competence:
    """The figures of what was answered."""
    return Competence(
        task,
        len(found.clean),
        m_clean=_mean(found.clean),
        m_corrupt=_mean(found.corrupt),
        gap=_mean(found.clean - found.corrupt),
        told_apart=_mean(((found.clean > 0).astype(float) + (found.corrupt < 0)) / 2),
        target_preferred=_share(found.clean > 0),
        foil_preferred=_share(found.corrupt < 0),
        top1=_share(found.first),
    )


def _mean(values: Float[np.ndarray, "pair"]) -> Estimate:
    values = values.astype(np.float64)
    return Estimate(float(values.mean()), *ratio_interval(values, np.ones_like(values)))


def _share(hits: Bool[np.ndarray, "pair"]) -> Estimate:
    n_hits = int(hits.sum())
    return Estimate(n_hits / len(hits), *wilson(n_hits, len(hits)))
