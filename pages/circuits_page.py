"""Circuits: what each checkpoint does a task with, whether that is shown, and what a later stage made of it."""

from pages.components import (
    circuit_choice,
    circuit_curve,
    circuit_difference,
    circuit_graph,
    circuit_grids,
    circuit_heads,
    circuit_latents,
    circuit_lens,
    circuit_prompts,
    circuit_snapshots,
    circuit_transfer,
    circuit_verdict,
    frame,
)
from pages.components.circuit_choice import View

VIEWS = {
    "Verdict": View("What became of the circuit", circuit_verdict.view),
    "Graph": View("The circuit of one checkpoint", circuit_graph.view),
    "Difference": View("Two checkpoints' edges, one over the other", circuit_difference.view),
    "Curve": View("How few edges it takes", circuit_curve.view),
    "Transfer": View("Each circuit in each checkpoint", circuit_transfer.view),
    "Patching": View("What each part is worth", circuit_grids.view),
    "Lens": View("At which layer the answer stands", circuit_lens.view),
    "Heads": View("Where heads look, and what they write", circuit_heads.view),
    "Latents": View("Which latents the task is done with", circuit_latents.view),
    "Snapshots": View("The circuit's way along the snapshots", circuit_snapshots.view),
    "Prompts": View("The prompts", circuit_prompts.view),
}

lab = frame.begin("Circuits", "What each checkpoint does a task with, and what a later stage made of it.")

with frame.sentences():
    circuit_choice.page(lab, VIEWS, VIEWS["Latents"], circuit_latents.alone)
