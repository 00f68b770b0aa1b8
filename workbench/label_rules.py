"""Rules that a label stands for: each says of every token whether the latent should fire there.

    token   the token is one of a few             previous   the one before is one of a few
    pair    the token and the one before are one of a few pairs
    next    the token after is one of a few that the latent's decoder promotes ("says …")
    factor  a factor of the world is on           domain     the text is of a domain
    start   the token is the first of its window

A rule sees tokens and labels, never the model. Every kind of rule is judged by F1 against "fires at all",

    F1 = 2·TP / (N_rule + N_fires)

and of sets of tokens the best is a prefix of the tokens ordered by how often the latent fires on them.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from saes.index import FeatureIndex
from workbench.tokens import TokenSet

KINDS = ("start", "token", "previous", "domain", "factor", "next", "pair")  # the plainer goes first
MAX_ITEMS = 6  # tokens or pairs in a rule: more is a list and no label
MIN_HITS, MIN_SHARE = 3, 0.02  # firing tokens behind each of them, and their share of all the latent fires on
NOBODY = -1


@dataclasses.dataclass(frozen=True)
class Rule:
    """`items` are token ids, pairs (previous · vocabulary + token), a factor's or a domain's number; `f1` is on
    the documents that chose it."""

    kind: str
    items: tuple[int, ...]
    f1: float

    def words(self, token_set: TokenSet, domains: list[str]) -> str:
        """The label as a person reads it; tokens as `workbench.vocabulary` shows them."""
        shown = token_set.vocabulary
        if self.kind == "start":
            return "first token of a text"
        if self.kind == "factor":
            return token_set.factor_names[self.items[0]]
        if self.kind == "domain":
            return f"in {domains[self.items[0]]}"
        if self.kind == "pair":
            size = len(shown)
            return ", ".join(f"{shown[i // size]}{shown[i % size]}" for i in self.items)
        before = {"token": "", "previous": "after ", "next": "says "}[self.kind]
        return before + ", ".join(shown[i] for i in self.items)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What rules read of every token of a set."""

    token_set: TokenSet

    @cached_property
    def domains(self) -> list[str]:
        return sorted({str(d) for d in self.token_set.domain})

    @cached_property
    def token(self) -> Int[np.ndarray, " token"]:
        return np.asarray(self.token_set.tokens, dtype=np.int64)

    @cached_property
    def starts(self) -> Bool[np.ndarray, " token"]:
        return np.asarray(self.token_set.position) == 1

    @cached_property
    def previous(self) -> Int[np.ndarray, " token"]:
        """The token before in the same window; `NOBODY` at its start."""
        before = np.concatenate([[NOBODY], self.token[:-1]])
        return np.where(self.starts, NOBODY, before)

    @cached_property
    def next(self) -> Int[np.ndarray, " token"]:
        after = np.concatenate([self.token[1:], [NOBODY]])
        return np.where(np.append(self.starts[1:], True), NOBODY, after)

    @cached_property
    def pair(self) -> Int[np.ndarray, " token"]:
        pairs = self.previous * len(self.token_set.vocabulary) + self.token
        return np.where(self.previous == NOBODY, NOBODY, pairs)

    @cached_property
    def domain(self) -> Int[np.ndarray, " token"]:
        place = {name: i for i, name in enumerate(self.domains)}
        of_document = np.array([place[str(d)] for d in self.token_set.domain])
        return of_document[np.asarray(self.token_set.document)]

    @cached_property
    def factor_bits(self) -> np.ndarray:
        """uint8 [token, factors / 8]: a bit a factor, so that any factor of any token is one look-up."""
        n = max(len(self.token_set.factor_names), 1)
        bits = np.zeros((len(self.token_set), -(-n // 8)), np.uint8)
        token, factor = (self.token_set.factors[c].to_numpy().astype(np.int64) for c in ("token", "factor"))
        np.bitwise_or.at(bits, (token, factor >> 3), (1 << (factor & 7)).astype(np.uint8))
        return bits

    def column(self, kind: str) -> Int[np.ndarray, " token"]:
        return getattr(self, kind)


def holds(
    facts: Facts, kinds: np.ndarray, items: np.ndarray, which: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """bool [query]: whether rule `which[i]` holds on token `rows[i]`.

    `kinds` int [rule] (places in `KINDS`), `items` int [rule, MAX_ITEMS] filled up with -2.
    """
    out = np.zeros(len(rows), bool)
    kind_of = kinds[which]
    for number, kind in enumerate(KINDS):
        here = np.flatnonzero(kind_of == number)
        if not len(here):
            continue
        at, rule = rows[here], which[here]
        if kind == "start":
            out[here] = facts.starts[at]
        elif kind == "factor":
            factor = items[rule, 0]
            out[here] = (facts.factor_bits[at, factor >> 3] >> (factor & 7)) & 1
        else:
            value = facts.column(kind)[at]
            told = np.zeros(len(here), bool)
            used = int((items[kinds == number] >= 0).sum(axis=1).max())
            for place in range(used):
                told |= value == items[rule, place]
            out[here] = told
    return out


def rule_sizes(facts: Facts, kinds: np.ndarray, items: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """int [rule]: tokens of `inside` on which each rule holds."""
    out = np.zeros(len(kinds), np.int64)
    for number, kind in enumerate(KINDS):
        here = np.flatnonzero(kinds == number)
        if not len(here):
            continue
        if kind == "start":
            out[here] = facts.starts[inside].sum()
            continue
        if kind == "factor":
            pairs = facts.token_set.factors
            factor = pairs["factor"].to_numpy()[inside[pairs["token"].to_numpy()]]
            out[here] = np.bincount(factor, minlength=len(facts.token_set.factor_names))[items[here, 0]]
            continue
        found, counts = np.unique(facts.column(kind)[inside], return_counts=True)
        place = np.searchsorted(found, items[here]).clip(max=len(found) - 1)
        out[here] = np.where(found[place] == items[here], counts[place], 0).sum(axis=1)
    return out


def best_set(
    values: np.ndarray, found: np.ndarray, totals: np.ndarray, n_fires: int
) -> tuple[tuple[int, ...], float]:
    """Of `values` (a latent's tokens) the few that make the best rule, and its F1.

    `found` are the values that occur at all, `totals` how often.
    """
    mine, hits = np.unique(values[values != NOBODY], return_counts=True)
    enough = hits >= max(MIN_HITS, MIN_SHARE * n_fires)
    mine, hits = mine[enough], hits[enough]
    if not len(mine):
        return (), 0.0
    total = totals[np.searchsorted(found, mine)]
    order = np.argsort(-(hits / total), kind="stable")
    prefix = 2 * np.cumsum(hits[order]) / (np.cumsum(total[order]) + n_fires)
    kept = order[: int(prefix.argmax()) + 1]
    kept = kept[np.argsort(-hits[kept], kind="stable")][:MAX_ITEMS]
    f1 = 2 * hits[kept].sum() / (total[kept].sum() + n_fires)
    return tuple(mine[kept].tolist()), float(f1)


class Candidates:
    """The best rule of each kind for any latent, on the tokens `inside`."""

    def __init__(self, index: FeatureIndex, facts: Facts, inside: Bool[np.ndarray, " token"]) -> None:
        self._index, self._facts, self._inside = index, facts, inside
        self._known = {
            kind: np.unique(facts.column(kind)[inside], return_counts=True)
            for kind in ("token", "previous", "pair", "domain", "next")
        }
        pairs = facts.token_set.factors
        factor = pairs["factor"].to_numpy()[inside[pairs["token"].to_numpy()]]
        self._factor_totals = np.bincount(factor, minlength=len(facts.token_set.factor_names))
        self._n_starts = int(facts.starts[inside].sum())

    def of(self, latent: int, promoted: np.ndarray) -> list[Rule]:
        """One rule of each kind that there is evidence for; `promoted` ids may stand in a `next` rule."""
        rows = self._index.entries(latent).tokens
        rows = rows[self._inside[rows]]
        if not len(rows):
            return []
        facts, n = self._facts, len(rows)
        at_start = int(facts.starts[rows].sum())
        rules = [Rule("start", (), 2 * at_start / (self._n_starts + n))]
        for kind in ("token", "previous", "next", "pair"):
            values = facts.column(kind)[rows]
            if kind == "next":
                values = values[np.isin(values, promoted)]
            items, f1 = best_set(values, *self._known[kind], n)
            rules.append(Rule(kind, items, f1))
        rules.append(self._most("domain", facts.domain[rows], n))
        if len(self._factor_totals):
            bits = np.unpackbits(facts.factor_bits[rows], axis=1, bitorder="little").sum(axis=0, dtype=np.int64)
            f1 = 2 * bits[: len(self._factor_totals)] / np.maximum(self._factor_totals + n, 1)
            best = int(f1.argmax())
            rules.append(Rule("factor", (best,), float(f1[best])))
        return [rule for rule in rules if rule.f1 > 0]

    def _most(self, kind: str, values: np.ndarray, n: int) -> Rule:
        found, totals = self._known[kind]
        hits = np.bincount(np.searchsorted(found, values), minlength=len(found))
        f1 = 2 * hits / (totals + n)
        best = int(f1.argmax())
        return Rule(kind, (int(found[best]),), float(f1[best]))
