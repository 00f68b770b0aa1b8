"""The command line of probes: `list`, `run`, `new`; and what `python -m probes.NAME` does."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from probes.kit import found, template
from workbench.answers import Json, LabName, answer, listed_names
from workbench.entry import run_app
from workbench.errors import Misuse
from workbench.lab import Lab

Checkpoints = Annotated[
    str, typer.Option(help="About which checkpoints: base,sft,grpo; snapshots such as sft@128.")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting of the probe: --set n=100.")]
Again = Annotated[bool, typer.Option("--again", help="Also where an answer is stored already.")]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Questions about checkpoints, one a file, each answered with n, an interval and a null.",
)


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """The probes there are, those of one's own among them."""
    everyone = found.probes()
    width = max(len(each.name) for each in everyone)
    lines = [f"{each.name:<{width}}  {each.broken or each.question}{_settings(each)}" for each in everyone]
    answer({"probes": [each.told() for each in everyone]}, as_json, lambda: "\n".join(lines))


def _settings(probe: found.Probe) -> str:
    """Its settings with their defaults, in brackets."""
    told = ", ".join(f"{name}={value}" for name, value in probe.options.items())
    return f" [{told}]" if told else ""


@app.command()
def run(
    lab: LabName,
    names: Annotated[list[str] | None, typer.Argument(help="Which probes: one or several.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All probes there are.")] = False,
    checkpoints: Checkpoints = "base,sft,grpo",
    settings: Settings = None,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Ask probes about checkpoints, store their answers and tell them."""
    chosen = listed_names(names or [])
    if everything == bool(chosen):
        raise Misuse("name a probe, or ask for all with --all; `python -m probes list` names them")
    asked = found.probes() if everything else [found.probe(name) for name in chosen]
    if settings and len(asked) != 1:
        raise Misuse("--set is a setting of one probe: name that one")
    options = found.checked_options(asked[0], settings) if settings else {}
    raise typer.Exit(tell(lab, asked, listed_names([checkpoints]), options, again, as_json, not everything))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What the probe is to be called.")], as_json: Json = False
) -> None:
    """Write a probe of one's own to begin with: a file that runs, and that the Probes page finds."""
    path = template.write(name)
    answer(
        {"file": str(path)},
        as_json,
        lambda: f"{path}\nchange its question and what it measures; it runs as it is",
    )


def tell(
    lab: str,
    asked: Sequence[found.Probe],
    checkpoints: Sequence[str],
    options: dict[str, object],
    again: bool,
    as_json: bool,
    named: bool = True,
) -> int:
    """Run and answer; the exit code. Lacking what a probe asks about is misuse where it was asked for by name."""
    from probes.kit.running import DONE, FAILED, LACKING
    from probes.kit.running import run as run_probes

    if not checkpoints:
        raise Misuse("name a checkpoint at least: --checkpoints base,sft,grpo")
    began = time.monotonic()
    answers = run_probes(Lab.open(lab), asked, checkpoints, options, again)
    told = {
        "lab": lab,
        "checkpoints": list(checkpoints),
        "seconds": round(time.monotonic() - began, 2),
        "probes": {each.probe.name: each.told() for each in answers},
    }
    given = [each for each in answers if each.stored is not None]
    if as_json or given:
        whole = len(asked) == 1
        answer(told, as_json, lambda: "\n".join(e.whole() if whole else e.describe() for e in given))
    states = {each.state for each in answers}
    for each in answers:
        if each.state != DONE and not as_json:
            sys.stderr.write(f"marble: probe {each.probe.name!r}: {each.message}\n")
    return 1 if FAILED in states else 2 if named and LACKING in states else 0


def main(file: str) -> None:
    """What a probe's file does when it is run: `python -m probes.NAME LAB --checkpoints base,sft`."""
    script = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    name = Path(file).stem

    @script.command()
    def ask(
        lab: LabName,
        checkpoints: Checkpoints = "base,sft,grpo",
        settings: Settings = None,
        again: Again = False,
        as_json: Json = False,
    ) -> None:
        probe = found.probe(name)
        options = found.checked_options(probe, settings or [])
        raise typer.Exit(tell(lab, [probe], listed_names([checkpoints]), options, again, as_json))

    ask.__doc__ = found.probe(name).question
    run_app(script)


def entry() -> None:
    """Entry of `python -m probes`."""
    run_app(app)
