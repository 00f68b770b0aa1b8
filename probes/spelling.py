"""Which letters of a token are linearly readable, from its embedding on?

Every token of the vocabulary that is written with letters alone, two or more, is read by itself behind BOS; the
stream at it is probed at every layer. Words that differ in case or in a blank before them are one word type, and no
type is in two sets of cases. For each letter, does the token contain it (logistic regression, AUROC), and with
which letter does it begin (balanced accuracy over the letters that begin enough words)?

    selectivity   AUROC − AUROC of as many word types drawn at random [Hewitt and Liang 2019]

C and the layer are chosen on word types apart (one layer for all letters, by mean AUROC). Null: word types of the
scoring set are given each other's letters, by types of the same length, so that length alone, which foretells every
letter, gains nothing. With `shuffle` above 0 all types are given each other's letters before anything.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from probes.kit.classifiers import (
    Classifier,
    Split,
    auroc_samples,
    balanced,
    balanced_interval,
    ends,
    fit,
    split,
)
from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Plot, beyond
from probes.kit.nulls import against, beside, enough, shuffled
from probes.kit.plots import bars, cells, heat, lines
from probes.kit.readings import opened, row_names
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.word_types import Words, random_labels, same_length, vocabulary_words
from probes.kit.written_texts import streams_at
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.linear_probes import auroc
from workbench.token_sets import leading_id

DEALT = "letters of another word as long"
TESTS = 2  # of a checkpoint
LEAST = 25  # tokens with a letter, and without, in the scoring set; a fifth of that to choose on


class Told(NamedTuple):
    """A checkpoint's probes at each layer: AUROC by letter on the scoring set, and the layer chosen."""

    auroc: Float[np.ndarray, "letter layer"]
    chosen: int
    odds: Float[np.ndarray, "letter case"]  # at the chosen layer
    control: Float[np.ndarray, "letter case"]  # odds of the control task's probe
    control_on: Bool[np.ndarray, "letter case"]
    ends: list[tuple[float, float]]  # of the mean AUROC, by layer


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], seed: int = 0, n_letters: int = 10, most: int = 1_000,
    draws: int = 499, shuffle: int = 0,
) -> Finding:  # fmt: skip
    at_least(1, n_letters=n_letters)
    at_least(50, most=most)
    at_least(19, draws=draws)
    draws = enough(draws, TESTS * len(checkpoints))
    at_least(0, seed=seed, shuffle=shuffle)
    figures, rows, drawn = list[Figure](), list[dict[str, Any]](), list[Any]()
    for checkpoint in checkpoints:
        words = vocabulary_words(checkpoint, most, seed)
        if shuffle:
            of = shuffled(np.arange(len(words.ids)), words.type_, shuffle)
            words = words._replace(spelled=words.spelled[of])
        parts = split(words.type_, seed)
        letters = _letters(words, parts, n_letters)
        if not letters:
            raise LackingError(
                f"{checkpoint.address} has {len(np.unique(words.type_))} words among its tokens, too few that "
                "share a letter to fit a probe on: ask a checkpoint with a larger vocabulary (tokenizer.vocab_size)"
            )
        x = _alone(checkpoint, tuple(words.ids.tolist()))
        told = tell(x, words, parts, letters, seed)
        found = _contains(checkpoint, words, parts, letters, told, draws, seed, shuffle)
        figures += found + _first(checkpoint, x[told.chosen], words, parts, draws, seed, shuffle)
        table = _rows(checkpoint, words, parts, letters, told)
        rows += table
        drawn.append((checkpoint, letters, told, table))
    changes = (
        "Words of several tokens, or tokens in a text; a vocabulary of other words, since letters that go together "
        "with endings (-ing, -ed) are told with them; more word types to fit on."
    )
    plots = _pictures(drawn, float(np.mean([f.null.value for f in figures if f.name.startswith("contains")])))
    return Finding(_claim(figures), figures, f"{DEALT}; random word types", changes, plots, rows)


def _pictures(
    drawn: Sequence[tuple[Checkpoint, list[str], Told, list[dict[str, Any]]]], chance: float
) -> list[Plot]:
    """The mean by layer, each letter at the chosen layer, and a map of all letters for each checkpoint."""
    curves, each_letter, maps = list[dict[str, Any]](), list[dict[str, Any]](), list[Plot]()
    for checkpoint, letters, told, table in drawn:
        of, layers = checkpoint.address, row_names(checkpoint)
        alt = f"AUROC of a probe for each letter at each layer of {of}"
        maps.append(
            heat(f"Letters readable in {of}", cells(letters, layers, told.auroc), alt, "AUROC", centre=0.5)
        )
        curves += [
            {"series": of, "x": layer, "y": float(told.auroc[:, at].mean()), "low": low, "high": high}
            for at, (layer, (low, high)) in enumerate(zip(layers, told.ends, strict=True))
        ]
        each_letter += [
            {"row": r["letter"], "series": of, "x": r["AUROC"], "low": r["low"], "high": r["high"]}
            for r in table
        ]
    alt = "AUROC with intervals over word types; dashed: letters of words as long, mean over letters"
    return [
        lines(
            "Contains a letter, mean",
            "layer",
            "AUROC",
            curves,
            f"Mean over letters by layer, {alt}",
            null=chance,
        ),
        bars("Contains a letter", "AUROC", each_letter, f"By letter, {alt}", null=chance),
        *maps,
    ]


@functools.lru_cache(maxsize=8)
def _alone(checkpoint: Checkpoint, ids: tuple[int, ...]) -> Float[np.ndarray, "layer token d"]:
    bos = leading_id(opened(checkpoint).tokenizer)
    rows = [[bos, i] for i in ids]
    return streams_at(checkpoint, rows, np.ones((len(rows), 1), np.int64))[:, :, 0]


def _has(words: Words, letter: str) -> Bool[np.ndarray, " token"]:
    return np.array([letter in word for word in words.spelled])


def _letters(words: Words, parts: Split, most: int) -> list[str]:
    """Letters that enough tokens of each set have and lack, the most even first."""
    able = {}
    for letter in string.ascii_lowercase:
        on = _has(words, letter)
        scored, chosen = (int(min(on[p].sum(), (~on[p]).sum())) for p in (parts.score, parts.choose))
        if scored >= LEAST and chosen >= LEAST // 5 and 0 < on[parts.fit].sum() < len(parts.fit):
            able[letter] = scored
    return sorted(sorted(able, key=lambda letter: -able[letter])[:most])


def tell(
    x: Float[np.ndarray, "layer token d"], words: Words, parts: Split, letters: list[str], seed: int
) -> Told:
    """Probes for each letter at each layer, and for random word types at the chosen one."""
    probes = [[fit(layer, _has(words, letter), parts) for layer in x] for letter in letters]
    on = np.array([_has(words, letter) for letter in letters])

    def by_layer(part: np.ndarray) -> np.ndarray:
        return np.array(
            [
                [auroc(p.odds(x[at, part]), on[i, part]) for at, p in enumerate(row)]
                for i, row in enumerate(probes)
            ]
        )

    chosen = int(by_layer(parts.choose).mean(axis=0).argmax())
    odds = np.array([row[chosen].odds(x[chosen, parts.score]) for row in probes])
    random_types, told = [], []
    for i in range(len(letters)):
        random_types.append(random_labels(words.type_, on[i], seed + i))
        probe = fit(x[chosen], random_types[-1], parts) if _both(random_types[-1], parts) else None
        told.append(_odds(probe, x[chosen, parts.score]))
    control_on = np.array(random_types)[:, parts.score]
    means = [
        np.mean([auroc_samples(row[at].odds(layer[parts.score]), on[i, parts.score], words.type_[parts.score], seed)
                 for i, row in enumerate(probes)], axis=0)
        for at, layer in enumerate(x)
    ]  # fmt: skip
    return Told(by_layer(parts.score), chosen, odds, np.array(told), control_on, [ends(each) for each in means])


def _odds(probe: Classifier | None, x: np.ndarray) -> np.ndarray:
    return probe.odds(x) if probe else np.zeros(len(x))


def _both(on: np.ndarray, parts: Split) -> bool:
    return all(on[part].any() and not on[part].all() for part in parts)


def _contains(
    checkpoint: Checkpoint,
    words: Words,
    parts: Split,
    letters: list[str],
    told: Told,
    draws: int,
    seed: int,
    shuffle: int,
) -> list[Figure]:
    from scipy.stats import rankdata

    rows, first = parts.score, seed + shuffle * draws  # other draws for every shuffle
    on = np.array([_has(words, letter)[rows] for letter in letters])
    ranks = rankdata(told.odds, axis=1)

    def mean_auroc(labels: np.ndarray) -> float:
        n_on = labels.sum(axis=1)
        above = (ranks * labels).sum(axis=1) - n_on * (n_on + 1) / 2
        return float((above / (n_on * (len(rows) - n_on))).mean())

    value = mean_auroc(on)
    null = against(value, [mean_auroc(on[:, same_length(words, rows, first + d)]) for d in range(draws)], DEALT)
    types = words.type_[rows]
    samples = np.array([auroc_samples(o, labels, types, seed) for o, labels in zip(told.odds, on, strict=True)])
    control = np.array(
        [auroc_samples(o, labels, types, seed) for o, labels in zip(told.control, told.control_on, strict=True)]
    )
    by_heart = [auroc(o, labels) for o, labels in zip(told.control, told.control_on, strict=True)]
    where = f"{len(letters)} letters, {row_names(checkpoint)[told.chosen]}"
    place: dict[str, Any] = {"n": len(np.unique(types)), "of": "word types", "checkpoint": checkpoint.address}
    selective = beside(against(0.0, np.array(by_heart) - np.mean(by_heart), "one control task against others"))
    return [
        Figure("contains, AUROC", value, *ends(samples.mean(axis=0)), null=null, where=where, **place),
        Figure("selectivity", value - float(np.mean(by_heart)), *ends((samples - control).mean(axis=0)),
               null=selective, where=where, **place),
    ]  # fmt: skip


def _first(
    checkpoint: Checkpoint, x: np.ndarray, words: Words, parts: Split, draws: int, seed: int, shuffle: int
) -> list[Figure]:
    """The first letter among those that begin enough words, at the layer chosen for what is contained."""
    first, start = np.array([word[0] for word in words.spelled]), seed + shuffle * draws
    able = [
        letter
        for letter in string.ascii_lowercase
        if all((first[part] == letter).sum() >= least for part, least in zip(parts, (8, 3, 8), strict=True))
    ]
    if len(able) < 2:
        return []
    inside = np.isin(first, able)
    kept = Split(*(part[inside[part]] for part in parts))
    told = fit(x, first, kept).told(x[kept.score])
    truth, types = first[kept.score], words.type_[kept.score]
    value = balanced(truth, told)
    dealt = [balanced(truth[same_length(words, kept.score, start + d)], told) for d in range(draws)]
    return [
        Figure("first letter, balanced accuracy", value, *balanced_interval(truth, told, types, seed),
               n=len(np.unique(types)), of="word types", null=against(value, dealt, DEALT),
               checkpoint=checkpoint.address, where=f"of {len(able)}"),
    ]  # fmt: skip


def _rows(
    checkpoint: Checkpoint, words: Words, parts: Split, letters: list[str], told: Told
) -> list[dict[str, Any]]:
    rows = []
    for i, letter in enumerate(letters):
        on = _has(words, letter)[parts.score]
        low, high = ends(auroc_samples(told.odds[i], on, words.type_[parts.score]))
        by_heart = auroc(told.control[i], told.control_on[i])
        rows.append(
            {
                "checkpoint": checkpoint.address,
                "letter": letter,
                "AUROC": round(float(told.auroc[i, told.chosen]), 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "embedding": round(float(told.auroc[i, 0]), 3),
                "selectivity": round(float(told.auroc[i, told.chosen] - by_heart), 3),
                "tokens with it": int(on.sum()),
            }
        )
    return rows


def _claim(figures: list[Figure]) -> str:
    found = beyond(figures)
    inside, first = (
        ", ".join(
            f"{f.checkpoint} {f.value:.2f} ({f.null.value:.2f} by chance)"
            for f in found
            if f.name.startswith(n)
        )
        for n in ("contains", "first")
    )
    if not inside and not first:
        return "No letter of a token is shown to be readable beyond what words of the same length give."
    told = [f"whether it contains a letter (mean AUROC {inside})"] if inside else []
    told += [f"its first letter (balanced accuracy {first})"] if first else []
    return f"Of a token by itself a linear probe reads {' and '.join(told)}, of word types never fitted on."


if __name__ == "__main__":
    main(__file__)
