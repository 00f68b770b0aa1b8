"""Builds `circuit/<task>-<checkpoints>`: one task's circuit in several checkpoints, and what each stage made of it.

`competence.parquet`: how well each does the task. `edges.parquet`: every edge's score, and whether it is in the
circuit. `curve.parquet`: f by share of edges, in three orders. `controls.parquet`: random circuits and another
task's. `transfer.parquet`: F[i, j]. `overlap.parquet` and `verdicts.parquet`: pairs of checkpoints.
`prompts.parquet`: the prompts that were read, as text. Checkpoints of `beside` (siblings) are only for the floor.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from workbench.circuits.across import WITHIN, Evidence, gap, verdict
from workbench.circuits.asked import Task
from workbench.circuits.circuit import HELPING, TOP
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.competence import Competence
from workbench.circuits.faithfulness import cmd, cpr
from workbench.circuits.finders import Finder
from workbench.circuits.found_circuits import OTHER_TASK, RANDOM
from workbench.circuits.opened import Opened
from workbench.circuits.overlap import Overlap, floor, overlap, redrawn
from workbench.circuits.own_tasks import the_task
from workbench.circuits.pairs import Pairs
from workbench.circuits.study import LADDER, N_RANDOM, ORDERS, Found, Judged, find, judge
from workbench.circuits.tasks import USES, known_task, task_pairs
from workbench.device import few_threads
from workbench.errors import Misuse
from workbench.grow import Build
from workbench.intervals import ratio_intervals
from workbench.part_tables import write_part

ESTIMATE = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
F = {"f": pl.Float64, "low": pl.Float64, "high": pl.Float64}
PAIR = {"before": pl.String, "after": pl.String}
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "competence": {"checkpoint": pl.String, "figure": pl.String} | ESTIMATE | {"n": pl.Int64},
    "edges": {
        "checkpoint": pl.String, "sender": pl.String, "receiver": pl.String, "score": pl.Float64, "low": pl.Float64,
        "high": pl.Float64, "in_circuit": pl.Boolean,
    },
    "curve": {"checkpoint": pl.String, "order": pl.String, "share": pl.Float64, "n_edges": pl.Int64} | F,
    "controls": {
        "checkpoint": pl.String, "kind": pl.String, "draw": pl.Int64, "n_edges": pl.Int64, "overlap": pl.Float64,
    } | F,
    "transfer": {"source": pl.String, "target": pl.String, "n_edges": pl.Int64} | F,
    "overlap": PAIR | {
        "n_edges": pl.Int64, "measure": pl.String, "value": pl.Float64, "floor": pl.Float64, "sibling": pl.Float64,
        "sibling_name": pl.String,
    },
    "verdicts": PAIR | {
        "verdict": pl.String, "why": pl.String, "gap": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    },
    "prompts": {"use": pl.String, "clean": pl.String, "corrupt": pl.String, "target": pl.String, "foil": pl.String},
}  # fmt: skip
FIGURES = ("m_clean", "m_corrupt", "gap", "told_apart", "target_preferred", "foil_preferred", "top1")


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `circuit/<name>`."""
    study = Study(build)
    with few_threads(study.d_model):
        study.read()
    for name, schema in SCHEMAS.items():
        rows = list(getattr(study, f"{name}_rows")())
        write_part(build.draft.path, name, pl.DataFrame(rows, schema=dict(schema), orient="row"))
    return study.figures()


class Study:
    """The task in every checkpoint; tables follow from what was read."""

    def __init__(self, build: Build) -> None:
        self.build, self.config = build, build.config
        self.names: list[str] = list(self.config["checkpoints"])
        self.kept, self.ran = build.draft.path / "resume", 0
        self.d_model = build.lab.checkpoint(self.names[0]).d_model
        self.task, self.finder = the_task(self.config), Finder.of(self.config)
        self.pairs = {use: self._pairs(self.task, use) for use in USES}
        self.other = self._control()
        self.opened = Opened(build.lab)
        self.competence: dict[str, Competence] = {}
        self.found: dict[str, Found] = {}
        self.judged: dict[str, Judged] = {}
        self.residual: dict[str, float] = {}

    def _pairs(self, task: Task, use: Any) -> Pairs:
        n, seed = self.config["n_pairs"], self.config["seed"]
        return task_pairs(self.build.lab, task, n, use, seed, checkpoint=self.names[0])

    def _control(self) -> Pairs | None:
        """Pairs of the other task. Chosen before there was a corpus, it may turn out that the lab has none."""
        try:
            other = self.config["other"]
            return self._pairs(known_task(other), "search") if other else None
        except Misuse as error:
            self.build.progress.say(f"{self.build.step.key} has no control by another task: {error}")
            return None

    def read(self) -> None:
        """Every checkpoint twice: its circuit found, then all circuits judged in it."""
        everyone = [*self.names, *self.config["beside"]]
        n_search, n_judge = len(self.pairs["search"]), len(self.pairs["judge"])
        runs = 1
        if self.finder.by_edge:
            runs = CircuitModel(self.build.lab.checkpoint(self.names[0]).bridge()).graph.n_edges
        a_find = n_search * (len(LADDER) + runs) + (len(self.other) if self.other is not None else 0)
        a_judge = n_judge * (len(ORDERS) * len(LADDER) + len(self.names) + N_RANDOM + 1)
        self.build.progress.start(a_find * len(everyone) + a_judge * len(self.names), "prompts")
        for name in everyone:
            self._open(name)
            self._skip(a_find)
        for name in self.names:
            model = self.opened.again(name)
            found = {each: self.found[each] for each in self.names}
            kept = self.kept / f"judged-{name}.npz"
            self.judged[name] = judge(model, name, found, self.pairs["judge"], done=self._advance, kept=kept)
            self._skip(a_judge)

    def _advance(self, n: int) -> None:
        self.ran += n
        self.build.progress.advance(n)

    def _skip(self, whole: int) -> None:
        """Of a part that may take `whole` runs, those that were made before or not needed: equal circuits are run
        once."""
        self.build.progress.skip(whole - self.ran)
        self.ran = 0

    def _open(self, name: str) -> None:
        self.competence[name], model = self.opened.first(name, self.pairs["judge"], name in self.names)
        self.residual[name] = model.residual(self.pairs["search"][:8].to(model.device))
        kept = self.kept / f"found-{name}.npz"
        self.found[name] = find(
            model, name, self.pairs["search"], self.other, self.finder, self._advance, kept,
            self.competence[name].does_it,
        )  # fmt: skip

    def competence_rows(self) -> Iterator[tuple[Any, ...]]:
        for name, found in self.competence.items():
            yield from ((name, figure, *getattr(found, figure), found.n) for figure in FIGURES)

    def edges_rows(self) -> Iterator[tuple[Any, ...]]:
        for name, found in self.found.items():
            graph, by_pair = found.circuit.graph, found.scores.by_pair
            ends = ratio_intervals(by_pair.reshape(len(by_pair), -1), np.ones(len(by_pair)))
            low, high = ends.T.reshape(2, *graph.edges.shape)
            for s, r in np.argwhere(graph.edges):
                figures = (float(each[s, r]) for each in (found.scores.mean, low, high))
                yield name, graph.senders[s], graph.receivers[r].name, *figures, bool(found.circuit.edges[s, r])

    def curve_rows(self) -> Iterator[tuple[Any, ...]]:
        for name, judged in self.judged.items():
            for how in ORDERS:
                for share, size, f in zip(LADDER, judged.sizes[how], judged.curve(how), strict=True):
                    yield name, how, share, size, *f

    def controls_rows(self) -> Iterator[tuple[Any, ...]]:
        for name, judged in self.judged.items():
            size = self.found[name].circuit.n_edges
            for draw, (made, m) in enumerate(zip(judged.random, judged.random_m, strict=True)):
                yield name, RANDOM, draw, size, made.overlap, *judged.measured(m)
            other = self.found[name].other
            if other is not None and judged.other_m is not None:
                both = float((other & self.found[name].circuit.edges).sum()) / max(1, int(other.sum()))
                yield name, OTHER_TASK, 0, int(other.sum()), both, *judged.measured(judged.other_m)

    def transfer_rows(self) -> Iterator[tuple[Any, ...]]:
        for target, judged in self.judged.items():
            for source in self.names:
                m = judged.own if source == target else judged.moved[source]
                yield source, target, self.found[source].circuit.n_edges, *judged.measured(m)

    @functools.cached_property
    def overlaps(self) -> list[tuple[str, str, int, Overlap, Overlap, str | None, Overlap | None]]:
        """before, after, size, what they share, the floor, the sibling and what it shares with `after`."""
        graph, found = self.found[self.names[0]].circuit.graph, []
        for a, b in itertools.combinations(self.names, 2):
            n = max(self.found[a].circuit.n_edges, self.found[b].circuit.n_edges)
            shared = overlap(graph, self.found[a].scores.mean, self.found[b].scores.mean, n)
            lows = [floor(redrawn(self.found[each].scores, n)) for each in (a, b)]
            low = Overlap(*(min(two) for two in zip(*lows, strict=True)))
            sibling = next((each for each in self.config["beside"] if each == f"{b}-sibling"), None)
            seeds = sibling and overlap(graph, self.found[b].scores.mean, self.found[sibling].scores.mean, n)
            found.append((a, b, n, shared, low, sibling, seeds or None))
        return found

    def overlap_rows(self) -> Iterator[tuple[Any, ...]]:
        for a, b, n, shared, low, sibling, seeds in self.overlaps:
            for measure in Overlap._fields:
                third = getattr(seeds, measure) if seeds else None
                yield a, b, n, measure, getattr(shared, measure), getattr(low, measure), third, sibling

    def verdicts_rows(self) -> Iterator[tuple[Any, ...]]:
        for a, b, n, shared, low, sibling, seeds in self.overlaps:
            home, there = self.judged[a], self.judged[b]
            able = sibling is not None and self.competence[sibling].does_it  # else it has no circuit to share
            least = Overlap(*(min(two) for two in zip(low, (able and seeds) or low, strict=True)))
            between = gap(there.moved[a], there.own, there.between)
            found = Evidence(
                self.competence[a].does_it, self.competence[b].does_it, home.measured(home.own),
                there.measured(there.own), there.measured(there.moved[a]), between,
                None if there.other_m is None else there.measured(there.other_m), shared, least,
                self.found[a].circuit.n_edges, self.found[a].circuit.share, self.found[b].circuit.share, n,
                float(np.mean([abs(1 - there.measured(m).f) <= WITHIN for m in there.random_m])),
            )  # fmt: skip
            yield a, b, *verdict(found, a, b), *between

    def prompts_rows(self) -> Iterator[tuple[Any, ...]]:
        tokenizer = self.build.lab.checkpoint(self.names[0]).tokenizer()
        for use, pairs in self.pairs.items():
            for row in range(len(pairs)):
                end = int(pairs.last[row]) + 1
                ids = (pairs.clean[row, :end], pairs.corrupt[row, :end], pairs.target[row], pairs.foil[row])
                yield use, *(tokenizer.decode(each.tolist() if each.ndim else [int(each)]) for each in ids)

    def figures(self) -> dict[str, Any]:
        """For the manifest: each checkpoint's circuit in a few numbers."""
        told = {}
        for name in self.names:
            found, judged = self.found[name], self.judged[name]
            own = judged.measured(judged.own)
            told[name] = {
                "does_it": self.competence[name].does_it, "why_not": self.competence[name].why_not,
                "n_edges": found.circuit.n_edges, "share": found.circuit.share, "f": own.f, "low": own.low,
                "high": own.high, "faithful": abs(1 - own.f) <= WITHIN and self.competence[name].does_it,
                "cpr": cpr(judged.at_shares(HELPING)), "cmd": cmd(judged.at_shares(TOP)),
                "residual": self.residual[name],
            }  # fmt: skip
        graph = self.found[self.names[0]].circuit.graph
        about = {"question": self.task.question, "method": self.found[self.names[0]].scores.method}
        n = {use: len(pairs) for use, pairs in self.pairs.items()}
        return {"task": self.task.name, **about, "n_pairs": n, "graph": graph.told(), "checkpoints": told}
