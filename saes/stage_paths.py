"""Stage-wise model diffing: an SAE fine-tuned from a parent to its child along two paths [Bricken et al. 2024].

    S = an SAE of the parent on the parent's own text
    data first     S → D (parent, all text)         → F_D (child, all text)
    model first    S → M (child, the parent's text) → F_M (child, all text)

Latents keep their number along a path, so cos(d_before, d_after) says how far a step turned each. A latent that
turns in the model step of both paths (D → F_D and S → M) was turned by what the child became; one that turns in
the data steps alone (S → D and M → F_M), by the new text. Null: S trained on as it was (parent, the parent's
text), S → N → NN, as many steps each; `bound` is the cosine under which `QUANTILE` of the latents come in one
of these. With a sham of the child (the parent trained on) in place of the child, the model steps S → X and D →
F_X tell what going on would have turned. A latent that fires in no text of S had no direction to be turned
from: whatever is new may take it.
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
QUANTILE = 0.01
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


def walked(
    fit: Callable[[str, Leg, Dictionary | None], Dictionary], sham: bool = False
) -> dict[str, Dictionary]:
    """Every leg trained by `fit(name, leg, start)`, each after what it starts from."""
    found: dict[str, Dictionary] = {}
    for name, leg in {**LEGS, **(SHAM_LEGS if sham else {})}.items():
        found[name] = fit(name, leg, None if leg.start is None else found[leg.start])
    return found


@dataclass(frozen=True)
class Turns:
    """Cosine of every latent's decoder before and after each step; `bound`: what chance turns."""

    cosine: Mapping[str, Float[np.ndarray, "latent"]]
    bound: float

    @classmethod
    def of(cls, walked: Mapping[str, Dictionary], alive: Bool[np.ndarray, "latent"]) -> Turns:
        """The bound is taken over the latents that are `alive`."""
        steps = {**STEPS, **(SHAM_STEPS if set(SHAM_LEGS) <= set(walked) else {})}
        unit = {name: directions(dictionary).double().numpy() for name, dictionary in walked.items()}
        cosine = {step: np.einsum("jd,jd->j", unit[a], unit[b]) for step, (a, b) in steps.items()}
        null = np.concatenate([cosine[step][alive] for step in NULL_STEPS])
        return cls(cosine, float(np.quantile(null, QUANTILE)) if len(null) else -1.0)

    def turned(self, steps: Sequence[str]) -> Bool[np.ndarray, "latent"]:
        """Under the bound in every one of `steps`."""
        return np.all([self.cosine[step] < self.bound for step in steps], axis=0)

    def turned_by(self) -> np.ndarray:
        """For each latent one of `TURNED_BY`."""
        model, data = self.turned(MODEL_STEPS), self.turned(DATA_STEPS)
        return np.select([model & data, model, data], [BOTH, MODEL, DATA], NEITHER)

    def model_angle(self) -> Float[np.ndarray, "latent"]:
        """The larger cosine of the two model steps: the latents with the smallest are the child's first."""
        return np.max([self.cosine[step] for step in MODEL_STEPS], axis=0)

    def data_angle(self) -> Float[np.ndarray, "latent"]:
        """The same of the data steps."""
        return np.max([self.cosine[step] for step in DATA_STEPS], axis=0)
