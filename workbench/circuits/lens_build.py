"""Builds `evaluation/lens-<checkpoint>`: a tuned lens, and how far each layer is from the prediction.

The lens is fitted on the `dictionary` set, the KL is measured on held-out text.

    kl.parquet      KL by row (the embedding, each block) through no lens (`logit lens`), the checkpoint's own
                    (`own`) and, of all but the root of a lineage, the root's (`root`)
    above.parquet   how much more is left through `lens` than through `other`, on the same tokens
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl

from workbench.checkpoint import fast_models
from workbench.circuits.found_lenses import OWN, ROOT
from workbench.circuits.lens_kl import LOGIT_LENS, TOKENS, LayerKl, LensKl, lens_kl
from workbench.circuits.tuned_lens import LensTraining, TunedLens, fit
from workbench.device import few_threads
from workbench.dictionaries import token_sets
from workbench.grow import Build
from workbench.part_tables import write_part
from workbench.plan import lens_name
from workbench.progress import Progress

SCHEMA: Mapping[str, Any] = {
    "lens": pl.String, "layer": pl.Int64, "row": pl.String, "kl": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "tokens": pl.Int64, "documents": pl.Int64,
}  # fmt: skip


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/lens-<checkpoint>`."""
    name, root = build.config["checkpoint"], build.config["root"]
    model, sets = fast_models(build.lab, [name])[name], token_sets(build)
    training = LensTraining()
    with few_threads(build.lab.checkpoint(name).d_model):
        total = min(training.tokens, len(sets["dictionary"]))
        build.progress.start(total, "tokens", label=f"lens of {name}")
        lens = fit(model, sets["dictionary"], training, _so_far(build.progress))
        lens.save(build.draft.path)
        lenses = {OWN: lens}
        if name != root:
            lenses[ROOT] = TunedLens.load(build.parents[f"evaluation/{lens_name(root)}"].path)
        windows = sets["heldout"].sample_windows(TOKENS, 0)
        total = int((sets["heldout"].stops - sets["heldout"].starts)[windows].sum())
        build.progress.start(total, "tokens", label=f"KL of {name}")
        found = lens_kl(model, sets["heldout"], lenses, TOKENS, 0, build.progress.advance)
    pairs = [(OWN, LOGIT_LENS), *([(ROOT, OWN)] if name != root else [])]
    through = _table((lens, found.by_layer(lens)) for lens in found.nats)
    above = [_table([(a, found.above(a, b))]).with_columns(pl.lit(b).alias("other")) for a, b in pairs]
    write_part(build.draft.path, "kl", through)
    write_part(build.draft.path, "above", pl.concat(above))
    return {"checkpoint": name, "root": root, **_counts(found)}


def _so_far(progress: Progress) -> Callable[[int, float], None]:
    """A lens says how many tokens it has read so far, a bar how many more."""
    before = 0

    def report(tokens: int, kl: float) -> None:
        nonlocal before
        progress.advance(tokens - before, KL=kl)
        before = tokens

    return report


def _table(told: Any) -> pl.DataFrame:
    return pl.DataFrame(list(_rows(told)), schema=dict(SCHEMA), orient="row")


def _rows(told: Any) -> Iterator[tuple[Any, ...]]:
    for lens, layers in told:
        yield from ((lens, number, *each) for number, each in enumerate(layers))


def _counts(found: LensKl) -> dict[str, int]:
    first: LayerKl = found.by_layer(LOGIT_LENS)[0]
    return {"tokens": first.tokens, "documents": first.documents}
