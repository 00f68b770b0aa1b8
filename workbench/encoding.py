"""Text to ids, with a tokenizer that several threads share.

Whether a marker such as `<|user|>` is read as its token or as plain text is a flag of the Rust tokenizer, not of
the call, and `transformers` sets it and leaves it. Of two sessions that read at once one would have the other's way
of reading, so texts are encoded here: one thread at a time, and the flag is as it was afterwards.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BatchEncoding, PreTrainedTokenizerFast

_LOCKS: weakref.WeakKeyDictionary[PreTrainedTokenizerFast, threading.Lock] = weakref.WeakKeyDictionary()
_NEW_LOCK = threading.Lock()


@contextlib.contextmanager
def reading(tokenizer: PreTrainedTokenizerFast, markers: bool) -> Iterator[Tokenizer]:
    """The backend, reading markers as tokens or as plain text; no other thread reads with it meanwhile."""
    with _NEW_LOCK:
        lock = _LOCKS.setdefault(tokenizer, threading.Lock())
    backend = tokenizer.backend_tokenizer
    with lock:
        before = backend.encode_special_tokens
        backend.encode_special_tokens = not markers
        try:
            yield backend
        finally:
            backend.encode_special_tokens = before


def read_text(
    tokenizer: PreTrainedTokenizerFast, text: str | list[str], markers: bool = False, offsets: bool = False
) -> BatchEncoding:
    """What `transformers` reads in a text or in several, BOS and the like left out."""
    with reading(tokenizer, markers):
        return tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=not markers,
            return_offsets_mapping=offsets,
            verbose=False,
        )
