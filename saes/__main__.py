"""`python -m saes train|sweep|evaluate`: dictionaries on files of activations, with no lab.

Standard output carries the result (with --json, one JSON document), standard error the progress. Exit 0 done,
1 failed (one sentence), 2 misuse.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from saes.command_run import model_names, resumable, run_with_bar, save_made, shared_settings, whole_numbers
from saes.config import ARCHITECTURES
from saes.given import KINDS, Data, check_kind, like, open_data

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sparse dictionaries on arrays.",
)

Sources = Annotated[
    list[Path], typer.Argument(help="One .npy [token, d] a model, or a folder of them (read in name order).")
]
Target = Annotated[Path | None, typer.Option(help="What a transcoder is to write: a .npy [token, d_out].")]
Exclude = Annotated[
    Path | None, typer.Option(help="Bool .npy [token]: rows to leave out, such as <set>-special.npy.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v:.4f}" for k, v in value.items())
        typer.echo(f"{key:12} {value:.4f}" if isinstance(value, float) else f"{key:12} {value}")


def _scores(dictionary: Any, data: Data, train_on: Data, limit: int | None) -> dict[str, Any]:
    """The dictionary's figures and, beside them, PCA with k components fitted on `train_on` (a transcoder's on
    the target itself)."""
    from saes.metrics import evaluate as score
    from saes.pca import fit_pca

    pca = fit_pca(train_on.written, min(dictionary.k, dictionary.d_out)).evaluate(data.written, limit)
    scores = asdict(score(dictionary, data.activations, limit, targets=data.targets))
    return {**scores, "pca_fvu": dict(zip(dictionary.names, pca.tolist(), strict=True))}


@app.command()
def train(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Folder of the dictionary; must not exist yet.")],
    heldout: Annotated[
        list[Path] | None, typer.Option(help="Held-out arrays, one a model, to score on.")
    ] = None,
    kind: Annotated[str, typer.Option(help=", ".join(KINDS) + "; by default what the arrays make.")] = "",
    target: Target = None,
    heldout_target: Annotated[Path | None, typer.Option(help="A transcoder's held-out target.")] = None,
    heldout_exclude: Exclude = None,
    skip: Annotated[bool, typer.Option(help="A transcoder's linear path beside its latents.")] = False,
    exclude: Exclude = None,
    arch: Annotated[str, typer.Option(help=", ".join(ARCHITECTURES))] = "batchtopk",
    width: Annotated[str, typer.Option(help="Number of latents; several (2048,8192) train together.")] = "2048",
    k: Annotated[str, typer.Option(help="Active latents a token; several train together.")] = "16",
    tokens: Annotated[
        int, typer.Option(help="Tokens to train on (more than there are: several epochs).")
    ] = 1_638_400,
    batch_size: int = 2048,
    lr: float = 4e-3,
    seed: Annotated[str, typer.Option(help="Of the starting weights; several train together.")] = "0",
    device: str = "cpu",
    site: Annotated[str, typer.Option(help="Where the activations were read, for the metadata.")] = "",
    state: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints; a run found there is continued.")
    ] = None,
    state_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Train an SAE (one array), a crosscoder (several) or a transcoder (one array and a --target).

    Several widths, k or seeds train together over one pass; each is then a folder in `out`.
    """
    data = open_data(sources, target, exclude)
    check_kind(kind, data)
    held = like(data, open_data(heldout, heldout_target, heldout_exclude)) if heldout else data
    state_settings = (state, state_every)
    shared = shared_settings(
        out, tokens, batch_size, arch=arch, lr=lr, skip=skip, device=device, state=state_settings
    )
    wanted = {
        f"w{w}-k{one_k}-seed{s}": replace(shared, n_latents=w, k=one_k, seed=s)
        for w, one_k, s in itertools.product(*map(whole_numbers, (width, k, seed)))
    }
    options = {"names": model_names(data.paths), "site": site}
    trained = run_with_bar(data, list(wanted.values()), **options, **resumable(state))
    made = dict(zip(wanted, trained, strict=True))
    results = {name: _scores(dictionary, held, data, None) for name, dictionary in made.items()}
    save_made(out, made, wanted)
    if len(made) > 1 and as_json:
        _show({"out": str(out), "dictionaries": results}, as_json)
        return
    for name, figures in results.items():
        _show({"out": str(out if len(made) == 1 else out / name), **figures}, as_json)


@app.command()
def sweep(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Folder of the dictionaries, table and plot; must not exist yet.")],
    heldout: Annotated[
        list[Path] | None, typer.Option(help="Held-out arrays, one a model, to score on.")
    ] = None,
    arch: Annotated[str, typer.Option(help=f"Several of {', '.join(ARCHITECTURES)}.")] = "batchtopk",
    width: Annotated[str, typer.Option(help="Numbers of latents.")] = "1024,2048",
    k: Annotated[str, typer.Option(help="Active latents a token.")] = "4,8,16,32",
    tokens: Annotated[int, typer.Option(help="Tokens to train on.")] = 1_638_400,
    batch_size: int = 2048,
    lr: float = 4e-3,
    seed: int = 0,
    device: str = "cpu",
    state: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints; a sweep found there is continued.")
    ] = None,
    state_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Train every combination together over one pass: L0 against FVU.

    The folder holds the dictionaries, `sweep.json` (the table) and `pareto.html` (the plot).
    """
    from saes.sweep import grid, measured

    data = open_data(sources, None, None)
    held = like(data, open_data(heldout, None, None)) if heldout else data
    shared = shared_settings(
        out, tokens, batch_size, lr=lr, seed=seed, device=device, state=(state, state_every)
    )
    archs = [each for each in arch.split(",") if each]
    configs = grid(shared, archs, whole_numbers(width), whole_numbers(k))
    trained = run_with_bar(data, list(configs.values()), **resumable(state), names=model_names(data.paths))
    made = dict(zip(configs, trained, strict=True))
    rows = [asdict(point) for point in measured(made, configs, held.activations)]
    save_made(out, made, configs, lambda folder: _write_sweep(folder, rows))
    if as_json:
        _show({"out": str(out), "points": rows}, as_json)
        return
    for row in rows:
        figures = "  ".join(f"{name} {row[name]:.4f}" for name in ("l0", "fvu", "dead_share"))
        typer.echo(f"{row['dictionary']:28} {row['model']:12} {figures}")


def _write_sweep(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The sweep's table, and a plot for each model."""
    from saes.sweep_plot import pareto_figure, write_html

    (folder / "sweep.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    models = list(dict.fromkeys(row["model"] for row in rows))
    plots = [
        pareto_figure([r for r in rows if r["model"] == model], "fvu", f"variance unexplained (FVU), {model}")
        for model in models
    ]
    write_html(folder / "pareto.html", plots, "Sweep: L0 against FVU")


@app.command()
def evaluate(
    dictionary: Annotated[Path, typer.Argument(help="Folder of a dictionary.")],
    sources: Sources,
    pca_on: Annotated[
        list[Path] | None, typer.Option(help="Arrays the PCA is fitted on (default: the same).")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first tokens.")] = None,
    target: Target = None,
    pca_target: Annotated[Path | None, typer.Option(help="The target that belongs to --pca-on.")] = None,
    exclude: Exclude = None,
    as_json: AsJson = False,
) -> None:
    """FVU, L0, dead share, shrinkage and PCA's FVU on (held-out) arrays."""
    from saes.calibrate import with_measured_k
    from saes.errors import DictionaryError
    from saes.folder import is_ours, load
    from saes.transcoder import Transcoder

    opened, data = load(dictionary), open_data(sources, target, exclude)
    if isinstance(opened, Transcoder) != (target is not None):
        found = "a transcoder: give its --target" if target is None else "no transcoder: leave --target out"
        raise DictionaryError(f"{dictionary} is {found}")
    train_on = like(data, open_data(pca_on, pca_target, None)) if pca_on else data
    if data.targets is not None and (width := data.shapes()[1][1]) != opened.d_out:
        raise DictionaryError(
            f"{target} is {width} wide but {dictionary} writes {opened.d_out} coordinates: give the target that "
            "it was trained on"
        )
    opened = opened if is_ours(dictionary) else with_measured_k(opened, data.activations, limit)
    _show(_scores(opened, data, train_on, limit), as_json)


def main() -> None:
    """Run the command line; misuse is one sentence and exit code 2, never a traceback."""
    from saes.errors import DictionaryError

    try:
        app()
    except DictionaryError as error:
        typer.echo(f"saes: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        if os.environ.get("MARBLE_DEBUG"):
            raise
        first = (str(error).splitlines() or [""])[0]
        kind = "" if isinstance(error, OSError) else f"unexpected trouble ({type(error).__name__}): "
        typer.echo(f"saes: {kind}{first}; MARBLE_DEBUG=1 shows where", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
