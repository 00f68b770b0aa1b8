"""Labs that many tests read, each grown once in a run of the tests, whatever the number of its workers.

The worker that comes first grows a lab, every worker reads a copy of its own: two may write to the same lab,
and a damage done in one is not seen by another. A worker that would have to wait grows, in the meantime, a lab
that nobody has begun.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from workbench.lab import Lab

HOME = "MARBLE_TESTS_GROWN"  # set in the first process of a run, inherited by its workers
GROWERS: dict[str, Callable[[Path], Lab]] = {}


def home_of_run() -> Path:
    """Where the labs of this run are; the process that began the run removes them."""
    if HOME not in os.environ:
        os.environ[HOME] = tempfile.mkdtemp(prefix="marble-tests-")
        atexit.register(shutil.rmtree, os.environ[HOME], ignore_errors=True)
    return Path(os.environ[HOME])


def grown_once(grow: Callable[[Path], Lab]) -> Callable[[], Lab]:
    """`grow(home)` makes a lab below `home`; the function returned gives this process's copy of it."""
    name = grow.__name__
    GROWERS[name] = grow

    @functools.cache
    def lab() -> Lab:
        if not _there(name):
            for other in list(GROWERS):
                _there(other)
        while not _there(name):
            time.sleep(0.2)
        own = home_of_run() / f"{name}-{os.getpid()}"
        shutil.copytree(home_of_run() / name, own)
        (recipe,) = own.glob("*/recipe.toml")
        return Lab(recipe.parent)

    return lab


def _there(name: str) -> bool:
    """Grow the lab unless it is grown; False where another worker is growing it."""
    home, grown = home_of_run() / name, home_of_run() / f"{name}.grown"
    with contextlib.suppress(Timeout), FileLock(home_of_run() / f"{name}.lock", timeout=0):
        if not grown.exists():
            shutil.rmtree(home, ignore_errors=True)  # of a worker that failed
            home.mkdir()
            GROWERS[name](home)
            grown.touch()
        return True
    return False
