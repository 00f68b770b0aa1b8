"""Which circuit, which view, which checkpoint: choices that the whole Circuits page has in common."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import streamlit as st

from pages.components import circuit_export, circuit_store, frame, glossary, theme, words
from pages.components.circuit_store import Of
from workbench.circuits.competence import BAR, CHANCE, choices
from workbench.circuits.earlier import Earlier, earlier_circuits
from workbench.circuits.found_circuits import FoundCircuits
from workbench.lab import Lab
from workbench.plan import Plan


class View(NamedTuple):
    """One view: its title and how it is drawn."""

    title: str
    draw: Callable[[Lab, Of], None]


def page(lab: Lab, views: Mapping[str, View], alone: View, read_alone: Callable[[Lab, str], None]) -> None:
    """The circuit that the address names, how well its checkpoints do the task, and one view of it. A task of which
    only the latents have been looked into is listed by its own name, and has the view `alone`."""
    circuits, latents = circuit_store.names(lab), circuit_store.latents_alone(lab)
    names, earlier = [*circuits, *latents], earlier_circuits(lab)
    _earlier(earlier)
    if not names:
        frame.note(
            f"No circuit has been found in {lab.name} yet. Pick a task: the command below finds its circuit "
            "in each checkpoint, and this page shows it as soon as it is there."
        )
        _anew(earlier)
        command(lab)
        return
    if st.query_params.get("circuit") not in {each.name for each in earlier}:
        frame.doubted("circuit", "circuit", names)
    frame.doubted("view", "view", list(views))
    left, right = st.columns([2, 5], vertical_alignment="bottom", gap="large")
    with left:
        name = str(st.selectbox("Circuit", names, key="circuit", bind="query-params", width=360))
    if name in latents:
        frame.note(f"Of {name} only the latents have been looked into: the command below finds its circuit.")
        st.header(alone.title, anchor=False)
        with frame.sentences():
            read_alone(lab, name)
        circuit_export.form()
        _anew(earlier)
        command(lab, name)
        return
    with right:
        shown = st.segmented_control(
            "Show", list(views), default=next(iter(views)), required=True, key="view", bind="query-params"
        )
    of = circuit_store.of(lab, name)
    competence(circuit_store.found(of))
    view = views[str(shown)]
    st.header(view.title, anchor=False)
    circuit_export.nothing_drawn()
    with frame.sentences():
        view.draw(lab, of)
    circuit_export.form()
    _anew(earlier)
    glossary.about(glossary.CIRCUITS)
    with st.expander("Another task's circuit", key="another-task", on_change="rerun") as unfolded:
        if unfolded.open:
            command(lab)


def _earlier(earlier: Sequence[Earlier]) -> None:
    """Of a circuit that the address names and that is not shown: what differs, and its command."""
    asked = st.query_params.get("circuit")
    for each in earlier:
        if each.name == asked:
            frame.note(
                f"{each.name} is on the disk, and {each.why}: this is another circuit, and `{each.command}` finds "
                "that one anew.",
                error=True,
            )


def _anew(earlier: Sequence[Earlier]) -> None:
    """Every circuit that is on the disk and not shown, with the command that finds it anew."""
    if not earlier:
        return
    them = "the command finds it" if len(earlier) == 1 else "the commands find them"
    frame.note(
        f"On the disk and not shown, since found by earlier code or with other settings: "
        f"{', '.join(each.name for each in earlier)}; {them} anew."
    )
    st.code("\n".join(each.command for each in earlier), language="bash")


def command(lab: Lab, first: str = "") -> None:
    """A choice of task, `first` unless another is chosen, and the command that finds its circuit."""
    from workbench.circuits.tasks import TASKS

    recipe, source = Plan.of(lab).recipe, source_of(lab, first)
    tasks = [*([first] if source else []), *TASKS]
    at = tasks.index(first) if first in tasks else 0
    task = str(st.selectbox("Task", tasks, at, key="task", bind="query-params", width=360))
    frame.caption(TASKS[task].question if task in TASKS else f"The pairs of {source}")
    there = [name for name in ("base", "sft", "grpo") if name in recipe.checkpoint_names]
    among = ",".join(there or recipe.checkpoint_names[:1])
    asked = shlex.quote(task if task in TASKS else source)
    st.code(f"python -m workbench circuit {lab.name} --task {asked} --checkpoints {among}", language="bash")
    waiting = [c.name for c in recipe.circuits if c.task == task and c.name not in circuit_store.names(lab)]
    if waiting:
        frame.caption(f"Asked for and not found yet: {', '.join(waiting)}.")


def source_of(lab: Lab, task: str) -> str:
    """The file of a task of one's own whose latents were looked into; empty of any other."""
    sources = (each.source for each in Plan.of(lab).recipe.feature_circuits if each.task == task)
    return next(sources, "")


def competence(found: FoundCircuits) -> None:
    """How well each checkpoint does the task, and where none of what follows is a circuit."""
    frame.caption(f"{found.figures['question'][:1].upper()}{found.figures['question'][1:]}.")
    told = {row["checkpoint"]: row for row in found.table("competence").filter(figure="told_apart").to_dicts()}
    frame.facts([(f"{name} chooses rightly", _share(told[name])) for name in found.checkpoints])
    frame.caption(
        "Share of right choices between target and foil, on the clean and on the corrupt prompt of each pair. "
        f"{CHANCE} is guessing; {BAR} is asked for, with the whole interval above {CHANCE}, before edges are "
        "called a circuit."
    )
    for name in found.checkpoints:
        figures = found.figures["checkpoints"][name]
        if not figures["does_it"]:
            frame.note(f"{name} does not do the task, so no circuit is claimed for it: {figures['why_not']}.")


def _share(row: Mapping[str, float]) -> str:
    n = int(row["n"])
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}] of {choices(n)} choices, {n} pairs"


def undone(found: FoundCircuits) -> list[str]:
    """The checkpoints that do not do the task: nothing of theirs is shown as a finding."""
    return [name for name in found.checkpoints if name not in found.able]


def checkpoint(names: Sequence[str], label: str = "Checkpoint") -> str:
    """One of the checkpoints: the last that is chosen nowhere else."""
    frame.doubted("checkpoint", "checkpoint", names)
    return str(
        st.segmented_control(
            label, names, default=names[-1], required=True, key="checkpoint", bind="query-params"
        )
    )


def couple(names: Sequence[str]) -> tuple[str, str] | None:
    """Two of the checkpoints, the earlier first; None where there is but one."""
    ways = {f"{a} → {b}": (a, b) for i, a in enumerate(names) for b in names[i + 1 :]}
    if not ways:
        frame.note("This circuit was found in one checkpoint alone: there is no other to hold it against.")
        return None
    frame.doubted("pair", "pair of checkpoints", list(ways))
    said = st.segmented_control(
        "From and to", list(ways), default=next(iter(ways)), required=True, key="pair", bind="query-params"
    )
    return ways[str(said)]


def tags(names: Sequence[str]) -> None:
    """Names of checkpoints in their colours, in columns as wide as what follows."""
    colours = theme.colours(names)
    for column, name in zip(st.columns(len(names), gap="large"), names, strict=True):
        with column:
            frame.name_tag(words.named(name), colours[name])
