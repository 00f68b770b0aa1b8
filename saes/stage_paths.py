"""Stage-wise model diffing: an SAE fine-tuned from a parent to its child along two paths [Bricken et al. 2024].

    S = an SAE of the parent on the parent's own text
    data first     S → D (parent, all text)         → F_D (child, all text)
    model first    S → M (child, the parent's text) → F_M (child, all text)

Latents keep their number along a path, so cos(d_before, d_after) says how far a step turned each. A latent that
turns in the model step of both paths (S → M and D → F_D) was turned by what the child became; one that turns in
the data steps alone (S → D and M → F_M), by the new text. Null: S trained on as it was (parent, the parent's
text), S → N → NN, as many steps each. An SAE that is not at rest turns further in a first step than in a second
one, so each step has the bound of its place: the cosine under which `QUANTILE` of the latents come in S → N, or
in N → NN. The share that is under both bounds in the null is the rate at which chance calls a latent turned.
With a sham of the child (the parent trained on) in the child's place, S → X and D → F_X tell what going on
would have turned. A latent that fires on no text of S had no direction to be turned from: whatever is new may
take it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from saes.dictionary import Dictionary
from saes.stability import directions

PARENT, CHILD, SHAM = "parent", "child", "sham"  # whose activations
OWN, ALL = "own", "all"  # the parent's own text, or all
QUANTILE = 0.05
LARGEST = 0.99  # bound where nothing turns by chance: smaller turns are called none
MODEL, DATA, BOTH, NEITHER = TURNED_BY = ("model", "data", "both", "neither")


class Leg(NamedTuple):
    """One training: what it goes on from (None: random weights), on whose activations of which text."""

    start: str | None
    model: str
    text: str


LEGS: Mapping[str, Leg] = {
    "S": Leg(None, PARENT, OWN),
    "D": Leg("S", PARENT, ALL),
    "F_D": Leg("D", CHILD, ALL),
    "M": Leg("S", CHILD, OWN),
    "F_M": Leg("M", CHILD, ALL),
    "N": Leg("S", PARENT, OWN),
    "NN": Leg("N", PARENT, OWN),
}
SHAM_LEGS: Mapping[str, Leg] = {"X": Leg("S", SHAM, OWN), "F_X": Leg("D", SHAM, ALL)}
STEPS: Mapping[str, tuple[str, str]] = {
    "data first, data step": ("S", "D"),
    "data first, model step": ("D", "F_D"),
    "model first, model step": ("S", "M"),
    "model first, data step": ("M", "F_M"),
    "data first": ("S", "F_D"),
    "model first": ("S", "F_M"),
    "null, first": ("S", "N"),
    "null, second": ("N", "NN"),
}
SHAM_STEPS: Mapping[str, tuple[str, str]] = {"sham, from S": ("S", "X"), "sham, from D": ("D", "F_X")}
MODEL_STEPS = ("data first, model step", "model first, model step")
DATA_STEPS = ("data first, data step", "model first, data step")
NULL_STEPS = ("null, first", "null, second")
SHAM_PAIR = tuple(SHAM_STEPS)


def walked(
    fit: Callable[[str, Leg, Dictionary | None], Dictionary], sham: bool = False
) -> dict[str, Dictionary]:
    """Every leg trained by `fit(name, leg, start)`, each after what it starts from."""
    found: dict[str, Dictionary] = {}
    for name, leg in {**LEGS, **(SHAM_LEGS if sham else {})}.items():
        found[name] = fit(name, leg, None if leg.start is None else found[leg.start])
    return found


class Bounds(NamedTuple):
    """The cosine of a turn, in a step from S and in one that follows another."""

    first: float
    second: float

    def of(self, step: str) -> float:
        """The one of a step's place."""
        return self.first if {**STEPS, **SHAM_STEPS}[step][0] == "S" else self.second


@dataclass(frozen=True)
class Turns:
    """Cosine of every latent's decoder before and after each step, and the bounds that chance gives."""

    cosine: Mapping[str, Float[np.ndarray, "latent"]]
    bounds: Bounds

    @classmethod
    def of(cls, walked: Mapping[str, Dictionary], alive: Bool[np.ndarray, "latent"]) -> Turns:
        """The bounds are taken over the latents that are `alive`."""
        steps = {**STEPS, **(SHAM_STEPS if set(SHAM_LEGS) <= set(walked) else {})}
        unit = {name: directions(dictionary).double().numpy() for name, dictionary in walked.items()}
        cosine = {step: np.einsum("jd,jd->j", unit[a], unit[b]) for step, (a, b) in steps.items()}
        if not alive.any():
            return cls(cosine, Bounds(-1.0, -1.0))
        return cls(
            cosine,
            Bounds(*(min(LARGEST, float(np.quantile(cosine[step][alive], QUANTILE))) for step in NULL_STEPS)),
        )

    def beyond(self, steps: Sequence[str]) -> Float[np.ndarray, "latent"]:
        """The larger of the cosines less their bounds: below zero where every one of `steps` turned it."""
        return np.max([self.cosine[step] - self.bounds.of(step) for step in steps], axis=0)

    def turned(self, steps: Sequence[str]) -> Bool[np.ndarray, "latent"]:
        """Under the bound in every one of `steps`."""
        return self.beyond(steps) < 0

    def turned_by(self) -> np.ndarray:
        """For each latent one of `TURNED_BY`."""
        model, data = self.turned(MODEL_STEPS), self.turned(DATA_STEPS)
        return np.select([model & data, model, data], [BOTH, MODEL, DATA], NEITHER)
