"""A table of settings, as TOML gives it, as a frozen dataclass; unknown, missing and ill-typed ones are refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from workbench.errors import Misuse, unknown

LATER = types.MappingProxyType({"later": True})  # marks settings that older recipes and ids do not have


def parse(cls: type, value: object, where: str) -> Any:
    """`value` (as TOML gives it) as frozen dataclass `cls`; unknown and ill-typed keys are `Misuse`."""
    if not isinstance(value, Mapping):
        raise Misuse(f"{where} should be a table of settings, found {value!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            raise unknown(f"setting in {where}", str(key), fields)
    missing = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in value
    ]
    if missing:
        raise Misuse(f"{where} lacks the setting {missing[0]!r}: add it to the recipe")
    return cls(**{key: _typed(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise Misuse(f"{where} should be a list, found {value!r}")
        return tuple(_typed(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    allowed = tuple(a for a in (args if origin in (types.UnionType, typing.Union) else (hint,)))
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        expected = " or ".join(getattr(a, "__name__", str(a)) for a in allowed)
        raise Misuse(f"{where} should be {expected}, found {value!r}")
    return value


def given(config: Any) -> dict[str, Any]:
    """Settings by name; those that came later count only where they are set."""
    named = dataclasses.asdict(config)
    unset = {f.name for f in dataclasses.fields(config) if f.metadata == LATER and named[f.name] == f.default}
    return {name: value for name, value in named.items() if name not in unset}
