"""What every command of the command line takes and gives: the lab's name, `--json`, one answer on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

LabName = Annotated[str, typer.Argument(help="Name of the lab.", metavar="LAB")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def answer(value: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Write `value` as JSON, or `text` for a person."""
    sys.stdout.write((json.dumps(value, ensure_ascii=False) if as_json else text()) + "\n")


def listed_names(arguments: Iterable[str]) -> list[str]:
    """Names that were given apart, or with commas between them."""
    return [name for each in arguments for name in each.split(",") if name]
