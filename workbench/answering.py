"""Two checkpoints answer the same prompt: each writes its own answer, and both read both answers, teacher-forced.

What one wrote the other is asked of token by token, so that a place where the answers part shows how sure each
was, and whether the other would have said the same a moment later.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from workbench.errors import Misuse
from workbench.parted_predictions import Parted, first_difference, parted
from workbench.prompt import Prompt, read_prompt
from workbench.sampling import Continuation, Sampling, continuations
from workbench.vocabulary import TokenText

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from workbench.checkpoint import Checkpoint

N_WRITTEN = 40  # tokens of an answer at most
GREEDY = Sampling(temperature=0.0)


class Voice(NamedTuple):
    """A checkpoint in memory. `lock` is held around every use of a model that others use as well, one at a time."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    n_ctx: int
    lock: contextlib.AbstractContextManager = contextlib.nullcontext()

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Voice:
        """The checkpoint, loaded."""
        return cls(checkpoint.address, checkpoint.model(), checkpoint.tokenizer(), checkpoint.n_ctx)


@dataclasses.dataclass(frozen=True)
class Answer:
    """Prompt and answer as one text. `parted` row i is about `tokens[i + 1]`; the answer begins at `n_prompt`."""

    author: str
    tokens: tuple[TokenText, ...]
    n_prompt: int
    ended: bool
    parted: Parted

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def n_answer(self) -> int:
        return len(self.tokens) - self.n_prompt

    @property
    def log_p(self) -> list[float]:
        """log p of the whole answer under the first and the second, nats."""
        return self.parted.log_p[:, self.n_prompt - 1 :].sum(axis=1).tolist()

    @property
    def kl(self) -> list[float]:
        """KL(first‖second) and KL(second‖first) on the answer, nats per token."""
        return self.parted.kl[:, self.n_prompt - 1 :].mean(axis=1).tolist()

    @property
    def farthest(self) -> int:
        """The place of the answer's token at which the two part most, by KL(second‖first)."""
        return self.n_prompt + int(self.parted.kl[1, self.n_prompt - 1 :].argmax())


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the first and the second checkpoint said; `prompt.note` says what did not fit."""

    prompt: Prompt
    first: Answer
    second: Answer

    @property
    def differ_at(self) -> int | None:
        """The first token, counted from the beginning of the text, at which the answers differ; None if nowhere."""
        return first_difference(self.first.ids, self.second.ids)


def answers(
    first: Voice,
    second: Voice,
    text: str,
    chat: bool = False,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    length: int = N_WRITTEN,
) -> Answers:
    """Both answers to `text` (with `chat`, to a question in chat form), each read by both.

    Drawn with the same seed. Too long a prompt keeps its end; an empty one, or checkpoints that do not share a
    tokenizer, are `Misuse`.
    """
    if not text.strip():
        raise Misuse("the prompt is empty: write at least one word for the two to go on from")
    checked_tokenizers(first, second)
    prompt = read_prompt(first.tokenizer, text, max(2, min(first.n_ctx, second.n_ctx) - length), chat=chat)
    written = []
    for voice in (first, second):
        with voice.lock:
            said = continuations(
                voice.model, voice.tokenizer, prompt, sampling, n=1, max_new_tokens=length, seed=seed
            )
        written.append(_read(voice.name, said[0], prompt, (first, second)))
    return Answers(prompt, *written)


def _read(author: str, said: Continuation, prompt: Prompt, readers: tuple[Voice, Voice]) -> Answer:
    bos = readers[0].tokenizer.bos_token_id  # another document begins: that, too, ends an answer
    ids = [token.id for token in said.tokens]
    stop = ids.index(bos) + 1 if bos in ids else len(ids)
    tokens = (*prompt.tokens, *said.tokens[:stop])
    read = read_by_both(readers[0], readers[1], [token.id for token in tokens])
    return Answer(author, tokens, len(prompt.tokens), said.ended or bos in ids, read)


def read_by_both(first: Voice, second: Voice, ids: Sequence[int]) -> Parted:
    """One text, teacher-forced, in both."""
    return parted(ids, *(logits_of(voice, ids) for voice in (first, second)))


def logits_of(voice: Voice, ids: Sequence[int]) -> Float[np.ndarray, "position vocab"]:
    """The model's logits after every id, fp32."""
    import torch

    with voice.lock, torch.inference_mode():
        read = torch.tensor([list(ids)], device=voice.model.device)
        return voice.model(input_ids=read, use_cache=False).logits[0].float().cpu().numpy()


def checked_tokenizers(first: Voice, second: Voice) -> None:
    """`Misuse` where an id is not the same token to both."""
    if first.tokenizer.get_vocab() != second.tokenizer.get_vocab():
        raise Misuse(
            f"{first.name} and {second.name} do not share a tokenizer: only checkpoints of one lineage can be "
            "compared token by token"
        )
