"""Findings of a lab, written and read: `probe/<name>-<id>/` with `finding.json` and a file for each picture.

The id holds the probe's own source, its options, the checkpoints and what else it says it reads, as far as it is
grown: a probe that was changed, or whose checkpoint or dictionary was grown since, is asked again, and an unchanged
one never.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from probes.kit.finding import Finding
from probes.kit.found import Probe
from workbench.disk import plain_disk_errors, write_json
from workbench.errors import Failure
from workbench.findings import KIND, current_findings
from workbench.lab import MANIFEST, Artefact, Lab, artefact_id
from workbench.plan import Plan
from workbench.recipe import stage_of

VERSION = 1  # of what is written


@dataclasses.dataclass(frozen=True)
class Asked:
    """A probe put to some checkpoints of a lab."""

    probe: Probe
    checkpoints: tuple[str, ...]
    options: Mapping[str, Any]  # other than the defaults

    def config(self, lab: Lab, plan: Plan) -> dict[str, Any]:
        """What the id is made of, besides the checkpoints' own ids."""
        return {
            "probe": self.probe.name,
            "source_sha256": self.probe.source_sha256,
            "checkpoints": list(self.checkpoints),
            "options": dict(self.options),
            "reads": read_by(self.probe, grown(lab, plan)),
        }

    def parents(self, plan: Plan) -> dict[str, str]:
        """The checkpoints' steps."""
        steps = [plan.step("checkpoint", stage_of(address)) for address in self.checkpoints]
        return {step.key: step.id for step in steps}

    def found(self, lab: Lab) -> Stored | None:
        """The answer that is stored already."""
        plan = Plan.of(lab)
        id_ = artefact_id(KIND, self.config(lab, plan), list(self.parents(plan).values()), VERSION)
        made = lab.artefact(KIND, self.probe.name, id_)
        return Stored(made) if made else None

    def write(self, lab: Lab, finding: Finding, seconds: float) -> Stored:
        """Store an answer; the lab must be held."""
        plan = Plan.of(lab)
        draft = lab.begin(KIND, self.probe.name, self.config(lab, plan), self.parents(plan), VERSION)
        told = finding.told()
        with plain_disk_errors(draft.path):
            write_json(draft.path / "finding.json", {"question": self.probe.question, **told})
            for number, plot in enumerate(finding.plots):
                write_json(draft.path / f"plot-{number}.json", dataclasses.asdict(plot))
        figures = {"question": self.probe.question, "claim": finding.claim, "claims": finding.claims}
        return Stored(
            draft.commit({**figures, "n_figures": len(finding.figures), "seconds": round(seconds, 2)})
        )


def grown(lab: Lab, plan: Plan) -> dict[str, str | None]:
    """The id of each step of the plan by its key; None of one that is not grown yet."""
    return {
        s.key: s.id if (lab.path / s.kind / f"{s.name}-{s.id}" / MANIFEST).is_file() else None
        for s in plan.steps.values()
    }


def read_by(probe: Probe, steps: Mapping[str, str | None]) -> dict[str, str | None]:
    """Those that the answer depends on besides the checkpoints."""
    return {key: id_ for key, id_ in steps.items() if key.partition("/")[0] in probe.reads}


def set_otherwise(probe: Probe, options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings other than the probe's defaults: those that are set to them are the same question."""
    return {name: value for name, value in options.items() if value != probe.options[name]}


@dataclasses.dataclass(frozen=True)
class Stored:
    """One stored finding."""

    artefact: Artefact

    @property
    def name(self) -> str:
        return self.artefact.name

    @property
    def checkpoints(self) -> tuple[str, ...]:
        return tuple(self.artefact.config["checkpoints"])

    @property
    def options(self) -> Mapping[str, Any]:
        """Settings other than the defaults."""
        return self.artefact.config["options"]

    def outdated(self, probe: Probe, steps: Mapping[str, str | None]) -> str:
        """What has changed since, for a person; empty where the answer is that of now."""
        if self.artefact.config["source_sha256"] != probe.source_sha256:
            return "the probe's file has changed"
        then, now = self.artefact.config["reads"], read_by(probe, steps)
        changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        return f"what it reads was grown, changed or removed ({', '.join(changed)})" if changed else ""

    @property
    def seconds(self) -> float:
        return float(self.artefact.figures["seconds"])

    @cached_property
    def finding(self) -> Mapping[str, Any]:
        """What `Finding.told` gave, and the question."""
        return self._json("finding.json")

    @cached_property
    def plots(self) -> list[Mapping[str, Any]]:
        """The pictures: title, figure, alt, rows."""
        numbers = range(len(list(self.artefact.path.glob("plot-*.json"))))
        return [self._json(f"plot-{number}.json") for number in numbers]

    def _json(self, name: str) -> Mapping[str, Any]:
        try:
            return json.loads((self.artefact.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Failure(
                f"{self.artefact.path / name} cannot be read ({type(error).__name__}): remove the folder "
                f"{self.artefact.path.name} and run the probe again"
            ) from error


def stored(lab: Lab) -> list[Stored]:
    """Findings about checkpoints as they are now, newest first."""
    return [Stored(each) for each in current_findings(lab, Plan.of(lab))]
