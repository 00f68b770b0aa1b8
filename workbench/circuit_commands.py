"""The commands about circuits."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from workbench.answers import Json, LabName, answer, listed_names

app = typer.Typer()


@app.command()
def circuit(
    lab: LabName,
    task: Annotated[
        str, typer.Option(help="A task by name (`tasks` lists them), or a jsonl file of one's own.")
    ],
    checkpoints: Annotated[str, typer.Option(help="In which checkpoints: base,sft,grpo.")] = "base,sft,grpo",
    pairs: Annotated[int, typer.Option(help="Prompts to find it on, and as many to judge it.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the prompts that are drawn.")] = 0,
    snapshots: Annotated[
        bool, typer.Option("--snapshots", help="Also along every snapshot of their lineage; takes minutes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find a task's circuit in each checkpoint, prove it beside controls, and say what each stage made of it."""
    from workbench.circuits.circuit_requests import request_circuit
    from workbench.circuits.found_circuits import FoundCircuits
    from workbench.comparison_requests import grown_first
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab
    from workbench.plan import history_name

    opened = Lab.open(lab)
    name = request_circuit(opened, task, listed_names([checkpoints]), pairs, seed, snapshots)
    steps = [f"circuit/{name}", *([f"circuit/{history_name(name)}"] if snapshots else [])]
    sys.stderr.write(grown_first(opened, steps))
    grow_lab(opened, steps)
    found = FoundCircuits.of(opened, name)
    answer({"lab": lab, "circuit": name, **found.told()}, as_json, found.describe)


@app.command()
def tasks(as_json: Json = False) -> None:
    """The tasks that circuits can be asked for."""
    from workbench.circuits.tasks import TASKS

    told = {name: {"question": task.question, "wording": task.wording} for name, task in TASKS.items()}
    width = max(map(len, told))
    answer(told, as_json, lambda: "\n".join(f"{name:<{width}}  {t['question']}" for name, t in told.items()))
