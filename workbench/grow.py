"""Growing a lab: run the steps of its plan that the disk does not hold yet, one writer, in order."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from workbench.device import keep_freed_memory
from workbench.disk import plain_disk_errors
from workbench.errors import Failure, MarbleError, Misuse
from workbench.jobs import new_job, settle
from workbench.lab import Artefact, Draft, Lab, checked_name, labs_home
from workbench.plan import Plan
from workbench.progress import Progress
from workbench.rebuilt import why_again
from workbench.recipe import Recipe, load_preset, read_recipe, write_recipe
from workbench.steps import Step


@dataclasses.dataclass(frozen=True)
class Build:
    """What a builder gets: the lab, where to write, its finished parents by key, where to report."""

    lab: Lab
    plan: Plan
    step: Step
    draft: Draft
    parents: Mapping[str, Artefact]
    progress: Progress
    todo: Sequence[Step] = ()  # steps that this run builds after it

    @property
    def config(self) -> Mapping[str, Any]:
        return self.step.config


class BuilderFunction(Protocol):
    """Builds an artefact in `build.draft.path` and returns its key figures for the manifest."""

    def __call__(self, build: Build) -> Mapping[str, Any]: ...


def prepare(name: str, preset: str | None, corpus: str | None) -> Lab:
    """The lab called `name`, created from `preset` if it does not exist.

    An existing lab keeps its recipe: another preset or corpus for it is `Misuse`, since that would be
    another lab.
    """
    checked_name(name, "lab")
    home = labs_home()
    path = home / name
    if (path / "recipe.toml").is_file():
        recipe = read_recipe(path / "recipe.toml")
        if preset is not None and preset != recipe.preset:
            load_preset(preset)  # an unknown preset is the likelier slip: say that first
            raise Misuse(
                f"lab {name!r} was begun with preset {recipe.preset!r}: choose another lab name for {preset!r}"
            )
        if corpus is not None and _with_corpus(recipe, corpus).corpus.source != recipe.corpus.source:
            raise Misuse(
                f"lab {name!r} was begun with corpus {recipe.corpus.source!r}: choose another lab name"
            )
        return Lab(path)
    recipe = load_preset(preset or "quick")
    if corpus is not None:
        recipe = _with_corpus(recipe, corpus)
    write_recipe(path / "recipe.toml", recipe)
    return Lab(path)


def _with_corpus(recipe: Recipe, source: str) -> Recipe:
    from workbench.sources import resolve_source

    resolved, digest = resolve_source(source)
    return dataclasses.replace(
        recipe, corpus=dataclasses.replace(recipe.corpus, source=resolved, source_sha256=digest)
    )


def missing(lab: Lab, only: Sequence[str] = ()) -> tuple[Plan, list[Step]]:
    """The plan and its steps that have yet to be built (those `only` needs, if given)."""
    plan = Plan.of(lab)
    wanted = {s.key for name in only for s in plan.needed_for(name)} if only else set(plan.steps)
    todo = [s for s in plan.steps.values() if s.key in wanted and lab.artefact(s.kind, s.name, s.id) is None]
    return plan, todo


def grow(lab: Lab, only: Sequence[str] = (), quiet: bool = False, command: str = "grow") -> list[Artefact]:
    """Build what is missing, in order; return the artefacts built. Finished steps are never redone.

    `command` is what a person asked for: others are told that it holds the lab."""
    missing(lab, only)  # wrong names are refused before the lab is held
    with lab.writing(command):
        plan, todo = missing(lab, only)
        if not todo:
            return []
        keep_freed_memory()
        settle(lab)
        progress = Progress(new_job(lab, command), command, quiet)
        built = []
        try:
            for position, step in enumerate(todo, start=1):
                if why := why_again(lab, step):
                    progress.say(why)
                with progress.step(step.key, position, len(todo)):
                    built.append(run_step(lab, plan, step, progress, todo[position:]))
        except BaseException as error:
            progress.finish(*_ended(error))
            raise
        progress.finish("done")
        return built


def _ended(error: BaseException) -> tuple[str, str]:
    """State and message of a job that did not come to its end."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped", "stopped by hand; what was finished is kept, growing again goes on from there"
    return "failed", str(error) if isinstance(error, MarbleError) else f"{type(error).__name__}: {error}"


def run_step(lab: Lab, plan: Plan, step: Step, progress: Progress, todo: Sequence[Step] = ()) -> Artefact:
    """Build one step whose parents are finished; `todo` are those that come after it."""
    parents = {}
    for key, id_ in step.parents.items():
        kind, name = key.split("/", 1)
        if (parent := lab.artefact(kind, name, id_)) is None:
            raise Failure(f"{step.key} stands on {key}, which is not there: run `grow` without --only")
        parents[key] = parent
    draft = lab.begin(step.kind, step.name, step.config, step.parents, step.builder.version)
    module, function = step.builder.function.split(":")
    builder: BuilderFunction = getattr(importlib.import_module(module), function)
    with plain_disk_errors(draft.path), _quiet_libraries():
        figures = builder(Build(lab, plan, step, draft, parents, progress, todo))
        return draft.commit(figures, seed=step.config.get("seed"))


@contextlib.contextmanager
def _quiet_libraries() -> Any:
    """Training libraries print their own bars and reports to hubs; ours are the ones a person sees."""
    settings = {"WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "true", "TRL_EXPERIMENTAL_SILENCE": "1"}
    from workbench.loading import quiet_transformers

    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            # transformers and trl rename their own settings and warn themselves about it
            warnings.filterwarnings("ignore", message=".*is deprecated and will be", category=FutureWarning)
            yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
