"""From what a person typed to the token ids a model reads: BOS where the tokenizer begins with one, the
chat template where a question is asked, and a cut, told in words, where the text is longer than the context."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from workbench.encoding import read_text, reading
from workbench.errors import Misuse
from workbench.vocabulary import TokenText, Vocabulary, with_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_TOKENS = 512  # attention patterns grow with the square of the length: beyond this no page can draw them


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Token ids of one message. `n_cut` tokens between BOS and the rest did not fit `limit`.

    Tokens with the same number in `words` were cut from one piece of the text (a word with the blank before it, as
    a rule): merges never cross its ends. -1 is BOS, which is cut from no text.
    """

    ids: tuple[int, ...]
    tokens: tuple[TokenText, ...]
    n_cut: int
    limit: int
    words: tuple[int, ...] = ()

    @property
    def note(self) -> str:
        """The sentence about the cut, empty where nothing was cut."""
        if not self.n_cut:
            return ""
        return (
            f"The text is {self.n_cut} tokens longer than the {self.limit} that are read at once: "
            f"its first {self.n_cut} tokens are left out."
        )


def begins_with_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Text of this tokenizer's models begins with BOS: it adds one itself, or its chat template does.

    (The lab's own: yes. Llama: yes. Qwen has no BOS; Pythia has one and was trained without.)
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    with reading(tokenizer, markers=True):
        added = tokenizer("a")["input_ids"][:1] == [bos]
    return added or "bos_token" in (tokenizer.chat_template or "")


def as_chat(tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """`question` in the tokenizer's chat template, up to where the answer begins; as it is without one."""
    if not tokenizer.chat_template:
        return question
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def read_prompt(
    tokenizer: PreTrainedTokenizerFast, text: str, n_ctx: int, chat: bool = False, markers: bool = False
) -> Prompt:
    """`text` as ids for a model with a context of `n_ctx` tokens.

    With `chat` it is a question, put into the chat template if there is one. Otherwise markers such as
    `<|user|>` in it are plain text, unless `markers` asks for the tokens. Too long a text keeps its end.
    """
    text = with_bytes(text)
    templated = chat and bool(tokenizer.chat_template)
    if templated:
        text = as_chat(tokenizer, text)
    read = read_text(tokenizer, text, markers=markers or templated)
    ids, words = read["input_ids"], [-1 if word is None else word for word in read.word_ids()]
    bos = [tokenizer.bos_token_id] if begins_with_bos(tokenizer) else []
    if bos and ids[:1] == bos:
        ids, words = ids[1:], words[1:]
    if not bos and not ids:
        raise Misuse(
            "the prompt is empty and this tokenizer has no token to begin with: type at least a letter"
        )
    limit = min(n_ctx, MAX_TOKENS)
    room = limit - len(bos)
    n_cut = max(0, len(ids) - room)
    vocabulary = Vocabulary(tokenizer)
    ids = (*bos, *ids[n_cut:])
    kept = (*(-1 for _ in bos), *words[n_cut:])
    return Prompt(ids, tuple(vocabulary[id_] for id_ in ids), n_cut, limit, kept)
