"""What a person should know of how a text was read, a sentence each: nothing to read, too much, signs that are no
print, markers, right-to-left script, characters that more than one token makes up."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from workbench.prompt import Prompt

_PRINTED = "\n\t"  # controls that have a sign of their own
_RIGHT_TO_LEFT = frozenset({"R", "AL", "RLE", "RLO", "RLI"})


def notes(tokenizer: PreTrainedTokenizerFast, text: str, prompt: Prompt, chat: bool = False) -> list[str]:
    """The sentences that `text`, read as `prompt`, calls for; most texts call for none."""
    return [sentence for sentence in _all(tokenizer, text, prompt, chat) if sentence]


def _all(tokenizer: PreTrainedTokenizerFast, text: str, prompt: Prompt, chat: bool) -> Iterator[str]:
    if not text:
        yield "The text is empty: only what every text begins with is read."
    if chat and not tokenizer.chat_template:
        yield "This tokenizer has no chat form: the text is read as it stands."
    yield prompt.note
    yield _markers(tokenizer, text, chat)
    controls = [c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in _PRINTED]
    if controls:
        yield (
            f"{_of(len(controls), 'control character')} in the text cannot be seen: tokens show their bytes in "
            "⟨angle brackets⟩."
        )
    if any("\ud800" <= c <= "\udfff" for c in text):
        yield "Half a character in the text has no bytes: it is read as the replacement character �."
    if any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in text):
        yield "The text has right-to-left script: tokens stand in the order of reading, the first on the left."
    parts = sum(_is_part(token.data) for token in prompt.tokens if not token.special)
    if parts:
        yield (
            f"{_of(parts, 'token')} {'holds' if parts == 1 else 'hold'} only part of a character, which this "
            "tokenizer has no single token for: its bytes are shown."
        )


def _markers(tokenizer: PreTrainedTokenizerFast, text: str, chat: bool) -> str:
    vocabulary = Vocabulary(tokenizer)
    found = [
        token.content
        for id_, token in tokenizer.added_tokens_decoder.items()
        if vocabulary.is_special(id_) and token.content in text
    ]
    if not found:
        return ""
    named = ", ".join(f"`{name}`" for name in found)
    if chat and tokenizer.chat_template:
        return f"{named} in the text was read as a marker of the chat form, not as letters."
    return f"{named} in the text was read letter by letter, not as a marker."


def _is_part(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _of(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
