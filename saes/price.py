"""What latents cost where a price and not a choice keeps them few: it rises from nothing over the first part of a
run, then follows L0 towards k.
"""

from __future__ import annotations

import math

RAMP = 0.2  # share of the run in which the price rises: a full one at once kills latents
STEERING = 4.0  # afterwards, its logarithm moves by this times log(L0 / k) over a whole run


def ramp(step: int, n_steps: int) -> float:
    """The share of the price that is due at a step."""
    return min(1.0, step / (RAMP * n_steps))


def steers(step: int, n_steps: int) -> bool:
    """Whether the price follows L0 yet; to know L0 waits for the device."""
    return step > RAMP * n_steps


def steered(price: float, l0: float, k: int, n_steps: int) -> float:
    """The price after a step that had this L0."""
    off = math.log(max(l0, 1e-3) / k)
    return price * math.exp(STEERING / n_steps * max(-2.0, min(2.0, off)))
