"""Asking probes one after the other; each answer is stored, and one that raises is told while others go on."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from probes.kit.finding import Finding, told_figure
from probes.kit.found import Probe
from probes.kit.stored import Asked, Stored, set_otherwise
from workbench.disk import write_json
from workbench.errors import MarbleError, Misuse
from workbench.jobs import jobs, new_job, settle
from workbench.lab import Lab
from workbench.progress import Progress

DONE, FAILED, LACKING = "done", "failed", "lacking"
MESSAGES = "answers.json"  # of a job: what became of each of its probes


class LackingError(Misuse):
    """What a probe asks about is not in the lab; the sentence says which step grows it."""


class Answer(NamedTuple):
    """What became of one probe: its stored finding, or a message."""

    probe: Probe
    state: str
    stored: Stored | None
    message: str
    seconds: float

    def told(self) -> dict[str, Any]:
        """For machines."""
        about = {"state": self.state, "seconds": round(self.seconds, 2), "question": self.probe.question}
        return about | (dict(self.stored.finding) if self.stored else {"message": self.message})

    def whole(self) -> str:
        """For a terminal, with every figure."""
        assert self.stored is not None
        finding = self.stored.finding
        figures = [f"  {told_figure(figure)}" for figure in finding["figures"]]
        ends = [f"  held against: {finding['null']}", f"  would change it: {finding['changes']}"]
        return "\n".join([self.describe(), *figures, *ends])

    def describe(self) -> str:
        """For a terminal, in one line; of an answer that was given."""
        assert self.stored is not None
        finding = self.stored.finding
        mark = "claims" if finding["claims"] else "claims nothing"
        return f"{self.probe.name} [{mark}]: {finding['claim']}"


def run(
    lab: Lab,
    asked: Sequence[Probe],
    checkpoints: Sequence[str],
    options: Mapping[str, Any] | None = None,
    again: bool = False,
    quiet: bool = False,
) -> list[Answer]:
    """The probes' answers about these checkpoints; those that are stored already are read, unless `again`.

    Raises `Misuse` for a checkpoint that is not there, before the lab is held; it is while probes run.
    """
    about = [each.address for each in lab.checkpoints(*checkpoints)]  # what `sft@latest` is now
    if twice := sorted({each for each in about if about.count(each) > 1}):
        raise Misuse(f"{', '.join(twice)} is named twice: name each checkpoint once")
    todo, answers = [], dict[str, Answer]()
    for probe in asked:
        if probe.broken:
            answers[probe.name] = Answer(probe, FAILED, None, probe.broken, 0.0)
            continue
        put = Asked(probe, tuple(about), set_otherwise(probe, options or {}))
        if not again and (known := put.found(lab)):
            answers[probe.name] = Answer(probe, DONE, known, "", known.seconds)
        else:
            todo.append(put)
    if todo:
        with lab.writing("probes"):
            answers |= {answer.probe.name: answer for answer in _run(lab, todo, quiet)}
    return [answers[probe.name] for probe in asked]


def _run(lab: Lab, todo: Sequence[Asked], quiet: bool) -> list[Answer]:
    settle(lab)
    folder = new_job(lab, "probes")
    progress, found = Progress(folder, "probes", quiet), list[tuple[Answer, Asked]]()
    try:
        for position, put in enumerate(todo, start=1):
            with progress.step(f"probe/{put.probe.name}", position, len(todo)):
                progress.start(len(todo), "probes", initial=position - 1, label=put.probe.name)
                found.append((_ask(lab, put, folder / "log.txt"), put))
                told = {
                    a.probe.name: [a.state, a.message, list(p.checkpoints), dict(p.options)] for a, p in found
                }
                write_json(folder / MESSAGES, told)
                progress.advance()
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        why = "stopped by hand; answers that were finished are kept" if stopped else str(error)
        progress.finish("stopped" if stopped else FAILED, why)
        raise
    answers = [answer for answer, _ in found]
    failed = [f"{answer.probe.name}: {answer.message}" for answer in answers if answer.state == FAILED]
    progress.finish(FAILED if failed else DONE, "; ".join(failed))
    return answers


def _ask(lab: Lab, put: Asked, log: Path) -> Answer:
    """One probe asked and its answer stored. Whatever it prints goes to standard error."""
    began = time.monotonic()

    def over(state: str, message: str) -> Answer:
        return Answer(put.probe, state, None, message, time.monotonic() - began)

    try:
        finding = ask(lab, put)
        stored = put.write(lab, finding, time.monotonic() - began)
        return Answer(put.probe, DONE, stored, "", stored.seconds)
    except LackingError as error:
        return over(LACKING, str(error))
    except MarbleError as error:
        return over(FAILED, str(error))
    except (Exception, SystemExit) as error:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{put.probe.name}\n{traceback.format_exc()}\n")
        return over(FAILED, f"{_gist(error)}{_place(error, put.probe.path)}")


def ask(lab: Lab, put: Asked) -> Finding:
    """The probe's answer, not stored; the same whenever it is asked, since chance is seeded."""
    import numpy as np
    import torch

    from workbench.device import few_threads
    from workbench.loading import quiet_transformers

    random.seed(0)
    np.random.seed(0)  # a person's probe may draw from it
    torch.manual_seed(0)
    checkpoints = lab.checkpoints(*put.checkpoints)
    small = max(checkpoint.d_model for checkpoint in checkpoints)
    with contextlib.redirect_stdout(sys.stderr), quiet_transformers(), few_threads(small):
        finding = put.probe.module().ask(lab, checkpoints, **put.options)
    if not isinstance(finding, Finding):
        raise TypeError(f"ask gave back {type(finding).__name__}, and a Finding is expected")
    return finding


class Said(NamedTuple):
    """What came of a probe in one job: what was put to it, when, its state and message."""

    name: str
    checkpoints: tuple[str, ...]
    options: dict[str, Any]
    when: float
    state: str
    message: str


def said(lab: Lab) -> list[Said]:
    """What came of every probe that a job asked, the newest job first."""
    found = []
    for job in jobs(lab):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for name, told in json.loads((job.log.parent / MESSAGES).read_text(encoding="utf-8")).items():
                state, message, about, settings = told
                found.append(Said(name, tuple(about), settings, float(job.status["updated"]), state, message))
    return found


def _gist(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _place(error: BaseException, path: Path) -> str:
    """The line of the probe's own file that it came from, if there is one."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" (line {lines[-1]} of {path.name})" if lines else ""
