"""What one checkpoint of any family makes of held-out text: bits of each document, answers in its own chat form,
and the streams of its layers where words end.

An answer `states` the result if the last number in it is the result (of a capital: if the name stands in it); it
has the lab's `form` if the lab's own checker takes it (`workbench.tasks.judge`), which only models of the lab
learnt. The first is asked of every model alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from workbench.bits_per_byte import model_nats
from workbench.corpus import Corpus
from workbench.errors import Failure
from workbench.evaluation import heldout_questions
from workbench.generation import complete, right_padded
from workbench.points import Site
from workbench.prompt import as_chat, read_prompt
from workbench.sampling import stop_ids
from workbench.site import read_sites
from workbench.tasks import judge
from workbench.unlike_texts import Ends, Segment, Text, encoded, opening, word_ends

N_QUESTIONS = 120  # of a task
MAX_ANSWER = 64  # tokens
LEAST_ANSWER = 16  # tokens a context must leave for one
MAX_CONTEXT = 1_024  # tokens: of models with longer contexts as many are used
TOGETHER = 8  # documents scored at once
ASKED_TOGETHER = 24  # questions: a step of writing costs one reading of all weights
MAX_LAYERS = 12  # of deeper models as many, evenly spread
_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_NUMBER = re.compile(rf"\d[\d,]*|\b(?:{'|'.join(_NUMBERS)})\b", re.IGNORECASE)

Report = Callable[[int], None]


class Reader(NamedTuple):
    """A checkpoint in memory, whatever its family."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    n_ctx: int

    @property
    def context(self) -> int:
        """Tokens it is given at once."""
        return context_of(self.n_ctx)


def context_of(n_ctx: int) -> int:
    """Tokens that a model with this context is given at once."""
    return min(n_ctx, MAX_CONTEXT)


def bits_of(
    reader: Reader, texts: Sequence[Text], report: Report = lambda n: None
) -> Float[np.ndarray, "text"]:
    """Nats of each whole text, by strided windows (`workbench.bits_per_byte`). `report` is told texts."""
    ids = encoded(reader.tokenizer, [text.text for text in texts])
    found = []
    for at in range(0, len(ids), TOGETHER):
        part = ids[at : at + TOGETHER]
        found += [nats.sum() for nats in model_nats(reader.model, part, reader.context, batch=8)]
        report(len(part))
    nats = np.array(found)
    if not np.isfinite(nats).all():
        bad = texts[int(np.flatnonzero(~np.isfinite(nats))[0])].id
        raise Failure(
            f"{reader.name!r} predicts no finite probabilities in document {bad!r}: its weights hold NaN or "
            "numbers too large; leave it out, or grow or add it again"
        )
    return nats


class Asked(NamedTuple):
    """Answers to held-out questions (task, question, result, said, states, form), and why there are none."""

    answers: pl.DataFrame
    note: str


SCHEMA = {
    "task": pl.String, "question": pl.String, "result": pl.String, "said": pl.String, "states": pl.Boolean,
    "form": pl.Boolean,
}  # fmt: skip


def asked(reader: Reader, corpus: Corpus, task: str, report: Report = lambda n: None, seed: int = 0) -> Asked:
    """Greedy answers to held-out questions in the tokenizer's own chat template; as plain lines without one."""
    tokenizer = reader.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(opening(tokenizer))
    questions = heldout_questions(corpus, task)
    questions = questions.sample(min(N_QUESTIONS, questions.height), shuffle=True, seed=seed)
    prompts = [_prompt(reader, question) for question in questions["question"]]
    room = reader.n_ctx - max(map(len, prompts), default=0)
    if room < LEAST_ANSWER:
        note = (
            f"{reader.name} was not asked for {task.replace('_', ' ')}: with a question and {LEAST_ANSWER} tokens "
            f"of an answer its context of {reader.n_ctx} tokens is full"
        )
        return Asked(pl.DataFrame(schema=SCHEMA), note)
    length = min(MAX_ANSWER, room)
    said = complete(reader.model, tokenizer, prompts, length, batch_size=ASKED_TOGETHER, on_batch=report)
    stops = stop_ids(reader.model, tokenizer)
    rows: list[tuple[str, str, str, str, bool, bool]] = []
    for question, result, completion in zip(questions["question"], questions["result"], said, strict=True):
        text, ended = _until(completion.ids, stops, tokenizer)
        form = judge(task, result, text, ended).right
        rows.append((task, question, result, text, states(task, result, text), form))
    return Asked(pl.DataFrame(rows, schema=SCHEMA, orient="row"), "")


def _prompt(reader: Reader, question: str) -> list[int]:
    templated = bool(reader.tokenizer.chat_template)
    text = as_chat(reader.tokenizer, question) if templated else f"{question}\n"
    return list(read_prompt(reader.tokenizer, text, 10**9, markers=templated).ids)


def _until(ids: Sequence[int], stops: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> tuple[str, bool]:
    """What was written up to the first id that ends a text, and whether there was one."""
    end = next((i for i, id_ in enumerate(ids) if id_ in stops), None)
    return str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True)), end is not None


def states(task: str, result: str, said: str) -> bool:
    """The answer gives this result, in whatever form.

    >>> states("sums", "42", "12 + 30 equals 42."), states("sums", "42", "It is 42, or 43.")
    (True, False)
    """
    if task == "capitals":
        return re.search(rf"\b{re.escape(result)}\b", said, re.IGNORECASE) is not None
    numbers = _NUMBER.findall(said)
    if not numbers:
        return False
    last = numbers[-1].replace(",", "").lower()
    return (str(_NUMBERS.index(last)) if last in _NUMBERS else last) == result


def layers_of(model: PreTrainedModel) -> list[int]:
    """All layers, or `MAX_LAYERS` of them evenly spread."""
    n = model.config.get_text_config().num_hidden_layers
    return sorted({int(each) for each in np.linspace(0, n - 1, min(n, MAX_LAYERS)).round()})


class Streams(NamedTuple):
    """resid_post by layer where words end, all segments end to end, and where they end."""

    at: dict[int, Float[np.ndarray, "word d"]]
    ends: list[Ends]


def streams(reader: Reader, segments: Sequence[Segment], report: Report = lambda n: None) -> Streams:
    """What the layers hold at the words' ends; refuses what is not finite. `report` is told segments."""
    ids, ends = word_ends(reader.tokenizer, segments, reader.n_ctx)
    layers = layers_of(reader.model)
    kept: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    for at in range(0, len(ids), TOGETHER):
        part = [each.tolist() for each in ids[at : at + TOGETHER]]
        padded = right_padded(part, opening(reader.tokenizer)).to(reader.model.device)
        read = read_sites(reader.model, [Site(layer) for layer in layers], padded)
        where = [(i, p) for i, e in enumerate(ends[at : at + TOGETHER]) for p in e.positions]
        rows, positions = torch.tensor(where, device=padded.device).reshape(-1, 2).long().T
        for layer in layers:
            kept[layer].append(read[Site(layer)][rows, positions].float().cpu().numpy())
        report(len(part))
    found = {layer: np.concatenate(parts) for layer, parts in kept.items()}
    if bad := [layer for layer, values in found.items() if not np.isfinite(values).all()]:
        raise Failure(
            f"{reader.name!r} has activations that are not finite at layer {bad[0]}: leave it out, or grow or add "
            "it again"
        )
    return Streams(found, ends)
