"""Background work of a lab: `jobs/<job>/status.json` and `log.txt`, and whether its process still lives."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.disk import write_json
from workbench.lab import Lab

LOST = "lost"
_started: list[subprocess.Popen[bytes]] = []  # of this process, until they end: one let go of stays a zombie


@dataclasses.dataclass(frozen=True)
class Job:
    """One background job as its status file tells it; `state` is running, done, failed, stopped or lost."""

    name: str
    state: str
    status: Mapping[str, Any]
    log: Path


def jobs(lab: Lab) -> list[Job]:
    """All jobs of the lab, newest first. A running job whose process is gone is `lost`."""
    found = []
    for path in sorted((lab.path / "jobs").glob("*/status.json"), reverse=True):
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # replaced or removed at this moment: the next poll sees it
        state = status["state"]
        if state == "running" and not _alive(status["pid"], status["started"]):
            state = LOST
        found.append(Job(path.parent.name, state, status, path.parent / "log.txt"))
    return found


def settle(lab: Lab) -> None:
    """Write down which jobs are lost: a killed process could not say so itself, and its file says running."""
    for job in jobs(lab):
        if job.state == LOST != job.status["state"]:
            write_json(job.log.parent / "status.json", {**job.status, "state": LOST})


def how_to_grow(lab: Lab) -> str:
    """What a person who misses something does: wait, where a job grows it now; else grow."""
    for job in jobs(lab):
        if job.state == "running" and "step_position" in job.status:
            place = f"step {job.status['step_position']} of {job.status['n_steps']}, {job.status['step']}"
            return f"the lab is growing now ({place}), wait for it"
    return f"run `python -m workbench grow {lab.name}`"


def _alive(pid: int, started: float) -> bool:
    """The process lives and began before the job did (so the number was not given to another)."""
    import psutil

    try:
        return psutil.Process(pid).create_time() <= started + 1.0
    except psutil.Error:
        return False


def new_job(lab: Lab, what: str) -> Path:
    """Folder of a new job; names sort by time."""
    return lab.path / "jobs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{what}"


def start(lab: Lab, arguments: Sequence[str], package: str = "workbench") -> subprocess.Popen[bytes]:
    """Run `python -m PACKAGE ARGUMENTS…` in a session of its own; its output goes to the lab's log.

    The process outlives the caller. `MARBLE_HOME` is set so that it finds this very lab.
    """
    folder = lab.path / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "last.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", package, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # The app and the browser want the same cores: threads that wait for one another must not spin.
            env={"OMP_WAIT_POLICY": "passive", **os.environ, "MARBLE_HOME": str(lab.path.parent.resolve())},
        )
    _started[:] = [each for each in (*_started, process) if each.poll() is None]
    return process
