"""What a token is, byte for byte, and how it is shown so that two different tokens never look the same.

A shown token is one-to-one with its bytes: `␣` is a space, `↵` a line feed, `⇥` a tab, every other byte
that is no printable character stands as hex in angle brackets (`⟨F0 9F⟩` is half an emoji), and so does
any of these signs themselves where the text contains one. So it can be read back: `read(shown(b)) == b`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPACE, LINE_FEED, TAB, OPEN, CLOSE = "␣", "↵", "⇥", "⟨", "⟩"
_SIGNS = {" ": SPACE, "\n": LINE_FEED, "\t": TAB}
_RESERVED = frozenset((SPACE, LINE_FEED, TAB, OPEN, CLOSE))
_BYTE_TOKEN = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


class TokenText(NamedTuple):
    """One id of a vocabulary."""

    id: int
    data: bytes  # the bytes it stands for in text; of a special token, its name in UTF-8
    shown: str
    special: bool


def shown(data: bytes) -> str:
    """`data` as printable text, one-to-one (see the module's head)."""
    parts: list[str] = []
    for char in data.decode("utf-8", "surrogateescape"):
        if char in _SIGNS:
            parts.append(_SIGNS[char])
        elif char in _RESERVED or not char.isprintable():
            parts.append(OPEN + char.encode("utf-8", "surrogateescape").hex(" ").upper() + CLOSE)
        else:
            parts.append(char)
    return "".join(parts).replace(CLOSE + OPEN, " ")


def with_bytes(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, which have no bytes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read(text: str) -> bytes:
    """The bytes that `shown` made `text` from."""
    signs = {sign: char for char, sign in _SIGNS.items()}
    out = bytearray()
    for hexadecimal, char in re.findall(rf"{OPEN}([0-9A-F ]+){CLOSE}|([\s\S])", text):
        out += bytes.fromhex(hexadecimal) if hexadecimal else signs.get(char, char).encode()
    return bytes(out)


class Vocabulary:
    """Looks ids of one tokenizer up, each once. Ids beyond the tokenizer's (padding rows of the
    unembedding, as Qwen and Pythia have) show as `⟨id 50300⟩`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids) | {
            id_ for id_, added in tokenizer.added_tokens_decoder.items() if added.special
        }
        self._added = frozenset(tokenizer.added_tokens_decoder)
        self._byte_level = is_byte_level(tokenizer)
        self._known: dict[int, TokenText] = {}

    def __getitem__(self, id_: int) -> TokenText:
        if id_ not in self._known:
            self._known[id_] = self._look_up(int(id_))
        return self._known[id_]

    def shown(self, ids: Iterable[int]) -> list[str]:
        return [self[id_].shown for id_ in ids]

    def is_special(self, id_: int) -> bool:
        return id_ in self._special

    def _look_up(self, id_: int) -> TokenText:
        token = self._tokenizer.backend_tokenizer.id_to_token(id_) if id_ >= 0 else None
        if token is None:
            return TokenText(id_, b"", f"{OPEN}id {id_}{CLOSE}", True)
        if id_ in self._added:
            return TokenText(id_, token.encode(), shown(token.encode()), id_ in self._special)
        data = byte_level_bytes(token) if self._byte_level else _sentencepiece_bytes(token)
        return TokenText(id_, data, shown(data), id_ in self._special)


def is_byte_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Tokens are written in the byte alphabet of GPT-2; its decoder says so."""
    decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder") or {}
    return any(d.get("type") == "ByteLevel" for d in (decoder, *decoder.get("decoders", ())))


@functools.cache
def _alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte, turned round: the printable Latin-1 bytes stand for
    themselves, the other 68 in order from U+0100 [Radford 2019, encoder.py's `bytes_to_unicode`]."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(256 + n): byte for n, byte in enumerate(others)}


def byte_level_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary is written for."""
    alphabet = _alphabet()
    return b"".join(bytes([alphabet[c]]) if c in alphabet else c.encode() for c in token)


def _sentencepiece_bytes(token: str) -> bytes:
    if match := _BYTE_TOKEN.match(token):
        return bytes.fromhex(match.group(1))
    return token.replace("▁", " ").encode()
