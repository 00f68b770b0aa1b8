"""What the command lines of a lab share: the application, common options, and how an answer is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Marble: grow a small language model in stages, open every stage up, see what each stage changed.",
)

LabName = Annotated[str, typer.Argument(help="Name of the lab.", metavar="LAB")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Preset = Annotated[str | None, typer.Option(help="quick, standard or gpu.")]
CorpusSource = Annotated[
    str | None,
    typer.Option("--corpus", help="sotu, hub:NAME, or a path such as texts/*.txt, .jsonl, .parquet."),
]


def answer(value: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print what a command found: as JSON, or as `text` has it."""
    sys.stdout.write((json.dumps(value, ensure_ascii=False) if as_json else text()) + "\n")
