"""Builds what checkpoints of a comparison say by themselves, and what carries the KL between them on shared text.

`kl.parquet` (KL of each pair on its own samples), `said.parquet` (length, entropy, diversity… by checkpoint and
kind of prompt), `tokens.parquet` and `latents.parquet` (where the KL on shared held-out text falls).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix
from transformers import PreTrainedModel

from saes.index import FeatureIndex
from workbench.checkpoint import Checkpoint
from workbench.corpus import documents_of, read_corpus
from workbench.device import best_device
from workbench.dictionaries import token_sets
from workbench.encoding import read_text
from workbench.features import open_index, read_table
from workbench.generation import complete
from workbench.grow import Build
from workbench.kl_shares import Carried, Null, carried, carried_intervals, correlation, nulls
from workbench.own_samples import Prompt, Said, figures, kl_rows, scored, spoken_tokens
from workbench.part_tables import write_part
from workbench.prompt import as_chat
from workbench.samples import CONTEXT, RAISED
from workbench.site import with_fast_attention
from workbench.tasks import TASKS
from workbench.token_kl import TokenKl, token_kl
from workbench.tokens import TokenSet

N_QUESTIONS, N_PROSE = 256, 96  # prompts
OPENING = 24  # tokens of prose that are gone on from
NEW = 48  # tokens sampled at most
KL_TOKENS = 20_000  # of the held-out set, for what carries the KL
TOP = 50
AT_ONCE = 512  # prompts
SEED = 3
SAID_SCHEMA: Mapping[str, Any] = {
    "checkpoint": pl.String, "kind": pl.String, "figure": pl.String, "value": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "n": pl.Int64,
}  # fmt: skip
KL_SCHEMA: Mapping[str, Any] = {
    "author": pl.String, "p": pl.String, "q": pl.String, "kind": pl.String, "kl": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "n": pl.Int64,
}  # fmt: skip


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `evaluation/samples-<comparison>`."""
    comparison = build.plan.recipe.comparison(build.config["comparison"])
    tokens = token_sets(build)["heldout"]
    windows = tokens.sample_windows(KL_TOKENS, seed=SEED)
    n_tokens = int((tokens.stops - tokens.starts)[windows].sum())
    build.progress.start(len(comparison.checkpoints) + 2, "parts", label=f"samples of {comparison.name}")
    models = {n: Checkpoint.of(build.lab, n).model(best_device()) for n in comparison.checkpoints}
    prose, questions = prose_prompts(tokens), question_prompts(build, tuple(models), tokens)
    said = {}
    for name, model in models.items():
        asked = [*questions, *prose] if chats(build, name) else prose
        said[name] = sampled(build, name, model, tokens, asked)
        build.progress.advance()
    models = {name: with_fast_attention(model) for name, model in models.items()}
    path = build.draft.path
    _write_own(path, models, said, tokens.settings["pad"])
    found = token_kl(models, tokens, windows)
    build.progress.advance()
    token_table(found, tokens).write_parquet(path / "tokens.parquet")
    features = build.parents[f"features/{comparison.dictionary}"].path
    index = open_index(features, comparison.dictionary).strengths()
    latents, beyond = latent_table(found, tokens, index)
    named = read_table(features / "table.parquet").select(
        pl.col("latent").cast(pl.Int64), pl.coalesce("label", "top_token").alias("label")
    )
    latents.join(named, "latent", how="left", maintain_order="left").write_parquet(path / "latents.parquet")
    build.progress.advance()
    return {"tokens": n_tokens, "samples": {name: len(each) for name, each in said.items()}, "null": beyond}


def new_tokens(tokens: TokenSet) -> int:
    """How many tokens a sample has at most."""
    return min(NEW, tokens.settings["n_ctx"] // 2)


def chats(build: Build, name: str) -> bool:
    """Whether a checkpoint can be asked in chat form, taught to answer or not; what cannot goes on from prose."""
    return bool(Checkpoint.of(build.lab, name).tokenizer().chat_template)


def sampled(
    build: Build, name: str, model: PreTrainedModel, tokens: TokenSet, prompts: Sequence[Prompt]
) -> list[Said]:
    """What a checkpoint says behind every prompt, at temperature 1 and with the same seed for all."""
    tokenizer = Checkpoint.of(build.lab, name).tokenizer()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(tokens.settings["pad"])
    said = complete(model, tokenizer, [p.ids for p in prompts], new_tokens(tokens), 1.0, SEED, AT_ONCE)
    return [Said(*pair) for pair in zip(prompts, said, strict=True)]


def prose_prompts(tokens: TokenSet) -> list[Prompt]:
    """Beginnings of held-out windows of prose, of the world's texts where there is no prose."""
    domain = tokens.domain[tokens.document[tokens.starts]]
    opening = min(OPENING, tokens.settings["n_ctx"] // 4)
    long = tokens.stops - tokens.starts >= opening
    pools = [tokens.starts[long & (domain == name)] for name in ("prose", "world")]
    chosen = np.random.default_rng(SEED).permutation(pools[0] if len(pools[0]) else pools[1])[:N_PROSE]
    bos = tokens.settings["bos"]
    return [Prompt((bos, *tokens.tokens[at : at + opening].tolist())) for at in np.sort(chosen)]


def question_prompts(build: Build, names: Sequence[str], tokens: TokenSet) -> list[Prompt]:
    """Held-out questions that fit the context, of every task as many (as far as there are), in the chat form of the
    first checkpoint that has one."""
    first = next((name for name in names if chats(build, name)), None)
    if first is None:
        return []
    tokenizer, bos = Checkpoint.of(build.lab, first).tokenizer(), tokens.settings["bos"]
    room = tokens.settings["n_ctx"] - new_tokens(tokens)
    rows = documents_of(read_corpus(build.parents["corpus/text"]), "heldout", "chat")
    found = []
    for task in TASKS:
        of_task = rows.filter(pl.col("task") == task)
        order = np.random.default_rng(SEED).permutation(of_task.height)[: N_QUESTIONS // len(TASKS)]
        for question, result in of_task[np.sort(order)].select("question", "result").iter_rows():
            text = as_chat(tokenizer, question).removeprefix(tokenizer.bos_token or "")
            ids = (bos, *read_text(tokenizer, text, markers=True)["input_ids"])
            if len(ids) <= room:
                found.append(Prompt(ids, task, result))
    return found


def _write_own(
    path: Path, models: Mapping[str, PreTrainedModel], said: Mapping[str, Sequence[Said]], pad: int
) -> None:
    """`said.parquet` and `kl.parquet`."""
    own: list[tuple[Any, ...]] = []
    kl: list[tuple[Any, ...]] = []
    budgets: dict[str, int] = {}
    for samples in said.values():
        for kind, n in spoken_tokens(samples).items():
            budgets[kind] = min(n, budgets.get(kind, n))
    for author, samples in said.items():
        if not samples:
            continue
        scores = scored(models, author, [each.completion for each in samples], pad)
        own += [(author, *row) for row in figures(samples, scores, budgets)]
        kl += [(author, *pair, row.kind, *row[2:]) for pair, row in kl_rows(samples, scores)]
    for name, rows, schema in (("said", own, SAID_SCHEMA), ("kl", kl, KL_SCHEMA)):
        write_part(path, name, pl.DataFrame(rows, schema=schema, orient="row"))


def token_table(found: TokenKl, tokens: TokenSet) -> pl.DataFrame:
    """The tokens with the largest share of every pair's KL, by context and by what was raised."""
    document = np.asarray(tokens.document[found.predicted])
    names, parts = np.array(tokens.vocabulary), []
    for (before, after), kl in found.kl.items():
        for by, ids in ((CONTEXT, found.context), (RAISED, found.raised[before, after])):
            on = csr_matrix((np.ones(len(ids)), (ids, np.arange(len(ids)))), shape=(len(names), len(ids)))
            every = carried(on, kl)
            top = _largest(every.share)
            table = _carried_table(every, top, on, kl, document)
            which = (pl.lit(before).alias("before"), pl.lit(after).alias("after"), pl.lit(by).alias("by"))
            parts.append(
                table.select(*which, pl.Series("token_id", top), pl.Series("token", names[top]), pl.all())
            )
    return pl.concat(parts)


def latent_table(found: TokenKl, tokens: TokenSet, index: FeatureIndex) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The latents with the largest lift · share of every pair's KL, and the nulls that tell which are beyond
    chance. A prediction counts for the latents that fire on the last token that was read; those behind BOS are
    left out."""
    kept = found.row >= 0
    activation = activations_at(index, found.row[kept])
    on = activation.copy()
    on.data = np.ones_like(on.data)
    window = np.searchsorted(tokens.starts, found.row[kept], side="right")
    document = np.asarray(tokens.document[found.row[kept]])
    kl = np.stack([values[kept] for values in found.kl.values()], axis=1)
    anywhere, inside = nulls(on, kl, window), nulls(on, kl, window, tokens.domain[document])
    parts, told = [], {}
    for column, (before, after) in enumerate(found.kl):
        every = carried(on, kl[:, column])
        top = _largest(every.score)
        table = _carried_table(every, top, on, kl[:, column], document)
        score = pl.Series("score", every.score[top])
        bounds = {"null": anywhere[column], "null_in_domain": inside[column]}
        parts.append(
            table.select(
                pl.lit(before).alias("before"),
                pl.lit(after).alias("after"),
                pl.Series("latent", top),
                pl.all(),
                score,
                pl.Series("correlation", correlation(activation[top], kl[:, column])),
                (score > bounds["null"].score).alias("beyond"),
                (score > bounds["null_in_domain"].score).alias("beyond_in_domain"),
            )
        )
        told[f"{before}|{after}"] = _told(every, bounds)
    return pl.concat(parts), told


def _told(every: Carried, bounds: Mapping[str, Null]) -> dict[str, Any]:
    """Of a pair: what chance gives, and how many latents are beyond it."""
    known = {
        name: {key: value if np.isfinite(value) else None for key, value in bound._asdict().items()}
        | {"beyond": int((every.score > bound.score).sum())}
        for name, bound in bounds.items()
    }
    return {"alive": int((every.n > 0).sum()), **known}


def activations_at(index: FeatureIndex, rows: np.ndarray) -> csr_matrix:
    """[latent token]: what fires on these rows of the token set, in their order."""
    place = np.full(index.n_tokens, -1)
    place[rows] = np.arange(len(rows))
    column = place[np.asarray(index.tokens)]
    here = column >= 0
    latent = np.repeat(np.arange(index.n_latents), np.diff(index.starts))[here]
    values = np.asarray(index.values, dtype=np.float64)[here]
    return csr_matrix((values, (latent, column[here])), shape=(index.n_latents, len(rows)))


def _largest(values: np.ndarray) -> np.ndarray:
    """Numbers of the `TOP` largest that are known and above zero, the largest first."""
    order = np.argsort(-np.nan_to_num(values, nan=0.0), kind="stable")[:TOP]
    return order[np.nan_to_num(values[order], nan=0.0) > 0].astype(np.int64)


def _carried_table(
    every: Carried, top: np.ndarray, on: csr_matrix, kl: np.ndarray, document: np.ndarray
) -> pl.DataFrame:
    """n, kl, density, share, low, high, lift, lift_low, lift_high of the items `top`."""
    shares, lifts = carried_intervals(on[top], kl, document) if len(top) else ([], [])
    columns = {name: getattr(every, name)[top] for name in ("n", "kl", "density", "share")}
    columns |= {"low": [i.low for i in shares], "high": [i.high for i in shares], "lift": every.lift[top]}
    columns |= {"lift_low": [i.low for i in lifts], "lift_high": [i.high for i in lifts]}
    types = {name: pl.Int64 if name == "n" else pl.Float64 for name in columns}
    return pl.DataFrame(columns, schema=types).with_columns(pl.col(pl.Float64).fill_nan(None))
