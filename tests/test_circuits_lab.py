"""Circuits as a lab's artefacts: asked for in the shell, entered in the recipe, built, read and followed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.command_line import assert_one_sentence, run
from tests.tiny_lab import begun_lab, tiny_recipe
from workbench.circuits.attribution import edge_scores
from workbench.circuits.competence import competence
from workbench.circuits.faithfulness import circuit_scores
from workbench.circuits.found_circuits import COLUMNS, FoundCircuits
from workbench.circuits.opened import Opened
from workbench.circuits.overlap import Overlap
from workbench.circuits.study import LADDER, N_RANDOM, ORDERS
from workbench.errors import Failure
from workbench.lab import Lab
from workbench.plan import Plan, history_name
from workbench.recipe import read_recipe

TASK, NAMES = "sums_units", ("base", "sft")
NAME = f"{TASK}-base-sft"
MOST = ("circuit", "tiny", "--task", TASK, "--checkpoints", "base,sft", "--pairs", "8")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    recipe = dataclasses.replace(tiny_recipe(), comparisons=(), dictionaries=())
    lab = begun_lab(tmp_path_factory.mktemp("circuits"), recipe)
    done = run(lab.path.parent, *MOST, "--snapshots", "--json")
    assert done.returncode == 0, done.stderr
    return lab


@pytest.fixture(scope="module")
def found(lab: Lab) -> FoundCircuits:
    return FoundCircuits.of(lab, NAME)


def test_it_is_built_once_and_told_as_one_document(lab: Lab) -> None:
    before = {step.key: step.id for step in Plan.of(lab).steps.values()}
    done = run(lab.path.parent, *MOST, "--json")
    told = json.loads(done.stdout)
    assert {step.key: step.id for step in Plan.of(lab).steps.values()} == before
    assert told["circuit"] == NAME
    assert set(told["checkpoints"]) == set(NAMES)
    assert len(told["transfer"]) == 4
    assert len(told["verdicts"]) == 1
    told = run(lab.path.parent, *MOST).stdout.splitlines()
    assert told[0].startswith(f"circuit '{NAME}'")
    assert "misses the stream" not in told[0]
    assert told[-1].startswith("what the parts write misses the stream by at most")
    status = json.loads(run(lab.path.parent, "status", "tiny", "--json").stdout)
    assert set(status["circuits"]) == {NAME, history_name(NAME)}


def test_what_is_read_is_what_was_found(found: FoundCircuits) -> None:
    """Every edge has a score in every checkpoint, the circuit's are marked, and f at all edges is 1."""
    edges = found.table("edges")
    assert len(edges) == len(NAMES) * found.graph.n_edges
    assert (edges["low"] <= edges["score"]).all()
    assert (edges["score"] <= edges["high"]).all()
    for name in NAMES:
        circuit = found.circuit(name)
        assert circuit.n_edges == found.figures["checkpoints"][name]["n_edges"] > 0
        whole = found.table("curve").filter((pl.col("checkpoint") == name) & (pl.col("share") == 1))
        assert np.abs(whole["f"].to_numpy() - 1).max() < 1e-3
        home = found.table("transfer").filter((pl.col("source") == name) & (pl.col("target") == name))
        assert home["f"].item() == pytest.approx(found.figures["checkpoints"][name]["f"])
    assert len(found.table("curve")) == len(NAMES) * len(ORDERS) * len(LADDER)
    random = found.table("controls").filter(pl.col("kind") == "random")
    assert len(random) == len(NAMES) * N_RANDOM
    assert set(found.table("overlap")["measure"]) == set(Overlap._fields)
    assert set(found.table("prompts")["use"]) == {"search", "judge"}


def test_where_the_task_is_not_done_no_circuit_is_claimed(found: FoundCircuits) -> None:
    """The tiny models were never trained."""
    for name in NAMES:
        figures = found.figures["checkpoints"][name]
        assert not figures["does_it"]
        assert not figures["faithful"]
        assert f"{name} does not do the task: " in found.describe()
    assert found.table("verdicts")["verdict"].item() == "undetermined"
    assert all(figures["residual"] < 1e-4 for figures in found.figures["checkpoints"].values())


def test_it_is_followed_along_the_snapshots(lab: Lab) -> None:
    folder = lab.find("circuit", history_name(NAME)).path
    rows = pl.read_parquet(folder / "history.parquet")
    assert rows["axis"].is_sorted()
    assert set(rows["figure"]) >= {"told_apart", "gap"}
    assert set(rows.filter(pl.col("figure") == "gap")["stage"]) == set(NAMES)
    assert len(pl.read_parquet(folder / "copying.parquet")) == rows.filter(pl.col("figure") == "gap").height


def test_a_checkpoint_is_loaded_once_where_there_is_room(lab: Lab, found: FoundCircuits) -> None:
    """What is kept tells what one loaded anew does, to the bit; it is handed out for the last time once."""
    judge, edges = found.pairs(lab, "judge"), found.circuit("sft").edges[None]
    roomy, narrow = Opened(lab), Opened(lab, room=0)
    (does, kept), (again, first) = (each.first("sft", judge) for each in (roomy, narrow))
    assert does == again == competence(lab.checkpoint("sft").model(), judge)
    edge_scores(kept, judge, 2)
    assert roomy.again("sft") is kept
    anew = narrow.again("sft")
    assert anew is not first
    assert roomy.again("sft") is not kept
    assert np.array_equal(*(circuit_scores(model, judge, edges) for model in (kept, anew)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "sums_unit"), ("task", "sums_units")),
        (("--task", TASK, "--checkpoints", "base,sfft"), ("sfft", "sft")),
        (("--task", TASK, "--checkpoints", "base,base"), ("base", "once")),
        (("--task", TASK, "--pairs", "3"), ("--pairs", "8")),
        (("--task", TASK, "--seed", "-1"), ("--seed is -1", "0 or more")),
        (("--task", "nowhere.jsonl"), ("nowhere.jsonl", "jsonl")),
        (("--task", "same.jsonl"), ("pair 1", "target and foil", "'1'")),
        (("--task", "long.jsonl"), ("pair 1", "tokens", "equally long")),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(
    lab: Lab,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing is entered in the recipe, where it would stop every later `grow`."""
    monkeypatch.chdir(tmp_path)
    for name, more, foil in (("same", "", "1"), ("long", " and more of it", "2")):
        lines = [
            {"clean": f"{i}+1=", "corrupt": f"{i}+2={more}", "target": "1", "foil": foil} for i in range(20)
        ]
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    before = read_recipe(lab.path / "recipe.toml")
    assert_one_sentence(run(lab.path.parent, "circuit", "tiny", *arguments), 2, *words)
    assert read_recipe(lab.path / "recipe.toml") == before


def test_tasks_are_listed(lab: Lab) -> None:
    told = json.loads(run(lab.path.parent, "tasks", "--json").stdout)
    assert {"induction", "capitals", "sums_units", "letter_counts"} <= set(told)
    assert all(entry["question"] for entry in told.values())


def test_a_task_of_ones_own_is_built_and_refused_once_its_file_has_changed(lab: Lab, tmp_path: Path) -> None:
    """Its hash is part of what was asked for."""
    numbers = [(a, b) for a in range(1, 6) for b in range(6, 10)]
    lines = [{"clean": f"{a}+1=", "corrupt": f"{b}+1=", "target": f"{a + 1}", "foil": "0"} for a, b in numbers]
    file = tmp_path / "next.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    asked = ("circuit", "tiny", "--task", str(file), "--checkpoints", "base", "--pairs", "8")
    assert run(lab.path.parent, *asked).returncode == 0
    found = FoundCircuits.of(lab, "next-base")
    assert set(found.table("prompts")["clean"].str.slice(-3)) == {"+1="}
    shutil.rmtree(found.path)
    file.write_text(file.read_text() + "\n")
    assert_one_sentence(
        run(lab.path.parent, "grow", "tiny", "--only", "circuit/next-base"), 1, "has changed since"
    )


def test_a_damaged_table_is_told(found: FoundCircuits, tmp_path: Path) -> None:
    broken = dataclasses.replace(found, path=tmp_path)
    for name in COLUMNS:
        with pytest.raises(Failure, match="ask for the circuit again"):
            broken.table(name)
