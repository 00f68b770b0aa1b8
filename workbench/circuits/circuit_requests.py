"""Entering circuits that a person asked for in the lab's recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from workbench.circuit_config import ACDC, EAP_IG, FINDERS, CircuitConfig
from workbench.circuits.acdc import TAU
from workbench.circuits.asked import LEAST, Task
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.control_task import control_of
from workbench.circuits.edge_patching import refuse_many
from workbench.circuits.own_tasks import own_task
from workbench.circuits.tasks import TASKS, USES, known_task, task_pairs
from workbench.disk import sha256_file
from workbench.errors import Misuse, unknown
from workbench.lab import Lab
from workbench.naming import short_name
from workbench.plan import Plan, plan
from workbench.recipe import SIBLING, joined, read_recipe, stage_of, write_recipe


def request_circuit(
    lab: Lab,
    task: str,
    names: Sequence[str],
    n_pairs: int,
    seed: int = 0,
    history: bool = False,
    finder: str = EAP_IG,
    tau: float | None = None,
    check: bool = False,
) -> str:
    """Name of the circuit of `task` (one of the workbench's, or a jsonl file) in these checkpoints, entered in the
    recipe if it is new; with `history`, also its way along the snapshots, with `check` every edge patched for
    itself. Siblings of theirs that have been grown are read beside them. `grow` builds it."""
    threshold = _threshold(finder, tau, history)
    asked, source, sha256 = asked_task(task, n_pairs)
    name, checked = asked.name, named_once(names)
    current = Plan.of(lab)
    for each in checked:
        current.step("checkpoint", stage_of(each))  # near names are offered for unknown ones
    families = {current.family(each) for each in checked}
    if len(families) > 1:
        raise Misuse(
            f"{', '.join(checked)} do not descend from one checkpoint ({', '.join(sorted(families))}), so no edge "
            "of one is an edge of the other: ask for each family by itself"
        )
    check_pairs(lab, current, asked, checked[0], n_pairs, seed)
    if check or finder != EAP_IG:
        _refuse_many(lab, current, checked[0])

    def can_be_made(other: str) -> bool:
        """The lab's world may not have it, or the tokenizer of a checkpoint from elsewhere."""
        try:
            check_pairs(lab, current, known_task(other), checked[0], n_pairs, seed)
        except Misuse:
            return False
        return True

    config = CircuitConfig(
        name=short_name(f"{name}-{joined(checked)}{'' if finder == EAP_IG else f'-{finder}'}"),
        task=name,
        checkpoints=checked,
        beside=tuple(_siblings(lab, current, checked)),
        other=control_of(asked, can_be_made),
        n_pairs=n_pairs,
        seed=seed,
        source=source,
        source_sha256=sha256,
        finder=finder,
        tau=threshold,
    )
    _enter(lab, config, history, check)
    return config.name


def _enter(lab: Lab, config: CircuitConfig, history: bool, check: bool) -> None:
    """The circuit in the recipe, in the place of one of its name, and what is asked for of it beside."""
    with lab.writing("circuit"):
        recipe = read_recipe(lab.path / "recipe.toml")
        kept = tuple(each for each in recipe.circuits if each.name != config.name)
        followed = dict.fromkeys((*recipe.circuit_histories, *([config.name] if history else [])))
        exact = dict.fromkeys((*recipe.circuit_checks, *([config.name] if check else [])))
        changed = dataclasses.replace(
            recipe, circuits=(*kept, config), circuit_histories=tuple(followed), circuit_checks=tuple(exact)
        )
        plan(changed)
        if changed != recipe:
            write_recipe(lab.path / "recipe.toml", changed)


def _threshold(finder: str, tau: float | None, history: bool) -> float:
    """ACDC's τ, 0 of the other finders; `Misuse` for what does not go together."""
    if finder not in FINDERS:
        raise unknown("finder", finder, FINDERS)
    if history and finder != EAP_IG:
        raise Misuse(
            f"--snapshots follows circuits that {EAP_IG} finds, since {finder} takes a pass of every pair for each "
            "edge at every snapshot: leave --finder out, or --snapshots"
        )
    if finder != ACDC:
        if tau is not None:
            raise Misuse(
                f"--tau is ACDC's threshold, and the finder is {finder}: add --finder {ACDC}, or leave --tau out"
            )
        return 0.0
    if tau is not None and not 0 <= tau < 1:
        raise Misuse(f"--tau is {tau:g}: it is the share of the task that an edge may cost, from 0 to below 1")
    return TAU if tau is None else tau


def _refuse_many(lab: Lab, current: Plan, name: str) -> None:
    """`Misuse` where a checkpoint that is on the disk has too many edges for a pass each."""
    step = current.step("checkpoint", stage_of(name))
    if lab.artefact(step.kind, step.name, step.id) is not None:
        refuse_many(CircuitModel(lab.checkpoint(name).bridge()).graph)


def named_once(names: Sequence[str]) -> tuple[str, ...]:
    """The checkpoints of an option; `Misuse` where there is none, or one is there twice."""
    if len(set(names)) < max(1, len(names)):
        raise Misuse(
            f"--checkpoints is {','.join(names) or 'empty'}: name each checkpoint once, and at least one"
        )
    return tuple(names)


def asked_task(task: str, n_pairs: int) -> tuple[Task, str, str]:
    """The task, its file and that file's hash; a name that is none of the tasks' may be a file."""
    if n_pairs < LEAST:
        raise Misuse(f"--pairs is {n_pairs}: at least {LEAST} are needed to say anything")
    if task in TASKS or not task.endswith(".jsonl"):
        return known_task(task), "", ""
    path = Path(task)
    found = own_task(path)
    if found.name in TASKS:
        raise Misuse(f"{path.name} is called like a task of the workbench: rename the file")
    return found, str(path.resolve()), sha256_file(path)


def check_pairs(lab: Lab, current: Plan, asked: Task, name: str, n_pairs: int, seed: int) -> None:
    """`Misuse` where the pairs cannot be made, as far as that can be known: before anything is entered in the
    recipe, where it would stop every later `grow`."""
    if seed < 0:
        raise Misuse(f"--seed is {seed}: prompts are drawn by a seed of 0 or more")
    steps = (current.step("checkpoint", stage_of(name)), current.step("corpus", "text"))
    if all(lab.artefact(step.kind, step.name, step.id) is not None for step in steps):
        for use in USES:
            task_pairs(lab, asked, n_pairs, use, seed, checkpoint=name)


def _siblings(lab: Lab, current: Plan, names: Sequence[str]) -> list[str]:
    """Checkpoints that grew as these did with another seed, as far as they are on the disk; a snapshot has none."""
    wanted = [b.name for b in current.recipe.branches if b.kind == SIBLING and b.of in names]
    steps = [current.step("checkpoint", name) for name in wanted]
    return [s.name for s in steps if s.name not in names and lab.artefact(s.kind, s.name, s.id) is not None]
