"""Is what a training stage taught already in the checkpoint before it, to be had by one vector or by examples?

For each checkpoint a and the one behind it, b, on held-out questions in chat form, half of them to fit:

    δ_l       = mean over fit questions of b's less a's resid_post_l where the answer begins
    recovered = 1 − Σ KL(b ‖ a + s δ_l) / Σ KL(b ‖ a)       over the first `PLACES` tokens of b's own answers

s δ_l is added in a from the answer's beginning on; layer and s are those that recover most on the fit questions,
the other half is reported: 1 is b, 0 is a, below 0 further off than a was. Beside it how many greedy answers are
well formed and right: of a, of a with the vector, of a with examples in its prompt (gold chats of other
questions, no steering), of a asked in plain text (the question on a line of its own, no chat form; the answer
ends with the line), of b. What steering or examples bring forth was there before the stage. The null: random
directions as long as s δ in that layer, whole or by half, whichever recovers more on the fit questions; beside it,
as long, δ of questions whose two checkpoints changed places at random (labels permuted). [Elicitation by difference
of means: Rimsky 2024, Arditi 2024; examples: Brown 2020.]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Null, beyond
from probes.kit.nulls import GREATER, described, mean_figure, predicted
from probes.kit.plots import bars, lines
from probes.kit.pushes import kl, log_p_at, prompts, pushed, streams_of
from probes.kit.readings import corpus_of, opened, row_names
from probes.kit.settings import at_least
from probes.kit.subjects import chat_questions, stages
from workbench.checkpoint import Checkpoint
from workbench.intervals import ratio_interval, wilson
from workbench.lab import Lab
from workbench.steering import random_directions

READS = ("corpus",)
TASKS = ("capitals", "sums", "letter_counts")
STRENGTHS = (0.5, 1.0, 2.0)
PLACES, LONGEST = 8, 40  # tokens of an answer: compared, and written
SHOTS = 3
VECTOR, EXAMPLES = "with the vector", "with examples"
PLAINLY = "asked in plain text"
LATER = "the stage's own model"
RANDOM, PERMUTED = "random directions of equal norm", "checkpoints permuted"


class Asked(NamedTuple):
    """Questions as prompts and, behind them, b's own answers: `at` marks what an answer's tokens are
    predicted from, of which the first is the prompt's last."""

    tasks: list[str]
    results: list[str]
    prompts: list[list[int]]
    shots: list[list[int]]
    plain: list[list[int]]
    ids: Int[Tensor, "row position"]
    at: Bool[Tensor, "row position"]
    start: Int[Tensor, " row"]

    def only(self, rows: np.ndarray) -> Asked:
        """Some of the questions."""
        at = torch.from_numpy(rows)
        tasks, results = ([each[i] for i in rows] for each in (self.tasks, self.results))
        asked, shots, plain = ([each[i] for i in rows] for each in (self.prompts, self.shots, self.plain))
        return Asked(tasks, results, asked, shots, plain, self.ids[at], self.at[at], self.start[at])


def ask(lab: Lab, checkpoints: Sequence[Checkpoint], n: int = 16, n_random: int = 10, seed: int = 0) -> Finding:
    """`n` questions of each task."""
    at_least(3, n=n, n_random=n_random)
    at_least(0, seed=seed)
    figures, rows, curves = list[Figure](), list[dict[str, Any]](), list[dict[str, Any]]()
    for before, after in stages(lab, checkpoints):
        pair = f"{before.address} to {after.address}"
        asked = questions(lab, before, after, n, seed)
        order = np.random.default_rng(seed).permutation(len(asked.tasks))
        fit, score = (asked.only(np.sort(part)) for part in np.split(order, [len(order) // 2]))
        a, b = opened(before).model, opened(after).model
        apart = [streams_at(model, fit) for model in (a, b)]
        each = apart[1] - apart[0]  # [layer, question, d]
        here, there = Steering(a, b, fit), Steering(a, b, score)
        grid = {
            (at_layer, s): here.recovered(at_layer, s * each[at_layer].mean(dim=0))
            for at_layer in range(len(each))
            for s in STRENGTHS
        }
        layer, strength = max(grid, key=lambda key: grid[key])
        delta = strength * each[layer].mean(dim=0)
        draws = [here.best(there, layer, v) for v in random_directions(delta, n_random, seed)]
        permuted = [here.best(there, layer, v) for v in _permuted(each[layer], delta, n_random // 2, seed)]
        figures += _recovered(there, layer, delta, draws, permuted, pair, before.address)
        curves += [
            {"series": f"{pair}, ×{s:g}", "x": row_names(before)[at_layer + 1], "y": grid[at_layer, s]}
            for at_layer in range(len(each)) for s in STRENGTHS
        ]  # fmt: skip
        told = behaviour(before, after, score, layer, delta)
        kept = [{key: value for key, value in row.items() if key != "each"} for row in told]
        rows += [
            {"pair": pair, "layer": row_names(before)[layer + 1], "strength": strength, **row} for row in kept
        ]
        figures += _behaved(told, pair, before.address)
    of = "Share of answers that are well formed and that are right, by who gives them, with intervals"
    plots = [
        lines("Recovered on the questions fitted on", "layer", "1 − KL ratio", curves,
              "Recovered share by layer and strength for each pair, on the questions that chose both, so without "
              "intervals; 0 is no nearer", 0.0),
        bars("Answers", "share of answers", [
            {**row, "series": row["who"], "row": f"{row['pair']}: {row['what']}"} for row in rows], of),
    ]  # fmt: skip
    return Finding(
        _claim(figures, rows),
        figures,
        f"{RANDOM}, each whole or by half as suits it better on the fit questions; for answers "
        "the sign of each question's gain over the checkpoint as it is, drawn at random",
        "More than one vector (a low-rank map, soft prompts), or questions of other tasks: what one vector cannot "
        "bring forth may yet be there.",
        plots,
        rows,
    )


def questions(lab: Lab, before: Checkpoint, after: Checkpoint, n: int, seed: int) -> Asked:
    """Held-out questions, b's greedy answers to them, and the same behind examples of the dictionary split."""
    from workbench.corpus import documents_of
    from workbench.generation import chat_prompt, complete
    from workbench.tasks import END

    found = chat_questions(lab, before, TASKS)
    model, tokenizer = opened(after)
    examples = documents_of(corpus_of(lab), "dictionary", "chat")
    encode = tokenizer.backend_tokenizer.encode
    tasks, results, asked, shots = list[str](), list[str](), list[list[int]](), list[list[int]]()
    plain = list[list[int]]()
    room = before.n_ctx - LONGEST
    for task, rows in found.items():
        drawn = rows.sample(min(n, rows.height), seed=seed)
        shown = examples.filter(task=task).sample(fraction=1.0, shuffle=True, seed=seed).head(SHOTS)
        head = [
            chat_prompt(tokenizer, q)[1:] + encode(f"{answer}{END}", add_special_tokens=False).ids
            for q, answer in shown.select("question", "answer").iter_rows()
        ]
        for question, result in drawn.select("question", "result").iter_rows():
            prompt = chat_prompt(tokenizer, question)
            given = list(head)
            while given and len(prompt) + sum(map(len, given)) > room:
                given.pop()
            plain.append([prompt[0], *encode(f"{question}\n", add_special_tokens=False).ids])
            tasks, results, asked = [*tasks, task], [*results, result], [*asked, prompt]
            shots.append([prompt[0], *(i for one in given for i in one), *prompt[1:]])
    said = complete(model, tokenizer, asked, PLACES)
    rows_ = [prompt + c.ids for prompt, c in zip(asked, said, strict=True)]
    whole = prompts(rows_, tokenizer.pad_token_id or 0)
    start = torch.tensor([len(p) - 1 for p in asked])
    at = torch.arange(whole.ids.shape[1])
    inside = (at >= start[:, None]) & (at < whole.last[:, None])
    return Asked(tasks, results, asked, shots, plain, whole.ids, inside, start)


def streams_at(model: Any, asked: Asked) -> Float[Tensor, "layer question d"]:
    """resid_post where the answers begin."""
    return streams_of(model, asked.ids)[:, torch.arange(len(asked.ids)), asked.start]


class Steering:
    """KL(b ‖ a with a vector) by question over the first tokens of b's answers."""

    def __init__(self, a: Any, b: Any, asked: Asked) -> None:
        self.a, self.asked = a, asked
        self.goal = log_p_at(b, asked.ids, asked.at)
        self.plain = self._kl(None, None)

    def _kl(self, layer: int | None, vector: Tensor | None) -> Float[np.ndarray, " question"]:
        ids, at = self.asked.ids, self.asked.at
        given = None if vector is None else vector[None]
        apart = kl(self.goal, log_p_at(self.a, ids, at, layer, given, at)).double().cpu().numpy()
        return np.bincount(np.nonzero(at.numpy())[0], apart, len(ids))

    def kl(self, layer: int, vector: Tensor) -> Float[np.ndarray, " question"]:
        """With the vector."""
        return self._kl(layer, vector)

    def recovered(self, layer: int, vector: Tensor) -> float:
        """1 − ratio of the sums."""
        return 1 - float(self._kl(layer, vector).sum() / self.plain.sum()) if self.plain.sum() > 0 else 0.0

    def best(self, other: Steering, layer: int, vector: Tensor) -> float:
        """What a direction recovers on `other` at the dose that suits it best here (a half, whole)."""
        return other.recovered(layer, max((0.5, 1.0), key=lambda s: self.recovered(layer, s * vector)) * vector)


def _permuted(each: Float[Tensor, "question d"], like: Tensor, n: int, seed: int) -> list[Tensor]:
    """Mean differences of questions whose sign is drawn at random, as long as `like`."""
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (n, len(each)))
    drawn = torch.from_numpy(signs).float() @ each
    return list(drawn / drawn.norm(dim=1, keepdim=True) * like.norm())


def _recovered(
    there: Steering, layer: int, delta: Tensor, draws: list[float], permuted: list[float], pair: str, name: str
) -> list[Figure]:
    value, steered = there.recovered(layer, delta), there.kl(layer, delta)
    low, high = ratio_interval(there.plain - steered, there.plain)
    low, high = (value, value) if not np.isfinite(low) else (low, high)
    null = predicted(value, draws, RANDOM, GREATER)
    spread = np.quantile(permuted, (0.025, 0.975))
    dealt = Null(float(np.mean(permuted)), float(spread[0]), float(spread[1]), len(permuted), PERMUTED)
    placed: dict[str, Any] = {"checkpoint": name, "where": pair}
    ends = (value, float(low), float(high), len(steered), "questions")
    return [
        Figure("recovered", *ends, null, **placed),
        Figure("recovered, beside δ permuted", *ends, dealt, **placed),
    ]


def behaviour(
    before: Checkpoint, after: Checkpoint, asked: Asked, layer: int, delta: Tensor
) -> list[dict[str, Any]]:
    """Shares of greedy answers that are well formed, and right, by who gives them."""
    from workbench.generation import complete
    from workbench.tasks import judge

    found = []
    plans = {
        "as it is": (before, asked.prompts, None), VECTOR: (before, asked.prompts, delta),
        EXAMPLES: (before, asked.shots, None), PLAINLY: (before, asked.plain, None),
        LATER: (after, asked.prompts, None),
    }  # fmt: skip
    for who, (checkpoint, asked_, vector) in plans.items():
        model, tokenizer = opened(checkpoint)
        with pushed(model, layer, None if vector is None else vector[None]):
            said = complete(model, tokenizer, asked_, LONGEST)
        texts = [_line(c.text) if who == PLAINLY else (c.text, c.ended) for c in said]
        judged = [judge(t, r, *text) for t, r, text in zip(asked.tasks, asked.results, texts, strict=True)]
        for what in ("well_formed", "right"):
            each = np.array([getattr(one, what) for one in judged], float)
            low, high = wilson(int(each.sum()), len(each))
            row = {
                "who": who,
                "what": what.replace("_", " "),
                "x": float(each.mean()),
                "low": low,
                "high": high,
            }
            found.append({**row, "n": len(each), "each": each})
    return found


def _line(text: str) -> tuple[str, bool]:
    """A plain text's first line is its answer, and the new line its end."""
    line, end, _ = text.partition("\n")
    return line, bool(end)


def _behaved(told: Sequence[dict[str, Any]], pair: str, name: str) -> list[Figure]:
    """What the vector, the examples and the plain form add to the share of well-formed and of right answers."""
    by = {(row["who"], row["what"]): row["each"] for row in told}
    found = []
    for what in ("well formed", "right"):
        for who in (VECTOR, EXAMPLES, PLAINLY):
            more, where = by[who, what] - by["as it is", what], f"{pair}, {who}"
            made = mean_figure(f"{what} more", more, "questions", "signs at random", side=GREATER,
                               checkpoint=name, where=where)  # fmt: skip
            found.append(made if what == "right" else described(made))
    return found


def _claim(figures: Sequence[Figure], rows: Sequence[dict[str, Any]]) -> str:
    found = {f.where for f in beyond(figures)}
    by = {(row["pair"], row["who"], row["what"]): row["x"] for row in rows}
    parts = []
    for f in (f for f in figures if f.name == "recovered"):
        far = f"{f.value:.2f} of the way, random ones {f.null.value:.2f}"
        head = (
            f"one vector brings predictions nearer than random ones do ({far})"
            if f.where in found
            else f"no vector is shown to bring predictions nearer than random ones ({far})"
        )
        before, after = (by[f.where, who, "right"] for who in ("as it is", LATER))
        brought = [
            f"{w} {by[f.where, w, 'right']:.2f}"
            for w in (VECTOR, EXAMPLES, PLAINLY)
            if f"{f.where}, {w}" in found
        ]
        more = (
            f"more are right {', '.join(brought)}" if brought
            else "neither the vector nor examples nor plain text is shown to make more right"
        )  # fmt: skip
        parts.append(f"from {f.where} {head}; right answers go from {before:.2f} to {after:.2f}, and {more}")
    return f"{'. '.join(part[0].upper() + part[1:] for part in parts)}."


if __name__ == "__main__":
    main(__file__)
