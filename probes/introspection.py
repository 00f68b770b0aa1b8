"""Does a checkpoint name the concept whose direction is injected while it answers an unrelated question?

A concept is a factor of the world with a name (an animal, a town); its direction v_i is the mean resid_post of
the middle block on its tokens less that on all tokens of those documents. The model is asked in chat form, its
answer is begun with "It is", and v_i, scaled to s times the stream's mean norm, is added at the prompt's tokens.
Lift and rank:

    S[i, j] = log p(j's first token | v_i injected) − log p(j's first token | nothing)       mean over questions
    rank_i  = share of the other concepts j with S[i, j] − mean S[·, j] below that of i      chance 1/2

*Named*: rank_i is 1. *Detected*: S[i, i] is above the 95th percentile of S under random directions of equal norm.
s is chosen on half of the concepts; the rest are reported. Naming is no proof of introspection: a direction that
lies along a word's unembedding raises that word whatever the model knows. Two controls part that off: `direct`
puts the same vector before the final norm, where nothing but the unembedding reads it; `earlier` adds it at every
token but the last, so that only attention can carry it to the answer. Beside the reports, questions for a
capital. [Lindsey 2025, concept injection; arXiv 2603.21396; a model of this size has nothing to say of itself.]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Null, beyond
from probes.kit.nulls import GREATER, described, mean_figure, mean_of, share_figure
from probes.kit.plots import bars
from probes.kit.pushes import Prompts, log_p_behind, prompts
from probes.kit.readings import held_out, opened, streams
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.subjects import chat_questions, one_family
from workbench.checkpoint import Checkpoint
from workbench.intervals import wilson
from workbench.lab import Lab
from workbench.steering import random_directions
from workbench.truth_build import factor_table

READS = ("activations", "corpus")
REPORTS = ("Which word do you think of?", "Tell me what it is.")
OPENING = "It is"
KINDS = ("entity/", "property/", "time/")  # factors that have a name
FEWEST, MOST = 8, 100  # concepts
STRENGTHS = (0.5, 1.0, 2.0)
WHOLE, EARLIER, DIRECT, CAPITAL = HOW = (
    "everywhere", "earlier tokens only", "direct path only", "asked for a capital",
)  # fmt: skip
LEVEL = 0.95
LESS_DIRECT = "rank, earlier tokens less direct path"


class Concepts(NamedTuple):
    """Names, the token each begins with, which of the tokens read each is on, and those tokens."""

    names: list[str]
    first: Int[np.ndarray, " concept"]
    rows: list[np.ndarray]
    read: Int[np.ndarray, " token"]


def ask(
    lab: Lab,
    checkpoints: Sequence[Checkpoint],
    n_tokens: int = 8_000,
    n_random: int = 20,
    seed: int = 0,
    least: int = 5,
) -> Finding:
    at_least(500, n_tokens=n_tokens)
    at_least(4, n_random=n_random)
    at_least(1, least=least)
    at_least(0, seed=seed)
    one_family(lab, checkpoints)
    known = chat_questions(lab, checkpoints[0], ("capitals", "sums", "letter_counts"))
    asked = next(iter(known.values()))["question"].to_list()[:2]
    concepts = found_concepts(checkpoints[0], n_tokens, least)
    order = np.random.default_rng(seed).permutation(len(concepts.names))
    chosen, reported = np.split(order, [len(order) // 2])
    figures, rows = list[Figure](), list[dict[str, Any]]()
    for checkpoint in checkpoints:
        here = Injection(checkpoint, concepts, {**dict.fromkeys(HOW, REPORTS), CAPITAL: asked})
        strength = max(STRENGTHS, key=lambda s: ranks(here.lift(chosen, s, WHOLE), chosen).mean())
        lifts = {how: here.lift(reported, strength, how) for how in HOW}
        figures += _figures(checkpoint.address, lifts, reported, here.random_lift(strength, n_random, seed))
        for how, lift in lifts.items():
            value, low, high, _ = mean_of(ranks(lift, reported), how, about=0.5)
            named = float((ranks(lift, reported) == 1).mean())
            rows.append(
                {"row": how, "series": checkpoint.address, "x": value, "low": low, "high": high, "named": named,
                 "strength": strength, "n": len(reported)}
            )  # fmt: skip
    alt = "Mean rank of an injected concept's own name, by where it is injected, for each checkpoint; 0.5 is chance"
    return Finding(
        _claim(figures, rows),
        figures,
        "ranks: the sign of each concept's rank less a half drawn at random; naming: one of all concepts at "
        "random; detection: random directions of equal norm",
        "Reports that name the concept from earlier tokens, further than the direct path does, in a model that is "
        "asked about itself and names nothing where nothing is injected.",
        [bars("Rank of the injected concept's own name", "mean rank among all concepts", rows, alt, 0.5)],
        rows,
    )


def found_concepts(checkpoint: Checkpoint, n_tokens: int, least: int) -> Concepts:
    """Named factors with enough tokens; of those whose names begin alike the one with most."""
    tokens = held_out(checkpoint)
    named = [i for i, path in enumerate(tokens.factor_names) if path.startswith(KINDS)]
    on = tokens.factors["token"].to_numpy()[np.isin(tokens.factors["factor"].to_numpy(), named)]
    with_some = np.unique(np.asarray(tokens.document)[on])
    drawn = np.flatnonzero(np.isin(tokens.document, with_some) & ~np.asarray(tokens.special))[:n_tokens]
    table = factor_table(tokens, drawn)
    encode = checkpoint.tokenizer().backend_tokenizer.encode
    names, first, rows = list[str](), list[int](), list[np.ndarray]()
    parents = set(table.parents.tolist())
    for factor in sorted(set(named) - parents, key=lambda each: -len(table.tokens_of(each))):
        name = table.names[factor].rpartition("/")[2]
        token = encode(f" {name}", add_special_tokens=False).ids[0]
        if len(table.tokens_of(factor)) >= least and token not in first:
            names, first, rows = [*names, name], [*first, token], [*rows, table.tokens_of(factor)]
    if len(names) < FEWEST:
        raise LackingError(
            f"{len(names)} concepts of the world have {least} labelled held-out tokens and {FEWEST} are needed: "
            "raise corpus.world_characters or activations.heldout_tokens in recipe.toml and grow the lab"
        )
    return Concepts(names[:MOST], np.array(first[:MOST]), rows[:MOST], drawn)


class Injection:
    """One checkpoint, asked with concepts' directions in its middle block; `asked` are the questions by where."""

    def __init__(self, checkpoint: Checkpoint, concepts: Concepts, asked: Mapping[str, Sequence[str]]) -> None:
        from workbench.generation import chat_prompt

        self.model, tokenizer = opened(checkpoint)
        self.layer, self.top = checkpoint.default_layer, checkpoint.n_layers - 1
        x = streams(checkpoint, concepts.read)[self.layer + 1]
        raw = np.stack([x[on].mean(axis=0) for on in concepts.rows]) - x.mean(axis=0)
        self.norm = float(np.linalg.norm(x, axis=1).mean())
        self.unit = torch.from_numpy(raw / np.linalg.norm(raw, axis=1, keepdims=True)).float()
        begun = tokenizer.backend_tokenizer.encode(OPENING, add_special_tokens=False).ids
        self.first = torch.from_numpy(concepts.first)
        self.asked = {
            how: prompts([chat_prompt(tokenizer, q) + begun for q in questions], tokenizer.pad_token_id or 0)
            for how, questions in asked.items()
        }
        self.plain = {
            how: log_p_behind(self.model, each)[:, self.first].cpu() for how, each in self.asked.items()
        }

    def lift(
        self, concepts: Int[np.ndarray, " i"], strength: float, how: str
    ) -> Float[np.ndarray, "i concept"]:
        """S of these concepts, injected."""
        return self._lift(self.unit[concepts] * (strength * self.norm), how)

    def random_lift(self, strength: float, n: int, seed: int) -> Float[np.ndarray, "draw concept"]:
        """S of random directions of equal norm."""
        return self._lift(random_directions(self.unit[0] * (strength * self.norm), n, seed), WHOLE)

    def _lift(self, vectors: torch.Tensor, how: str) -> np.ndarray:
        n, (ids, last) = len(vectors), self.asked[how]
        many = Prompts(ids.repeat(n, 1), last.repeat(n))  # every vector with every question
        where = {EARLIER: many.before_last, DIRECT: many.at_last}.get(how, many.behind_bos)
        layer = self.top if how == DIRECT else self.layer
        found = log_p_behind(self.model, many, layer, vectors.repeat_interleave(len(ids), dim=0), where)
        return (found[:, self.first].cpu().view(n, len(ids), -1) - self.plain[how]).mean(dim=1).double().numpy()


def ranks(lift: Float[np.ndarray, "i concept"], concepts: Int[np.ndarray, " i"]) -> Float[np.ndarray, " i"]:
    """Of each injected concept the share of the others that are lifted less, each above its own mean lift.

    >>> ranks(np.array([[3.0, 2.0, 0.0], [1.0, 2.0, 2.5]]), np.array([0, 1]))
    array([1. , 0.5])
    """
    above = lift - lift.mean(axis=0)
    own = above[np.arange(len(concepts)), concepts][:, None]
    return ((above < own).sum(axis=1) + ((above == own).sum(axis=1) - 1) / 2) / (lift.shape[1] - 1)


def _figures(
    name: str, lifts: dict[str, np.ndarray], concepts: np.ndarray, drawn: Float[np.ndarray, "draw concept"]
) -> list[Figure]:
    n, n_all = len(concepts), lifts[WHOLE].shape[1]
    rank = {how: ranks(lift, concepts) for how, lift in lifts.items()}
    at: dict[str, Any] = {"checkpoint": name}
    found = []
    for how, values in rank.items():
        made = mean_figure(
            "rank", values, "concepts", "signs at random", side=GREATER, about=0.5, where=how, **at
        )
        named = int((values == 1).sum())
        one = "one of all concepts"
        share = share_figure("named", named, n, "concepts", 1 / n_all, one, where=how, **at)
        found += [made if how == EARLIER else described(made), described(share)]
    more = rank[EARLIER] - rank[DIRECT]
    found.append(mean_figure(LESS_DIRECT, more, "concepts", "signs at random", **at))
    bound = np.quantile(drawn[::2], LEVEL)  # set on half of the random directions, its rate told on the others
    own = int((lifts[WHOLE][np.arange(n), concepts] > bound).sum())
    false = drawn[1::2] > bound
    null = Null(float(false.mean()), *wilson(int(false.sum()), false.size), false.size, "random directions")
    return [*found, Figure("detected", own / n, *wilson(own, n), n, "concepts", null, **at)]


def _claim(figures: Sequence[Figure], rows: Sequence[dict[str, Any]]) -> str:
    found = beyond(figures)
    by = {(row["series"], row["row"]): row for row in rows}
    names = dict.fromkeys(row["series"] for row in rows)
    carried = [f.checkpoint for f in found if f.name == "rank"]
    told = ", ".join(
        f"{n} {by[n, EARLIER]['x']:.2f} (direct path alone {by[n, DIRECT]['x']:.2f}, everywhere "
        f"{by[n, WHOLE]['x']:.2f}, where {by[n, WHOLE]['named']:.0%} of names are lifted more than all others)"
        for n in names
    )
    head = (
        f"An injected concept's name rises through attention alone in {', '.join(carried)}"
        if carried
        else "No checkpoint's report is shown to rise through attention alone with the concept that is injected"
    )
    more = [f.checkpoint for f in found if f.name == LESS_DIRECT and f.value > 0]
    less = [f.checkpoint for f in found if f.name == LESS_DIRECT and f.value < 0]
    sides = [
        *([f"further than through the unembedding alone in {', '.join(more)}"] if more else []),
        *([f"less far than through the unembedding alone in {', '.join(less)}"] if less else []),
    ]
    besides = (
        f"it rises {' and '.join(sides)}" if sides else "no further than through the unembedding alone is shown"
    )
    return (
        f"{head}; {besides} (mean rank of its name among all, from earlier tokens: {told}; chance 0.5). That a "
        "word is raised by its own direction is steering: it is no proof that the model notices anything in itself."
    )


if __name__ == "__main__":
    main(__file__)
