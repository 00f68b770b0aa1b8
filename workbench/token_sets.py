"""Builds the token sets that dictionaries are trained on (`dictionary`) and scored on (`heldout`).

Each mixes prose, world, gold chats and what the family's own checkpoints say. Prompts for the samples come
from the set's own documents: questions in chat form, and the beginnings of prose windows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from workbench.checkpoint import Checkpoint
from workbench.corpus import documents_of, read_corpus
from workbench.device import best_device
from workbench.errors import Failure
from workbench.generation import Completion, complete
from workbench.grow import Build
from workbench.labelled import LABELS, TokenDocument, label_documents, total
from workbench.tokens import ARRAYS, SETS
from workbench.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARES: Mapping[str, float] = {"prose": 0.5, "world": 0.3, "chat": 0.06, "rollout": 0.14}
MAX_WINDOW = 256  # tokens a window of checkpoints from outside, whose context may be far longer
SAMPLED_AT_ONCE = 128  # prompts
PROMPT = 16  # tokens of prose that a checkpoint continues
NEW_PROSE, NEW_CHAT = 48, 40  # tokens sampled at most behind each kind of prompt

DOCUMENT_SCHEMA: Mapping[str, Any] = {
    "document": pl.Int32,
    "id": pl.String,
    "domain": pl.String,
    "kind": pl.String,
    "year": pl.Int32,
    "president": pl.String,
    "party": pl.String,
    "author": pl.String,
    "start": pl.Int64,
    "stop": pl.Int64,
}


class Window(NamedTuple):
    """Tokens `start`…`stop` (exclusive) of a document."""

    document: TokenDocument
    start: int
    stop: int


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `activations/tokens-<family>`."""
    config = build.config
    corpus = read_corpus(build.parents["corpus/text"])
    root = Checkpoint.of(build.lab, config["family"])
    tokenizer = root.tokenizer()
    n_ctx = min(root.n_ctx, MAX_WINDOW)
    bos = leading_id(tokenizer)
    pad = _first(tokenizer.pad_token_id, bos)
    build.progress.start(len(SETS) * len(config["rollouts_of"]) * config["n_rollouts"], "samples")
    figures: dict[str, Any] = {"n_ctx": n_ctx, "chat": "template" if tokenizer.chat_template else "plain"}
    for number, name in enumerate(SETS):
        n_tokens = config[f"{name}_tokens"]
        rng = np.random.default_rng([number, 0])
        documents: dict[str, list[TokenDocument]] = {}
        for domain in ("prose", "world", "chat"):
            rows = documents_of(corpus, name, domain)
            rows = rows[rng.permutation(rows.height)]
            documents[domain] = list(_enough(label_documents_in_parts(tokenizer, rows), n_tokens))
        documents["rollout"] = _rollouts(build, documents, rng, (bos, pad, n_ctx), seed=number)
        figures[name] = write_set(build.draft.path, name, documents, n_tokens, n_ctx, rng)
    vocabulary = Vocabulary(tokenizer).shown(range(max(root.shape.vocab_size, len(tokenizer))))
    _write_json(build.draft.path / "vocabulary.json", vocabulary)
    _write_json(build.draft.path / "factors.json", corpus.factors)
    _write_json(build.draft.path / "sets.json", {"bos": bos, "pad": pad, "n_ctx": n_ctx})
    return figures


def leading_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """What stands in front of every text: BOS, or the end token of a family that has none."""
    return _first(tokenizer.bos_token_id, tokenizer.eos_token_id, 0)


def _first(*candidates: int | None) -> int:
    return next(c for c in candidates if c is not None)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def label_documents_in_parts(tokenizer: Any, rows: pl.DataFrame, part: int = 64) -> Iterator[TokenDocument]:
    """`label_documents`, some rows at a time, so that no more text is encoded than is asked for."""
    for at in range(0, rows.height, part):
        yield from label_documents(tokenizer, rows[at : at + part])


def _enough(documents: Iterator[TokenDocument], n_tokens: int) -> Iterator[TokenDocument]:
    have = 0
    for document in documents:
        if len(document.ids):
            yield document
            have += len(document.ids)
        if have >= n_tokens:
            return


def _rollouts(
    build: Build,
    documents: Mapping[str, Sequence[TokenDocument]],
    rng: np.random.Generator,
    ids: tuple[int, int, int],
    seed: int,
) -> list[TokenDocument]:
    """Own samples of each checkpoint of the family: half behind questions, half behind prose."""
    bos, pad, n_ctx = ids
    n = build.config["n_rollouts"]
    new_chat, new_prose, opening = (
        min(NEW_CHAT, n_ctx // 2),
        min(NEW_PROSE, n_ctx // 2),
        min(PROMPT, n_ctx // 4),
    )
    questions = [(d, d.ids[: d.answer]) for d in documents["chat"] if 0 < d.answer < n_ctx - new_chat]
    openings = [
        (w.document, w.document.ids[w.start : w.start + opening])
        for w in windows(documents["prose"] or documents["world"], n_ctx)
        if w.stop - w.start >= opening
    ]
    plans = [(questions, new_chat, n // 2), (openings, new_prose, n - n // 2)]
    made: list[TokenDocument] = []
    for author in build.config["rollouts_of"]:
        checkpoint = Checkpoint.of(build.lab, author)
        model, tokenizer = checkpoint.model(best_device()), checkpoint.tokenizer()
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
        for pool, max_new, wanted in plans:
            if not pool or not wanted:
                continue
            chosen = [pool[i] for i in rng.choice(len(pool), wanted, replace=len(pool) < wanted)]
            prompts = [[bos, *ids.tolist()] for _, ids in chosen]
            said = complete(
                model, tokenizer, prompts, max_new, 1.0, seed, SAMPLED_AT_ONCE, build.progress.advance
            )
            for (document, prompt), completion in zip(chosen, said, strict=True):
                made.append(_rollout(document, prompt, completion, author, len(made)))
    return made


def _rollout(
    source: TokenDocument, prompt: np.ndarray, completion: Completion, author: str, number: int
) -> TokenDocument:
    """Prompt and answer as one document; nobody labelled the answer, so it carries no factors."""
    labels = dict.fromkeys(LABELS) | {"domain": "rollout", "kind": source.labels["kind"], "author": author}
    answer = np.array(completion.ids, np.int32)
    ended = np.zeros(len(answer), bool)
    ended[len(answer) - 1 :] = completion.ended
    return TokenDocument(
        labels | {"id": f"rollout-{author}-{number}"},
        np.concatenate([prompt, answer]),
        np.concatenate([source.special[: len(prompt)], ended]),
        np.zeros((0, 2), np.int64),
        len(prompt),
    )


def windows(documents: Sequence[TokenDocument], n_ctx: int) -> list[Window]:
    """Each document cut in pieces of at most `n_ctx` - 1 tokens (BOS takes one place)."""
    size = n_ctx - 1
    return [Window(d, at, min(at + size, len(d.ids))) for d in documents for at in range(0, len(d.ids), size)]


def allot(available: Mapping[str, int], n_tokens: int, shares: Mapping[str, float] = SHARES) -> dict[str, int]:
    """Tokens of each domain: its share of `n_tokens`; what one lacks the others make up in proportion."""
    given = dict.fromkeys(available, 0)
    open_ = {name for name, n in available.items() if n > 0}
    left = n_tokens
    while open_ and left > 0:
        weight = sum(shares[name] for name in open_)
        wanted = {name: given[name] + int(left * shares[name] / weight) for name in open_}
        full = {name for name in open_ if wanted[name] >= available[name]}
        if not full:
            return given | wanted
        for name in full:
            left -= available[name] - given[name]
            given[name] = available[name]
        open_ -= full
    return given


def write_set(
    folder: Path,
    name: str,
    documents: Mapping[str, Sequence[TokenDocument]],
    n_tokens: int,
    n_ctx: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Choose windows by domain, write the set's arrays and tables, return its figures."""
    allotted = allot({domain: total(d) for domain, d in documents.items()}, n_tokens)
    chosen: list[Window] = []
    figures: dict[str, Any] = {}
    for domain, budget in allotted.items():
        cut = windows(documents[domain], n_ctx)
        order = rng.permutation(len(cut))
        ends = np.cumsum([cut[i].stop - cut[i].start for i in order])
        keep = order[: int(np.searchsorted(ends, budget, side="right"))]
        chosen += [cut[i] for i in sorted(keep)]
        figures[domain] = int(sum(cut[i].stop - cut[i].start for i in keep))
    if not chosen:
        raise Failure(
            f"the corpus has no documents in its {name} split, or they are longer than {n_tokens} tokens: "
            f"give more text or raise activations.{name}_tokens"
        )
    arrays, table, factors = _columns(chosen)
    for what, values in arrays.items():
        np.save(folder / f"{name}-{what}.npy", values.astype(ARRAYS[what]), allow_pickle=False)
    table.write_parquet(folder / f"{name}-documents.parquet")
    pl.DataFrame(factors, schema={"token": pl.UInt32, "factor": pl.UInt16}).write_parquet(
        folder / f"{name}-factors.parquet"
    )
    n = len(arrays["tokens"])
    return {"tokens": n, "windows": len(chosen), "documents": table.height, "domains": figures}


def _columns(chosen: Sequence[Window]) -> tuple[dict[str, np.ndarray], pl.DataFrame, np.ndarray]:
    """The windows laid end to end: arrays by name, the table of documents, (token, factor) pairs."""
    numbers: dict[int, int] = {}
    rows: list[dict[str, Any]] = []
    pieces: dict[str, list[np.ndarray]] = {what: [] for what in ARRAYS}
    factors = []
    at = 0
    for window in chosen:
        document, n = window.document, window.stop - window.start
        if id(document) not in numbers:
            numbers[id(document)] = len(rows)
            rows.append({"author": None, **document.labels, "document": len(rows), "start": at})
        rows[numbers[id(document)]]["stop"] = at + n
        pieces["tokens"].append(document.ids[window.start : window.stop])
        pieces["special"].append(document.special[window.start : window.stop])
        pieces["document"].append(np.full(n, numbers[id(document)]))
        pieces["position"].append(np.arange(1, n + 1))
        inside = (document.factors[:, 0] >= window.start) & (document.factors[:, 0] < window.stop)
        factors.append(document.factors[inside] + [at - window.start, 0])
        at += n
    arrays = {what: np.concatenate(parts) for what, parts in pieces.items()}
    return arrays, pl.DataFrame(rows, schema=DOCUMENT_SCHEMA), np.concatenate(factors)
