"""What a checkpoint of a recipe was made from, and a sentence where the recipe does not have it."""

from __future__ import annotations

from collections.abc import Container, Sequence

from workbench.errors import Misuse, unknown


def checked_parent(name: str, parent: str, planned: Container[str], names: Sequence[str]) -> str:
    """The key of `parent`'s step; `Misuse` where the recipe lacks it, or names it only behind `name`."""
    if (key := f"checkpoint/{parent}") in planned:
        return key
    told = f"recipe.toml gives checkpoint {name!r} the parent {parent!r}"
    if parent == name:
        raise Misuse(f"{told}, which is itself: name another there, or take the line out")
    if parent in names:
        raise Misuse(f"{told}, which comes later in the recipe: put the parent's entry before")
    others = [each for each in names if each != name]
    raise Misuse(
        f"{told}, but {unknown('checkpoint', parent, others)}; mend `parent` there, or take the entry out"
    )


def checked_member(what: str, name: str, planned: Container[str], names: Sequence[str]) -> str:
    """The key of a checkpoint's step that `what`, a comparison or circuit, names; `Misuse` without one."""
    if (key := f"checkpoint/{name}") in planned:
        return key
    raise Misuse(
        f"{what} of recipe.toml names {name!r}, but {unknown('checkpoint', name, names)}; "
        "mend it there, or take the entry out"
    )
