"""Tokens whose factors are known, dealt to three sets of documents, and a dozen factors of different kinds."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from probes.kit.classifiers import Split
from probes.kit.readings import held_out, labelled
from probes.kit.running import LackingError
from workbench.checkpoint import Checkpoint
from workbench.linear_probes import deal, frequent

MOST = 60  # frequent factors to choose from


class FactorCases(NamedTuple):
    """`rows` of the held-out set in the order fit, choose, score (`parts` are places in it); `on[f]` says where
    factor `names[f]` is on. Documents are the independent cases; no document is in two parts."""

    rows: Int[np.ndarray, " case"]
    parts: Split
    document: Int[np.ndarray, " case"]
    ids: Int[np.ndarray, " case"]
    names: tuple[str, ...]
    on: Bool[np.ndarray, "factor case"]


def factor_cases(
    checkpoint: Checkpoint, n_factors: int, sizes: tuple[int, int, int], seed: int = 0
) -> FactorCases:
    """Tokens of the family's held-out set, `sizes` of them to fit on, to choose on, to score on."""
    tokens = held_out(checkpoint)
    known = labelled(tokens)
    dealt = deal(known.factors.document, sizes, seed)
    able = frequent(known.factors, dealt, MOST)
    chosen = of_different_kinds([known.factors.names[f] for f in able], n_factors)
    if not chosen:
        raise LackingError(
            "no factor of the world is frequent enough in the held-out tokens to fit a probe: raise "
            "activations.heldout_tokens in the recipe and grow the lab again"
        )
    at = np.concatenate(dealt)
    cuts = np.cumsum([0, *(len(part) for part in dealt)])
    parts = Split(*(np.arange(*pair) for pair in itertools.pairwise(cuts.tolist())))
    on = np.array([known.factors.column(int(able[i]))[at] for i in chosen])
    names = tuple(known.factors.names[able[i]] for i in chosen)
    rows = known.rows[at]
    return FactorCases(rows, parts, known.factors.document[at], np.asarray(tokens.tokens)[rows], names, on)


def of_different_kinds(names: list[str], n: int) -> list[int]:
    """Places of `n` names, the most frequent of each kind (the path's first part) in turn; what lies under a kind
    goes before the kind itself.

    >>> of_different_kinds(["a", "a/x", "b/y", "a/z", "c"], 4)
    [1, 2, 4, 3]
    """
    by_kind: dict[str, list[int]] = {}
    for i in sorted(range(len(names)), key=lambda i: "/" not in names[i]):
        by_kind.setdefault(names[i].partition("/")[0], []).append(i)
    turns = sorted(
        (turn, order, i) for order, kind in enumerate(by_kind.values()) for turn, i in enumerate(kind)
    )
    return [i for _, _, i in turns[:n]]
