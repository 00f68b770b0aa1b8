"""How often each first token came in many samples, against the probability it was drawn with.

The count is binomial, so that the share k / n comes with Wilson's interval: with 16 samples it is wide, and a token
of probability 0.02 is missing from 72 of 100 such draws.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from workbench.intervals import wilson
from workbench.sampling import Continuation
from workbench.vocabulary import TokenText


class FirstToken(NamedTuple):
    """`times` of `n` samples began with it; `probability` is that which it was drawn with."""

    token: TokenText
    times: int
    n: int
    low: float
    high: float
    probability: float

    @property
    def share(self) -> float:
        return self.times / self.n


def first_tokens(drawn: Sequence[Continuation]) -> list[FirstToken]:
    """The first tokens of samples, the commonest first."""
    counts = Counter(continuation.tokens[0] for continuation in drawn)
    with_p = {continuation.tokens[0]: math.exp(continuation.log_q[0]) for continuation in drawn}
    return [
        FirstToken(token, count, len(drawn), *wilson(count, len(drawn)), with_p[token])
        for token, count in counts.most_common()
    ]
