"""Circuits, their check and their history, stopped half-way.

What was worked out is not worked out again, and what is found is what an undisturbed build finds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_circuit_pages import DONE, NAMES, circuit_lab
from tests.tiny_lab import build
from workbench.circuits import check_build, circuit_build, history_build, study
from workbench.halfway import arrays_once, rows_once
from workbench.lab import Artefact, Lab
from workbench.plan import check_name, history_name
from workbench.progress import Progress

# by artefact: what is stopped at which call, when what stands before it has been worked out for every checkpoint or
# moment; what is not to be called again; the tables that must be equal
PARTS = {
    DONE: ((circuit_build, "judge", 2), (study, "_looked_for"), ("edges", "curve", "controls", "verdicts")),
    check_name(DONE): ((check_build, "_agreed", 2), (check_build, "exact_scores"), ("scores", "agreement")),
    history_name(DONE): ((history_build, "history", 1), (history_build, "competence"), ("history", "heads")),
}


class Stopped(BaseException):
    pass


def _calls(monkeypatch: pytest.MonkeyPatch, of: tuple[Any, str]) -> list[int]:
    """One entry for each call from now on."""
    module, name = of
    real, calls = getattr(module, name), []

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, counted)
    return calls


def _stopping(real: Callable[..., Any], *, before: int) -> Callable[..., Any]:
    calls = 0

    def run(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == before:
            raise Stopped
        return real(*arguments, **named)

    return run


@pytest.mark.parametrize("name", list(PARTS))
def test_what_is_stopped_goes_on_where_it_was(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = circuit_lab()
    shutil.copytree(whole.path, tmp_path / "demo")
    lab = Lab(tmp_path / "demo")
    done: Artefact = lab.find("circuit", name)
    shutil.rmtree(done.path)
    (module, function, call), early, tables = PARTS[name]
    calls = _calls(monkeypatch, early)
    with monkeypatch.context() as patched:
        patched.setattr(module, function, _stopping(getattr(module, function), before=call))
        with pytest.raises(Stopped):
            build(lab, f"circuit/{name}")
    n = len(calls)
    assert n >= len(NAMES)
    build(lab, f"circuit/{name}")
    assert len(calls) == n
    again = lab.find("circuit", name)
    assert not (again.path / "resume").exists()
    for table in tables:
        file = f"{table}.parquet"
        assert (again.path / file).read_bytes() == (whole.find("circuit", name).path / file).read_bytes()


def test_a_file_cut_short_never_stands_under_its_name(tmp_path: Path) -> None:
    made = {"a": np.arange(3.0), "text": np.array("EAP-IG 5")}

    def broken() -> dict[str, np.ndarray]:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        arrays_once(tmp_path / "resume" / "a.npz", broken)
    assert list(tmp_path.rglob("*.npz")) in ([], [tmp_path / "resume" / ".a.npz"])
    held = arrays_once(tmp_path / "resume" / "a.npz", lambda: made)
    assert str(held["text"]) == "EAP-IG 5"
    assert np.array_equal(arrays_once(tmp_path / "resume" / "a.npz", broken)["a"], made["a"])
    assert arrays_once(None, lambda: made) is made
    rows = [("told_apart", 0.1 + 0.2, None, 3)]
    assert rows_once(tmp_path / "rows.json", lambda: rows) == rows_once(tmp_path / "rows.json", list) == rows


def test_skipped_units_are_not_in_the_rate(tmp_path: Path) -> None:
    progress = Progress(tmp_path, "circuit", quiet=True)
    with progress.step("circuit/x", 1, 1):
        progress.start(10, "prompts")
        progress.skip(4)
        assert progress._eta() is None  # nothing has been timed
        progress.advance(3)
        progress.skip(-1)
        assert (progress._status["done"], progress._status["initial"]) == (7, 4)
