"""Superposition in this lab's models, from a stored study; where there is none, how to make it."""

from __future__ import annotations

from pages.components import frame
from workbench.lab import Lab


def view(lab: Lab) -> None:
    """The stored study of the lab."""
    frame.note(
        f"This lab's models have not been studied yet: `python -m workbench superposition {lab.name}` does it, "
        "in a few minutes, once their SAEs are trained."
    )
