"""The commands about dictionaries: training them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from workbench.answers import Json, LabName, answer, listed_names
from workbench.errors import Misuse

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
    width: Annotated[str, typer.Option(help="Number of latents, d_sae; several: 2048,8192.")] = "2048",
    k: Annotated[str, typer.Option(help="Latents active per token, on average; several: 16,32.")] = "16",
    seed: Annotated[str, typer.Option(help="Of the starting weights; several: 0,1.")] = "0",
    minus: Annotated[
        str, typer.Option(help="Read what the checkpoint has more than this one: a difference dictionary.")
    ] = "",
    arch: Architecture = "batchtopk",
    name: Annotated[str | None, typer.Option(help="Name of the dictionary, if it is one.")] = None,
    as_json: Json = False,
) -> None:
    """Train sparse autoencoders on a checkpoint's residual stream, each with its feature table.

    Several widths, k and seeds of one site train together over one pass.
    """
    from workbench.dictionary_requests import listed_numbers, request_saes, requested_sites
    from workbench.lab import Lab

    widths, ks = listed_numbers(width, "--width"), listed_numbers(k, "--k")
    seeds, opened = listed_numbers(seed, "--seed"), Lab.open(lab)
    sites = requested_sites(opened, checkpoint, site)
    chosen = request_saes(opened, checkpoint, sites, widths, ks, arch, name, seeds, minus)
    _grow_dictionaries(opened, chosen, as_json, "sae")


@app.command()
def crosscoder(
    lab: LabName,
    checkpoints: Annotated[list[str], typer.Argument(help="Two or more; a snapshot is NAME@STEP.")],
    site: Annotated[
        str | None,
        typer.Option(
            help="Block whose resid_post is read, or 1.mlp_out, or blocks.1.hook_mlp_out; else the middle."
        ),
    ] = None,
    width: Annotated[int, typer.Option(help="Number of latents, d_sae.")] = 2_048,
    k: Annotated[int, typer.Option(help="Latents active per token, on average.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the starting weights.")] = 0,
    arch: Annotated[
        str, typer.Option(help="batchtopk, topk, matryoshka_batchtopk, or l1 for contrast.")
    ] = "batchtopk",
    dedicated: Annotated[
        float, typer.Option(help="Share of the latents that each checkpoint has to itself.")
    ] = 0.0,
    name: Annotated[str | None, typer.Option(help="Name of the dictionary.")] = None,
    as_json: Json = False,
) -> None:
    """Train one crosscoder on several checkpoints, or on snapshots of them, with its feature table."""
    from workbench.dictionary_requests import request_crosscoder, requested_sites
    from workbench.lab import Lab

    opened, asked = Lab.open(lab), listed_names(checkpoints)
    places = requested_sites(opened, asked[0], site)
    if len(places) > 1:
        raise Misuse(f"--site is {site!r}: a crosscoder reads one site, give one")
    (place,) = places
    chosen = request_crosscoder(opened, asked, place, width, k, arch, name, seed, dedicated)
    _grow_dictionaries(opened, [chosen], as_json, "crosscoder")


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
    from workbench.dictionary_requests import request_transcoders, requested_sites
    from workbench.lab import Lab

    opened = Lab.open(lab)
    layers = [None if one is None else one.layer for one in requested_sites(opened, checkpoint, layer)]
    chosen = request_transcoders(opened, checkpoint, layers, width, k, arch, name, skip)
    _grow_dictionaries(opened, chosen, as_json, "transcoder")


def _grow_dictionaries(lab: Any, names: list[str], as_json: bool, command: str) -> None:
    """Grow dictionaries with their tables and print their figures: one as it is, several by name."""
    from workbench.grow import grow as grow_lab

    grow_lab(lab, [f"features/{name}" for name in names], command=command)
    found = {name: dict(lab.find("dictionary", name).figures) for name in names}
    told = {"lab": lab.name, "dictionaries": found}
    if len(names) == 1:
        told = {"lab": lab.name, "dictionary": names[0], **found[names[0]]}
    lines = [
        f"dictionary {n!r}: L0 {_said(f['l0'], '.1f')}, FVU {_said(f['fvu'], '.3f')}" for n, f in found.items()
    ]
    answer(told, as_json, lambda: "\n".join(lines))


def _said(figure: float | Mapping[str, float], places: str) -> str:
    """A figure, or that of each checkpoint."""
    if isinstance(figure, Mapping):
        return ", ".join(f"{value:{places}} ({name})" for name, value in figure.items())
    return f"{figure:{places}}"
