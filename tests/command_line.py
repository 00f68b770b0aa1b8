"""Commands of the command line as a person gives them: in a process of their own, or within the tests' process.

Both go through `workbench.cli.main`. A process of its own costs seconds of imports: it is for what a process
alone can show (nothing but the answer on its standard output, whatever a library prints there; signals).
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from probes.kit.commands import entry as probes_main
from workbench.cli import main

Done = subprocess.CompletedProcess[str]


def run(home: Path, *arguments: str) -> Done:
    """The command within this process: its exit code and what it wrote to `sys.stdout` and `sys.stderr`."""
    return _run(main, home, *arguments)


def run_probes(home: Path, *arguments: str) -> Done:
    """The same of `python -m probes`."""
    return _run(probes_main, home, *arguments)


def _run(entry: Callable[[], None], home: Path, *arguments: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARBLE_HOME", str(home))
        patch.setattr("sys.argv", ["workbench", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                entry()
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
    return Done(arguments, code, out.getvalue(), err.getvalue())


def begin(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "workbench", *arguments],
        env={**os.environ, "MARBLE_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_alone(home: Path, *arguments: str) -> Done:
    """The command in a process of its own, ended."""
    with begin(home, *arguments) as process:
        try:
            out, err = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Done(arguments, process.returncode, out, err)


def assert_one_sentence(done: Done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
