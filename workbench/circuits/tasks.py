"""The tasks that come with the workbench, and their pairs for a checkpoint's tokenizer.

`search` pairs find a circuit, `judge` pairs say what it is worth: no country, sum, word, person or token that one
asks about is asked about by the other.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import get_args

from workbench.circuits.asked import LEAST, Asked, Material, Task, Use, fitted
from workbench.circuits.pairs import PairIds, Pairs, pad_of, padded
from workbench.circuits.story_tasks import STORY_TASKS
from workbench.circuits.sum_tasks import SUM_TASKS
from workbench.circuits.text_tasks import TEXT_TASKS
from workbench.circuits.world_tasks import WORLD_TASKS
from workbench.errors import Misuse, unknown
from workbench.lab import Lab
from workbench.tasks import ASSISTANT, END, USER

TASKS: Mapping[str, Task] = {task.name: task for task in (*TEXT_TASKS, *SUM_TASKS, *WORLD_TASKS, *STORY_TASKS)}
USES: tuple[Use, ...] = get_args(Use)
_TRIES = 100  # candidates a pair asked for, at most


def task_pairs(
    lab: Lab,
    task: str | Task,
    n: int = 64,
    use: str = "search",
    seed: int = 0,
    checkpoint: str = "base",
    one_length: bool = False,
) -> Pairs:
    """At most n different pairs of a task, as the checkpoint's tokenizer reads them; equal for equal arguments.

    With `one_length` all are equally long, of the length that is met n times first (or most often): a place then
    means the same in each. `Misuse` where the lab cannot make them.
    """
    if isinstance(task, str):
        task = known_task(task)
    known_use = next((each for each in USES if each == use), None)
    if known_use is None:
        raise unknown("use of pairs", use, USES)
    of = lab.checkpoint(checkpoint)
    material = Material(lab, of.tokenizer(), of.n_ctx)
    if task.wording == "chat":
        _check_markers(task, material, checkpoint)
    rows: dict[int, list[PairIds]] = {}
    for row in _different(task, material, known_use, seed, _TRIES * n):
        alike = rows.setdefault(len(row.clean) if one_length else 0, [])
        alike.append(row)
        if len(alike) == n:
            break
    found = max(rows.values(), key=len, default=[])
    if len(found) < min(n, LEAST):
        raise Misuse(
            f"task {task.name!r} has {len(found)} fair pairs for {checkpoint!r} of lab {lab.name!r}, and {LEAST} "
            "are the fewest that say anything: its tokenizer makes the two prompts unequally long, or what can be "
            "asked in this lab is too little; take another task"
        )
    return padded(task.name, found, pad_of(material.tokenizer))


def known_task(name: str) -> Task:
    """The task of a name; `Misuse` names the near ones."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def _different(task: Task, material: Material, use: Use, seed: int, tries: int) -> Iterator[PairIds]:
    """Fair pairs among so many candidates, each once."""
    rng = random.Random(f"circuit {task.name} {use} {seed}")
    seen: set[object] = set()
    for candidate in itertools.islice(task.write(material, rng, use), tries):
        key = (tuple(candidate.clean), tuple(candidate.corrupt)) if candidate is not None else None
        if candidate is None or key in seen:
            continue
        seen.add(key)
        row = fitted(candidate, material) if isinstance(candidate, Asked) else candidate
        if row is not None:
            yield row


def _check_markers(task: Task, material: Material, checkpoint: str) -> None:
    """A chat task needs the lab's markers as tokens."""
    for marker in (USER, ASSISTANT, END):
        if len(material.tokenizer.encode(marker, add_special_tokens=False)) != 1:
            raise Misuse(
                f"task {task.name!r} is asked in the lab's chat form, and the tokenizer of {checkpoint!r} has no "
                f"token {marker}: take a task in plain wording, or a jsonl file of your own"
            )
