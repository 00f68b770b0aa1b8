"""What is said of latents' lives beside the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pages.components import words

METHOD = (
    "The crosscoder says which latents fire on a sample of held-out tokens. At every snapshot, one ridge "
    "regression on all these patterns together asks which direction of its stream carries each, in units of the "
    "stream's own standard deviation. A latent is there where at least half of its final strength lies along its "
    "own decoder and 95 % of shuffled patterns have less; it was born at the first snapshot from which it stayed. "
    "What came and went before the comparison's first checkpoint was finished has no latent and is not seen."
)
CURVES = {"loss": "loss", "reward": "reward", "kl": "KL to parent"}
ARRIVALS = {
    "start": "there from the first",
    "new": "its direction was new",
    "turned": "it turned there from another direction",
    "unclear": "its direction came; whether it had another before is lost in noise",
}
DEPARTURES = {"gone": "went", "turned": "turned away", "unclear": "left its direction"}


def facts(birth: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Birth, death and turn of one latent, as a row of figures."""
    if birth is None:
        return []
    return [
        ("born", _when(birth, "born")),
        ("95 % between steps", _between(birth["born_low"], birth["born_high"], "{:,}")),
        ("same stage in resamples", words.share(birth["sure"])),
        ("died", _when(birth, "died")),
        ("turned since the first stage", _degrees(birth["turn"])),
        ("95 %", _between(birth["turn_low"], birth["turn_high"], "{:.0f}°")),
        ("no turn would read", _degrees(birth["turn_floor"])),
        ("sampled tokens", f"{birth['n']:,}"),
    ]


def told(birth: Mapping[str, Any] | None) -> str:
    """One sentence of a latent's life."""
    if birth is None:
        return (
            "It fires on too few sampled tokens for a claim of its birth: read its curves and their intervals."
        )
    if birth["arrival"] is None:
        return "Even in its own checkpoint it is not above shuffled patterns: nothing is claimed of its birth."
    left = f"; in {birth['died_stage']} it {DEPARTURES[birth['departure']]}" if birth["departure"] else ""
    return (
        f"In {birth['born_stage']} {ARRIVALS[birth['arrival']]}{left}. Its own decoder is that of {birth['own']}. "
        "Dashed: half of its final strength. Steps of births count on from stage to stage."
    )


def _when(birth: Mapping[str, Any], event: str) -> str:
    if birth[event] is None:
        return "–"
    return f"{birth[f'{event}_stage']}, step {birth[f'{event}_step']:,}"


def _between(low: float | None, high: float | None, form: str) -> str:
    if low is None or high is None:
        return "–"
    return f"{form.format(low)} to {form.format(high)}"


def _degrees(angle: float | None) -> str:
    return "–" if angle is None else f"{angle:.0f}°"
