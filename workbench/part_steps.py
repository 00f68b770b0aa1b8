"""What the parts of a comparison, and the paths between a checkpoint and its child, are planned as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from workbench.matched_saes import chosen
from workbench.parts import CONTRASTED, PARTS, part_name
from workbench.points import RESID_POST
from workbench.recipe import (
    SHAM,
    STAGES,
    ComparisonConfig,
    DictionaryConfig,
    PathsConfig,
    Recipe,
    joined,
    stage_of,
)


class PartStep(NamedTuple):
    """An evaluation to be: its name, its builder, its settings and the keys of what it stands on."""

    name: str
    builder: str
    settings: Mapping[str, Any]
    parents: list[str]


def activations_name(checkpoint: str, layer: int | None, point: str = RESID_POST) -> str:
    """The step that stores one checkpoint's activations at one site (the middle layer, if none is named)."""
    place = "" if layer is None else f"-layer{layer}"
    name = joined([checkpoint])
    return f"{name}{place}" if point == RESID_POST else f"{name}{place}-{point}"


def read_names(config: DictionaryConfig, point: str) -> list[str]:
    """The steps that store what a dictionary reads (or writes) at a point of its layer, one a checkpoint."""
    names = [activations_name(c, config.layer, point) for c in config.checkpoints]
    return [f"{name}-minus-{joined([config.minus])}" for name in names] if config.minus else names


def stored(config: DictionaryConfig) -> list[str]:
    """The keys of the activations that a dictionary reads, and of those that a transcoder writes."""
    points = [config.point, *([config.target] if config.target else [])]
    return [f"activations/{name}" for p in points for name in read_names(config, p)]


def part_steps(recipe: Recipe, config: ComparisonConfig, tokens: str) -> Iterator[PartStep]:
    """The `PARTS` of a comparison; SAEs are matched where each checkpoint has one."""
    used = recipe.dictionary(config.dictionary)
    groups = {
        "tokens": [tokens],
        "checkpoints": [f"checkpoint/{stage_of(c)}" for c in config.checkpoints],
        "dictionary": [f"dictionary/{used.name}"],
        "features": [f"features/{used.name}"],
        "activations": stored(used),
        "corpus": ["corpus/text"],
        "scaling": [f"evaluation/{part_name('scaling', config.name)}"],
        "saes": [],
    }
    own = chosen(recipe, config.checkpoints)
    for sae in (*own.saes, *own.seeds):
        groups["saes"] += [f"dictionary/{sae.name}", f"features/{sae.name}", *stored(sae)]
    for part, stands_on in (CONTRASTED if used.for_contrast else PARTS).items():
        if "saes" in stands_on and not own.complete:
            continue
        parents = dict.fromkeys(key for group in stands_on for key in groups[group])
        settings: dict[str, Any] = {"comparison": config.name} | (own.names if "saes" in stands_on else {})
        yield PartStep(part_name(part, config.name), part, settings, list(parents))


NEW_TEXT = {
    "base": ("prose", "world"),
    "sft": ("chat",),
    "grpo": ("rollout",),
}  # what each stage trains on anew


def text_of(recipe: Recipe, checkpoint: str) -> tuple[str, ...]:
    """The domains that a checkpoint has trained on: base prose and world, sft chats too, grpo rollouts too. One
    from outside counts as the stage that it says it is, and as the last of them where that is none of these."""
    stages = {stage: stage for stage in STAGES} | {a.name: a.stage for a in recipe.added}
    stages |= {b.name: b.parent if b.kind == SHAM else b.of for b in recipe.branches}
    stage = stages[checkpoint] if stages[checkpoint] in STAGES else STAGES[-1]
    return tuple(domain for each in STAGES[: STAGES.index(stage) + 1] for domain in NEW_TEXT[each])


def sham_of(recipe: Recipe, walk: PathsConfig) -> str | None:
    """The sham of the child's stage, where the recipe has one of the same parent."""
    shams = [b for b in recipe.branches if b.kind == SHAM and b.of == walk.child and b.parent == walk.parent]
    return shams[0].name if shams else None


def path_step(recipe: Recipe, walk: PathsConfig, tokens: str) -> PartStep:
    """The paths from a checkpoint to its child."""
    like, sham = recipe.dictionary(walk.dictionary), sham_of(recipe, walk)
    own = text_of(recipe, walk.parent)
    texts = {"own": list(own), "all": list(dict.fromkeys((*own, *text_of(recipe, walk.child))))}
    settings = {"parent": walk.parent, "child": walk.child, "sham": sham, "like": like.settings(), **texts}
    read = [f"activations/{activations_name(c, like.layer, like.point)}" for c in (walk.parent, walk.child)]
    beside = [f"activations/{activations_name(sham, like.layer, like.point)}"] if sham else []
    return PartStep(walk.name, "paths", settings, [tokens, *read, *beside])
