"""Removing documents that repeat others: exactly, or nearly (MinHash).

Exact: equal but for case and blanks. Near: Jaccard similarity |A ∩ B| / |A ∪ B| ≥ 0.8 of the sets of
word 5-grams, a punctuation mark being a word ("3 + 4" and "3 - 4" differ). Candidates come from
locality-sensitive hashing of 125 MinHash values in 25 bands of 5 [Broder 1997; `datasketch`], which finds
a pair at 0.8 with probability 1 − (1 − 0.8⁵)²⁵ = 0.99995, and every candidate is checked on the sets
themselves, so nothing below the threshold is ever removed. Of two that repeat each other the earlier
stays: a document goes if it repeats one that was kept. A text of fewer than 5 words is compared exactly
only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

THRESHOLD = 0.8
_WORDS = 5
_BANDS, _ROWS = 25, 5
_CHUNK = 50_000  # shingles hashed at once: 25 MB a chunk
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well mixed (2⁶⁴ / golden ratio)


class Kept(NamedTuple):
    """Which documents stay, in their order, and how many went for which reason."""

    indices: list[int]
    n_exact: int
    n_near: int


def deduplicate(texts: Sequence[str], near: bool = True) -> Kept:
    """Indices of the documents that repeat no earlier one; without `near` only exact repeats go.

    Leave `near` off for generated text: templates that differ in one word are near duplicates by design.
    """
    seen: set[bytes] = set()
    different = []
    for i, text in enumerate(texts):
        plain = " ".join(text.casefold().split())
        digest = hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            different.append(i)
    n_exact = len(texts) - len(different)
    if not near:
        return Kept(different, n_exact, 0)
    kept = list(_without_near(different, texts))
    return Kept(kept, n_exact, len(different) - len(kept))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|A ∩ B| / |A ∪ B| of two sets given as sorted arrays of different values."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _without_near(indices: Sequence[int], texts: Sequence[str]) -> Iterator[int]:
    """Those of `indices` that are no near duplicates of an earlier one that is kept."""
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
    empty = MinHash(num_perm=_BANDS * _ROWS, seed=1, hashfunc=int)
    numbers: dict[str, int] = {}
    kept: dict[int, np.ndarray] = {}
    for i in indices:
        words = re.findall(r"\w+|[^\w\s]", texts[i].casefold())
        if len(words) < _WORDS:
            yield i
            continue
        grams = shingles(words, numbers)
        signature = empty.copy()
        for start in range(0, len(grams), _CHUNK):
            signature.update_batch((grams[start : start + _CHUNK] >> np.uint64(32)).tolist())
        if any(jaccard(grams, kept[j]) >= THRESHOLD for j in sorted(lsh.query(signature))):
            continue
        lsh.insert(i, signature)
        kept[i] = grams
        yield i


def shingles(words: Sequence[str], numbers: dict[str, int]) -> np.ndarray:
    """The set of word 5-grams as 64-bit hashes: UInt64[gram], sorted, each once.

    `numbers` remembers a hash for each word met, from one document to the next.
    """
    for word in words:
        if word not in numbers:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            numbers[word] = int.from_bytes(digest, "little")
    hashes = np.fromiter((numbers[w] for w in words), dtype=np.uint64, count=len(words))
    n = len(words) - _WORDS + 1
    grams = np.zeros(n, dtype=np.uint64)
    for at in range(_WORDS):
        grams = (grams ^ hashes[at : at + n]) * _MULTIPLIER
        grams ^= grams >> np.uint64(29)
    return np.unique(grams)
