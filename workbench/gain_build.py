"""Builds `gains` of a comparison: for each stage and task that it improved, the latents that carry the gain
(`workbench.mediation`), tried in both directions on held-out questions.

`carriers.parquet`: the latents in order, with what each adds. `curve.parquet`: share of the gap in log p of
the stage's answers that the first n close, beside as many of like reach. `answers.parquet`: accuracy of the
moved model by dose. `spill.parquet`: what the same does to other tasks and to prose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedTokenizerFast

import saes
from saes.arrays import ActivationArrays, Part
from saes.dictionary import Dictionary
from workbench.behaviour import EVERYWHERE
from workbench.checkpoint import Checkpoint
from workbench.corpus import Corpus, documents_of, read_corpus
from workbench.device import best_device
from workbench.dictionaries import stored_sources, token_sets
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.evaluation import ASKED, MAX_ANSWER
from workbench.gains import ALL, MATCHED, OFF, ON, PARENT, SET, STAGE, WHOLE, Gap, improved
from workbench.generation import chat_prompt
from workbench.grow import Build
from workbench.intervals import ratio_interval, wilson
from workbench.joint_reading import JointReading, Move, Said, answered, right_padded
from workbench.mediation import (
    AMPLIFY,
    DIFFERENCE,
    SWAP,
    Mover,
    answer_nats,
    as_mask,
    attribution,
    recovered,
    size_matched,
)
from workbench.points import parse_site
from workbench.site import decoder_layers, with_fast_attention
from workbench.tasks import judge
from workbench.tokens import TokenSet

SEARCHED, JUDGED, OTHERS = 160, 200, 100  # questions that find the order, that judge it, and of each other task
SPLITS = (("dictionary", SEARCHED), ("heldout", JUDGED))
DOSES = (1.0, 2.0, 3.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ENOUGH = 0.8  # of what all latents close on the searched questions: the set is the fewest that do
DRAWS = 2  # of latents of like size
SPILLED_TOKENS = 6_000  # of prose
DIFFERENCES = saes.TrainConfig(n_latents=512, k=8, n_steps=200, lr=5e-3, decoder_norm=0.1)
DIFFERENCE_ROWS = 100_000

SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "carriers": {
        "stage": pl.String, "task": pl.String, "mover": pl.String, "rank": pl.Int64, "latent": pl.Int64,
        "nats": pl.Float64, "chosen": pl.Boolean,
    },
    "curve": {
        "stage": pl.String, "task": pl.String, "mover": pl.String, "way": pl.String, "latents": pl.String,
        "size": pl.Int64, "recovered": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64,
    },
    "answers": {
        "stage": pl.String, "task": pl.String, "mover": pl.String, "way": pl.String, "latents": pl.String,
        "size": pl.Int64, "dose": pl.Float64, "accuracy": pl.Float64, "low": pl.Float64, "high": pl.Float64,
        "n": pl.Int64, "well_formed": pl.Float64,
    },
    "spill": {
        "stage": pl.String, "task": pl.String, "mover": pl.String, "way": pl.String, "dose": pl.Float64,
        "on": pl.String, "before": pl.Float64, "after": pl.Float64, "low": pl.Float64, "high": pl.Float64,
        "n": pl.Int64,
    },
}  # fmt: skip


class Asked(NamedTuple):
    """Questions of one task as prompts, with their right results, and the stage's own answers to them."""

    prompts: list[list[int]]
    results: list[str]
    said: list[Said]
    ids: torch.Tensor
    at: torch.Tensor  # Bool[row pos-1]: the answers' tokens


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/gains-<comparison>`."""
    names = build.plan.recipe.comparison(build.config["comparison"]).checkpoints
    gaps = improved(build.lab, build.plan, names)
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in SCHEMAS}
    if gaps:
        study = _Study(build, names)
        build.progress.start(len(gaps) * 3, "sets of latents", label="what carries the gains")
        for gap in gaps:
            for name, found in study.of(gap):
                rows[name] += found
    for name, schema in SCHEMAS.items():
        table = pl.DataFrame(rows[name], schema=dict(schema), orient="row")
        table.with_columns(pl.col(pl.Float64).fill_nan(None)).write_parquet(
            build.draft.path / f"{name}.parquet"
        )
    return {"gaps": [gap._asdict() for gap in gaps]}


class _Study:
    """The comparison's models, its crosscoder and its texts; the rows of one gap at a time."""

    def __init__(self, build: Build, names: Sequence[str]) -> None:
        recipe = build.plan.recipe
        self.build, self.names = build, tuple(names)
        self.used = recipe.dictionary(recipe.comparison(build.config["comparison"]).dictionary)
        device = best_device()
        self.models = {n: with_fast_attention(Checkpoint.of(build.lab, n).model(device)) for n in names}
        for model in self.models.values():
            model.requires_grad_(False)
        self.tokenizer: PreTrainedTokenizerFast = Checkpoint.of(build.lab, names[-1]).tokenizer()
        self.corpus: Corpus = read_corpus(build.parents["corpus/text"])
        with dictionary_sentences(self.used.name):
            opened = open_dictionary(build.parents[f"dictionary/{self.used.name}"].path, self.used.name)
        self.crosscoder = opened.to(device)
        self.site = parse_site(opened.site, len(decoder_layers(self.models[names[0]])))
        self.sets = token_sets(build)

    def of(self, gap: Gap) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        """(table, rows) of one gap, mover by mover."""
        pair = JointReading({n: self.models[n] for n in (gap.parent, gap.stage)}, self.tokenizer, self.site)
        found, judged = (self.asked(pair, gap, split, n) for split, n in SPLITS)
        yield "answers", self.plain(pair, gap, judged)
        for mover in self.movers(gap):
            reading = pair if mover.name == DIFFERENCE else JointReading(self.models, self.tokenizer, self.site)
            yield from _Trial(self, gap, mover, reading, found, judged).tables()
            self.build.progress.advance()

    def asked(self, pair: JointReading, gap: Gap, split: str, n: int) -> Asked:
        rows = documents_of(self.corpus, split, "chat").filter(pl.col("task") == gap.task).head(n)
        prompts = [chat_prompt(self.tokenizer, q) for q in rows["question"]]
        said = pair.answers(gap.stage, prompts, MAX_ANSWER)
        whole = [p + s.ids for p, s in zip(prompts, said, strict=True)]
        at = torch.from_numpy(answered([len(p) for p in prompts], [len(w) for w in whole]))
        return Asked(
            prompts, rows["result"].to_list(), said, right_padded(whole, self.tokenizer.pad_token_id), at
        )

    def movers(self, gap: Gap) -> Iterator[Mover]:
        coder, names = self.crosscoder, self.names
        before, after = (coder.W_dec[:, names.index(n)].contiguous() for n in (gap.parent, gap.stage))

        def joint(streams: Mapping[str, torch.Tensor]) -> Any:
            return coder.encode_sparse(torch.stack([streams[n] for n in names], dim=1))

        yield Mover(SWAP, joint, after - before, after - before, gap.parent, gap.stage)
        yield Mover(AMPLIFY, joint, before, after, gap.parent, gap.stage)
        apart = self.differences(gap)
        along = apart.W_dec[:, 0].contiguous()
        yield Mover(
            DIFFERENCE,
            lambda streams: apart.encode_sparse((streams[gap.stage] - streams[gap.parent])[:, None]),
            along, along, gap.parent, gap.stage,
        )  # fmt: skip

    def differences(self, gap: Gap) -> Dictionary:
        """An SAE of a_S − a_P on the dictionary set."""
        stored = stored_sources(self.build, self.used, self.used.point)
        pair = [stored[self.names.index(n)].path / "dictionary.npy" for n in (gap.parent, gap.stage)]
        arrays = ActivationArrays(pair)
        some = np.sort(np.random.default_rng(0).permutation(len(arrays))[:DIFFERENCE_ROWS])
        x = Part(arrays, some)[np.arange(len(some))]
        return saes.fit(saes.TensorActivations((x[:, 1] - x[:, 0])[:, None].contiguous()), DIFFERENCES).to(
            self.crosscoder.device
        )

    def plain(self, pair: JointReading, gap: Gap, judged: Asked) -> list[tuple[Any, ...]]:
        """Parent and stage as they are, and each with the other's whole stream at the site."""
        rows = []
        for way, moved, other in ((ON, gap.parent, gap.stage), (OFF, gap.stage, gap.parent)):
            whole: Move = itemgetter(other)
            for latents, each in ((PARENT if way == ON else STAGE, None), (WHOLE, whole)):
                said = pair.answers(moved, judged.prompts, MAX_ANSWER, each)
                rows.append((gap.stage, gap.task, "", way, latents, 0, 0.0, *scored(gap.task, judged, said)))
        return rows


class _Trial(NamedTuple):
    """One mover on one gap."""

    study: _Study
    gap: Gap
    mover: Mover
    reading: JointReading
    found: Asked
    judged: Asked

    @property
    def _key(self) -> tuple[str, str, str]:
        return self.gap.stage, self.gap.task, self.mover.name

    def tables(self) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        nats, sizes = attribution(self.reading, self.mover, self.found.ids, self.found.at)
        order = [int(j) for j in np.argsort(-nats, kind="stable") if sizes[j] > 0]
        n = self.enough(order)
        yield (
            "carriers",
            [
                (*self._key, rank, latent, nats[latent] / len(self.found.prompts), rank < n)
                for rank, latent in enumerate(order[: max(n, SIZES[-1])])
            ],
        )
        rng = np.random.default_rng(0)
        yield "curve", self.curve(order, sizes, rng)
        matched = [size_matched(order, sizes, n, rng) for _ in range(DRAWS)]
        yield "answers", list(self.answers(order, n, matched))
        yield "spill", list(self.spill(order[:n]))

    def _ends(self, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        parent, stage = (
            answer_nats(self.reading, name, asked.ids, asked.at) for name in (self.gap.parent, self.gap.stage)
        )
        return parent, stage

    def _moved(self, asked: Asked, latents: Sequence[int], way: str) -> np.ndarray:
        chosen = as_mask(latents, self.mover.n_latents, self.study.crosscoder.device)
        return answer_nats(
            self.reading, self.mover.moved(way), asked.ids, asked.at, self.mover.move(chosen, way)
        )

    def enough(self, order: Sequence[int]) -> int:
        """The fewest first latents that close `ENOUGH` of what the best of all sizes does, switched on."""
        start, end = self._ends(self.found)
        sizes = [*(s for s in SIZES if s < len(order)), len(order)]
        closed = [recovered(self._moved(self.found, order[:s], ON), start, end) for s in sizes]
        best = max(closed)
        return next(s for s, share in zip(sizes, closed, strict=True) if share >= ENOUGH * best)

    def curve(self, order: Sequence[int], sizes: np.ndarray, rng: np.random.Generator) -> list[tuple[Any, ...]]:
        start, end = self._ends(self.judged)
        rows = []
        for size in [*(s for s in SIZES if s < len(order)), len(order)]:
            for latents, chosen in ((SET, order[:size]), (MATCHED, size_matched(order, sizes, size, rng))):
                for way in (ON, OFF) if chosen else ():
                    a, b = (start, end) if way == ON else (end, start)
                    moved = self._moved(self.judged, chosen, way)
                    ends = ratio_interval(moved - a, b - a)
                    rows.append((*self._key, way, latents, size, recovered(moved, a, b), *ends, len(a)))
        return rows

    def answers(
        self, order: Sequence[int], n: int, matched: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Any, ...]]:
        tried: list[tuple[str, Sequence[int], tuple[float, ...]]] = [(SET, order[:n], DOSES)]
        if self.mover.name != AMPLIFY:  # all of them twice is the whole stream twice
            tried.append((ALL, order, DOSES[:1]))
        tried += [(f"{MATCHED} {i + 1}", drawn, (DOSES[0], DOSES[-1])) for i, drawn in enumerate(matched)]
        for way in (ON, OFF):
            for latents, chosen, doses in tried:
                for dose in doses if chosen else ():
                    said = self._said(self.judged.prompts, chosen, way, dose)
                    told = scored(self.gap.task, self.judged, said)
                    yield (*self._key, way, latents, len(chosen), dose, *told)

    def _said(
        self, prompts: Sequence[Sequence[int]], chosen: Sequence[int], way: str, dose: float
    ) -> list[Said]:
        mask = as_mask(chosen, self.mover.n_latents, self.study.crosscoder.device)
        move = self.mover.move(mask, way, dose)
        return self.reading.answers(self.mover.moved(way), prompts, MAX_ANSWER, move)

    def spill(self, chosen: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """Other tasks and prose, before and after, at the smallest and the largest dose."""
        for way in (ON, OFF):
            name = self.mover.moved(way)
            for task in (t for t in ASKED if t != self.gap.task):
                rows = documents_of(self.study.corpus, "heldout", "chat").filter(pl.col("task") == task)
                rows = rows.head(OTHERS)
                prompts = [chat_prompt(self.study.tokenizer, q) for q in rows["question"]]
                asked = Asked(prompts, rows["result"].to_list(), [], self.found.ids, self.found.at)
                before = scored(task, asked, self.reading.answers(name, prompts, MAX_ANSWER))[0]
                for dose in (DOSES[0], DOSES[-1]):
                    told = scored(task, asked, self._said(prompts, chosen, way, dose))
                    yield (*self._key, way, dose, task, before, *told[:4])
            for dose in (DOSES[0], DOSES[-1]):
                yield (*self._key, way, dose, EVERYWHERE, *self._text_loss(chosen, way, dose))

    def _text_loss(
        self, chosen: Sequence[int], way: str, dose: float
    ) -> tuple[float, float, float, float, int]:
        """Nats per token of held-out prose before and after, the interval of the latter's excess added to the
        former."""
        tokens: TokenSet = self.study.sets["heldout"]
        domain = tokens.domain[np.asarray(tokens.document)[tokens.starts]]
        windows = np.flatnonzero(domain == "prose")[: max(1, SPILLED_TOKENS // tokens.settings["n_ctx"])]
        mask = as_mask(chosen, self.mover.n_latents, self.study.crosscoder.device)
        move, name = self.mover.move(mask, way, dose), self.mover.moved(way)
        sums = np.zeros((3, tokens.documents.height))
        for batch in tokens.batches(4_096, windows):
            ids = torch.from_numpy(batch.ids)
            streams = self.reading.streams(ids)
            flat = {each: stream.flatten(0, 1) for each, stream in streams.items()}
            where = tokens.document[batch.rows[batch.real]]
            for row, stream in enumerate((None, move(flat).view_as(streams[name]))):
                with torch.no_grad():
                    told = -self.reading.log_p(name, ids, stream).double().cpu().numpy()[batch.real]
                sums[row] += np.bincount(where, told, minlength=sums.shape[1])
            sums[2] += np.bincount(where, minlength=sums.shape[1])
        before, after, n = sums[:, sums[2] > 0]
        low, high = ratio_interval(after - before, n)
        start = float(before.sum() / n.sum())
        return start, float(after.sum() / n.sum()), start + low, start + high, int(n.sum())


def scored(task: str, asked: Asked, said: Sequence[Said]) -> tuple[float, float, float, int, float]:
    """Accuracy with its Wilson interval, n, and the share that is well formed."""
    judged = [judge(task, r, s.text, s.ended) for r, s in zip(asked.results, said, strict=True)]
    hits, n = sum(j.right for j in judged), len(judged)
    return hits / n, *wilson(hits, n), n, sum(j.well_formed for j in judged) / n
