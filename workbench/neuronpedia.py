"""A dictionary's dashboards in Neuronpedia's import format:

    {out}/{model}/{source}/release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl     a line each
                           features/batch-N.jsonl.gz      a line a latent
                           activations/batch-N.jsonl.gz   a line an example text
                           explanations/batch-N.jsonl.gz  a line a label (a person's if there is one) or explanation

Fields are those that jbloomAus/SAEDashboard writes (`sae_dashboard/neuronpedia/neuronpedia_export.py`), and what
the tables of hijohnnylin/neuronpedia (`apps/webapp/prisma/schema.prisma`) want beside: its importer
(`apps/webapp/lib/db/import.ts`) takes the columns from a file's first line, so that an empty file stops it, and
creators, types and models of explanations have to be known there. So rows belong to the creator that
Neuronpedia's own bulk imports have, and who said an explanation stands in its `notes`, not in `typeName`.

A field whose quantity Marble does not measure is left empty, as the format allows (correlated neurons and
features by Pearson's r). Bins of example texts: the strongest have `binMin` and `binContains` -1, the random
ones of each interval its bounds and the share of the latent's activations in it. A crosscoder becomes one
source for each of its checkpoints. Rows are written under a temporary name; the folder of a source is then renamed.
"""

from __future__ import annotations

import datetime
import gzip
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.annotations import Annotation, said
from workbench.errors import Misuse
from workbench.neurons import mlp_output, output_weight
from workbench.site import checked_layer
from workbench.vocabulary import read

if TYPE_CHECKING:
    from torch import nn

    from workbench.dashboard import Dashboard, Example
    from workbench.features import FeatureTable

BATCH = 256  # latents a file
CREATOR = "marble"
CREATOR_ID = "clkht01d40000jv08hvalcvly"  # FALLBACK_CREATOR_ID of `neuronpedia_export.py`
LOGIT_BINS, N_ALIGNED = 50, 3
DIGITS = 3  # after the point, as SAEDashboard rounds


def export(table: FeatureTable, out: Path, report: Any = None) -> list[Path]:
    """Write every latent of `table` below `out`; the folders of the sources, one for each checkpoint."""
    layer = table._readers[2].layer
    folders = []
    for m, checkpoint in enumerate(table.checkpoints):
        model, source = f"{table.lab.name}-{checkpoint}", f"{layer}-{table.name}"
        final = out / model / source
        if final.exists():
            raise Misuse(f"{final} is there already: remove it, or give another --out")
        draft = final.with_name(f".partial-{source}")
        shutil.rmtree(draft, ignore_errors=True)
        for part in ("features", "activations", "explanations"):
            (draft / part).mkdir(parents=True)
        place = {"modelId": model, "layer": source}
        _write_heads(table, draft, m, place)
        logits = _logit_histograms(table, m)
        for number, start in enumerate(range(0, table.table.height, BATCH)):
            latents = range(start, min(start + BATCH, table.table.height))
            _write_batch(table, draft, f"batch-{number}", latents, m, place, logits)
            if report is not None:
                report(len(latents))
        draft.rename(final)
        folders.append(final)
    return folders


def _stamp() -> dict[str, str]:
    return {"createdAt": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def _n_neurons(layer: nn.Module) -> int:
    """Of a layer's MLP; 0 where Marble reads none (a mixture of experts)."""
    try:
        return output_weight(mlp_output(layer)).shape[1]
    except Misuse:
        return 0


def _write_heads(table: FeatureTable, folder: Path, m: int, place: Mapping[str, str]) -> None:
    """The four one-line files."""
    model, source = place["modelId"], place["layer"]
    checkpoint = table.lab.checkpoint(table.checkpoints[m])
    settings = table.token_set.settings
    by = {"creatorId": CREATOR_ID, **_stamp()}
    layer = checked_layer(table._readers[0][m], table._readers[2].layer)
    release = f"{table.lab.name}-{table.name}"
    about = f"Marble, lab {table.lab.name}: {table.name} on {', '.join(table.checkpoints)}"
    heads: dict[str, dict[str, Any]] = {
        "release": {
            "name": release, "description": about, "descriptionShort": about, "creatorName": CREATOR,
            "creatorNameShort": CREATOR, "urls": [], "visibility": "PUBLIC", **by,
        },
        "model": {
            "id": model, "instruct": checkpoint.stage != "base", "displayName": model,
            "displayNameShort": model, "dimension": checkpoint.d_model, "layers": checkpoint.n_layers,
            "neuronsPerLayer": _n_neurons(layer), "owner": CREATOR,
            "updatedAt": by["createdAt"], "visibility": "PUBLIC", "inferenceEnabled": False, **by,
        },
        "sourceset": {
            "modelId": model, "name": table.name, "description": about, "creatorName": CREATOR,
            "releaseName": release, "visibility": "PUBLIC", "hasDashboards": True, "urls": [], **by,
        },
        "source": {
            "id": source, "modelId": model, "setName": table.name, "hasDashboards": True,
            "inferenceEnabled": False, "visibility": "PUBLIC", "num_prompts": len(table.token_set.starts),
            "num_tokens_in_prompt": settings["n_ctx"], "dataset": table.lab.name, **by,
        },
    }  # fmt: skip
    for name, row in heads.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_batch(
    table: FeatureTable,
    folder: Path,
    name: str,
    latents: Iterable[int],
    m: int,
    place: Mapping[str, str],
    logits: tuple[np.ndarray, np.ndarray],
) -> None:
    features, activations = [], []
    explanations: list[dict[str, Any]] = []
    told = table.annotations.all()
    for latent in latents:
        found = table.dashboard(latent)
        own = {**place, "index": str(latent), "creatorId": CREATOR_ID, **_stamp()}
        features.append(own | _feature(table, found, m) | _logit_bars(logits, latent))
        for number, (example, low, high, share) in enumerate(_texts(found)):
            id_ = f"{place['modelId']}-{place['layer']}-{latent}-{number}"
            activations.append({"id": id_, **own, **_activation(example, low, high, share)})
        explanations += _explanations(found, told.get(latent, Annotation()), place)
    for part, rows in (("features", features), ("activations", activations), ("explanations", explanations)):
        if not rows:  # of latents that never fire
            continue
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with gzip.open(folder / part / f"{name}.jsonl.gz", "wt", compresslevel=5, encoding="utf-8") as handle:
            handle.write(lines)


def _explanations(
    found: Dashboard, annotation: Annotation, place: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """The person's label, else ours; then what a language model says, each with its score where it has one."""
    row, id_ = said(found.row, annotation), f"{place['modelId']}-{place['layer']}-{found.latent}"
    common: dict[str, Any] = {**place, "index": str(found.latent), "authorId": CREATOR_ID, **_stamp()}
    common |= {"typeName": None, "explanationModelName": None}
    if row["label"] is not None:
        who = "label by a person" if row["label_kind"] == "person" else f"Marble's {row['label_kind']} label"
        notes = _notes(who, row["label_detection"], row["label_detection_n"])
        yield {"id": id_, **common, "description": row["label"], "notes": notes}
    if (explained := found.explanation) is not None:
        notes = _notes(f"explained by {explained['model']}", explained["balanced"], explained["n"])
        yield {"id": f"{id_}-explained", **common, "description": explained["text"], "notes": notes}


def _notes(who: str, balanced: float | None, n: float | int | None) -> str:
    """Who said it, and the score that labels and explanations share (`workbench.detection`)."""
    return (
        who if balanced is None or n is None else f"{who}; detection: balanced {balanced:.3f} on {n:.0f} texts"
    )


def _feature(table: FeatureTable, found: Dashboard, m: int) -> dict[str, Any]:
    decoder = table.dictionary.W_dec[found.latent, m].numpy()
    size = np.abs(decoder)
    aligned = np.argsort(-size, kind="stable")[:N_ALIGNED]
    similar = found.parts["neighbours"].filter(found.parts["neighbours"]["relation"] == "similar")
    logits = found.logits[table.checkpoints[m]]
    edges, counts = found.histogram
    middles = (np.array(edges[:-1]) + np.array(edges[1:])) / 2 if sum(counts) else np.zeros(0)
    return {
        "maxActApprox": _short(found.row["max_activation"]),
        "hasVector": False,
        "vector": [],
        "vectorLabel": None,
        "vectorDefaultSteerStrength": 10,  # of a vector; SAEDashboard writes it where there is none
        "hookName": table.dictionary.site,
        "topkCosSimIndices": similar["other"].to_list(),
        "topkCosSimValues": _shorts(similar["cosine"]),
        "neuron_alignment_indices": aligned.tolist(),
        "neuron_alignment_values": _shorts(decoder[aligned]),
        "neuron_alignment_l1": _shorts(size[aligned] / max(float(size.sum()), 1e-12)),
        "correlated_neurons_indices": [],
        "correlated_neurons_pearson": [],
        "correlated_neurons_l1": [],
        "correlated_features_indices": [],
        "correlated_features_pearson": [],
        "correlated_features_l1": [],
        "neg_str": [text(token) for token, _ in logits.suppressed],
        "neg_values": _shorts([value for _, value in logits.suppressed]),
        "pos_str": [text(token) for token, _ in logits.promoted],
        "pos_values": _shorts([value for _, value in logits.promoted]),
        "frac_nonzero": float(found.row["density"]),
        "freq_hist_data_bar_heights": list(counts) if len(middles) else [],
        "freq_hist_data_bar_values": _shorts(middles),
        "decoder_weights_dist": [],
        "sourceSetName": table.name,
    }


def _logit_histograms(table: FeatureTable, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts [latent, bin] and edges [latent, bin + 1] of what each decoder does to every token's logit."""
    from workbench.site import direct_logits

    model, counts, edges = table._readers[0][m], [], []
    for part in table.dictionary.W_dec[:, m].split(BATCH):
        for row in direct_logits(model, part).numpy():
            count, edge = np.histogram(row, bins=LOGIT_BINS)
            counts.append(count)
            edges.append(edge)
    return np.array(counts), np.array(edges)


def _logit_bars(logits: tuple[np.ndarray, np.ndarray], latent: int) -> dict[str, Any]:
    counts, edges = (part[latent] for part in logits)
    return {
        "logits_hist_data_bar_heights": counts.tolist(),
        "logits_hist_data_bar_values": _shorts((edges[:-1] + edges[1:]) / 2),
    }


def _texts(found: Dashboard) -> Iterator[tuple[Example, float, float, float]]:
    """Example texts with the bounds of their bin and the share of activations in it."""
    largest, total = float(found.row["max_activation"]), max(sum(part.count for part in found.intervals), 1)
    for example in found.examples:
        yield example, -1.0, largest, -1.0
    for part in found.intervals:
        for example in part.examples:
            yield example, part.low, part.high, part.count / total


def _activation(example: Example, low: float, high: float, share: float) -> dict[str, Any]:
    values = _shorts(example.values)
    top = int(np.argmax(np.abs(values)))
    return {
        "tokens": [text(token) for token in example.tokens],
        "values": values,
        "maxValue": abs(values[top]),  # as the bins count, of either sign
        "maxValueTokenIndex": top,
        "minValue": min(values),
        "binMin": _short(low),
        "binMax": _short(high),
        "binContains": _short(share),
        "qualifyingTokenIndex": example.peak,
        "dataIndex": None,
        "dataSource": example.source.get("id"),
        "dfaValues": [],
        "dfaTargetIndex": None,
        "dfaMaxValue": None,
        "lossValues": [],
        "logitContributions": None,
        "zIndices": None,  # of attention
        "zValues": None,
    }


def text(shown: str) -> str:
    """A token as text; half a character stays in its signs."""
    try:
        return read(shown).decode("utf-8")
    except UnicodeDecodeError:
        return shown


def _short(value: Any) -> float:
    return round(float(value), DIGITS)


def _shorts(values: Iterable[Any]) -> list[float]:
    return [_short(value) for value in values]
