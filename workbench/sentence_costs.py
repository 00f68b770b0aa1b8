"""One plain sentence in many languages, and how many tokens a tokenizer makes of it.

A tokenizer learns its merges from some text. What that text did not hold is read in smaller pieces, at the worst a
byte at a time (byte-level BPE): the same message then costs several times the tokens, of the context and of compute
[Petrov 2023, arXiv 2305.15425]. Counts are exact, of this one sentence; its translations differ in length, so bytes
and characters stand beside the tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from workbench.encoding import read_text
from workbench.vocabulary import with_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ENGLISH = "English"
SENTENCES: Mapping[str, str] = {
    ENGLISH: "The water in the river is cold today.",
    "German": "Das Wasser im Fluss ist heute kalt.",
    "French": "L'eau de la rivière est froide aujourd'hui.",
    "Spanish": "El agua del río está fría hoy.",
    "Turkish": "Nehirdeki su bugün soğuk.",
    "Russian": "Вода в реке сегодня холодная.",
    "Greek": "Το νερό στο ποτάμι είναι κρύο σήμερα.",
    "Arabic": "ماء النهر بارد اليوم.",
    "Hebrew": "המים בנהר קרים היום.",
    "Hindi": "नदी का पानी आज ठंडा है।",
    "Thai": "วันนี้น้ำในแม่น้ำเย็น",
    "Chinese": "今天河里的水很冷。",
    "Japanese": "今日は川の水が冷たい。",
    "Korean": "오늘 강물이 차갑다.",
    "emoji": "🌊🏞️🥶📅",
}


class Cost(NamedTuple):
    """One sentence under one tokenizer. Characters are Unicode code points, bytes those of UTF-8."""

    language: str
    text: str
    n_tokens: int
    n_characters: int
    n_bytes: int

    @property
    def per_character(self) -> float:
        return self.n_tokens / self.n_characters

    @property
    def per_byte(self) -> float:
        return self.n_tokens / self.n_bytes


def cost(tokenizer: PreTrainedTokenizerFast, language: str, text: str) -> Cost:
    """What `text` costs, BOS and other markers left out; a lone surrogate is read as the replacement character."""
    text = with_bytes(text)
    ids = read_text(tokenizer, text)["input_ids"]
    return Cost(language, text, len(ids), len(text), len(text.encode()))


def costs(tokenizer: PreTrainedTokenizerFast, sentences: Mapping[str, str] = SENTENCES) -> list[Cost]:
    """What each sentence costs, in the order given."""
    return [cost(tokenizer, language, text) for language, text in sentences.items()]


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Equal for tokenizers that read every text alike."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
