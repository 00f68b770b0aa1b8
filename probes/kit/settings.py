"""Settings of probes, refused where nothing could be told with them."""

from __future__ import annotations

from workbench.errors import Misuse


def at_least(least: int, /, **settings: int | float) -> None:
    """Settings by name; the first that is below `least` is `Misuse`."""
    for name, value in settings.items():
        if value < least:
            raise Misuse(f"{name} is {value}: at least {least} is needed, --set {name}={least} or more")
