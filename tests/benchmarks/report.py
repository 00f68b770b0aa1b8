"""What every benchmark shares: the contenders in turn, medians, and the output for people and as JSON.

The JSON is {"name", "machine", "rows": [{"config", "ours", "peers", "ratio"}], "missing"}; `missing` gives
for each peer that could not run the reason, so that none is left out in silence.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import resource
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Row:
    """One configuration: our figures, those of each peer, and ours ÷ theirs on the main figure."""

    config: Mapping[str, Any]
    ours: Figures
    peers: Mapping[str, Figures]
    ratio: Mapping[str, float]

    @classmethod
    def of(cls, config: Mapping[str, Any], ours: Figures, peers: Mapping[str, Figures], main: str) -> Row:
        """The row with its ratios on figure `main`; a peer without that figure has no ratio."""
        ratio = {name: ours[main] / figures[main] for name, figures in peers.items() if figures.get(main)}
        return cls(config, ours, peers, ratio)


def parse(description: str, **flags: str) -> argparse.Namespace:
    """The command line of a benchmark: --json, --quick, and a switch for each of `flags` (name=help)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter: shows that it runs")
    for name, text in flags.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
    return parser.parse_args()


def in_turn(contenders: Mapping[str, Callable[[], Figures]], repeats: int) -> dict[str, dict[str, float]]:
    """Medians of each contender's figures over `repeats` rounds.

    Every round runs all of them, every other round in reverse, so that a machine that grows slower (heat,
    neighbours) is slower for all.
    """
    if repeats < 3:
        raise ValueError(f"{repeats} repeats: a median needs at least 3")
    runs: dict[str, list[Figures]] = {name: [] for name in contenders}
    for round_ in range(repeats):
        names = list(contenders) if round_ % 2 == 0 else list(reversed(contenders))
        for name in names:
            runs[name].append(contenders[name]())
            say(f"round {round_ + 1} of {repeats}: {name} {_short(runs[name][-1])}")
    return {
        name: {figure: statistics.median(run[figure] for run in found) for figure in found[0]}
        for name, found in runs.items()
    }


def missing(*modules: str) -> dict[str, str]:
    """For each module that cannot be imported, what would bring it."""
    return {
        name: "not installed: pip install -r tests/benchmarks/requirements.txt"
        for name in modules
        if importlib.util.find_spec(name) is None
    }


def machine() -> str:
    """Processor, cores, memory, accelerator and torch in one line."""
    import psutil
    import torch

    parts = [
        _processor(),
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
        f"{torch.get_num_threads()} threads",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
    ]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}", f"Python {platform.python_version()}"])


def peak_memory(usage: resource.struct_rusage | None = None) -> float:
    """Peak resident memory in GiB: of this process so far, or of an ended one by its `usage`."""
    peak = (usage or resource.getrusage(resource.RUSAGE_SELF)).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 2**10) / 2**30


def synchronise() -> None:
    """Wait for the device, so that a clock sees its work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write(name: str, rows: Sequence[Row], as_json: bool, absent: Mapping[str, str] | None = None) -> None:
    """The result on standard output: one JSON document, or a table for people."""
    absent = dict(absent or {})
    if as_json:
        document = {"name": name, "machine": machine(), "rows": [dataclasses.asdict(r) for r in rows]}
        print(json.dumps(document | {"missing": absent}, indent=1))
        return
    print(f"{name} on {machine()}")
    for row in rows:
        print(f"\n{_short(row.config)}")
        figures = list(dict.fromkeys([*row.ours, *(f for peer in row.peers.values() for f in peer)]))
        table = [["", *figures, "ours ÷ this"], ["ours", *(_number(row.ours.get(f)) for f in figures), ""]]
        table += [
            [peer, *(_number(found.get(f)) for f in figures), _number(row.ratio.get(peer))]
            for peer, found in row.peers.items()
        ]
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        for line in table:
            cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
            print("  " + "  ".join(cells).rstrip())
    for peer, reason in absent.items():
        print(f"\nmissing: {peer} ({reason})")


def write_rows(name: str, rows: Sequence[Mapping[str, Any]], as_json: bool, **more: Any) -> None:
    """Rows without peers: one JSON document, or a line a row."""
    if as_json:
        print(json.dumps({"name": name, "machine": machine(), "rows": list(rows), **more}, indent=1))
        return
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))


def say(sentence: str) -> None:
    """A line of progress, on standard error."""
    print(sentence, file=sys.stderr, flush=True)


def _processor() -> str:
    """The processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _short(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v if isinstance(v, bool | str) else _number(v)}" for k, v in figures.items())
