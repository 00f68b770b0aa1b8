"""Marble's workbench: a lab of checkpoints, and everything one can ask of one of them or several."""

from workbench.lab import Lab

__all__ = ["Lab"]
