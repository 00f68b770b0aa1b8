"""Builds `gains` of a comparison: for each stage and task that it improved, the latents that carry the gain
(`workbench.mediation`), tried in both directions on held-out questions.

`carriers.parquet`: the latents in order, with what each adds. `curve.parquet`: share of the gap in log p of
the stage's answers that the first n close, beside as many matched latents. `answers.parquet`: accuracy of the
moved model by dose. `spill.parquet`: what the same does to other tasks and to prose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerFast

import saes
from saes.arrays import ActivationArrays, Part
from saes.dictionary import Dictionary
from workbench.checkpoint import Checkpoint, fast_models
from workbench.corpus import Corpus, documents_of, read_corpus
from workbench.device import best_device
from workbench.dictionaries import stored_sources, token_sets
from workbench.dictionary_folder import dictionary_sentences, open_dictionary
from workbench.evaluation import ASKED, MAX_ANSWER
from workbench.gain_trial import Elsewhere, Posed, Rows, Trial, scored
from workbench.gains import OFF, ON, PARENT, STAGE, WHOLE, Gap, improved
from workbench.generation import answered, chat_prompt, right_padded
from workbench.grow import Build
from workbench.joint_reading import JointReading, Move
from workbench.mediation import AMPLIFY, DIFFERENCE, Mover, coding, joint_coding, swap
from workbench.part_tables import write_part
from workbench.points import parse_site
from workbench.site import decoder_layers

SEARCHED, JUDGED, OTHERS = 64, 120, 40  # questions that find the order, that judge it, and of each other task
SPLITS = (("dictionary", SEARCHED), ("heldout", JUDGED))
SPILLED_TOKENS = 2_000  # of prose
DIFFERENCES = saes.TrainConfig(n_latents=512, k=8, n_steps=150, lr=5e-3, decoder_norm=0.1)
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
        write_part(build.draft.path, name, pl.DataFrame(rows[name], schema=dict(schema), orient="row"))
    return {"gaps": [gap._asdict() for gap in gaps]}


class _Study:
    """The comparison's models, its crosscoder and its texts; the rows of one gap at a time."""

    def __init__(self, build: Build, names: Sequence[str]) -> None:
        recipe = build.plan.recipe
        self.build, self.names = build, tuple(names)
        self.used = recipe.dictionary(recipe.comparison(build.config["comparison"]).dictionary)
        self.models = fast_models(build.lab, names)
        for model in self.models.values():
            model.requires_grad_(False)
        self.tokenizer: PreTrainedTokenizerFast = Checkpoint.of(build.lab, names[-1]).tokenizer()
        self.corpus: Corpus = read_corpus(build.parents["corpus/text"])
        with dictionary_sentences(self.used.name):
            opened = open_dictionary(build.parents[f"dictionary/{self.used.name}"].path, self.used.name)
        self.crosscoder = opened.to(best_device())
        self.site = parse_site(opened.site, len(decoder_layers(self.models[names[0]])))
        self.sets = token_sets(build)
        self.apart: dict[tuple[str, str], Dictionary] = {}

    def of(self, gap: Gap) -> Iterator[tuple[str, Rows]]:
        """(table, rows) of one gap, mover by mover."""
        pair = JointReading({n: self.models[n] for n in (gap.parent, gap.stage)}, self.tokenizer, self.site)
        searched, judged = (self.posed(pair, gap.stage, gap.task, split, n) for split, n in SPLITS)
        yield "answers", self.plain(pair, gap, judged)
        others = [self.posed(pair, gap.stage, t, "heldout", OTHERS) for t in ASKED if t != gap.task]
        before = {
            (name, each.task): scored(each, pair.answers(name, each.prompts, each.room))[0]
            for name in pair.models
            for each in others
        }
        elsewhere = Elsewhere(others, before, self.sets["heldout"], self.prose())
        for mover in self.movers(gap):
            reading = pair if mover.name == DIFFERENCE else JointReading(self.models, self.tokenizer, self.site)
            yield from Trial(gap, mover, reading, searched, judged, elsewhere).tables()
            self.build.progress.advance()

    def posed(self, pair: JointReading, stage: str, task: str, split: str, n: int) -> Posed:
        """Questions of a task, with the stage's own answers."""
        rows = documents_of(self.corpus, split, "chat").filter(pl.col("task") == task).head(n)
        prompts = [chat_prompt(self.tokenizer, q) for q in rows["question"]]
        said = pair.answers(stage, prompts, MAX_ANSWER)
        whole = [p + s.ids for p, s in zip(prompts, said, strict=True)]
        at = answered([len(p) for p in prompts], [len(w) for w in whole])
        ids = right_padded(whole, self.tokenizer.pad_token_id)
        return Posed(task, prompts, rows["result"].to_list(), ids, at)

    def prose(self) -> np.ndarray:
        """Some windows of held-out prose (of whatever there is, where there is none)."""
        tokens = self.sets["heldout"]
        domain = tokens.domain[np.asarray(tokens.document)[tokens.starts]]
        found = np.flatnonzero(domain == "prose") if (domain == "prose").any() else np.arange(len(domain))
        return found[: max(1, SPILLED_TOKENS // tokens.settings["n_ctx"])]

    def movers(self, gap: Gap) -> Iterator[Mover]:
        coder = self.crosscoder
        yield swap(coder, gap.parent, gap.stage)
        joint, some = joint_coding(coder)
        before, after = (coder.W_dec[:, coder.model_index(n)].contiguous() for n in (gap.parent, gap.stage))
        yield Mover(AMPLIFY, joint, before, after, gap.parent, gap.stage, some)
        apart = self.differences(gap)
        along = apart.W_dec[:, 0].contiguous()
        less, some = coding(apart, lambda streams: (streams[gap.stage] - streams[gap.parent])[:, None])
        yield Mover(DIFFERENCE, less, along, along, gap.parent, gap.stage, some)

    def differences(self, gap: Gap) -> Dictionary:
        """An SAE of a_S − a_P on the dictionary set, the same for all of a stage's tasks."""
        if (gap.parent, gap.stage) not in self.apart:
            self.apart[gap.parent, gap.stage] = self._fitted(gap)
        return self.apart[gap.parent, gap.stage]

    def _fitted(self, gap: Gap) -> Dictionary:
        stored = stored_sources(self.build, self.used, self.used.point)
        pair = [stored[self.names.index(n)].path / "dictionary.npy" for n in (gap.parent, gap.stage)]
        arrays = ActivationArrays(pair)
        some = np.sort(np.random.default_rng(0).permutation(len(arrays))[:DIFFERENCE_ROWS])
        x = Part(arrays, some)[np.arange(len(some))]
        return saes.fit(saes.TensorActivations((x[:, 1] - x[:, 0])[:, None].contiguous()), DIFFERENCES).to(
            self.crosscoder.device
        )

    def plain(self, pair: JointReading, gap: Gap, judged: Posed) -> list[tuple[Any, ...]]:
        """Parent and stage as they are, and each with the other's whole stream at the site."""
        rows = []
        for way, moved, other in ((ON, gap.parent, gap.stage), (OFF, gap.stage, gap.parent)):
            whole: Move = itemgetter(other)
            said = pair.answers_each(moved, judged.prompts, judged.room, [None, whole])
            for latents, each in zip((PARENT if way == ON else STAGE, WHOLE), said, strict=True):
                rows.append((gap.stage, gap.task, "", way, latents, 0, 0.0, *scored(judged, each)))
        return rows
