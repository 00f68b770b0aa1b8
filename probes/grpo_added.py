"""What did reinforcement add: new skill, or the choice of a way that its parent could take already?

    gain     = right after − right before, by question             greedy answers, held-out questions
    choosing = right before when made to show its steps − right before
    better   = right after when made to show its steps − right before when made to

Both are asked with an answer that is begun for them ("Step by step:"). If choosing is the whole gain and better is
nothing, reinforcement moved the choice and taught no arithmetic ["the base model can already", Yue 2025]. Beside
it: the share of answers that show their steps, how many are well formed, and how far the checkpoint's own samples
are from its parent, KL(after ‖ before) in nats per sampled token.

Questions are the cases. What the stage did is held against its sham's (the parent trained on, on its own data, for
as many steps) where the lab has one: p is of the difference with the sign of each question drawn at random; else of
the gain itself. The two parts are held against signs at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.kit.asking import REWARDED, Judgements, Question, judged, questions, sampled
from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, beyond
from probes.kit.nulls import described, mean_figure, mean_of
from probes.kit.plots import of_figures
from probes.kit.readings import opened
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.stages import DRAWS, FLIPPED, RL, Change, beside_sham, change, held, of_control
from workbench.checkpoint import Checkpoint
from workbench.intervals import ratio_interval
from workbench.lab import Lab
from workbench.own_samples import scored
from workbench.tasks import OPENINGS

READS = ("checkpoint", "corpus")  # the parent, sham and sibling besides those asked about
GAIN, CHOOSING, BETTER = "gain", "choosing the steps", "adding better"


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], n: int = 60, n_samples: int = 40, seed: int = 0
) -> Finding:
    """`n` questions of each rewarded task, half as many capitals; `n_samples` own samples."""
    at_least(3, n=n, n_samples=n_samples)
    at_least(0, seed=seed)
    if not any(each.stage in RL for each in checkpoints):
        raise LackingError(
            "none of these checkpoints was trained by reinforcement: name one, such as grpo, which "
            f"`python -m workbench grow {lab.name} --only grpo` grows"
        )
    pair = change(lab, checkpoints, RL)
    of = posed(pair.after, n)
    plain = {each.address: judged(each, of) for each in pair.everyone}
    steps = tuple(q for q in of if q.task in OPENINGS)
    shown = [judged(each, steps, opening=True) for each in (pair.before, pair.after)]
    gains = [*by_task(pair, of, plain, seed), *forms(pair, of, plain, seed)]
    parts = in_parts(pair, of, plain, steps, shown, seed)
    figures = [*gains, *parts, own_samples(pair, of[:n_samples], seed)]
    return Finding(
        claim(pair, figures, shares(parts)),
        figures,
        f"{pair.null}; the parts of the gain against signs at random",
        "Harder questions, which the parent cannot do even with its steps shown; more steps of training; another "
        "way to begin an answer. Choosing is measured with one opening a task.",
        [
            of_figures(
                "What the stage changed", "share of questions", gains, "changes by task beside the null"
            ),
            of_figures(
                "Choosing the steps, or adding better", "share of questions", parts, "both parts by task"
            ),
        ],
        rows(pair, of, plain, steps, shown),
    )


def posed(checkpoint: Checkpoint, n: int) -> tuple[Question, ...]:
    """Held-out questions."""
    of = questions(checkpoint, REWARDED, n)
    without_steps = [q for q in of if q.task not in OPENINGS][: max(1, n // 2)]
    return tuple(q for q in of if q.task in OPENINGS or q in without_steps)


def at(of: Sequence[Question], task: str) -> np.ndarray:
    """Where a task's questions stand."""
    return np.array([q.task == task for q in of])


def by_task(pair: Change, of: Sequence[Question], plain: dict[str, Judgements], seed: int) -> list[Figure]:
    """The gain in right answers, task by task."""
    found = []
    for task in dict.fromkeys(q.task for q in of):
        before, after, sham = (
            None if each is None else plain[each.address].right[at(of, task)]
            for each in (pair.before, pair.after, pair.sham)
        )
        placed = {"checkpoint": pair.after.address, "where": task}
        found.append(held(GAIN, before, after, sham, "questions", seed, **placed))
    return found


def forms(pair: Change, of: Sequence[Question], plain: dict[str, Judgements], seed: int) -> list[Figure]:
    """Changes in how answers look, all tasks together."""
    found = []
    for form in ("well formed", "worked"):
        before, after, sham = (
            None if each is None else plain[each.address].of(form)
            for each in (pair.before, pair.after, pair.sham)
        )
        found.append(
            held(f"more {form}", before, after, sham, "questions", seed, checkpoint=pair.after.address)
        )
    return found


def in_parts(
    pair: Change,
    of: Sequence[Question],
    plain: dict[str, Judgements],
    steps: Sequence[Question],
    shown: Sequence[Judgements],
    seed: int,
) -> list[Figure]:
    """Choosing and better, by task with steps."""
    found = []
    for task in dict.fromkeys(q.task for q in steps):
        before = plain[pair.before.address].right[at(of, task)]
        with_steps, after = (each.right[at(steps, task)] for each in shown)
        for name, values in ((CHOOSING, with_steps - before), (BETTER, after - with_steps)):
            placed = {"checkpoint": pair.after.address, "where": task}
            found.append(mean_figure(name, values, "questions", FLIPPED, seed=seed, draws=DRAWS, **placed))
    return found


def own_samples(pair: Change, of: Sequence[Question], seed: int) -> Figure:
    """KL(after ‖ before) on after's own samples; of the sham on its own, to the same questions, or without a sham
    the other way round, KL(before ‖ after) on the same samples. No claim rests on it."""
    own, other = samples_kl(pair.after, pair.before, of, seed)
    value, low, high, _ = mean_of(own, FLIPPED, seed)
    if pair.sham is None:
        null = of_control(other, own - other, "the other way round", seed)
    else:
        went_on, _ = samples_kl(pair.sham, pair.before, of, seed)
        null = of_control(went_on, own - went_on, "sham", seed)
    figure = Figure("KL on own samples", value, low, high, len(own), "samples", null, pair.after.address)
    return described(figure)


def samples_kl(
    author: Checkpoint, reader: Checkpoint, of: Sequence[Question], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """KL(author ‖ reader) and KL(reader ‖ author) by sample such that their means are nats per token."""
    models = {each.address: opened(each).model for each in (author, reader)}
    said = sampled(author, of, seed)
    found = scored(models, author.address, said, opened(author).tokenizer.pad_token_id)
    names = (author.address, reader.address)
    return found.kl[names] / found.n.mean(), found.kl[names[::-1]] / found.n.mean()


def shares(parts: Sequence[Figure]) -> dict[str, tuple[float, float]]:
    """Choosing and better by task."""
    of = {(f.name, f.where): f.value for f in parts}
    return {task: (of[CHOOSING, task], of[BETTER, task]) for name, task in of if name == CHOOSING}


def rows(
    pair: Change,
    of: Sequence[Question],
    plain: dict[str, Judgements],
    steps: Sequence[Question],
    shown: Sequence[Judgements],
) -> list[dict[str, Any]]:
    """Each checkpoint's own figures, and the share of the gain that choosing is."""
    told = []
    for task in dict.fromkeys(q.task for q in of):
        where, row = at(of, task), {"task": task, "questions": int(at(of, task).sum())}
        for each in pair.everyone:
            row[f"{each.address}: right"] = round(float(plain[each.address].right[where].mean()), 3)
            row[f"{each.address}: worked"] = round(float(plain[each.address].worked[where].mean()), 3)
        if task in OPENINGS:
            here, before = at(steps, task), plain[pair.before.address].right[where]
            for each, found in zip((pair.before, pair.after), shown, strict=True):
                row[f"{each.address}, steps shown: right"] = round(float(found.right[here].mean()), 3)
            gain = plain[pair.after.address].right[where] - before
            chosen = shown[0].right[here] - before
            if gain.sum() > 0:
                low, high = ratio_interval(chosen, gain)
                share = f"{chosen.sum() / gain.sum():.2f} [{low:.2f}, {high:.2f}]"
                row["share of the gain that choosing is"] = share
        told.append(row)
    return told


def claim(pair: Change, figures: Sequence[Figure], parts: dict[str, tuple[float, float]]) -> str:
    """What was added, and which part of it is choosing: every figure that passes is told."""
    found = beyond(figures)
    gains = [f"{f.where} {beside_sham(pair, f)}" for f in found if f.name == GAIN]
    looks = [f"{f.name} by {beside_sham(pair, f)}" for f in found if f.name.startswith("more ")]
    if gains:
        said = [f"{pair.arrow} changes right answers{pair.otherwise} on {', '.join(gains)}"]
    else:
        said = [f"{pair.arrow} is not shown to add right answers on any task beyond its null, nor to lose any"]
    if looks:
        said.append(f"answers look otherwise: {', '.join(looks)}")
    for verb, up in (("gains", True), ("loses", False)):
        if chosen := _told([f for f in found if f.name == CHOOSING and (f.value > 0) == up]):
            said.append(f"made to show its steps {pair.before.address} {verb} {chosen} without it")
    if taught := _told([f for f in found if f.name == BETTER]):
        said.append(f"steps shown in both, it answers otherwise on {taught}")
    elif parts and gains:
        rest = ", ".join(f"{task} {better:+.2f}" for task, (_, better) in parts.items())
        said.append(f"steps shown in both, it is not shown to be better ({rest})")
    return f"{'; '.join(said)}."


def _told(figures: Sequence[Figure]) -> str:
    return ", ".join(f"{f.where} {f.value:+.2f}" for f in figures)


if __name__ == "__main__":
    main(__file__)
