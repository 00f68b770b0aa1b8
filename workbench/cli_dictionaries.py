"""The commands about dictionaries: training, judging, sweeping them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.commands import Json, LabName, answer, app

Architecture = Annotated[
    str,
    typer.Option(
        "--arch",
        help="batchtopk, topk, matryoshka_batchtopk, standard, gated, jumprelu or matching_pursuit.",
    ),
]


@app.command()
def sae(
    lab: LabName,
    checkpoint: Annotated[str, typer.Option(help="Which checkpoint to open up.")],
    site: Annotated[
        str | None,
        typer.Option(
            help="Block whose resid_post is read, or 1.mlp_out, or blocks.1.hook_mlp_out; several (0,1,2) are "
            "read in one pass; the middle if left out."
        ),
    ] = None,
    width: Annotated[int, typer.Option(help="Number of latents, d_sae.")] = 2_048,
    k: Annotated[int, typer.Option(help="Latents active per token, on average.")] = 16,
    arch: Architecture = "batchtopk",
    name: Annotated[str | None, typer.Option(help="Name of the dictionary.")] = None,
    as_json: Json = False,
) -> None:
    """Train a sparse autoencoder on a checkpoint's residual stream, with its feature table."""
    from workbench.dictionary_requests import request_sae, requested_sites
    from workbench.lab import Lab

    opened = Lab.open(lab)
    chosen = []
    for one in requested_sites(opened, checkpoint, site):
        place = (None, "resid_post") if one is None else one
        chosen.append(request_sae(opened, checkpoint, place[0], width, k, arch, name, place[1]))
    _grow_dictionaries(opened, chosen, as_json)


@app.command()
def transcoder(
    lab: LabName,
    checkpoint: Annotated[str, typer.Option(help="Which checkpoint to open up.")],
    layer: Annotated[
        str | None, typer.Option(help="Block whose MLP it stands for; several: 0,1,2; the middle if left out.")
    ] = None,
    width: Annotated[int, typer.Option(help="Number of latents, d_sae.")] = 2_048,
    k: Annotated[int, typer.Option(help="Latents active per token, on average.")] = 16,
    arch: Annotated[str, typer.Option(help="batchtopk, topk or matryoshka_batchtopk.")] = "batchtopk",
    skip: Annotated[bool, typer.Option(help="A linear path from input to output beside the latents.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the dictionary.")] = None,
    as_json: Json = False,
) -> None:
    """Train a transcoder from what a layer's MLP reads to what it writes, with its feature table."""
    from workbench.dictionary_requests import request_transcoder, requested_sites
    from workbench.lab import Lab

    opened = Lab.open(lab)
    layers = [None if one is None else one.layer for one in requested_sites(opened, checkpoint, layer)]
    chosen = [request_transcoder(opened, checkpoint, one, width, k, arch, name, skip) for one in layers]
    _grow_dictionaries(opened, chosen, as_json)


def _grow_dictionaries(lab: Any, names: list[str], as_json: bool) -> None:
    """Grow dictionaries with their tables and print their figures: one as it is, several by name."""
    from workbench.grow import grow as grow_lab

    grow_lab(lab, [f"features/{name}" for name in names])
    found = {name: dict(lab.find("dictionary", name).figures) for name in names}
    told = {"lab": lab.name, "dictionaries": found}
    if len(names) == 1:
        told = {"lab": lab.name, "dictionary": names[0], **found[names[0]]}
    lines = [f"dictionary {n!r}: L0 {f['l0']:.1f}, FVU {f['fvu']:.3f}" for n, f in found.items()]
    answer(told, as_json, lambda: "\n".join(lines))


@app.command()
def sweep(
    lab: LabName,
    checkpoint: Annotated[str, typer.Option(help="Which checkpoint to open up.")],
    k: Annotated[str, typer.Option(help="Latents active per token; several: 4,8,16.")] = "4,8,16,32",
    width: Annotated[str, typer.Option(help="Numbers of latents, d_sae.")] = "1024,2048",
    arch: Annotated[str, typer.Option(help="Architectures.")] = "batchtopk",
    layer: Annotated[
        int | None, typer.Option(help="Block whose resid_post is read; the middle if left out.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the Pareto plots there too.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep.")] = None,
    as_json: Json = False,
) -> None:
    """Train every combination over one pass: L0 against FVU and CE score."""
    from workbench.errors import Misuse
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab
    from workbench.sweeps import Sweep, request_sweep

    def numbers(listed: str) -> list[int]:
        try:
            return [int(each) for each in listed.split(",") if each]
        except ValueError:
            raise Misuse(f"{listed!r} is not a list of whole numbers: write 16 or 4,8,16") from None

    opened = Lab.open(lab)
    archs = [each for each in arch.split(",") if each]
    chosen = request_sweep(opened, checkpoint, layer, archs, numbers(width), numbers(k), name)
    grow_lab(opened, [f"evaluation/{chosen}"])
    found = Sweep.of(opened, chosen)
    if html is not None:
        found.write_html(html)
    rows = found.table.to_dicts()
    lines = [
        f"{r['dictionary']:28} L0 {r['l0']:7.2f}  FVU {r['fvu']:.4f}  CE score {r['ce_score']:.4f}"
        for r in rows
    ]
    answer({"lab": lab, "sweep": chosen, "points": rows}, as_json, lambda: "\n".join(lines))


@app.command()
def evaluate(
    lab: LabName,
    names: Annotated[list[str] | None, typer.Argument(help="Dictionaries; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Judge dictionaries: quality beside controls and other seeds, then the world's factors as ground truth."""
    from workbench.evaluation_requests import request_evaluation
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab
    from workbench.plan import Plan
    from workbench.quality import artefact_name
    from workbench.truth import Truth, describe, sentence

    opened = Lab.open(lab)
    wanted = request_evaluation(opened, names or ())
    steps = [f"evaluation/{kind}" for n in wanted for kind in (artefact_name(n), f"truth-{n}")]
    planned = Plan.of(opened).steps
    grow_lab(opened, [step for step in steps if step in planned])
    quality = {n: dict(opened.find("evaluation", artefact_name(n)).figures) for n in wanted}
    found = {name: dict(Truth.of(opened, name).figures) for name in wanted}
    told = {n: {"says": sentence(f), **f} for n, f in found.items()}
    found_out = {"lab": lab, "quality": quality, "truth": told}
    answer(found_out, as_json, lambda: "\n\n".join(describe(*f) for f in found.items()))
