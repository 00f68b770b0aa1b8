"""Builds the differences of a comparison: for each pair, what the mean of x_b − x_a is, says and does.

`means.parquet` (`workbench.activation_difference`), `lens.parquet`, `readout.parquet`, `scores.parquet`
(`workbench.difference_lens`), `components.parquet`, `contexts.parquet` (`workbench.difference_components`) and
`steering.parquet` (`workbench.difference_steering`). Means and lens are of the crosscoder's site, from the stored
held-out activations, and of the last layer, from the beginnings of some windows; the rest is of the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedTokenizerFast

from saes.arrays import ActivationArrays, in_order
from workbench.activation_difference import DifferenceSums
from workbench.checkpoint import Checkpoint, fast_models
from workbench.dictionaries import stored_sources, token_sets
from workbench.difference_effects import RUNS, STEERED_TOKENS, component_tables, steering_table
from workbench.difference_steering import beginnings, sampled_windows
from workbench.difference_subject import Subject, facets, subject_of
from workbench.difference_tables import ANSWERS, MARKERS, lens_table, means_table, readout_tables
from workbench.grow import Build
from workbench.part_tables import write_part
from workbench.points import RESID_POST, Site
from workbench.site import read_sites
from workbench.tasks import OPENINGS

LAST_LAYER_TOKENS = 1_500  # of each domain
LENGTH = 32  # tokens of a window's beginning
TOKENS_AT_ONCE = 4_096


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/differences-<comparison>`."""
    recipe = build.plan.recipe
    comparison = recipe.comparison(build.config["comparison"])
    used = recipe.dictionary(comparison.dictionary)
    first = Checkpoint.of(build.lab, comparison.checkpoints[0])
    subject = subject_of(
        fast_models(build.lab, comparison.checkpoints),
        token_sets(build)["heldout"],
        Site(first.default_layer if used.layer is None else used.layer, used.point),
        first.tokenizer(),
    )
    stored = ActivationArrays([s.path / "heldout.npy" for s in stored_sources(build, used, used.point)])
    runs = len(subject.pairs) * RUNS
    build.progress.start(
        len(stored) + runs * STEERED_TOKENS * len(set(subject.domain)),
        "tokens",
        label=f"differences of {comparison.name}",
    )
    found = differences(subject, stored, answers(first.tokenizer()), build.progress.advance)
    for name, table in found.items():
        write_part(build.draft.path, name, table)
    return {"site": subject.site.name, "last": subject.last.name}


def answers(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The first token of each way in which an answer of the lab's tasks begins: It, Step, Letter."""
    words = ["It", *(opening.split()[0] for opening in OPENINGS.values())]
    encoded = (tokenizer.encode(word, add_special_tokens=False) for word in words)
    return list(dict.fromkeys(ids[0] for ids in encoded if ids))


def differences(
    subject: Subject,
    stored: ActivationArrays,
    answer_ids: Sequence[int],
    report: Callable[[int], None] = lambda n: None,
) -> dict[str, pl.DataFrame]:
    """All tables by name."""
    told = facets(subject)
    blocks = subject.blocks[np.asarray(subject.tokens.document)]
    here = DifferenceSums(told, blocks)
    for x, rows in in_order(stored):
        here.add({name: x[:, i].numpy() for i, name in enumerate(subject.models)}, rows)
        report(len(rows))
    at = {subject.site: here}
    if subject.last != subject.site:
        at[subject.last] = _read_last(subject, DifferenceSums(told, blocks))
    markers = [i for i in range(len(subject.tokens.vocabulary)) if subject.vocabulary.is_special(i)]
    markers = [i for i in markers if i not in (subject.tokens.settings["bos"], subject.tokens.settings["pad"])]
    watched = {MARKERS: markers, ANSWERS: list(answer_ids)}
    streams = {site: sums for site, sums in at.items() if site.point == RESID_POST}
    readout, scores = readout_tables(subject, streams, watched)
    components, contexts, bases = component_tables(subject, stored)
    return {
        "means": means_table(subject, at),
        "lens": lens_table(subject, streams, bases if subject.site in streams else {}),
        "readout": readout,
        "scores": scores,
        "components": components,
        "contexts": contexts,
        "steering": steering_table(subject, here, report),
    }


def _read_last(subject: Subject, sums: DifferenceSums) -> DifferenceSums:
    """Adds up the last layer of the beginnings of some windows of each domain."""
    windows = sampled_windows(subject.tokens, subject.domain, LAST_LAYER_TOKENS, LENGTH, seed=4)
    for batch in beginnings(subject.tokens, windows, LENGTH, TOKENS_AT_ONCE):
        found = {}
        for name, model in subject.models.items():
            ids = torch.from_numpy(batch.ids).to(model.device)
            value = read_sites(model, [subject.last], ids)[subject.last][:, 1:]
            found[name] = value[torch.from_numpy(batch.real).to(model.device)].float().cpu().numpy()
        sums.add(found, batch.rows[batch.real])
    return sums
