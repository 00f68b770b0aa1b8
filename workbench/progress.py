"""Progress of long work: a bar with an ETA on standard error, and a `status.json` that pages poll."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from workbench.disk import write_json

_WRITE_EVERY = 0.5  # seconds between writes of status.json


class Progress:
    """Reports one job made of several steps. With `folder=None` only the bar is drawn."""

    def __init__(self, folder: Path | None, what: str, quiet: bool = False) -> None:
        self._folder, self._what, self._quiet = folder, what, quiet
        self._started = time.time()
        self._written = 0.0
        self._bar: tqdm[Any] | None = None
        self._status: dict[str, Any] = {}
        self._done_steps: list[dict[str, Any]] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._write("running", force=True)

    @contextlib.contextmanager
    def step(self, name: str, position: int, n_steps: int) -> Iterator[None]:
        """Everything reported inside belongs to step `name`, the `position`-th of `n_steps` (from 1)."""
        began = time.time()
        self._status = {"step": name, "step_position": position, "n_steps": n_steps, "step_started": began}
        self._write("running", force=True)
        try:
            yield
        finally:
            self._close_bar()
        self._done_steps.append({"step": name, "seconds": round(time.time() - began, 2)})

    def start(self, total: int, unit: str, initial: int = 0, label: str | None = None) -> None:
        """Begin to count `total` units of the present step; `initial` are done already (after a resume)."""
        self._close_bar()
        label = label or self._status.get("step", self._what)
        self._status |= {"total": total, "done": initial, "unit": unit, "label": label, "figures": {}}
        self._status |= {"count_started": time.time(), "initial": initial}
        if not self._quiet:
            self._bar = tqdm(
                total=total, initial=initial, unit=f" {unit}", desc=label, file=sys.stderr, dynamic_ncols=True
            )

    def advance(self, n: int = 1, **figures: float) -> None:
        """`n` more units are done; `figures` (loss, reward, …) are shown beside the bar."""
        self._status["done"] += n
        self._status["figures"] |= {k: round(float(v), 5) for k, v in figures.items()}
        if self._bar is not None:
            self._bar.update(n)
            if figures:
                self._bar.set_postfix({k: f"{v:.3g}" for k, v in figures.items()})
        self._write("running")

    def skip(self, n: int) -> None:
        """`n` more units need no work, or had it before an interruption: the rate is that of the others."""
        if n > 0:
            self._status["initial"] += n
            self._status["done"] += n
            if self._bar is not None:
                for count in ("initial", "n", "last_print_n"):  # not through `update`, which measures
                    setattr(self._bar, count, getattr(self._bar, count) + n)
                self._bar.refresh()
            self._write("running")

    def finish(self, state: str, message: str = "") -> None:
        """The job ended: `state` is done, failed or stopped."""
        self._close_bar()
        self._status |= {"message": message}
        self._write(state, force=True)

    def say(self, sentence: str) -> None:
        """One line for a person, above the bar."""
        if not self._quiet:
            tqdm.write(sentence, file=sys.stderr)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _eta(self) -> float | None:
        done = self._status.get("done", 0) - self._status.get("initial", 0)
        if not done:
            return None
        per_unit = (time.time() - self._status["count_started"]) / done
        return max(0.0, per_unit * (self._status["total"] - self._status["done"]))

    def _write(self, state: str, force: bool = False) -> None:
        now = time.time()
        if self._folder is None or (not force and now - self._written < _WRITE_EVERY):
            return
        self._written = now
        status = {
            "what": self._what,
            "state": state,
            "pid": os.getpid(),
            "started": self._started,
            "updated": now,
            "eta_seconds": self._eta(),
            "finished_steps": self._done_steps,
            **self._status,
        }
        # A full disk must stop the artefact being written, with its own sentence, not the report on it.
        with contextlib.suppress(OSError):
            write_json(self._folder / "status.json", status)
