"""Builds the comparison of checkpoints that cannot be laid side by side token by token.

One checkpoint is in memory at a time (two where a pair shares tokens), and what it said is kept in `resume/`, so
that an interrupted build goes on with the next one. `bits.parquet`, `gaps.parquet`, `answers.parquet`,
`cka.parquet`; `kl.parquet` and `loss.parquet` where tokens are shared.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from workbench.aligned_cka import BLOCKS, aligned_cka
from workbench.checkpoint import Checkpoint, fast_models
from workbench.corpus import Corpus, read_corpus
from workbench.evaluation import ASKED
from workbench.grow import Build
from workbench.halfway import arrays_once, once
from workbench.intervals import document_blocks
from workbench.lab import Lab
from workbench.likeness import Portrait, headline, portraits, reasons, share_shape, share_tokens
from workbench.part_tables import write_part
from workbench.unlike_pairs import on_same_tokens, same_ids, weights_told
from workbench.unlike_scores import N_QUESTIONS, SCHEMA, Reader, Streams, asked, bits_of, context_of, streams
from workbench.unlike_tables import answers_told, bits_tables, cka_sentence, weights_sentence
from workbench.unlike_texts import Ends, Segment, Text, common, heldout_texts, segments_of

LEAST_WORDS = 64  # that two tokenizers must end alike, for CKA
CKA_SCHEMA: Mapping[str, Any] = {
    "before": pl.String, "after": pl.String, "layer_before": pl.Int64, "layer_after": pl.Int64, "cka": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "null": pl.Float64, "null_high": pl.Float64, "n": pl.Int64,
}  # fmt: skip


class Said(NamedTuple):
    """What one checkpoint made of the texts."""

    nats: np.ndarray
    answers: pl.DataFrame
    notes: list[str]
    streams: Streams


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/unlike-…`."""
    names = tuple(build.config["checkpoints"])
    of = portraits(build.lab, names)
    why = reasons(of)
    corpus = read_corpus(build.parents["corpus/text"])
    texts = heldout_texts(corpus)
    segments = segments_of(texts)
    kept = build.draft.path / "resume"
    said = {name: _said(build, kept, name, corpus, (texts, segments)) for name in names}
    bits, gaps = bits_tables({name: s.nats for name, s in said.items()}, texts)
    write_part(build.draft.path, "bits", bits)
    write_part(build.draft.path, "gaps", gaps)
    answers = pl.concat(s.answers.select(pl.lit(n).alias("checkpoint"), pl.all()) for n, s in said.items())
    write_part(build.draft.path, "answers", answers)
    cka, notes = _cka(build, said, segments, len(texts))
    write_part(build.draft.path, "cka", cka)
    weights, told = _pairs(build, of, texts)
    return {
        "headline": headline(names, why),
        "cannot": [reason.sentence for reason in why],
        "notes": [*(note for s in said.values() for note in s.notes), *notes, *told],
        "contexts": {name: context_of(build.lab.checkpoint(name).n_ctx) for name in names},
        "accuracy": answers_told(answers, names),
        "weights": weights,
        "documents": len(texts),
        "bytes": sum(text.n_bytes for text in texts),
    }


def _said(
    build: Build, kept: Path, name: str, corpus: Corpus, read: tuple[Sequence[Text], Sequence[Segment]]
) -> Said:
    """What `name` says, from `resume/` as far as it was asked before."""
    texts, segments = read
    opened: list[Reader] = []

    def reader() -> Reader:
        if not opened:
            opened.append(open_reader(build.lab, name))
        return opened[0]

    def start(total: int, unit: str, label: str) -> Callable[[int], None]:
        build.progress.start(total, unit, label=f"{label} of {name}")
        return build.progress.advance

    def scored(path: Path) -> None:
        np.save(path, bits_of(reader(), texts, start(len(texts), "documents", "bits")))

    def answered(task: str, path: Path) -> None:
        found = asked(reader(), corpus, task, start(N_QUESTIONS, "answers", task.replace("_", " ")))
        told = {"note": found.note, "rows": found.answers.to_dicts()}
        path.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")

    def read_out() -> dict[str, np.ndarray]:
        found = streams(reader(), segments, start(len(segments), "pieces", "activations"))
        ends = {f"{what}{i}": part for i, e in enumerate(found.ends) for what, part in e._asdict().items()}
        return ends | {f"layer{layer}": values for layer, values in found.at.items()}

    nats = np.load(once(kept / f"{name}-bits.npy", scored), allow_pickle=False)
    asked_of = [once(kept / f"{name}-{task}.json", functools.partial(answered, task)) for task in ASKED]
    told = [json.loads(path.read_text(encoding="utf-8")) for path in asked_of]
    held = arrays_once(kept / f"{name}-streams.npz", read_out)
    ends = [Ends(held[f"characters{i}"], held[f"positions{i}"]) for i in range(len(segments))]
    at = {int(key.removeprefix("layer")): held[key] for key in held if key.startswith("layer")}
    answers = pl.concat(pl.DataFrame(each["rows"], schema=SCHEMA) for each in told)
    return Said(nats, answers, [each["note"] for each in told if each["note"]], Streams(at, ends))


def open_reader(lab: Lab, name: str) -> Reader:
    """The checkpoint, loaded on the best device."""
    checkpoint = Checkpoint.of(lab, name)
    return Reader(name, fast_models(lab, [name])[name], checkpoint.tokenizer(), checkpoint.n_ctx)


def _cka(
    build: Build, said: Mapping[str, Said], segments: Sequence[Segment], n_texts: int
) -> tuple[pl.DataFrame, list[str]]:
    """CKA of every layer with every layer of every pair, and what is to be said of pairs that have none."""
    pairs = list(itertools.combinations(said, 2))
    build.progress.start(len(pairs), "pairs", label="CKA")
    block_of = document_blocks(n_texts, BLOCKS)
    documents = np.array([segment.document for segment in segments])
    rows, notes = [], []
    for a, b in pairs:
        one, other, segment = common(said[a].streams.ends, said[b].streams.ends)
        if len(one) < LEAST_WORDS:
            notes.append(f"{a} and {b}: only {len(one)} words end with a token in both, too few for CKA")
            continue
        x, y = (
            {i: values[rows_] for i, values in said[n].streams.at.items()}
            for n, rows_ in ((a, one), (b, other))
        )
        found = aligned_cka(x, y, documents[segment], block_of)
        rows += [(a, b, i, j, *told, len(one)) for (i, j), told in found.items()]
        build.progress.advance()
    table = pl.DataFrame(rows, schema=CKA_SCHEMA, orient="row")
    return table, [*notes, *cka_sentence(table)]


def _pairs(build: Build, of: Mapping[str, Portrait], texts: Sequence[Text]) -> tuple[dict[str, Any], list[str]]:
    """Weights of pairs of one model type, KL and loss of pairs that share tokens; sentences."""
    weights: dict[str, Any] = {}
    told: list[str] = []
    kl, loss = [], []
    for a, b in itertools.combinations(of, 2):
        tokens, same_type = share_tokens(of[a], of[b]), _type(of[a]) == _type(of[b])
        if not tokens and not same_type:
            continue
        one, other = open_reader(build.lab, a), open_reader(build.lab, b)
        if same_type:
            weights[f"{a}|{b}"] = weights_told(*(dict(r.model.named_parameters()) for r in (one, other)))
            told += weights_sentence(a, b, weights[f"{a}|{b}"], tokens and share_shape(of[a], of[b]))
        if tokens and same_ids((one, other), texts):
            build.progress.start(len(texts), "documents", label=f"KL of {a} and {b}")
            found = on_same_tokens((one, other), texts)
            kl.append(found.kl_table())
            loss.append(
                found.loss_table().select(pl.lit(a).alias("before"), pl.lit(b).alias("after"), pl.all())
            )
    if kl:
        write_part(build.draft.path, "kl", pl.concat(kl))
        write_part(build.draft.path, "loss", pl.concat(loss))
    return weights, told


def _type(portrait: Portrait) -> str | None:
    return portrait.shape.model_type if portrait.shape else None
