"""Names of comparisons, made of the names of what is compared."""

from __future__ import annotations

import hashlib

LONGEST = (
    64  # characters: what is built of a comparison puts a word before its name, and a folder's name has 80
)


def short_name(name: str) -> str:
    """`name`, or if it is too long its beginning and a hash of the whole.

    >>> short_name("base-sft")
    'base-sft'
    """
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
