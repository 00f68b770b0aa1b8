"""From a recipe to the ordered steps that make it, each with its content id.

A step knows its parents by (kind, name); its id follows from its configuration, its parents' ids and
the code version in `BUILDERS`, so the whole plan is known before anything is built, without importing
torch: `status` reads it in milliseconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from workbench.circuit_config import FeatureCircuitConfig
from workbench.dictionary_steps import add_activations, add_dictionary, add_tokens
from workbench.errors import Misuse, unknown
from workbench.lab import Artefact, Lab
from workbench.naming import short_name
from workbench.parents import checked_member, checked_parent, lineage
from workbench.part_steps import activations_name, part_steps, path_step, sham_of, stored
from workbench.parts import PARTS, part_name
from workbench.points import RESID_POST
from workbench.quality import artefact_name
from workbench.recipe import (
    BRANCH,
    SHAM,
    SIBLING,
    STAGES,
    BranchConfig,
    ComparisonConfig,
    DictionaryConfig,
    Recipe,
    SweepConfig,
    joined,
    read_recipe,
    stage_of,
)
from workbench.steps import Planner, Step

STUDY = "superposition"  # name of the evaluation


def history_name(circuit: str) -> str:
    """What a circuit's way along the snapshots is called."""
    return f"history-{circuit}"


def check_name(circuit: str) -> str:
    """What is called in which a circuit's edges were patched one by one."""
    return f"check-{circuit}"


def lens_name(checkpoint: str) -> str:
    """What the tuned lens of a checkpoint is called: `lens-sft`, of a snapshot `lens-sft.64`."""
    return f"lens-{joined([checkpoint])}"


def latents_name(task: str, checkpoint: str) -> str:
    """What the feature circuit of a task in a checkpoint is called: `latents-capitals-sft`."""
    return f"latents-{short_name(f'{task}-{joined([checkpoint])}')}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a recipe in an order in which each follows its parents."""

    recipe: Recipe
    steps: Mapping[str, Step]

    @classmethod
    def of(cls, lab: Lab) -> Plan:
        return plan(read_recipe(lab.path / "recipe.toml"))

    def step(self, kind: str, name: str) -> Step:
        if (found := self.steps.get(f"{kind}/{name}")) is None:
            raise unknown(kind, name, [s.name for s in self.steps.values() if s.kind == kind])
        return found

    def needed_for(self, key: str) -> list[Step]:
        """The step `key` and all it stands on, in order. A bare name means the first step of that name: the
        checkpoint before its activations, the dictionary before its features. A kind means all its steps."""
        named = [s.key for s in self.steps.values() if key in (s.key, s.name)]
        wanted = set(named[:1] or [s.key for s in self.steps.values() if s.kind == key])
        if not wanted:
            raise unknown("step", key, {n for s in self.steps.values() for n in (s.kind, s.name)})
        for step in reversed(list(self.steps.values())):
            if step.key in wanted:
                wanted.update(step.parents)
        return [s for s in self.steps.values() if s.key in wanted]

    def parts_of(self, comparison: str) -> list[str]:
        """The keys of the parts that a comparison is taken apart into; one that lacks what it stands on is none."""
        keys = (f"evaluation/{part_name(part, comparison)}" for part in PARTS)
        return [key for key in keys if key in self.steps]

    def parent_checkpoint(self, name: str) -> str | None:
        """The checkpoint that `name`, or the stage that it is a snapshot of, was trained from."""
        name = stage_of(name)
        beside = {b.name: b.parent for b in self.recipe.branches} | {
            a.name: a.parent for a in self.recipe.added
        }
        if name in beside:
            return beside[name]
        return {"base": None, "sft": "base", "grpo": "sft"}[name]

    def family(self, name: str) -> str:
        """The first checkpoint of `name`'s lineage: those with one root share tokens."""
        while (parent := self.parent_checkpoint(name)) is not None:
            name = parent
        return stage_of(name)


def plan(recipe: Recipe) -> Plan:
    """All steps of a recipe."""
    planner = Planner()
    result = Plan(recipe, planner.steps)
    planner.add("corpus", "text", "corpus", dataclasses.asdict(recipe.corpus))
    planner.add("tokenizer", "bpe", "tokenizer", dataclasses.asdict(recipe.tokenizer), "corpus/text")
    shape = dataclasses.asdict(recipe.model)
    for stage, parent in zip(STAGES, (None, *STAGES), strict=False):
        settings = {"stage": stage, "model": shape, **dataclasses.asdict(recipe.stage(stage))}
        before = [f"checkpoint/{parent}"] if parent else []
        planner.add("checkpoint", stage, stage, settings, "corpus/text", "tokenizer/bpe", *before)
    for branch in recipe.branches:
        _add_branch(planner, recipe, branch)
    for added in recipe.added:
        before = []
        if added.parent is not None:
            before = [checked_parent(added.name, added.parent, planner.steps, recipe.checkpoint_names)]
        planner.add("checkpoint", added.name, "added", dataclasses.asdict(added), *before)
    for config in recipe.dictionaries:
        add_dictionary(planner, recipe, result.family, config)
    for comparison in recipe.comparisons:
        used = recipe.dictionary(comparison.dictionary)
        if used.checkpoints != comparison.checkpoints:
            raise Misuse(
                f"comparison {comparison.name!r} names {', '.join(comparison.checkpoints)} but its dictionary "
                f"{used.name!r} reads {', '.join(used.checkpoints)}: make the lists equal"
            )
        parents = [f"checkpoint/{stage_of(c)}" for c in comparison.checkpoints]
        parents += [
            f"activations/{activations_name(c, used.layer, used.point)}" for c in comparison.checkpoints
        ]
        parents += [f"dictionary/{used.name}", f"features/{used.name}", "corpus/text"]
        planner.add("comparison", comparison.name, "comparison", dataclasses.asdict(comparison), *parents)
    for name in recipe.compared:
        _add_parts(planner, result, recipe.comparison(name))
    for walk in recipe.paths:
        tokens, sham = f"activations/tokens-{result.family(walk.parent)}", sham_of(recipe, walk)
        like = recipe.dictionary(walk.dictionary)
        for checkpoint in (walk.parent, walk.child, *([sham] if sham else [])):
            add_activations(planner, recipe, like, checkpoint, like.point, tokens)
        step = path_step(recipe, walk, tokens)
        planner.add("evaluation", step.name, step.builder, step.settings, *step.parents)
    for unlike in recipe.unlike:
        names = recipe.checkpoint_names
        parents = [
            checked_member(f"comparison {unlike.name!r}", each, planner.steps, names)
            for each in unlike.checkpoints
        ]
        planner.add("evaluation", unlike.name, "unlike", dataclasses.asdict(unlike), "corpus/text", *parents)
    _add_circuits(planner, result)
    for name in recipe.lenses:
        _add_lens(planner, result, name)
    for name in recipe.evaluations:
        _add_quality(planner, result, recipe.dictionary(name))
        _add_truth(planner, result, recipe.dictionary(name))
    for sweep in recipe.sweeps:
        _add_sweep(planner, result, sweep)
    if recipe.superposition:
        _add_superposition(planner, recipe)
    return result


def _add_branch(planner: Planner, recipe: Recipe, branch: BranchConfig) -> None:
    """A stage grown again beside the lineage. A sham is what its parent is: it goes on with the parent's data."""
    if branch.kind not in (SHAM, SIBLING, BRANCH):
        raise unknown("kind of branch", branch.kind, (SHAM, SIBLING, BRANCH))
    if branch.of not in STAGES[1:]:
        raise unknown("stage to grow again", branch.of, STAGES[1:])
    grown_from = checked_parent(branch.name, branch.parent, planner.steps, recipe.checkpoint_names)
    if branch.kind == SHAM and branch.parent not in STAGES[:-1]:
        raise Misuse(
            f"{branch.name!r} goes on with its parent's data: give it the parent base or sft, not {branch.parent!r}"
        )
    stage = branch.parent if branch.kind == SHAM else branch.of
    settings = {
        "stage": stage,
        "model": dataclasses.asdict(recipe.model),
        **dataclasses.asdict(recipe.stage(branch.of)),
    }
    settings |= {"kind": branch.kind, "of": branch.of, "parent": branch.parent, "seed": branch.seed}
    builder = SHAM if branch.kind == SHAM else branch.of
    planner.add("checkpoint", branch.name, builder, settings, "corpus/text", "tokenizer/bpe", grown_from)


def _add_circuits(planner: Planner, so_far: Plan) -> None:
    """Circuits, their ways along the snapshots, their edges patched one by one, feature circuits."""
    recipe = so_far.recipe
    for circuit in recipe.circuits:
        what, names = f"circuit {circuit.name!r}", recipe.checkpoint_names
        stages = dict.fromkeys(stage_of(each) for each in (*circuit.checkpoints, *circuit.beside))
        parents = [checked_member(what, each, planner.steps, names) for each in stages]
        planner.add("circuit", circuit.name, "circuit", circuit.settings(), "corpus/text", *parents)
    for name in recipe.circuit_histories:
        line = lineage([stage_of(c) for c in recipe.circuit(name).checkpoints], so_far.parent_checkpoint)
        parents = [f"circuit/{name}", "corpus/text", *(f"checkpoint/{each}" for each in line)]
        planner.add("circuit", history_name(name), "circuit_history", {"circuit": name}, *parents)
    for name in recipe.circuit_checks:
        stages = dict.fromkeys(stage_of(each) for each in recipe.circuit(name).checkpoints)
        parents = [f"circuit/{name}", "corpus/text", *(f"checkpoint/{each}" for each in stages)]
        planner.add("circuit", check_name(name), "circuit_check", {"circuit": name}, *parents)
    for config in recipe.feature_circuits:
        _add_feature_circuit(planner, recipe, config)


def _add_feature_circuit(planner: Planner, recipe: Recipe, config: FeatureCircuitConfig) -> None:
    """A task's feature circuit in one checkpoint, through SAEs of it."""
    what, stage = f"feature circuit {config.name!r}", stage_of(config.checkpoint)
    parents = [checked_member(what, stage, planner.steps, recipe.checkpoint_names), "corpus/text"]
    for name in config.dictionaries:
        if recipe.dictionary(name).checkpoints != (config.checkpoint,):
            raise Misuse(
                f"{what} of recipe.toml reads {config.checkpoint} through {name!r}, which is none of it"
            )
        parents.append(f"dictionary/{name}")
    planner.add("evaluation", config.name, "feature_circuit", dataclasses.asdict(config), *parents)


def _add_superposition(planner: Planner, recipe: Recipe) -> None:
    parents: list[str] = []
    for name in recipe.superposition:
        config = recipe.dictionary(name)
        if config.kind != "sae":
            raise Misuse(f"superposition is studied through SAEs; {name!r} is a {config.kind}: name an SAE")
        features = planner.steps[f"features/{name}"].parents
        (checkpoint,) = config.checkpoints
        read = f"activations/{activations_name(checkpoint, config.layer, config.point)}"
        tokens = next(key for key in features if key.startswith("activations/tokens-"))
        parents += [tokens, read, f"checkpoint/{checkpoint}", f"dictionary/{name}", f"features/{name}"]
    if len({key for key in parents if key.startswith("activations/tokens-")}) > 1:
        raise Misuse("the SAEs of a superposition study have to read one family's tokens: name others")
    config_ = {"dictionaries": list(recipe.superposition)}
    planner.add("evaluation", STUDY, STUDY, config_, *dict.fromkeys(parents))


def _add_parts(planner: Planner, so_far: Plan, config: ComparisonConfig) -> None:
    """The parts of a comparison."""
    tokens = f"activations/tokens-{so_far.family(config.checkpoints[0])}"
    for part in part_steps(so_far.recipe, config, tokens):
        planner.add("evaluation", part.name, part.builder, part.settings, *part.parents)


def _add_quality(planner: Planner, so_far: Plan, config: DictionaryConfig) -> None:
    """The quality of a dictionary beside its controls; one of them reads the model before its first step."""
    family = so_far.family(config.checkpoints[0])
    models = [f"checkpoint/{stage_of(c)}" for c in dict.fromkeys((*config.checkpoints, family))]
    parents = [f"dictionary/{config.name}", f"activations/tokens-{family}", *stored(config), *models]
    planner.add("evaluation", artefact_name(config.name), "quality", {"dictionary": config.name}, *parents)


def _add_sweep(planner: Planner, so_far: Plan, config: SweepConfig) -> None:
    """A sweep with the tokens and activations it stands on."""
    like = DictionaryConfig(config.name, (config.checkpoint,), layer=config.layer)
    _, tokens = add_tokens(planner, so_far.recipe, so_far.family, like)
    read = add_activations(planner, so_far.recipe, like, config.checkpoint, RESID_POST, tokens)
    parents = [tokens, read, f"checkpoint/{config.checkpoint}"]
    planner.add("evaluation", config.name, "sweep", dataclasses.asdict(config), *parents)


def _add_lens(planner: Planner, so_far: Plan, checkpoint: str) -> None:
    """A checkpoint's tuned lens, and before it that of the root of its lineage, which is read on it too."""
    own = checked_member("a lens", stage_of(checkpoint), planner.steps, so_far.recipe.checkpoint_names)
    family, tokens = add_tokens(planner, so_far.recipe, so_far.family, DictionaryConfig("", (checkpoint,)))
    parents = [tokens, own]
    if checkpoint != family:
        if f"evaluation/{lens_name(family)}" not in planner.steps:
            _add_lens(planner, so_far, family)
        parents.append(f"evaluation/{lens_name(family)}")
    config = {"checkpoint": checkpoint, "root": family}
    planner.add("evaluation", lens_name(checkpoint), "lens", config, *parents)


def _add_truth(planner: Planner, so_far: Plan, config: DictionaryConfig) -> None:
    """A dictionary's scores against the world's factors."""
    checkpoints = [f"checkpoint/{stage_of(c)}" for c in config.checkpoints]
    tokens = f"activations/tokens-{so_far.family(config.checkpoints[0])}"
    parents = [f"dictionary/{config.name}", tokens, *stored(config), *checkpoints, "corpus/text"]
    planner.add("evaluation", f"truth-{config.name}", "truth", {"dictionary": config.name}, *parents)


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A step beside what the disk holds of it."""

    step: Step
    artefact: Artefact | None
    partial: Path | None


def resolve(lab: Lab, plan_: Plan) -> list[Resolved]:
    """Each step of the plan with its finished artefact or its partial folder, if any."""
    return [
        Resolved(s, lab.artefact(s.kind, s.name, s.id), lab.partial(s.kind, s.name, s.id))
        for s in plan_.steps.values()
    ]
