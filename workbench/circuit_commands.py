"""The commands about circuits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.answers import Json, LabName, answer, listed_names
from workbench.circuit_config import EAP_IG

if TYPE_CHECKING:
    from workbench.lab import Lab

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
    finder: Annotated[
        str,
        typer.Option(help="What finds its edges: eap-ig, exact (each patched for itself) or acdc; minutes."),
    ] = EAP_IG,
    tau: Annotated[
        float | None, typer.Option(help="ACDC's threshold: the share of the task an edge may cost; 0.01.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Also patch every edge for itself beside its estimates; takes minutes."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Find a task's circuit in each checkpoint, prove it beside controls, and say what each stage made of it."""
    from workbench.circuits.circuit_history import CircuitHistory
    from workbench.circuits.circuit_requests import request_circuit
    from workbench.circuits.found_checks import CircuitCheck
    from workbench.circuits.found_circuits import FoundCircuits
    from workbench.comparison_requests import grown_first
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab
    from workbench.plan import check_name, history_name

    opened = Lab.open(lab)
    names = listed_names([checkpoints])
    name = request_circuit(opened, task, names, pairs, seed, snapshots, finder, tau, check)
    steps = [f"circuit/{name}", *([f"circuit/{history_name(name)}"] if snapshots else [])]
    steps += [f"circuit/{check_name(name)}"] if check else []
    sys.stderr.write(grown_first(opened, steps))
    grow_lab(opened, steps, command="circuit")
    found = FoundCircuits.of(opened, name)
    told, said = {"lab": lab, "circuit": name, **found.told()}, [found.describe()]
    if snapshots:
        followed = CircuitHistory.of(opened, name)
        told["history"] = followed.told()
        said += ["Along the snapshots:", *followed.all_sentences()]
    if check:
        patched = CircuitCheck.of(opened, name)
        told["check"] = patched.told()
        said += patched.sentences()
    answer(told, as_json, lambda: "\n".join(said))


@app.command()
def feature_circuit(
    lab: LabName,
    task: Annotated[
        str, typer.Option(help="A task by name (`tasks` lists them), or a jsonl file of one's own.")
    ],
    checkpoints: Annotated[str, typer.Option(help="In which checkpoints: sft,grpo.")],
    dictionaries: Annotated[
        str, typer.Option(help="SAEs, one a site; if left out, one of each site that has any.")
    ] = "",
    pairs: Annotated[int, typer.Option(help="Prompts to score latents on, and as many to judge them.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the prompts that are drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Which latents a checkpoint does a task with: each one's worth and the errors', proved beside controls."""
    from workbench.circuits.feature_circuit_requests import request_feature_circuits
    from workbench.circuits.found_feature_circuits import FoundFeatureCircuit
    from workbench.comparison_requests import grown_first
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab

    opened = Lab.open(lab)
    named = listed_names([dictionaries])
    names = request_feature_circuits(opened, task, listed_names([checkpoints]), named, pairs, seed)
    steps = [f"evaluation/{name}" for name in names]
    sys.stderr.write(grown_first(opened, steps))
    grow_lab(opened, steps, command="feature-circuit")
    found = [FoundFeatureCircuit.of(opened, name) for name in names]
    told = {"lab": lab, "feature_circuits": {each.name: each.told() for each in found}}
    answer(told, as_json, lambda: "\n\n".join(each.describe() for each in found))


@app.command()
def tasks(as_json: Json = False) -> None:
    """The tasks that circuits can be asked for."""
    from workbench.circuits.tasks import TASKS

    told = {name: {"question": task.question, "wording": task.wording} for name, task in TASKS.items()}
    width = max(map(len, told))
    lines = [f"{name:<{width}}  {each['wording']:<5}  {each['question']}" for name, each in told.items()]
    answer(told, as_json, lambda: "\n".join(lines))


@app.command()
def graph(
    lab: LabName,
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, or a snapshot of it such as sft@128.")],
    prompt: Annotated[str, typer.Argument(help="What the model goes on from.")],
    out: Annotated[Path, typer.Option(help="Folder for the graph, as circuit-tracer's front end reads it.")],
    chat: Annotated[bool, typer.Option(help="Ask the prompt as a question in chat form.")] = False,
    top_k: Annotated[int, typer.Option(min=1, help="Logits at most; fewer where they hold 95 %.")] = 10,
    node_threshold: Annotated[
        float, typer.Option(help="Nodes are kept up to this share of influence, from 0 to 1.")
    ] = 0.8,
    edge_threshold: Annotated[float, typer.Option(help="So are edges.")] = 0.98,
    as_json: Json = False,
) -> None:
    """Which tokens and transcoder latents make what a checkpoint says behind a prompt: its attribution graph."""
    from workbench.circuits.prompt_graph import GraphRequest, PromptGraph, checked_folder, refuse_unlike
    from workbench.circuits.site_dictionaries import (
        latent_labels,
        open_layer_transcoders,
        wanted_layer_transcoders,
    )
    from workbench.circuits.tracer_json import how_to_view
    from workbench.comparison_requests import grown_first
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab

    opened = Lab.open(lab)
    shares = {"node_share": node_threshold, "edge_share": edge_threshold}
    asked = GraphRequest.of(opened.checkpoint(checkpoint), prompt, chat, most_logits=top_k, **shares)
    model = asked.checkpoint.model()
    refuse_unlike(model, asked)
    folder = checked_folder(out)
    names = wanted_layer_transcoders(opened, checkpoint)
    steps = [f"dictionary/{name}" for name in names]
    sys.stderr.write(grown_first(opened, steps) + _trained_first(opened, steps, "one to three minutes"))
    grow_lab(opened, steps, command="graph")
    labels = latent_labels(opened, names)
    found = PromptGraph.of(asked, model, open_layer_transcoders(opened, names), names, labels)
    path = found.write(folder)
    lines = [str(path), how_to_view(folder)]
    answer(
        {"lab": lab, "file": str(path), **found.told()}, as_json, lambda: "\n".join([*lines, found.describe()])
    )


@app.command()
def lens(
    lab: LabName,
    checkpoints: Annotated[list[str], typer.Argument(help="Checkpoints, or snapshots such as sft@128.")],
    as_json: Json = False,
) -> None:
    """How far each layer is from the prediction: logit lens, tuned lens, and the root checkpoint's tuned lens."""
    from workbench.circuits.found_lenses import FoundLens
    from workbench.circuits.lens_requests import request_lenses
    from workbench.comparison_requests import grown_first
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab
    from workbench.plan import lens_name

    opened = Lab.open(lab)
    names = request_lenses(opened, listed_names(checkpoints))
    steps = [f"evaluation/{lens_name(name)}" for name in names]
    sys.stderr.write(grown_first(opened, steps) + _trained_first(opened, steps, "a minute or two"))
    grow_lab(opened, steps, command="lens")
    found = [FoundLens.of(opened, name) for name in names]
    told = {"lab": lab, "lenses": {each.name: each.told() for each in found}}
    answer(told, as_json, lambda: "\n\n".join(each.describe() for each in found))


def _trained_first(lab: Lab, steps: Sequence[str], each_takes: str) -> str:
    """A line about those of `steps` that are not on the disk, and how long each takes to train on two cores; empty
    if all are there. What they stand on in turn is `grown_first`'s to tell."""
    from workbench.grow import missing

    names = [step.name for step in missing(lab, steps)[1] if step.key in steps]
    if not names:
        return ""
    time = f"{each_takes}{' each' if len(names) > 1 else ''}"
    return f"not on the disk, and so trained first, on two cores in {time}: {', '.join(names)}\n"
