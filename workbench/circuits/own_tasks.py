"""A task of one's own: a jsonl file, one pair a line.

    {"clean": "The capital of France is", "corrupt": "The capital of Peru is", "target": " Paris", "foil": " Lima"}

The target is what the clean prompt asks for, the foil what the corrupt one does: one token each, with the blank in
front that belongs to it. Chat markers may be written out. Lines take turns: the first finds a circuit, the second
judges it, and so on. Nothing is passed over: a line that is no fair comparison is named.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.circuits.asked import LEAST, Material, Task, Use
from workbench.circuits.pairs import PairIds, PromptPair, encoded
from workbench.circuits.tasks import known_task
from workbench.disk import sha256_file
from workbench.errors import Failure, Misuse
from workbench.lab import checked_name
from workbench.tasks import USER

_FIELDS = ("clean", "corrupt", "target", "foil")
_EXAMPLE = '{"clean": "…", "corrupt": "…", "target": " …", "foil": " …"}'


def own_task(path: Path) -> Task:
    """The task in a file, named after it. `Misuse` names the first line that is not a pair."""
    try:
        checked_name(path.stem)
    except Misuse:
        raise Misuse(
            f"a task is called after its file, and {path.stem!r} cannot be a name: rename {path.name!r}, with "
            "letters, digits, '.', '_', '+' and '-'"
        ) from None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise Misuse(f"{path.name} is not text in UTF-8: a task is a jsonl file, one pair a line") from None
    except OSError as error:
        raise Misuse(f"{path} cannot be read ({error.strerror}): give a jsonl file, one pair a line") from error
    pairs = [_pair(f"line {number} of {path.name}", line) for number, line in enumerate(lines, 1)]
    first: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(pairs, 1):
        if (before := first.setdefault((pair.clean, pair.corrupt), number)) != number:
            raise Misuse(
                f"line {number} of {path.name} repeats the prompts of line {before}: remove one of the two"
            )
    if len(pairs) < 2 * LEAST:
        raise Misuse(
            f"{path.name} has {len(pairs)} lines: give at least {2 * LEAST}, {LEAST} to find a circuit and {LEAST} "
            f"to judge it, each such as {_EXAMPLE}"
        )
    question = f"as {path.name} asks: the target behind the clean prompt, the foil behind the corrupt one"
    write = functools.partial(_write, name=path.stem, pairs=tuple(pairs))
    chat = any(USER in pair.clean for pair in pairs)
    return Task(path.stem, question, write, "chat" if chat else "plain")


def _pair(of: str, line: str) -> PromptPair:
    try:
        read = json.loads(line)
    except json.JSONDecodeError as error:
        found = "is empty" if not line.strip() else f"is no JSON ({error.msg} at character {error.colno})"
        raise Misuse(f"{of} {found}: write {_EXAMPLE}") from None
    if not isinstance(read, dict):
        raise Misuse(f"{of} is no JSON object: write {_EXAMPLE}")
    if missing := [field for field in _FIELDS if field not in read]:
        raise Misuse(f"{of} has no {missing[0]!r}: write {_EXAMPLE}")
    for field in _FIELDS:
        if not isinstance(read[field], str) or not read[field]:
            raise Misuse(f"{of}: {field!r} is {json.dumps(read[field])}, not a text: write {_EXAMPLE}")
    if others := sorted(set(read) - set(_FIELDS)):
        raise Misuse(f"{of} has {others[0]!r}, which means nothing here: {', '.join(_FIELDS)} are what is read")
    return PromptPair(**read)


def _write(
    material: Material, rng: random.Random, use: Use, name: str, pairs: tuple[PromptPair, ...]
) -> Iterator[PairIds]:
    """The lines of one half, in an order drawn from the seed. All lines are checked, and pair N is line N."""
    ids = encoded(name, pairs, material.tokenizer, material.n_ctx)
    for number, pair in enumerate(pairs, 1):
        _check_read_together(f"pair {number} of task {name!r}", pair, material)
    mine = [i for i in range(len(pairs)) if (i % 2 == 0) == (use == "search")]
    for i in rng.sample(mine, len(mine)):
        clean, corrupt = (row[i, : int(ids.last[i]) + 1].tolist() for row in (ids.clean, ids.corrupt))
        yield PairIds(clean, corrupt, int(ids.target[i]), int(ids.foil[i]))


def _check_read_together(of: str, pair: PromptPair, material: Material) -> None:
    """Prompt and answer together are the tokens of the prompt and the answer's one: no model met others."""
    for prompt, answer in ((pair.clean, pair.target), (pair.corrupt, pair.foil)):
        if len(material.ids(prompt + answer)) != len(material.ids(prompt)) + 1 or (
            material.ids(prompt + answer)[:-1] != material.ids(prompt)
        ):
            raise Misuse(
                f"{of}: {prompt[-20:]!r} and {answer!r} are read as other tokens together than one by one: "
                "a blank between them belongs to the answer"
            )


def the_task(config: Mapping[str, Any]) -> Task:
    """The task that a circuit of the recipe is about: one of the workbench's, or one's own as its file was when it
    was asked for."""
    if not config["source"]:
        return known_task(config["task"])
    path = Path(config["source"])
    if not path.is_file():
        raise Misuse(f"the task's file {path} is gone: put it back, or ask for another task")
    if sha256_file(path) != config["source_sha256"]:
        raise Failure(
            f"{path} is not the file that was asked for, it has changed since: ask for the circuit again"
        )
    return own_task(path)
