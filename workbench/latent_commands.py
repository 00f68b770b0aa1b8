"""Commands about latents and dictionaries that come or go: `features`, `export`, `import-sae`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from workbench.answers import Json, LabName, answer
from workbench.errors import Misuse, unknown

app = typer.Typer()
DictionaryName = Annotated[str, typer.Argument(help="A dictionary of the lab.", metavar="DICTIONARY")]
FORMATS = ("neuronpedia",)


@app.command()
def features(
    lab: LabName,
    dictionary: DictionaryName,
    explain_with: Annotated[
        str, typer.Option(help="Base URL of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1.")
    ] = "",
    model: Annotated[str, typer.Option(help="The endpoint's name of the model that explains.")] = "gpt-4o-mini",
    latents: Annotated[
        str, typer.Option(help="Which latents, such as 1,2,3; the most frequent if left out.")
    ] = "",
    rows: Annotated[int, typer.Option(min=1, help="Rows of the table that are printed.")] = 20,
    as_json: Json = False,
) -> None:
    """The latents of a dictionary; with a URL, explanations by a language model, scored on other texts."""
    from workbench.features import FeatureTable
    from workbench.lab import Lab
    from workbench.latent_listing import listed, printed

    table = FeatureTable.of(Lab.open(lab), dictionary)
    chosen = [_latent(part) for part in latents.split(",") if part.strip()]
    if explain_with:
        from workbench.explanations import explain

        chosen = chosen or [row["latent"] for row in listed(table, [], min(rows, 10))]
        explain(table, chosen, explain_with, model, os.environ.get("OPENAI_API_KEY"))
    found = listed(table, chosen, rows)
    told = {"lab": lab, "dictionary": dictionary, "n_latents": table.table.height, "latents": found}
    answer(told, as_json, lambda: printed(found, table.table.height))


def _latent(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Misuse(
            f"{text.strip()!r} is no latent: give numbers with commas between them, such as 1,2,3"
        ) from None


@app.command()
def export(
    lab: LabName,
    dictionary: DictionaryName,
    out: Annotated[Path, typer.Option(help="Folder to write below.")],
    format_: Annotated[str, typer.Option("--format", help="neuronpedia.")] = "neuronpedia",
    as_json: Json = False,
) -> None:
    """Write a dictionary's dashboards for another tool to import."""
    from tqdm import tqdm

    from workbench.features import FeatureTable
    from workbench.lab import Lab
    from workbench.neuronpedia import export as export_neuronpedia

    if format_ not in FORMATS:
        raise unknown("format", format_, FORMATS)
    table = FeatureTable.of(Lab.open(lab), dictionary)
    total = table.table.height * len(table.checkpoints)
    with tqdm(total=total, unit=" latents", desc="export", file=sys.stderr) as bar:
        folders = [str(folder) for folder in export_neuronpedia(table, out, bar.update)]
    told = {"lab": lab, "dictionary": dictionary, "format": format_, "folders": folders}
    answer(told, as_json, lambda: "written: " + ", ".join(folders))


@app.command(name="import-sae")
def import_sae(
    lab: LabName,
    name: Annotated[str, typer.Argument(help="Name the dictionary gets in the lab.")],
    source: Annotated[str, typer.Argument(help="A SAELens folder, or release:sae_id of SAELens' registry.")],
    checkpoint: Annotated[str, typer.Option(help="The checkpoint whose activations it reads.")],
    site: Annotated[
        str | None,
        typer.Option(help="What it reads: 2, or blocks.2.hook_mlp_out; the source says, if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring a sparse autoencoder from outside, scored and tabled like our own."""
    from workbench.grow import grow as grow_lab
    from workbench.imported import request
    from workbench.lab import Lab

    opened = Lab.open(lab)
    chosen = request(opened, name, source, checkpoint, site)
    grow_lab(opened, [f"features/{chosen}"], command="import-sae")
    figures = dict(opened.find("dictionary", chosen).figures)
    text = f"dictionary {chosen!r}: L0 {figures['l0']:.1f}, FVU {figures['fvu']:.3f}"
    answer({"lab": lab, "dictionary": chosen, **figures}, as_json, lambda: text)
