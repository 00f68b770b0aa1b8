"""What probes are about, found or told to be lacking: pairs of checkpoints, questions in chat form, an SAE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from probes.kit.running import LackingError
from workbench.checkpoint import Checkpoint
from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.plan import Plan

if TYPE_CHECKING:
    import polars as pl

    from saes.dictionary import Dictionary


def one_family(lab: Lab, checkpoints: Sequence[Checkpoint]) -> None:
    """Checkpoints that descend from one root read the same tokens; others are `Misuse`."""
    families = {Plan.of(lab).family(each.name) for each in checkpoints}
    if len(families) > 1:
        raise Misuse(
            f"these checkpoints descend from {', '.join(sorted(families))}, which read different tokens: ask about "
            "checkpoints of one root"
        )


def stages(lab: Lab, checkpoints: Sequence[Checkpoint]) -> list[tuple[Checkpoint, Checkpoint]]:
    """Each checkpoint and the one named behind it."""
    one_family(lab, checkpoints)
    if len(checkpoints) < 2:
        raise Misuse(
            f"{checkpoints[0].address!r} alone was given, and what came between two checkpoints is asked: name two "
            "at least, the earlier one first (--checkpoints base,sft)"
        )
    return list(pairwise(checkpoints))


def chat_questions(lab: Lab, checkpoint: Checkpoint, tasks: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Held-out questions of each task that there are, for a checkpoint that knows the lab's chat form."""
    from probes.kit.readings import check_chat_form, corpus_of
    from workbench.evaluation import heldout_questions

    check_chat_form(checkpoint)
    found = {task: heldout_questions(corpus_of(lab), task) for task in tasks}
    found = {task: rows for task, rows in found.items() if rows.height}
    if not found:
        raise LackingError(
            f"the lab's text holds no questions ({', '.join(tasks)}): set n_chats and n_countries under [corpus] "
            f"in recipe.toml and run `python -m workbench grow {lab.name}`"
        )
    return found


class Read(NamedTuple):
    """An SAE of a checkpoint's residual stream, on the best device as the model is, and the layer that it reads."""

    name: str
    dictionary: Dictionary
    layer: int


def first_sae(lab: Lab, checkpoint: Checkpoint) -> Read | None:
    """The first of the recipe's SAEs of a checkpoint's residual stream that is finished; None where none is."""
    from workbench.device import best_device
    from workbench.dictionary_folder import open_dictionary
    from workbench.points import RESID_POST
    from workbench.recipe import SAE

    plan = Plan.of(lab)
    for config in plan.recipe.dictionaries:
        if (config.kind, config.checkpoints, config.point) != (SAE, (checkpoint.address,), RESID_POST):
            continue
        made = lab.artefact("dictionary", config.name, plan.step("dictionary", config.name).id)
        if made is not None:
            layer = checkpoint.default_layer if config.layer is None else config.layer
            return Read(config.name, open_dictionary(made.path, config.name).to(best_device()), layer)
    return None


def sae_of(lab: Lab, checkpoint: Checkpoint) -> Read:
    """`first_sae`; without one the command that trains it."""
    if (found := first_sae(lab, checkpoint)) is not None:
        return found
    raise LackingError(
        f"the lab has no finished SAE of {checkpoint.address!r}: run `python -m workbench sae {lab.name} "
        f"--checkpoint {checkpoint.address}`"
    )
