"""Which SAEs of a recipe stand for compared checkpoints where separately trained ones are matched.

One of each checkpoint, all of one site, architecture, width, k and starting seed; beside them those that are equal
but for their seed, from which the floor is taken: what two trainings on one checkpoint have in common. Knows no
torch: the plan asks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from workbench.points import RESID_POST
from workbench.recipe import DictionaryConfig, Recipe


@dataclasses.dataclass(frozen=True)
class Chosen:
    """`saes`: one a checkpoint, in the checkpoints' order, as far as there are some; `seeds`: one more of a
    checkpoint each; `missing`: checkpoints without one."""

    checkpoints: tuple[str, ...]
    saes: tuple[DictionaryConfig, ...]
    seeds: tuple[DictionaryConfig, ...]
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def names(self) -> dict[str, list[str]]:
        """What the matching's id is made of."""
        return {"saes": [d.name for d in self.saes], "seeds": [d.name for d in self.seeds]}

    def sentence(self, lab: str) -> str:
        """Which SAE is missing, and the command that makes it."""
        return (
            f"separately trained SAEs of {', '.join(self.checkpoints)} are not matched: the lab has none of "
            f"{self.missing[0]} like the others; `{self.command(lab)}` trains it, then compare again"
        )

    def command(self, lab: str) -> str:
        """Trains the first of those that are missing, like those that are there."""
        like = self.saes[0] if self.saes else DictionaryConfig("", self.missing[:1])
        usual = DictionaryConfig("", ())
        said = f"python -m workbench sae {lab} --checkpoint {self.missing[0]}"
        if like.layer is not None:
            said += f" --site {like.layer}" + ("" if like.point == RESID_POST else f".{like.point}")
        given = {"arch": like.arch, "width": like.d_sae, "k": like.k, "seed": like.seed}
        known = {"arch": usual.arch, "width": usual.d_sae, "k": usual.k, "seed": usual.seed}
        return said + "".join(f" --{name} {given[name]}" for name in given if given[name] != known[name])


def alike(config: DictionaryConfig) -> tuple[object, ...]:
    """What SAEs that are matched have in common, but for the seed."""
    return config.layer, config.point, config.arch, config.d_sae, config.k


def training(config: DictionaryConfig) -> tuple[object, ...]:
    """How long and how fast it was trained."""
    return config.steps, config.batch_size, config.lr


def chosen(recipe: Recipe, checkpoints: Sequence[str]) -> Chosen:
    """The set that lacks the fewest checkpoints, the recipe's first among equals."""
    own = [
        d for d in recipe.dictionaries if d.kind == "sae" and not d.source and d.checkpoints[0] in checkpoints
    ]
    sets: dict[tuple[object, ...], list[DictionaryConfig]] = {}
    for config in own:
        sets.setdefault((*alike(config), config.seed), []).append(config)
    if not sets:
        return Chosen(tuple(checkpoints), (), (), tuple(checkpoints))
    fullest = max(sets.values(), key=lambda members: len({m.checkpoints for m in members}))
    first = fullest[0]
    found = {name: _of(fullest, name, first) for name in checkpoints}
    others = [d for d in own if alike(d) == alike(first) and d.seed != first.seed]
    seeds = [_of(others, name, first) for name in checkpoints]
    return Chosen(
        tuple(checkpoints),
        tuple(config for config in found.values() if config is not None),
        tuple(config for config in seeds if config is not None),
        tuple(name for name, config in found.items() if config is None),
    )


def _of(
    configs: Sequence[DictionaryConfig], checkpoint: str, like: DictionaryConfig
) -> DictionaryConfig | None:
    """The one of a checkpoint, rather one that was trained as `like` was."""
    mine = [config for config in configs if config.checkpoints == (checkpoint,)]
    return min(mine, key=lambda config: training(config) != training(like), default=None)


def other_seed(config: DictionaryConfig) -> DictionaryConfig:
    """The same SAE from the next starting weights."""
    return dataclasses.replace(config, name=f"{config.name}-s{config.seed + 1}", seed=config.seed + 1)
