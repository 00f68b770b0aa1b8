"""The commands about several checkpoints: comparing them, and the sheet of what each stage did."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.answers import Json, LabName, answer, listed_names
from workbench.errors import Misuse

if TYPE_CHECKING:
    from workbench.lab import Lab

app = typer.Typer()

CONTROLS_TAKE = "about 20 minutes on two cores"
PATHS_TAKE = "several minutes"  # nine SAEs a stage


@app.command()
def compare(
    lab: LabName,
    names: Annotated[list[str] | None, typer.Argument(help="Two or more checkpoints.")] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls",
            help=f"Beside each stage's sham and sibling, grown if they are not there; takes {CONTROLS_TAKE}.",
        ),
    ] = False,
    l1: Annotated[
        bool, typer.Option("--l1", help="Also through an L1 crosscoder, for contrast; takes some minutes.")
    ] = False,
    dictionary: Annotated[
        str | None, typer.Option(help="Crosscoder of these checkpoints to read them through.")
    ] = None,
    paths: Annotated[
        bool,
        typer.Option(
            "--paths",
            help=f"Also fine-tune an SAE from parent to child, data first and model first; takes {PATHS_TAKE}.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Lay checkpoints side by side: what each has alone, how far weights, activations and predictions moved.

    Of checkpoints with different tokenizers, shapes or roots it says what cannot be compared, and does the rest.
    """
    from workbench.comparison_account import account
    from workbench.comparison_requests import grown_first, request_comparisons, time_needed
    from workbench.grow import grow as grow_lab
    from workbench.lab import Lab
    from workbench.matching_requests import request_paths
    from workbench.plan import Plan
    from workbench.unlike_requests import what_keeps_apart

    opened = Lab.open(lab)
    asked = listed_names(names or ())
    if apart := what_keeps_apart(opened, asked):
        options = {"controls": controls, "l1": l1, "paths": paths, "dictionary": dictionary}
        if given := [name for name, value in options.items() if value]:
            raise Misuse(
                f"--{given[0]} needs checkpoints of one lineage, and {apart}: compare these without it"
            )
        return _compare_unlike(opened, asked, as_json)
    walks = [f"evaluation/{name}" for name in (request_paths(opened, asked) if paths else [])]
    wanted = request_comparisons(opened, asked, controls, l1, dictionary)
    plan = Plan.of(opened)
    steps = [key for each in wanted.all for key in (f"comparison/{each}", *plan.parts_of(each))] + walks
    sys.stderr.write(grown_first(opened, steps))
    takes = {"--controls": CONTROLS_TAKE if controls else "", "--paths": PATHS_TAKE if paths else ""}
    sys.stderr.write(time_needed(opened, steps, {option: time for option, time in takes.items() if time}))
    grow_lab(opened, steps, command="compare")
    told = account(opened, wanted.asked, controls, wanted.contrast)
    answer({"lab": lab, "comparison": wanted.asked, **told.figures}, as_json, told.describe)


def _compare_unlike(lab: Lab, names: Sequence[str], as_json: bool) -> None:
    """What can be told of checkpoints that cannot be laid side by side token by token."""
    from workbench.comparison_requests import grown_first
    from workbench.grow import grow as grow_lab
    from workbench.unlike import Unlike
    from workbench.unlike_requests import request_unlike

    name = request_unlike(lab, names)
    steps = [f"evaluation/{name}"]
    sys.stderr.write(grown_first(lab, steps))
    grow_lab(lab, steps, command="compare")
    found = Unlike.of(lab, name)
    answer({"lab": lab.name, "comparison": name, **found.told()}, as_json, found.describe)


@app.command()
def sheet(
    lab: LabName,
    names: Annotated[
        list[str], typer.Argument(help="The checkpoints of a comparison, as `compare` was given them.")
    ],
    out: Annotated[Path | None, typer.Option(help="A folder for the sheet as HTML and as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Say what each stage added, strengthened, silenced and left alone, each line beside its controls."""
    from workbench.comparison_requests import finished_comparison
    from workbench.lab import Lab
    from workbench.verdict import sheet as verdict_sheet
    from workbench.verdict_file import write_sheet

    opened = Lab.open(lab)
    found = verdict_sheet(opened, finished_comparison(opened, listed_names(names)))
    written = write_sheet(found, out) if out is not None else []
    answer(found.as_json() | {"written": [str(path) for path in written]}, as_json, found.describe)
