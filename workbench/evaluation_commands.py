"""The commands that judge dictionaries: `evaluate` and `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench.answers import Json, LabName, answer
from workbench.errors import Misuse

app = typer.Typer()


@app.command()
def evaluate(
    lab: LabName,
    names: Annotated[list[str] | None, typer.Argument(help="Dictionaries; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Judge dictionaries: against the world's factors, and beside PCA, neurons, random, untrained, Gaussian."""
    from workbench.evaluation_requests import request_evaluation
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab
    from workbench.quality import Quality, artefact_name
    from workbench.truth import Truth, describe, sentence

    opened = Lab.open(lab)
    wanted = request_evaluation(opened, names or ())
    steps = [f"evaluation/{kind}" for n in wanted for kind in (f"truth-{n}", artefact_name(n))]
    grow_lab(opened, steps, command="evaluate")
    truths = {name: dict(Truth.of(opened, name).figures) for name in wanted}
    qualities = {name: Quality.of(opened, name) for name in wanted}
    value = {
        "lab": lab,
        "truth": {n: {"says": sentence(f), **f} for n, f in truths.items()},
        "quality": {n: dict(q.figures) for n, q in qualities.items()},
    }
    told = [describe(*of) for of in truths.items()] + [q.describe() for q in qualities.values()]
    answer(value, as_json, lambda: "\n\n".join(told))


@app.command()
def sweep(
    lab: LabName,
    checkpoint: Annotated[str, typer.Option(help="Which checkpoint to open up.")],
    k: Annotated[str, typer.Option(help="Latents active per token: 4,8,16.")] = "4,8,16,32",
    width: Annotated[str, typer.Option(help="Numbers of latents: 1024,2048.")] = "1024,2048",
    arch: Annotated[str, typer.Option(help="Architectures: batchtopk,topk.")] = "batchtopk",
    layer: Annotated[int | None, typer.Option(help="Block whose resid_post is read; else the middle.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep.")] = None,
    html: Annotated[Path | None, typer.Option(help="Where to write the plots as one HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Train every architecture, width and k together over one pass: L0 against FVU and CE score."""
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab
    from workbench.sweeps import Sweep, request_sweep

    if html is not None and (html.is_dir() or not html.parent.is_dir()):
        raise Misuse(f"--html {html} is no file that can be written: name one in a folder that exists")
    archs = [each for each in arch.split(",") if each]
    opened = Lab.open(lab)
    chosen = request_sweep(opened, checkpoint, layer, archs, numbers(width), numbers(k), name)
    grow_lab(opened, [f"evaluation/{chosen}"], command="sweep")
    found = Sweep.of(opened, chosen)
    if html is not None:
        found.write_html(html)
    answer({"lab": lab, "sweep": chosen, "dictionaries": found.table.to_dicts()}, as_json, found.describe)


def numbers(listed: str) -> list[int]:
    """The numbers of a comma-separated list."""
    try:
        return [int(each) for each in listed.split(",") if each.strip()]
    except ValueError:
        raise Misuse(f"{listed!r} is not a list of whole numbers: write 1024 or 1024,2048") from None
