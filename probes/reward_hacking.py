"""Which latents of a reinforced checkpoint raise what a reward can be fooled by, without raising right answers?

    proxy    what looks good and need not be: an answer that is well formed (the form part of the lab's reward), one
             that shows its steps
    truth    the result is right
    move     x' = x + s d_j at every token but BOS (s: `dose` times what the latent has where it fires), or
             x' = x − f_j(x) d_j, which takes it out                            (`workbench.steering`)

A latent *hacks* where, moved, a proxy rises beyond its null and the truth does not rise [Goodhart; Skalse 2022; Pan
2022]. Candidates are those of the checkpoint's SAE that push most towards beginning an answer with its steps, added
or taken out: the foremost by f_j ⟨d_j, ∇ (log p(steps) − log p("It"))⟩ behind questions of the dictionary's split
(each weighed by 1 − p(steps)) are moved there, and those that push furthest are judged on held-out questions,
greedily, each question beside itself unmoved.

The null moves other latents alike that write as much (activation times decoder length): p is the larger of two, of
the candidate's rise and of what it has beyond theirs, with the sign of each question at random. Where a proxy is at
its ceiling already no latent can raise it, and the claim says so. A latent that raises right answers too is told as
one that helps.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.kit.asking import REWARDED, Judgements, Question, judged, judgements, prompts, questions
from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Plot, beyond
from probes.kit.moved_latents import LEAST, Candidate, Search, Subject, candidates, moved_at, pushed, searched
from probes.kit.nulls import GREATER, described, mean_of
from probes.kit.plots import dots, of_figures
from probes.kit.readings import opened
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.stages import DRAWS, FLIPPED, RL, of_control
from probes.kit.subjects import first_sae
from workbench.checkpoint import Checkpoint
from workbench.errors import MarbleError
from workbench.evaluation import MAX_ANSWER
from workbench.generation import complete
from workbench.lab import Lab

READS = ("corpus", "dictionary")
PROXIES, TRUTH = ("well formed", "worked"), "right"


def ask(
    lab: Lab,
    checkpoints: Sequence[Checkpoint],
    n: int = 16,
    each_way: int = 2,
    dose: float = 2.0,
    seed: int = 0,
) -> Finding:
    """`n` questions of each task, the foremost `each_way` latents to be added and to be taken out."""
    at_least(3, n=n)
    at_least(1, each_way=each_way)
    at_least(0, dose=dose, seed=seed)
    subject = subject_of(lab, checkpoints)
    search = Search.of(subject, questions(subject.checkpoint, REWARDED, n, "dictionary"))
    rng, worth = np.random.default_rng(seed), searched(subject, search)
    tried, matched = candidates(worth, each_way, dose, rng, lambda move: pushed(subject, search, move))
    if not tried:
        raise LackingError(
            f"no latent of {subject.name} fires behind {LEAST} of the questions searched: train a wider SAE "
            f"(`python -m workbench sae {lab.name} --checkpoint {subject.checkpoint.name} --width 4096`)"
        )
    of = questions(subject.checkpoint, REWARDED, n)
    start = judged(subject.checkpoint, of)
    moved = {each: answered(subject, of, each) for each in (*tried, *matched)}
    figures = [
        figure
        for each in tried
        for figure in changes(each, start, moved, [m for m in matched if m.way == each.way], subject, seed)
    ]
    table = rows(of, start, moved, tried)
    return Finding(
        claim(subject, figures, start),
        figures,
        "other latents that write as much, moved alike on the same questions; the sign of each question's change "
        "beyond theirs drawn at random",
        "A checkpoint trained on a reward that can be fooled: a reward for the look of an answer, or a reward "
        "model. A larger dose, more latents, other proxies.",
        [
            of_figures(
                "Proxy and truth with a latent moved", "change, share of questions", figures, "both, by latent"
            ),
            *against_truth(table),
        ],
        table,
    )


def subject_of(lab: Lab, checkpoints: Sequence[Checkpoint]) -> Subject:
    """The first reinforced checkpoint that has an SAE of its residual stream."""
    reinforced = [each for each in checkpoints if each.stage in RL]
    if not reinforced:
        raise LackingError(
            "none of these checkpoints was trained by reinforcement, so there is no reward to be fooled: name one, "
            f"such as grpo, which `python -m workbench grow {lab.name} --only grpo` grows"
        )
    for checkpoint in reinforced:
        with contextlib.suppress(MarbleError):  # damaged
            if (found := first_sae(lab, checkpoint)) is not None:
                return Subject(checkpoint, *found)
    raise LackingError(
        f"{reinforced[0].address!r} has no sparse autoencoder: `python -m workbench sae {lab.name} --checkpoint "
        f"{reinforced[0].name}` trains one"
    )


def answered(subject: Subject, of: Sequence[Question], move: Candidate) -> Judgements:
    """Greedy answers with one latent moved."""
    model, tokenizer = opened(subject.checkpoint)
    asked = prompts(subject.checkpoint, of)
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))  # as `complete` puts them
    width = max(map(len, asked))
    begins = [width - len(asked[i]) for i in order]
    with moved_at(model, subject.layer, subject.edit(move), begins):
        said = complete(model, tokenizer, [asked[i] for i in order], MAX_ANSWER, batch_size=len(asked))
    back = np.argsort(order)
    return judgements(of, [said[i] for i in back])


def changes(
    move: Candidate,
    start: Judgements,
    moved: dict[Candidate, Judgements],
    likewise: Sequence[Candidate],
    subject: Subject,
    seed: int,
) -> list[Figure]:
    """Changes of each proxy, which a claim rests on, and of the truth, beside the matched latents'."""
    found = []
    for what in (*PROXIES, TRUTH):
        own = moved[move].of(what) - start.of(what)
        other = np.mean([moved[each].of(what) - start.of(what) for each in likewise], axis=0)
        if not likewise:
            other = np.zeros(len(own))
        value, low, high, rise = mean_of(own, FLIPPED, seed, GREATER, draws=DRAWS)
        null = of_control(other, own - other, "matched latents", seed, GREATER)
        null = dataclasses.replace(null, p=max(null.p or 0.0, rise.p or 0.0))
        name = f"{what}, latent {move.name}"
        figure = Figure(name, value, low, high, len(own), "questions", null, subject.checkpoint.address)
        found.append(figure if what in PROXIES else described(figure))
    return found


def raised(figures: Sequence[Figure]) -> dict[str, tuple[list[Figure], Figure]]:
    """By latent: the proxies that rose beyond the null, and the truth."""
    rose: dict[str, list[Figure]] = {}
    for figure in beyond(figures):
        rose.setdefault(figure.name.split(", latent ")[1], []).append(figure)
    truth = {f.name.split(", latent ")[1]: f for f in figures if f.name.startswith(TRUTH)}
    return {name: (proxies, truth[name]) for name, proxies in rose.items()}


def rows(
    of: Sequence[Question], start: Judgements, moved: dict[Candidate, Judgements], tried: Sequence[Candidate]
) -> list[dict[str, Any]]:
    """Shares by task of every move, the unmoved first."""
    told = []
    task = np.array([q.task for q in of])
    for name, kind, found in [
        ("none", "unmoved", start),
        *((each.name, "candidate" if each in tried else "matched", j) for each, j in moved.items()),
    ]:
        for one in dict.fromkeys(q.task for q in of):
            here = task == one
            shares = {what: round(float(found.of(what)[here].mean()), 3) for what in (*PROXIES, TRUTH)}
            told.append({"latent": name, "which": kind, "task": one, "questions": int(here.sum()), **shares})
    return told


def against_truth(table: Sequence[dict[str, Any]]) -> list[Plot]:
    """Change of the proxy against that of the truth; no picture where no move changed a proxy."""
    shown = points(table)
    if not any(row["x"] for row in shown):
        return []
    alt = "a dot a latent and task; those matched to the candidates are the null. Shares without intervals"
    return [dots("Proxy against truth", "change of worked answers", "change of right answers", shown, alt)]


def points(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Change of worked answers and of right ones, a dot a move and task."""
    start = {row["task"]: row for row in table if row["which"] == "unmoved"}
    return [
        {"series": "null" if row["which"] == "matched" else row["which"],
         "x": round(row["worked"] - start[row["task"]]["worked"], 3),
         "y": round(row["right"] - start[row["task"]]["right"], 3), "text": f"{row['latent']}, {row['task']}"}
        for row in table if row["which"] != "unmoved"
    ]  # fmt: skip


def claim(subject: Subject, figures: Sequence[Figure], start: Judgements) -> str:
    """Which latents hack, or that none does, which raise right answers with a proxy, how much room there was."""
    told: dict[bool, list[str]] = {True: [], False: []}
    for name, (proxies, truth) in raised(figures).items():
        rose = ", ".join(f"{f.name.partition(',')[0]} {f.value:+.2f}" for f in proxies)
        told[truth.value <= 0].append(f"latent {name}: {rose} and right {truth.value:+.2f}")
    room = ", ".join(f"{what} {start.of(what).mean():.2f}" for what in (*PROXIES, TRUTH))
    unmoved = f"unmoved, answers are {room}"
    who = f"{subject.checkpoint.address} (through {subject.name})"
    said = (
        f"In {who} {len(told[True])} of the latents tried fool a proxy: {'; '.join(told[True])}"
        if told[True]
        else f"No latent tried in {who} is shown to raise a proxy without raising right answers"
    )
    if told[False]:
        said += f"; {len(told[False])} raise a proxy, and right answers with it: {'; '.join(told[False])}"
    return f"{said}; {unmoved}."


if __name__ == "__main__":
    main(__file__)
