"""Builds `patching` of a comparison: for each pair of checkpoints, how much of what b says on its own stream comes
back when b is given a's stream and what a set of latents writes differently (`workbench.patch_trial`).

`baselines.parquet`: all latents, bias, error, whole streams. `curve.parquet`: sets of n latents
(`workbench.patch_sets`). `doses.parquet`: the main set, more or less of it. `latents.parquet`: the orders. Orders
and main set are found on chats of the dictionary set and judged on held-out ones: gold chats, and what the
checkpoints themselves said.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool

from workbench.chat_answers import Chats, chat_windows, chats, first_tokens
from workbench.checkpoint import Checkpoint, fast_models
from workbench.device import best_device
from workbench.dictionaries import token_sets
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.errors import Failure
from workbench.gains import OFF, ON
from workbench.grow import Build
from workbench.joint_reading import JointReading
from workbench.mediation import swap
from workbench.part_tables import write_part
from workbench.patch_sets import (
    Arm,
    Candidates,
    baseline_arms,
    candidates,
    control_arms,
    dose_arms,
    main_set,
    order_arms,
)
from workbench.patch_trial import Pair, Patch, Read, read_chats, recovered
from workbench.patching import (
    ATTRIBUTION,
    EVERY,
    EXACT,
    FIRST,
    GOLD_CHATS,
    GOLD_DOMAIN,
    ITSELF,
    NORM,
    OWN_SAMPLES,
    REST,
    MainSet,
)
from workbench.points import parse_site
from workbench.site import decoder_layers
from workbench.specificity import read_scaling
from workbench.tokens import TokenSet

SEARCHED, JUDGED = (20, 4), (28, 6)  # gold chats, and own ones of each checkpoint
MOST_FIRST = 10  # tokens
LONGEST = 32  # tokens of an answer that are read
TOKENS_AT_ONCE = 2_048
SHOWN = 64  # latents of each order that are named
NEARLY = 1e-3  # nats a token, or that share of the KL: what rounding may leave of an identity

PAIR = {"before": pl.String, "after": pl.String, "into": pl.String}
MEASURED = {
    "tokens": pl.String, "recovered": pl.Float64, "low": pl.Float64, "high": pl.Float64, "kl": pl.Float64,
    "n": pl.Int64, "documents": pl.Int64,
}  # fmt: skip
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "baselines": PAIR | {"set": pl.String, "size": pl.Int64} | MEASURED,
    "curve": PAIR | {"order": pl.String, "draw": pl.Int64, "size": pl.Int64, "length": pl.Float64} | MEASURED,
    "doses": PAIR | {"latents": pl.String, "size": pl.Int64, "dose": pl.Float64} | MEASURED,
    "latents": {
        "before": pl.String, "after": pl.String, "order": pl.String, "rank": pl.Int64, "latent": pl.Int64,
        "score": pl.Float64, "chosen": pl.Boolean,
    },
}  # fmt: skip
Rows = list[tuple[Any, ...]]


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/patching-<comparison>`."""
    names = build.plan.recipe.comparison(build.config["comparison"]).checkpoints
    study = _Study(build, names)
    rows: dict[str, Rows] = {name: [] for name in SCHEMAS}
    pairs = list(itertools.combinations(names, 2)) if study.judged and study.searched else []
    build.progress.start(len(pairs), "pairs", label="patching")
    main: dict[str, Any] = {}
    for before, after in pairs:
        chosen = study.add(rows, before, after)
        main[f"{before}|{after}"] = chosen and chosen._asdict()
        build.progress.advance()
    for name, schema in SCHEMAS.items():
        write_part(build.draft.path, name, pl.DataFrame(rows[name], schema=dict(schema), orient="row"))
    return {"site": study.reading.site.name, "main": main, "first": study.first, "chats": study.counts()}


class _Study:
    """The comparison's models, its crosscoder and its chats, read once; the rows of one pair at a time."""

    def __init__(self, build: Build, names: Sequence[str]) -> None:
        recipe = build.plan.recipe
        comparison = recipe.comparison(build.config["comparison"])
        used = recipe.dictionary(comparison.dictionary)
        models = fast_models(build.lab, names)
        for model in models.values():
            model.requires_grad_(False)
        with dictionary_sentences(used.name):
            opened = open_dictionary(build.parents[f"dictionary/{used.name}"].path, used.name)
        self.coder = opened.to(best_device())
        site = parse_site(opened.site, len(decoder_layers(models[names[0]])))
        self.reading = JointReading(models, Checkpoint.of(build.lab, names[-1]).tokenizer(), site)
        self.scaling = read_scaling(build.parents[f"evaluation/scaling-{comparison.name}"].path)
        sets = token_sets(build)
        self.tokens = sets["heldout"]
        self.searched = self._read(sets["dictionary"], names, *SEARCHED)
        self.judged = self._read(self.tokens, names, *JUDGED)
        self.lengths = np.concatenate([[0], *(r.chats.at.sum(dim=1).numpy() for r in self.judged)])[1:]
        self.first = first_tokens(self.lengths, MOST_FIRST)

    def _read(self, tokens: TokenSet, names: Sequence[str], gold: int, own: int) -> list[Read]:
        wanted = {GOLD_DOMAIN: gold} | {f"rollout:{name}": own for name in names}
        batches: list[Chats] = chats(tokens, chat_windows(tokens, wanted), TOKENS_AT_ONCE, LONGEST)
        return read_chats(self.reading, self.coder, batches)

    def counts(self) -> dict[str, int]:
        """Judged chats by domain."""
        of = [self.tokens.domain[read.chats.document] for read in self.judged]
        names, n = np.unique(np.concatenate(of), return_counts=True) if of else ((), ())
        return {str(name): int(count) for name, count in zip(names, n, strict=True)}

    def add(self, rows: dict[str, Rows], before: str, after: str) -> MainSet | None:
        """The rows of one pair, both ways."""
        mover, n = swap(self.coder, before, after), self.coder.n_latents
        into_after, into_before = (Pair(self.reading, self.coder, mover, way) for way in (ON, OFF))
        found = candidates(into_after, self.coder, self.searched, self.scaling)
        main = main_set(into_after, found, self.searched, n)
        rng = np.random.default_rng(0)
        arms = [*baseline_arms(found, n), *order_arms(found, (NORM, ATTRIBUTION)), *control_arms(found, rng)]
        arms += dose_arms(found, main, rng) if main else ()
        for name, row in self.measured(into_after, arms):
            rows[name].append((before, after, after, *row))
        back = [*baseline_arms(found, n), *order_arms(found, (NORM,))]
        for name, row in self.measured(into_before, back):
            rows[name].append((before, after, before, *row))
        rows["latents"] += [(before, after, *row) for row in named(found, main)]
        return main

    def measured(self, pair: Pair, arms: Sequence[Arm]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """(table, row without its pair) of every arm and portion of the tokens; equal patches are run once."""
        patches = list(dict.fromkeys([Patch(), *(arm.patch for arm in arms)]))
        kl = pair.kl(self.judged, patches)
        self.check(pair, {arm.key[0]: kl[patches.index(arm.patch)] for arm in arms}, kl[0])
        document = np.concatenate([read.chats.of_token for read in self.judged])
        for tokens, of in self.portions(document).items():
            scores = recovered(kl[0], kl, document, of)
            n, documents = int(of.sum()), len(np.unique(document[of]))
            for arm in arms:
                at = patches.index(arm.patch)
                mean = float(kl[at][of].sum()) / n
                yield arm.table, (*arm.key, tokens, *scores[at], mean, n, documents)

    def portions(self, document: np.ndarray) -> dict[str, Bool[np.ndarray, "answer_token"]]:
        """Those that hold a token at all."""
        place = np.concatenate([read.chats.place for read in self.judged])
        gold = self.tokens.domain[document] == GOLD_DOMAIN
        found = {
            EVERY: np.ones(len(place), dtype=bool), FIRST: place < self.first, REST: place >= self.first,
            GOLD_CHATS: gold, OWN_SAMPLES: ~gold,
        }  # fmt: skip
        return {name: of for name, of in found.items() if of.any()}

    @staticmethod
    def check(pair: Pair, kl: Mapping[Any, np.ndarray], none: np.ndarray) -> None:
        """Both identities hold, or nothing here can be believed."""
        allowed = NEARLY * max(1.0, float(none.mean()))
        for name in (ITSELF, EXACT):
            if (left := float(np.abs(kl[name]).mean())) > allowed:
                raise Failure(
                    f"{pair.patched} given its own stream ({name}) is {left:.4f} nats a token from itself, "
                    f"expected at most {allowed:.4f}: this family of models cannot be patched "
                    f"at {pair.reading.site.name}; compare at another layer"
                )


def named(found: Candidates, main: MainSet | None) -> Iterator[tuple[Any, ...]]:
    """order, rank, latent, score, chosen: the foremost of each order, and all of the main set."""
    for name, order in found.orders.items():
        size = main.size if main and main.order == name else 0
        for rank, latent in enumerate(order[: max(SHOWN, size)]):
            yield name, rank, latent, float(found.scores[name][latent]), rank < size
