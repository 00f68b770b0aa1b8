"""How often probes claim something where nothing is: labels dealt anew, 100 times each, on one checkpoint.

Three probes with fitted labels take `shuffle`: presidents are given each other's parties and years, word types each
other's letters, pairs of units each other's carries, before anything is split or fitted. What is claimed then is a
false positive; at a level of 0.05 it may be one in twenty. Intervals are Wilson's.

    python -m tests.benchmarks.false_positives [--json] [--quick]
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from probes.kit.finding import LEVEL
from tests.benchmarks import report
from workbench.intervals import wilson
from workbench.lab import Lab

CHECKPOINT = "sft"
SHUFFLES, QUICK = 100, 3
# Smaller than when a person asks: a hundred of each take minutes. The draws leave p room below the level.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "address_year_party": {"passages": 1, "draws": 99},
    "spelling": {"n_letters": 4, "most": 400, "draws": 199},
    "carry": {"n": 200, "n_controls": 59, "draws": 199},
}


def rows(shuffles: int) -> Iterator[dict[str, Any]]:
    """A row a probe: claims where labels say nothing, and whether it claims with the labels as they are."""
    from workbench.device import few_threads

    lab = Lab.open("demo")
    (checkpoint,) = lab.checkpoints(CHECKPOINT)
    for name, options in OPTIONS.items():
        probe, began = importlib.import_module(f"probes.{name}"), time.monotonic()
        with few_threads(checkpoint.d_model):
            true = probe.ask(lab, [checkpoint], **options).claims
            claims = 0
            for shuffle in range(1, shuffles + 1):
                claims += probe.ask(lab, [checkpoint], shuffle=shuffle, **options).claims
                if shuffle % 10 == 0:
                    report.say(f"{name}: {claims} claims of {shuffle}")
        low, high = wilson(claims, shuffles)
        yield {
            "probe": name,
            "checkpoint": CHECKPOINT,
            "shuffles": shuffles,
            "claims": claims,
            "rate": claims / shuffles,
            "low": round(low, 3),
            "high": round(high, 3),
            "level": LEVEL,
            "claims_unshuffled": true,
            "seconds": round(time.monotonic() - began, 1),
        }


def main() -> None:
    switches = report.parse("How often probes claim something of labels that say nothing.")
    found = []
    for row in rows(QUICK if switches.quick else SHUFFLES):
        report.say(str(row))
        found.append(row)
    report.write_rows("false_positives", found, switches.json)


if __name__ == "__main__":
    sys.exit(main())
