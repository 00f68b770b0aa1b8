"""`python -m probes`."""

from probes.kit.commands import entry

entry()
