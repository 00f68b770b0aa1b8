"""Pages about a comparison: the choice of it, and of one of several views, each with an address. Only the view that
is looked at is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from pages.components import compared, frame, store
from workbench.plan import Plan

if TYPE_CHECKING:
    from workbench.comparison import Comparison
    from workbench.lab import Lab


class View(NamedTuple):
    """One view of a comparison: its title, how it is drawn, the part that it reads (if any) and what that tells."""

    title: str
    draw: Callable[[Lab, Comparison], None]
    part: str = ""
    tells: str = ""


def comparisons(lab: Lab, left_out: Sequence[str] = (), beside: Sequence[str] = ()) -> list[str]:
    """Names of the finished comparisons, and of those `beside` them; ends the run with what to do where there is
    none, and says it where the address names another, unless it has been told why that is `left_out`."""
    names = [*store.finished(lab, "comparison"), *beside]
    if not names:
        frame.note(
            "No comparison has been finished yet: it comes last, after the crosscoder. "
            f"The Lab page shows how far {lab.name} is; "
            f"`python -m workbench compare {lab.name} NAME NAME` makes one and takes it apart."
        )
        st.stop()
    frame.doubted("comparison", "comparison", [*names, *left_out])
    return names


def choice(names: Sequence[str]) -> str:
    """The comparison that is looked at."""
    return str(st.selectbox("Comparison", names, key="comparison", bind="query-params", width=360))


def missing(lab: Lab, comparison: Comparison, tells: str, more: str = "") -> None:
    """What a view would show, and the command that takes it; or where it is told already."""
    recipe = Plan.of(lab).recipe
    if recipe.dictionary(comparison.dictionary).for_contrast:
        like = (c for c in recipe.comparisons if c.checkpoints == comparison.checkpoints)
        usual = next((c.name for c in like if recipe.dictionary(c.dictionary).usual), "the usual one")
        frame.note(
            f"{tells}: that is told of {usual}, chosen above; this comparison, read through an L1 crosscoder, "
            "stands beside it for contrast."
        )
        return
    command = f"python -m workbench compare {lab.name} {' '.join(comparison.checkpoints)}{more}"
    frame.note(f"{tells}: `{command}` takes it; what was finished before is kept.")


def page(
    lab: Lab,
    views: Mapping[str, View],
    beside: Mapping[str, Callable[[], None]] | None = None,
    left_out: Sequence[str] = (),
) -> None:
    """The comparison and the view that the address names (else the first), and that view. `beside`: comparisons of
    another kind, which have no views, and how each is drawn; `left_out`: those that this page cannot show."""
    apart = dict(beside or {})
    names = comparisons(lab, left_out, list(apart))
    frame.doubted("view", "view", list(views))
    left, right = st.columns([2, 5], vertical_alignment="bottom", gap="large")
    with left:
        name = choice(names)
    if name in apart:
        apart[name]()
        return
    with right:
        shown = st.segmented_control(
            "Show", list(views), default=next(iter(views)), required=True, key="view", bind="query-params"
        )
    view, opened = views[str(shown)], compared.comparison(lab, name)
    st.header(view.title, anchor=False)
    if view.part and name not in compared.taken_apart(lab, view.part):
        missing(lab, opened, view.tells)
    else:
        view.draw(lab, opened)
