"""A circuit's other task: one of the same form that is about something else.

A circuit of another task is a control only where it could have served: edges that read the chat's markers help
every answer, so a task in chat form is held against a task in chat form, and one in plain wording against a plain
one. It must be about something else too: no sum beside a sum, no capital beside a capital. What a file of one's
own is about is not known: its control is the first of its form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from workbench.circuits.asked import Task
from workbench.circuits.tasks import known_task

CONTROLS: Mapping[str, tuple[str, ...]] = {
    "plain": ("capitals", "sums_units", "quotes", "induction", "previous_token"),
    "chat": ("capitals_chat", "letter_counts_worked", "sums_units_chat"),
}


def controls_of(task: Task) -> Iterator[str]:
    """Names of the tasks that it can be held against, the first the usual one."""
    for name in CONTROLS[task.wording]:
        if name != task.name and not set(known_task(name).about) & set(task.about):
            yield name


def control_of(task: Task, can_be_made: Callable[[str], bool]) -> str:
    """The first of them that a lab can make; empty where there is none: the circuit has no such control then."""
    return next((name for name in controls_of(task) if can_be_made(name)), "")
