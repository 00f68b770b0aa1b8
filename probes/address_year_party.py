"""Which layer tells the year and the party of an address?

Every State of the Union address as a few passages, each read by itself, the stream averaged over their tokens.
Ridge regression on that mean predicts the year of all addresses, and the party of those by Republicans and
Democrats; presidents are dealt to folds, so that no president's style is fitted on and predicted. Layer and α are
chosen for each fold among the other presidents (`probes.kit.linear_maps`).

    year     Spearman's rank correlation of predicted and true year
    party    AUROC of the predicted score, Republican against Democratic, after a cubic of the year is taken out of
             the stream: parties took turns, so that what tells the era tells the party of one's neighbours in time

Null: the presidents' parties, or first years, dealt to one another, and everything fitted and chosen anew. Row
"embedding" is a bag of tokens. Party is also told by logistic regression on one split (`probes.kit.classifiers`),
and by the year alone. With `shuffle` above 0 presidents are given each other's labels before anything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probes.kit.classifiers import auroc_samples, balanced, balanced_interval, ends, fit, split
from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Plot, beyond
from probes.kit.linear_maps import correlation, nested
from probes.kit.nulls import against, described, enough, shuffled
from probes.kit.plots import dots, lines, of_figures
from probes.kit.readings import row_names
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.written_texts import encoded, pooled
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.linear_probes import auroc

READS = ("corpus",)
PARTIES = ("Democratic", "Republican")
DEALT = "labels of other presidents"
TESTS = 2  # of a checkpoint
PASSAGE = 128  # tokens, about
LEAST_PRESIDENTS = 8  # of a party, or of all for the year


class Addresses(NamedTuple):
    """Texts of the corpus whose year and president are known; `party` is 1 for the second of `PARTIES`, 0 for the
    first, -1 for others."""

    texts: list[str]
    year: Float[np.ndarray, " address"]
    president: Int[np.ndarray, " address"]
    party: Int[np.ndarray, " address"]


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], seed: int = 0, passages: int = 2, draws: int = 199,
    shuffle: int = 0,
) -> Finding:  # fmt: skip
    at_least(1, passages=passages)
    at_least(19, draws=draws)
    draws = enough(draws, TESTS * len(checkpoints))
    at_least(0, seed=seed, shuffle=shuffle)
    known = _dealt(_addresses(lab), shuffle)
    partisan = np.flatnonzero(known.party >= 0)
    figures, rows, curves, points = list[Figure](), list[dict[str, Any]](), list[dict[str, Any]](), list[Any]()
    for checkpoint in checkpoints:
        x = read(checkpoint, passages, seed)
        told, found = _year(checkpoint, x, known, draws, seed, shuffle)
        figures.append(found)
        without_era = [without(each, known.year[partisan]) for each in x[:, partisan]]
        figures += _party(checkpoint, without_era, _of(known, partisan), draws, seed, shuffle)
        points += [
            {"series": checkpoint.address, "x": a, "y": b, "text": ""}
            for a, b in zip(known.year.tolist(), told.tolist(), strict=True)
        ]
        for at, layer in enumerate(row_names(checkpoint)):
            row = _by_layer(x[at], known, partisan, seed)
            place = {"x": layer, "series": checkpoint.address}
            for what, key in (("party", "party, AUROC"), ("year", "year, rank correlation")):
                low, high = row.pop(f"{what}, ends")
                curves.append(place | {"what": what, "y": row[key], "low": low, "high": high})
            rows.append({"checkpoint": checkpoint.address, "layer": layer} | row)
    changes = (
        "More presidents: there are few of each party, and parties changed their views over two centuries; other "
        "passages, such as those on money alone; most addresses were in the training text of base."
    )
    alt = "by layer with intervals over presidents, a line a checkpoint"
    plots: list[Plot] = [
        of_figures(
            "Year of an address", "rank correlation", figures_of(figures, "year"), "figures beside nulls"
        ),
        of_figures("Party of an address", "AUROC", figures_of(figures, "party"), "figures beside nulls"),
        lines("Year by layer", "layer", "rank correlation", _only(curves, "year"), alt, null=0.0),
        lines("Party by layer", "layer", "AUROC", _only(curves, "party"), alt, null=0.5),
        dots("Predicted year", "year", "predicted", points, "predicted against true year", diagonal=True),
    ]
    null = f"{DEALT}, everything fitted and chosen anew"
    return Finding(_claim(figures, rows), figures, null, changes, plots, rows)


def figures_of(figures: Sequence[Figure], name: str) -> list[Figure]:
    """Those of one unit."""
    return [f for f in figures if f.name.startswith(name)]


def _only(curves: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    return [row for row in curves if row["what"] == what]


def _of(known: Addresses, rows: np.ndarray) -> Addresses:
    texts = [known.texts[i] for i in rows]
    return Addresses(texts, known.year[rows], known.president[rows], known.party[rows])


@functools.lru_cache(maxsize=2)
def _addresses(lab: Lab) -> Addresses:
    import polars as pl

    from workbench.corpus import read_corpus

    rows = read_corpus(lab.find("corpus", "text")).documents
    rows = rows.filter(pl.col("year").is_not_null() & pl.col("president").is_not_null()).sort("year", "id")
    president = np.unique(rows["president"].to_numpy(), return_inverse=True)[1]
    party = np.array([PARTIES.index(p) if p in PARTIES else -1 for p in rows["party"]])
    enough = [len(np.unique(president[party == each])) for each in range(len(PARTIES))]
    if min(enough) < LEAST_PRESIDENTS:
        raise LackingError(
            f"the corpus has addresses by {enough[0]} {PARTIES[0]} and {enough[1]} {PARTIES[1]} presidents, fewer "
            f"than the {LEAST_PRESIDENTS} of each that a split by president needs: grow a lab with the corpus "
            "'sotu' (python -m workbench grow NAME --corpus sotu)"
        )
    year = rows["year"].to_numpy().astype(float)
    return Addresses(rows["text"].to_list(), year, president, party)


def _dealt(known: Addresses, shuffle: int) -> Addresses:
    """The addresses with the labels of other presidents, party among those of a party."""
    if not shuffle:
        return known
    party, partisan = known.party.copy(), np.flatnonzero(known.party >= 0)
    party[partisan] = shuffled(party[partisan], known.president[partisan], shuffle)
    return known._replace(year=dealt_years(known.year, known.president, shuffle), party=party)


def dealt_years(
    year: Float[np.ndarray, " address"], president: Int[np.ndarray, " address"], seed: int
) -> Float[np.ndarray, " address"]:
    """Every president begins in another's first year and goes on by as many years as before: dealing twice is
    dealing once, whatever the number of their addresses, so that the null is exact."""
    names, of = np.unique(president, return_inverse=True)
    first = np.array([year[president == name].min() for name in names])
    return shuffled(first, None, seed)[of] + year - first[of]


@functools.lru_cache(maxsize=8)
def read(checkpoint: Checkpoint, passages: int, seed: int) -> Float[np.ndarray, "layer text d"]:
    """The mean of the stream over `passages` of each address, cut at places drawn at random."""
    rng, texts = np.random.default_rng(seed), _addresses(checkpoint.lab).texts
    size = 3 * min(checkpoint.n_ctx, PASSAGE)  # characters: tokens of prose have about three or more
    cut = []
    for text in texts:
        for at in rng.integers(0, max(1, len(text) - size), passages):
            cut.append(text[at : at + size])
    means = pooled(checkpoint, [each.ids for each in encoded(checkpoint, cut, whole=False)])
    return means.reshape(len(means), len(texts), passages, -1).mean(axis=2)


def _year(
    checkpoint: Checkpoint, x: np.ndarray, known: Addresses, draws: int, seed: int, shuffle: int
) -> tuple[np.ndarray, Figure]:
    labels = _with_dealt(known.year, known.president, draws, seed + shuffle, dealt_years)
    found = nested(list(x), labels, known.president, seed=seed)
    worth = correlation(_ranks(found.told), _ranks(labels))
    null = against(float(worth[0]), worth[1:], DEALT)
    low, high = _rank_interval(found.told[:, 0], known.year, known.president, seed)
    n = len(np.unique(known.president))
    where = _layers(checkpoint, found.chosen[:, 0])
    figure = Figure("year, rank correlation", float(worth[0]), low, high, n, "presidents", null,
                    checkpoint.address, where)  # fmt: skip
    return found.told[:, 0], figure


def _party(
    checkpoint: Checkpoint, x: Sequence[np.ndarray], known: Addresses, draws: int, seed: int, shuffle: int
) -> list[Figure]:
    labels = _with_dealt(known.party.astype(float), known.president, draws, seed + shuffle, shuffled)
    found = nested(x, labels, known.president, seed=seed)
    worth = np.array([auroc(told, on > 0.5) for told, on in zip(found.told.T, labels.T, strict=True)])
    n, on = len(np.unique(known.president)), known.party > 0
    place: dict[str, Any] = {"n": n, "of": "presidents", "checkpoint": checkpoint.address}
    party = Figure(
        "party, AUROC", float(worth[0]), *ends(auroc_samples(found.told[:, 0], on, known.president, seed)),
        null=against(float(worth[0]), worth[1:], DEALT), where=_layers(checkpoint, found.chosen[:, 0]), **place,
    )  # fmt: skip
    alone = nested([cubic(known.year)[:, 1:]], labels, known.president, seed=seed).told
    by_year = np.array([auroc(told, on_ > 0.5) for told, on_ in zip(alone.T, labels.T, strict=True)])
    value = float(by_year[0])
    null = against(value, by_year[1:], DEALT)
    interval = ends(auroc_samples(alone[:, 0], on, known.president, seed))
    by_year_alone = Figure("party, AUROC", value, *interval, null=null, where="the year alone", **place)
    return [party, described(by_year_alone)]


def _with_dealt(
    labels: np.ndarray, president: np.ndarray, draws: int, seed: int, deal: Callable[..., np.ndarray]
) -> np.ndarray:
    """Columns: the labels, then `draws` times those of other presidents; other draws for every seed."""
    dealt = [deal(labels, president, 10_000 + seed * draws + draw) for draw in range(draws)]
    return np.stack([labels, *dealt], axis=1)


def _by_layer(x: np.ndarray, known: Addresses, partisan: np.ndarray, seed: int) -> dict[str, Any]:
    """What one layer tells by itself, α chosen within folds; of party also by logistic regression on one split."""
    year = nested([x], known.year[:, None], known.president, seed=seed).told[:, 0]
    own = _of(known, partisan)
    x = without(x[partisan], own.year)
    party = nested([x], own.party[:, None].astype(float), own.president, seed=seed).told[:, 0]
    row: dict[str, Any] = {
        "year, rank correlation": round(float(_spearman(year, known.year)), 3),
        "party, AUROC": round(float(auroc(party, own.party > 0)), 3),
        "year, ends": _rank_interval(year, known.year, known.president, seed),
        "party, ends": ends(auroc_samples(party, own.party > 0, own.president, seed)),
    }
    parts = split(own.president, seed)
    if all(len(np.unique(own.party[part])) == 2 for part in parts):
        told = fit(x, own.party, parts).told(x[parts.score])
        truth, groups = own.party[parts.score], own.president[parts.score]
        low, high = balanced_interval(truth, told, groups, seed)
        row["party, logistic accuracy"] = round(balanced(truth, told), 3)
        row |= {"low": round(low, 3), "high": round(high, 3), "presidents": len(np.unique(groups))}
    return row


def cubic(year: Float[np.ndarray, " address"]) -> Float[np.ndarray, "address 4"]:
    """1, t, t², t³ with t the year, centred and scaled."""
    t = (year - year.mean()) / max(year.std(), 1.0)
    return np.stack([t**power for power in range(4)], axis=1)


def without(
    x: Float[np.ndarray, "address d"], year: Float[np.ndarray, " address"]
) -> Float[np.ndarray, "address d"]:
    """What a cubic of the year leaves of the stream."""
    basis = np.linalg.qr(cubic(year))[0]
    return x - basis @ (basis.T @ x)


def _layers(checkpoint: Checkpoint, chosen: np.ndarray) -> str:
    """The layer that most folds chose."""
    return row_names(checkpoint)[int(np.bincount(chosen).argmax())]


def _ranks(columns: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(columns, axis=0)


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    return float(correlation(_ranks(one[:, None]), _ranks(other[:, None]))[0])


def _rank_interval(told: np.ndarray, year: np.ndarray, president: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval by bootstrap over presidents."""
    rng, names = np.random.default_rng(seed), np.unique(president)
    rows = {name: np.flatnonzero(president == name) for name in names}
    found = []
    for _ in range(200):
        drawn = np.concatenate([rows[name] for name in rng.choice(names, len(names))])
        found.append(_spearman(told[drawn], year[drawn]))
    return ends(np.array(found))


def _claim(figures: list[Figure], rows: list[dict[str, Any]]) -> str:
    found = beyond(figures)

    def of(name: str) -> str:
        told = [f"{f.checkpoint} {f.value:.2f} ({f.where})" for f in found if f.name.startswith(name)]
        return ", ".join(told)

    bag = ", ".join(f"{r['year, rank correlation']:.2f}" for r in rows if r["layer"] == "embedding")
    years, parties = of("year"), of("party")
    year = (
        f"The year of an address is told of presidents never fitted on, rank correlation {years}; {bag} "
        "from the embeddings of its tokens alone"
        if years
        else "The year of an address is not shown to be told beyond chance"
    )
    alone = [f for f in figures if f.where == "the year alone"]
    party = (
        f"the party is told with AUROC {parties} (the year alone {alone[0].value:.2f})"
        if parties
        else "the party is not shown to be told beyond what labels of other presidents give"
    )
    return f"{year}; {party}."


if __name__ == "__main__":
    main(__file__)
