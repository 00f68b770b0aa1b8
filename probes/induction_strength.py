"""Does induction set in along training, and when: the strongest induction head, and copying what came before?

    induction score = Σ (A ∘ D) / Σ A     D: the key follows an earlier copy of the query's token    [Olsson 2022]
    copying = loss on a half of random ids said for the first time − loss on it said again       nats per token

(`workbench.circuits.heads`, `workbench.circuits.phase_change`.) Every snapshot of the line from the root to the
deepest checkpoint is read, on one axis of steps. A head is the strongest on one half of the sequences and scored on
the other half.

The null is the same ids where nothing is said again: the second half with another first half in front. There D
marks the same places (attention that goes to a place, not to what followed a copy, scores alike), and what the
second half costs less than the first comes from its place alone. p is of the difference, signs drawn by sequence. A
curve has risen where it is half way from its null to its largest value, if that is beyond the null by 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Plot, beyond
from probes.kit.nulls import mean_of
from probes.kit.plots import lines, of_figures
from probes.kit.settings import at_least
from probes.kit.stages import FLIPPED, of_control
from workbench.checkpoint import Checkpoint
from workbench.circuits.heads import INDUCTION, KINDS, detection, patterns, repeated_ids, shares
from workbench.circuits.phase_change import Rise, repeat_loss, risen
from workbench.intervals import ratio_intervals
from workbench.lab import Lab
from workbench.parents import lineage
from workbench.plan import Plan
from workbench.step_axis import Moment, moments, stages_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD, COPYING = "induction head", "copying"
UNSAID = "another first half"


class Strength(NamedTuple):
    """By sequence: each head's score and copying, on ids said twice and with another first half in front."""

    heads: Float[np.ndarray, "layer head sequence"]
    other_heads: Float[np.ndarray, "layer head sequence"]
    copying: Float[np.ndarray, " sequence"]
    other_copying: Float[np.ndarray, " sequence"]

    def head(self) -> tuple[int, int]:
        """Layer and head that score highest on the first half of the sequences."""
        means = self.heads[..., : self.half].mean(axis=-1)
        layer, head = np.unravel_index(int(means.argmax()), means.shape)
        return int(layer), int(head)

    @property
    def half(self) -> int:
        return self.heads.shape[-1] // 2

    def strongest(self) -> tuple[Float[np.ndarray, " sequence"], Float[np.ndarray, " sequence"]]:
        """The scores of that head on the other sequences, and on those where nothing is said again."""
        at = self.head()
        return self.heads[at][self.half :], self.other_heads[at][self.half :]


def ask(lab: Lab, checkpoints: Sequence[Checkpoint], n: int = 16, length: int = 24, seed: int = 0) -> Finding:
    """`n` sequences of `length` ids said twice."""
    at_least(4, n=n, length=length)
    at_least(0, seed=seed)
    axis = line_of(lab, checkpoints)
    found = {moment.address: strength(lab, moment.address, n, length, seed) for moment in axis}
    for checkpoint in checkpoints:  # those that do not lie on the line, and a stage's first and last snapshots
        if checkpoint.address not in found:
            found[checkpoint.address] = strength(lab, checkpoint.address, n, length, seed)
    figures = [figure for c in checkpoints for figure in figures_of(c.address, found[c.address], seed)]
    copying, heads = curves(axis, found)
    return Finding(
        claim(figures, [c.address for c in checkpoints], copying, heads, len(axis)),
        figures,
        "the same ids behind another first half, so that nothing is said again: places are the same; the sign of "
        "each sequence's difference drawn at random",
        "More layers or longer training: an induction head needs a head below it that looks one token back. Random "
        "ids are far from any text; in_context_learning asks the same of text.",
        [
            along(axis, found, HEAD),
            along(axis, found, COPYING),
            of_figures(
                "At the checkpoints asked about", "score, or nats per token", figures, "both beside the null"
            ),
        ],
        rows(axis, found),
    )


def line_of(lab: Lab, checkpoints: Sequence[Checkpoint]) -> list[Moment]:
    """Every model from the root to the deepest of the checkpoints."""
    plan = Plan.of(lab)
    deepest = max(checkpoints, key=lambda each: len(each.lineage()))
    line = lineage(deepest.lineage(), plan.parent_checkpoint)
    return moments(stages_of(lab, plan, line))


def strength(lab: Lab, address: str, n: int, length: int, seed: int) -> Strength:
    """One model's."""
    checkpoint = Checkpoint.of(lab, address)
    ids, other = sequences(checkpoint, n, length, seed)
    model = checkpoint.model()
    said, unsaid = repeat_loss(model, ids), repeat_loss(model, other)
    scores, other_scores = induction_scores(model, ids, ids), induction_scores(model, other, ids)
    return Strength(scores, other_scores, said.copying, said.first - unsaid.second)


def sequences(checkpoint: Checkpoint, n: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids said twice; and each second half behind the next sequence's first half."""
    ids = repeated_ids(checkpoint.tokenizer(), checkpoint.n_ctx, n, length, seed)
    length = ids.shape[1] // 2
    front = ids[:, :-length].roll(1, dims=0)
    return ids, torch.cat([front, ids[:, -length:]], dim=1)


@torch.inference_mode()
def induction_scores(
    model: PreTrainedModel, ids: Int[Tensor, "sequence position"], marked: Int[Tensor, "sequence position"]
) -> Float[np.ndarray, "layer head sequence"]:
    """How much of each head's attention on `ids` goes to the keys that induction would look at on `marked`."""
    wanted = detection(marked.to(model.device))[KINDS.index(INDUCTION)][None]
    return shares(patterns(model, ids.to(model.device)), wanted)[0].cpu().numpy()


def figures_of(address: str, found: Strength, seed: int) -> list[Figure]:
    """The two figures of one checkpoint."""
    layer, head = found.head()
    pairs = (
        (HEAD, f"head {layer}.{head}", *found.strongest()),
        (COPYING, "", found.copying, found.other_copying),
    )
    made = []
    for name, where, own, other in pairs:
        value, low, high, _ = mean_of(own, FLIPPED, seed)
        null = of_control(other, own - other, UNSAID, seed, "greater")
        made.append(Figure(name, value, low, high, len(own), "sequences", null, address, where))
    return made


def curves(axis: Sequence[Moment], found: dict[str, Strength]) -> tuple[Rise, Rise]:
    """When copying and the strongest head of the line rise, beyond what they are where nothing is said again."""
    line = [found[moment.address] for moment in axis]
    copying = np.stack([each.copying - each.other_copying for each in line])
    heads = np.stack([np.subtract(*each.strongest()) for each in line])
    return risen(axis, copying, 0.0), risen(axis, heads, 0.0)


def along(axis: Sequence[Moment], found: dict[str, Strength], what: str) -> Plot:
    """One curve along the line, and where nothing is said again."""
    points = []
    for moment in axis:
        each = found[moment.address]
        own, other = each.strongest() if what == HEAD else (each.copying, each.other_copying)
        for series, values in (
            ("said again", own), (f"null ({UNSAID})", other), ("difference", own - other),
        ):  # fmt: skip
            ((low, high),) = ratio_intervals(values[:, None], np.ones(len(values)))
            points.append(
                {"series": series, "x": round(moment.place, 4), "y": float(values.mean()), "low": float(low),
                 "high": float(high), "checkpoint": moment.address, "n": len(values)}
            )  # fmt: skip
    title = "The strongest induction head" if what == HEAD else "Copying what came before"
    unit = "induction score" if what == HEAD else "nats per token"
    return lines(
        title,
        "stage, its steps on a log scale",
        unit,
        points,
        f"{title} along the line of checkpoints: where ids are said again, where nothing is (grey), and the "
        "difference, which the claim is about and which is 0 (dashed) where there is none",
        0.0,
        {number + 0.5: name for number, name in enumerate(dict.fromkeys(m.stage for m in axis))},
    )


def rows(axis: Sequence[Moment], found: dict[str, Strength]) -> list[dict[str, Any]]:
    """One row a model of the line."""
    told = []
    for moment in axis:
        each = found[moment.address]
        own, other = (float(part.mean()) for part in each.strongest())
        told.append(
            {"checkpoint": moment.address, "step": moment.axis, "head": ".".join(map(str, each.head())),
             "score": round(own, 3), "score, nothing said again": round(other, 3),
             "copying": round(float(each.copying.mean()), 3),
             "copying, nothing said again": round(float(each.other_copying.mean()), 3)}
        )  # fmt: skip
    return told


def claim(
    figures: Sequence[Figure], addresses: Sequence[str], copying: Rise, heads: Rise, n_moments: int
) -> str:
    """What is there at each checkpoint, and when it came."""
    found, said = beyond(figures), []
    for address in addresses:
        mine = [f for f in found if f.checkpoint == address]
        told = [
            f"{f.where or 'copying'} {f.value:.3f} (null {f.null.value:.3f})"
            for f in mine
        ]  # fmt: skip
        said.append(
            f"{address} {'has ' + ' and '.join(told) if told else 'is not shown to have induction'} beyond the null"
        )
    if n_moments < 2:
        when = "no snapshots were kept, so when cannot be told"
    else:
        parts = []
        for what, rise in (("copying", copying), ("an induction head", heads)):
            came = f"rises at {rise.moment.address}" if rise.moment else "is never 0.1 above its null"
            parts.append(f"{what} {came} (largest difference {rise.largest:.3f}, at {rise.at.address})")
        when = f"along the {n_moments} models of the line " + "; ".join(parts)
    return f"{'; '.join(said)}; {when}."


if __name__ == "__main__":
    main(__file__)
