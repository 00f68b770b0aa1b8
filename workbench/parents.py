"""What a checkpoint of a recipe was made from, and a sentence where the recipe does not have it."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

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


def lineage(names: Sequence[str], parent_of: Callable[[str], str | None]) -> tuple[str, ...]:
    """The stages from the first of `names` to the deepest of them, those between included; of two as deep, the
    later one. Names that do not lie on this line are left out."""
    lines = {name: _line(name, parent_of) for name in names}
    deepest = max(reversed(names), key=lambda name: len(lines[name]))
    line = lines[deepest]
    return line[min(line.index(name) for name in names if name in line) :]


def _line(name: str, parent_of: Callable[[str], str | None]) -> tuple[str, ...]:
    found = [name]
    while (parent := parent_of(found[-1])) is not None:
        found.append(parent)
    return tuple(reversed(found))
