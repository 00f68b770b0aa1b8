"""What probes read of a lab, kept for the next probe of the same run: models, streams of held-out tokens, answers.

Streams are fp32: row 0 is the embedding, row l + 1 `resid_post` of block l.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from probes.kit.running import LackingError
from saes.factors import FactorTable
from workbench.checkpoint import Checkpoint
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.tasks import ASSISTANT, USER
from workbench.tokens import TokenSet, token_set

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from workbench.corpus import Corpus
    from workbench.evaluation import Answers

TOKENS_AT_ONCE = 4_096
N_TOKENS = 20_000  # read of a token set unless told otherwise


class Opened(NamedTuple):
    """A checkpoint in memory, on the best device, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


@functools.lru_cache(maxsize=8)
def opened(checkpoint: Checkpoint) -> Opened:
    """The checkpoint; hooks put on its model must be taken off again. A tokenizer that does not pad fills rows with
    what ends a text."""
    from workbench.device import best_device
    from workbench.site import with_fast_attention

    tokenizer = checkpoint.tokenizer()
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return Opened(with_fast_attention(checkpoint.model(best_device())), tokenizer)


def held_out(checkpoint: Checkpoint) -> TokenSet:
    """The held-out tokens that all checkpoints of this one's family read."""
    return tokens_of(checkpoint, "heldout")


def tokens_of(checkpoint: Checkpoint, name: str) -> TokenSet:
    """A token set of the checkpoint's family; one that is not there is lacking."""
    lab = checkpoint.lab
    plan = Plan.of(lab)
    family = plan.family(checkpoint.name)
    step = plan.steps.get(f"activations/tokens-{family}")
    if step is None or lab.artefact(step.kind, step.name, step.id) is None:
        raise LackingError(
            f"no tokens are kept for {checkpoint.address!r} to read: `python -m workbench sae {lab.name} "
            f"--checkpoint {checkpoint.address}` makes them"
        )
    return _token_set(lab, family, name)


@functools.lru_cache(maxsize=4)
def _token_set(lab: Lab, family: str, name: str) -> TokenSet:
    return token_set(lab, family, name)


def check_chat_form(checkpoint: Checkpoint) -> None:
    """A checkpoint whose tokenizer does not know the lab's chat form cannot be asked in it: its answers would be
    called wrong for that."""
    tokenizer = opened(checkpoint).tokenizer
    encode = tokenizer.backend_tokenizer.encode
    known = all(len(encode(marker, add_special_tokens=False).ids) == 1 for marker in (USER, ASSISTANT))
    if not known or None in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        raise LackingError(
            f"{checkpoint.address!r} does not know the lab's chat form, in which the questions are: ask about "
            "checkpoints that were grown in a lab"
        )


def one_a_document(tokens: TokenSet, n: int, seed: int = 0) -> Int[np.ndarray, " window"]:
    """A window of each of `n` documents drawn at random (all, if there are fewer): the first. Cases that are to be
    independent are documents, not windows."""
    _, first = np.unique(np.asarray(tokens.document)[tokens.starts], return_index=True)
    return np.sort(np.random.default_rng(seed).permutation(first)[:n])


class Labelled(NamedTuple):
    """Held-out tokens whose factors are known: rows of the token set, and the factors that are on in each."""

    rows: Int[np.ndarray, " token"]
    factors: FactorTable


@functools.lru_cache(maxsize=4)
def labelled(tokens: TokenSet, most: int = N_TOKENS) -> Labelled:
    """Whole documents of world and chats, markers left out, up to about `most` tokens."""
    from workbench.truth_build import factor_table, labelled_rows

    rows = labelled_rows(tokens, most)
    return Labelled(rows, factor_table(tokens, rows))


def streams(checkpoint: Checkpoint, rows: Int[np.ndarray, " token"]) -> Float[np.ndarray, "row token d"]:
    """The residual stream of held-out tokens in their windows, at every layer."""
    return _streams(checkpoint, np.ascontiguousarray(rows, np.int64).tobytes())


@functools.lru_cache(maxsize=12)
def _streams(checkpoint: Checkpoint, packed: bytes) -> Float[np.ndarray, "row token d"]:
    from workbench.lens import recorded_stream

    rows, tokens = np.frombuffer(packed, np.int64), held_out(checkpoint)
    place = np.full(len(tokens), -1)
    place[rows] = np.arange(len(rows))
    windows = np.unique(np.searchsorted(tokens.starts, rows, side="right") - 1)
    model = opened(checkpoint).model
    found = np.empty((checkpoint.n_layers + 1, len(rows), checkpoint.d_model), np.float32)
    for batch in tokens.batches(TOKENS_AT_ONCE, windows):
        with torch.inference_mode(), recorded_stream(model) as resid:
            model.base_model(
                torch.from_numpy(batch.ids).to(model.device), use_cache=False
            )  # nothing is unembedded
        at = np.where(batch.real, place[batch.rows], -1)
        for layer, read in enumerate(resid):
            found[layer, at[at >= 0]] = read[:, 1:].float().cpu().numpy()[at >= 0]
    return found


def row_names(checkpoint: Checkpoint) -> list[str]:
    """What the rows of `streams` are called."""
    return ["embedding", *(f"block {layer}" for layer in range(checkpoint.n_layers))]


@functools.lru_cache(maxsize=64)
def answers(checkpoint: Checkpoint, task: str, at_most: int = 200, opening: str = "") -> Answers:
    """Greedy answers to the first held-out questions of a task, judged."""
    from workbench.evaluation import answer

    check_chat_form(checkpoint)
    here = opened(checkpoint)
    return answer(here.model, here.tokenizer, corpus_of(checkpoint.lab), task, opening=opening, at_most=at_most)


@functools.lru_cache(maxsize=2)
def corpus_of(lab: Lab) -> Corpus:
    """The lab's documents."""
    from workbench.corpus import read_corpus

    return read_corpus(lab.find("corpus", "text"))
