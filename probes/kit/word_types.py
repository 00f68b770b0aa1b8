"""Words among a vocabulary's tokens, by type: those that differ in case or in a blank before them are one type."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from probes.kit.readings import opened
from probes.kit.running import LackingError
from workbench.checkpoint import Checkpoint


class Words(NamedTuple):
    """Tokens written with letters alone; `spelled` is what they are held to be spelled, lower case."""

    ids: Int[np.ndarray, " token"]
    type_: Int[np.ndarray, " token"]
    spelled: np.ndarray


@functools.lru_cache(maxsize=8)
def vocabulary_words(checkpoint: Checkpoint, most: int, seed: int) -> Words:
    """At most `most` of the vocabulary's words, drawn at random, whole types."""
    tokenizer = opened(checkpoint).tokenizer
    size = min(len(tokenizer), checkpoint.shape.vocab_size)
    special = set(tokenizer.all_special_ids)
    found = [(i, str(tokenizer.decode([i])).strip()) for i in range(size) if i not in special]
    kept = [(i, w.lower()) for i, w in found if len(w) > 1 and w.isascii() and w.isalpha()]
    if not kept:
        raise LackingError(f"{checkpoint.address} has no token that is written with two letters or more")
    ids, spelled = (np.array(each) for each in zip(*kept, strict=True))
    _, type_ = np.unique(spelled, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(type_.max()) + 1)
    rows = np.flatnonzero(order[type_] < most)
    return Words(ids[rows], type_[rows], spelled[rows])


def random_labels(type_: np.ndarray, on: np.ndarray, seed: int) -> Bool[np.ndarray, " token"]:
    """The control task: word types at random, as many as have the letter."""
    _, of = np.unique(type_, return_inverse=True)
    share = np.bincount(of, on) / np.bincount(of)
    return (np.random.default_rng(seed).permutation(share) > 0.5)[of]


def same_length(words: Words, rows: Int[np.ndarray, " case"], seed: int) -> Int[np.ndarray, " case"]:
    """For each case the case whose letters it is given: of a word type drawn among those with tokens as long, each
    once, now and then its own."""
    rng = np.random.default_rng(seed)
    types, first, of = np.unique(words.type_[rows], return_index=True, return_inverse=True)
    lengths = np.array([len(word) for word in words.spelled[rows[first]]])
    giver = np.arange(len(types))
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        giver[same] = rng.permutation(same)
    return first[giver][of]
