"""The commands about dictionaries: training them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from workbench.answers import Json, LabName, answer

app = typer.Typer()

Architecture = Annotated[
    str,
    typer.Option(
        "--arch",
        help="batchtopk, topk, matryoshka_batchtopk, standard, gated, jumprelu, abstopk or matching_pursuit.",
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
