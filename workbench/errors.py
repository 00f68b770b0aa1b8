"""The two ways a person hears that something went wrong: one sentence each, never a traceback.

`Misuse` is the person's to mend (a wrong name, a bad file): exit code 2.
`Failure` happened on the way (a full disk, a NaN loss): exit code 1.
A message says what was found, what was expected and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MANY = 48  # names; more are not listed
NEAREST = 5


class MarbleError(Exception):
    """A sentence for a person; `exit_code` is what the command line ends with."""

    exit_code = 1


class Failure(MarbleError):
    """The request was sound but could not be carried out."""


class Misuse(MarbleError):
    """The request cannot be carried out as it was put."""

    exit_code = 2


def unknown(what: str, name: str, valid: Iterable[str]) -> Misuse:
    """`Misuse` that names the nearest valid names first, then the rest; of very many, a few near ones.

    >>> str(unknown("preset", "quik", ["quick", "standard"]))
    "there is no preset 'quik': did you mean 'quick'? (there are: quick, standard)"
    >>> str(unknown("preset", "zz", ["quick", "standard"]))
    "there is no preset 'zz' (there are: quick, standard)"
    >>> str(unknown("step", "zz", [f"step {n}" for n in range(100)])).count("step")
    6
    """
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    if len(names) > MANY:
        nearest = difflib.get_close_matches(name, names, n=NEAREST, cutoff=0.0)
        known = f"(there are {len(names)}; the nearest in spelling: {', '.join(nearest)})"
    else:
        known = f"(there are: {', '.join(names)})" if names else "(there is none yet)"
    return Misuse(f"there is no {what} {name!r}{hint} {known}")
