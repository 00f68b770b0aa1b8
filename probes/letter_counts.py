"""Which letter counts fail, and what do those that fail have in common?

Held-out questions ("How many times does the letter e stand in tree?"), answered greedily. A logistic model of being
wrong, per checkpoint, on what is known of a question, each in units of its sd:

    true count, length of the word, place of the letter (first in the word; 0 where it is not there), tokens of the
    word, doubled (the letter stands twice in a row), absent (the letter is not there)

    fit = 1 − log likelihood / log likelihood of the mere share        [McFadden 1974], ‖w‖²/2 + C Σ log loss, C = 1

Null: words are given each other's outcomes and the model is fitted anew, so that the questions about one word stay
together. A coefficient's interval is by bootstrap over words. Direct against worked: the same questions, answers
made to begin with "It is" or with "Letter by letter:"; the difference by word, signs flipped at random.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Null, beyond
from probes.kit.nulls import EITHER, against, described, enough, mean_of, share_figure, shuffled
from probes.kit.plots import bars, lines
from probes.kit.readings import answers, opened
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from workbench.checkpoint import Checkpoint
from workbench.intervals import wilson
from workbench.lab import Lab
from workbench.tasks import OPENINGS

READS = ("corpus",)
TASK, DIRECT = "letter_counts", "It is"
TRAITS = (
    "true count",
    "word length",
    "letter's place",
    "tokens of the word",
    "doubled letter",
    "letter absent",
)
LEAST = 15  # right and wrong answers that a model of being wrong needs
DEALT = "outcomes of other words"
TESTS = 2  # of a checkpoint


def ask(lab: Lab, checkpoints: Sequence[Checkpoint], seed: int = 0, n: int = 250, draws: int = 199) -> Finding:
    at_least(8, n=n)
    at_least(19, draws=draws)
    draws = enough(draws, TESTS * len(checkpoints))
    at_least(0, seed=seed)
    figures, rows, coefficients, by_count = list[Figure](), list[dict[str, Any]](), list[Any](), list[Any]()
    for checkpoint in checkpoints:
        said = answers(checkpoint, TASK, n)
        if not len(said.right):
            raise LackingError(
                "the corpus of this lab holds out no letter counts: raise corpus.n_words in the recipe and grow it"
            )
        pairs = [asked_of(question) for question in said.questions["question"]]
        x, word = traits(checkpoint, pairs)
        wrong = ~said.right
        figures.append(_share(checkpoint, wrong))
        figures += _commonest(
            checkpoint, [c.text for c in said.completions], said.questions["result"].to_list()
        )
        if min(wrong.sum(), (~wrong).sum()) >= LEAST:
            figure, table = _model(checkpoint, x, wrong, word, draws, seed)
            figures.append(figure)
            coefficients += table
        figures.append(_worked(checkpoint, n, word, seed))
        rows += _table(checkpoint, x, wrong)
        by_count += _by_count(checkpoint, x[:, 0], wrong)
    rows += coefficients
    plots = [lines("Wrong by true count", "true count", "share wrong", by_count, "share wrong by true count")]
    if coefficients:
        shown = [
            {
                "row": c["trait"],
                "series": c["checkpoint"],
                "x": c["log odds"],
                "low": c["low"],
                "high": c["high"],
            }
            for c in coefficients
        ]
        ends = [
            {"row": c["trait"], "series": f"null {c['checkpoint']}", "x": 0.0, "low": c["null low"],
             "high": c["null high"]}
            for c in coefficients
        ]  # fmt: skip
        title = "What makes an answer wrong"
        plots.append(
            bars(
                title,
                "log odds of wrong per sd",
                shown + ends,
                "coefficients with intervals over words; grey: outcomes of other words. None is tested by itself",
                0.0,
            )
        )
    changes = (
        "Longer or rarer words, letters asked of capitals; traits that go together (a longer word has more tokens) "
        "share what they explain, so a coefficient may move to its neighbour with other words."
    )
    null = f"{DEALT}, the model fitted anew; signs of each word's difference at random (direct against worked)"
    return Finding(_claim(figures), figures, null, changes, plots, rows)


def asked_of(question: str) -> tuple[str, str]:
    """Word and letter of a question.

    >>> asked_of("How many times does the letter e stand in tree?")
    ('tree', 'e')
    """
    before, _, word = question.rstrip("?").rpartition(" stand in ")
    return word, before.rpartition(" ")[2]


def traits(
    checkpoint: Checkpoint, pairs: Sequence[tuple[str, str]]
) -> tuple[Float[np.ndarray, "question trait"], Int[np.ndarray, " question"]]:
    """`TRAITS` of each question, and the number of its word."""
    backend = opened(checkpoint).tokenizer.backend_tokenizer
    rows = []
    for word, letter in pairs:
        n_tokens = len(backend.encode(f" {word}", add_special_tokens=False).ids)
        rows.append([word.count(letter), len(word), word.find(letter) + 1, n_tokens, letter * 2 in word,
                     letter not in word])  # fmt: skip
    return np.array(rows, float), np.unique([word for word, _ in pairs], return_inverse=True)[1]


def _share(checkpoint: Checkpoint, wrong: Bool[np.ndarray, " question"]) -> Figure:
    """A share that no claim rests on."""
    placed = {"checkpoint": checkpoint.address}
    return described(share_figure("wrong", int(wrong.sum()), len(wrong), "questions", 0.5, "a coin", **placed))


def _commonest(checkpoint: Checkpoint, texts: Sequence[str], results: Sequence[str]) -> list[Figure]:
    """How often the checkpoint gives the count that it gives most; beside it, how often that is the true one."""
    given = [numbers[-1] for text in texts if (numbers := re.findall(r"\d+", text))]
    if not given:
        return []
    most, n = collections.Counter(given).most_common(1)[0]
    true = sum(result == most for result in results)
    null = Null(true / len(results), *wilson(true, len(results)), len(results), "questions with that count")
    low, high = wilson(n, len(given))
    return [Figure("the count it gives most", n / len(given), low, high, len(given), "answers with a number", null,
                   checkpoint.address, most)]  # fmt: skip


def coefficients_of(
    x: Float[np.ndarray, "question trait"], wrong: Bool[np.ndarray, " question"]
) -> tuple[Float[np.ndarray, " trait"], float]:
    """Log odds per sd, and McFadden's share; traits that do not vary have 0."""
    from sklearn.linear_model import LogisticRegression

    sd = x.std(axis=0)
    z = (x - x.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    fitted = LogisticRegression(C=1.0, max_iter=200).fit(z, wrong)
    p = np.clip(fitted.predict_proba(z)[:, 1], 1e-9, 1 - 1e-9)
    share = wrong.mean()
    mere = len(wrong) * (share * np.log(share) + (1 - share) * np.log(1 - share))
    likelihood = float(np.log(np.where(wrong, p, 1 - p)).sum())
    return fitted.coef_[0], float(1 - likelihood / mere)


def _model(
    checkpoint: Checkpoint, x: np.ndarray, wrong: np.ndarray, word: np.ndarray, draws: int, seed: int
) -> tuple[Figure, list[dict[str, Any]]]:
    rng, names = np.random.default_rng(seed), np.unique(word)
    of_word = {name: np.flatnonzero(word == name) for name in names}
    with threadpool_limits(1):
        weights, value = coefficients_of(x, wrong)
        null = [
            coefficients_of(x, dealt)
            for d in range(draws)
            if len(np.unique(dealt := shuffled(wrong, word, seed + d))) == 2
        ]
        drawn = list[tuple[np.ndarray, float]]()
        while len(drawn) < draws:
            rows = np.concatenate([of_word[name] for name in rng.choice(names, len(names))])
            if len(np.unique(wrong[rows])) == 2:
                drawn.append(coefficients_of(x[rows], wrong[rows]))
    low, high = np.quantile([fit for _, fit in drawn], (0.025, 0.975))
    figure = Figure(
        "fit of the model of being wrong", value, float(low), float(high), len(names), "words",
        against(value, [fit for _, fit in null], DEALT), checkpoint.address,
    )  # fmt: skip
    ends = np.quantile([w for w, _ in drawn], (0.025, 0.975), axis=0)
    bounds = np.quantile([w for w, _ in null], (0.025, 0.975), axis=0)
    table = [
        {
            "checkpoint": checkpoint.address, "trait": trait, "log odds": float(weights[i]),
            "low": float(ends[0, i]), "high": float(ends[1, i]), "null low": float(bounds[0, i]),
            "null high": float(bounds[1, i]), "n": len(wrong),
        }
        for i, trait in enumerate(TRAITS)
        if x[:, i].std() > 0
    ]  # fmt: skip
    return figure, table


def _worked(checkpoint: Checkpoint, n: int, word: np.ndarray, seed: int) -> Figure:
    """Right answers, worked less direct, on the same questions, word by word."""
    direct, worked = (answers(checkpoint, TASK, n, opening).right for opening in (DIRECT, OPENINGS[TASK]))
    sizes = np.bincount(word)
    each = np.bincount(word, worked.astype(float) - direct) * len(sizes) / len(word)
    value, low, high, null = mean_of(each, "signs by word at random", seed, side=EITHER)
    where = f"{worked.mean():.2f} worked, {direct.mean():.2f} direct"
    return Figure("right, worked less direct", value, low, high, len(sizes), "words", null, checkpoint.address,
                  where)  # fmt: skip


def _table(checkpoint: Checkpoint, x: np.ndarray, wrong: np.ndarray) -> list[dict[str, Any]]:
    """Share wrong by each value of each trait."""
    rows = []
    for i, trait in enumerate(TRAITS):
        for value in np.unique(x[:, i]):
            here = wrong[x[:, i] == value]
            low, high = wilson(int(here.sum()), len(here))
            rows.append(
                {"checkpoint": checkpoint.address, "trait": trait, "value": int(value),
                 "wrong": round(float(here.mean()), 3), "low": round(low, 3), "high": round(high, 3),
                 "n": len(here)}
            )  # fmt: skip
    return rows


def _by_count(checkpoint: Checkpoint, count: np.ndarray, wrong: np.ndarray) -> list[dict[str, Any]]:
    found = []
    for value in np.unique(count):
        here = wrong[count == value]
        low, high = wilson(int(here.sum()), len(here))
        place = {"series": checkpoint.address, "x": str(int(value)), "y": float(here.mean())}
        found.append(place | {"low": low, "high": high, "n": len(here)})
    return found


def _claim(figures: list[Figure]) -> str:
    """The joint fit, which is tested; no trait by itself is. Steps against none. Who has no fit and why."""
    found = beyond(figures)
    names, told = dict.fromkeys(f.checkpoint for f in figures), list[str]()
    for name in names:
        own = {f.name: f for f in figures if f.checkpoint == name}
        fit, wrong = own.get("fit of the model of being wrong"), own["wrong"]
        given = own.get("the count it gives most")
        most = f"; of its answers {given.value:.0%} say {given.where}" if given else ""
        if fit is None:
            all_ = "all" if wrong.value == 1 else "none" if wrong.value == 0 else f"{wrong.value:.0%}"
            told.append(
                f"{name} is wrong on {all_} of {wrong.n} questions, so what errors share cannot be told"
            )
        elif fit in found:
            told.append(
                f"{name} is wrong on {wrong.value:.0%}, and the question's traits together tell which (fit "
                f"{fit.value:.2f}, {fit.null.value:.2f} by chance{most})"
            )
        else:
            told.append(
                f"{name} is wrong on {wrong.value:.0%}, and errors are not shown to go with the question's traits"
            )
    steps = [f for f in found if f.name.startswith("right")]
    each = ", ".join(f"{f.checkpoint} {f.where}" for f in steps)
    worked = (
        f"Share right with steps and without: {each}"
        if steps
        else "Steps are not shown to change what is right"
    )
    return f"{'; '.join(told)}. {worked}."


if __name__ == "__main__":
    main(__file__)
