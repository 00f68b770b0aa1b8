"""What a lab holds, read from manifests alone: no torch, milliseconds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from workbench.disk import folder_bytes
from workbench.findings import current_findings, newest_by_name
from workbench.jobs import jobs
from workbench.lab import Artefact, Lab
from workbench.plan import Plan, Resolved, resolve
from workbench.quality import dead_on_few


def status(lab: Lab) -> dict[str, Any]:
    """The lab as one JSON document: what is grown, its figures, what is growing, bytes on disk."""
    plan = Plan.of(lab)
    resolved = resolve(lab, plan)
    made = {r.step.key: r.artefact for r in resolved if r.artefact is not None}
    return {
        "lab": lab.name,
        "preset": plan.recipe.preset,
        "corpus": plan.recipe.corpus.source,
        "checkpoints": {a.name: _checkpoint(a) for a in made.values() if a.kind == "checkpoint"},
        "dictionaries": {a.name: _dictionary(a) for a in made.values() if a.kind == "dictionary"},
        "comparisons": {a.name: dict(a.figures) for a in _comparisons(plan, made.values())},
        "circuits": {a.name: dict(a.figures) for a in made.values() if a.kind == "circuit"},
        "probes": newest_by_name(current_findings(lab, plan)),
        "jobs": [{"name": job.name, **job.status, "state": job.state} for job in jobs(lab)[:5]],
        "steps": [_step(r) for r in resolved],
        "bytes": folder_bytes(lab.path),
    }


def _comparisons(plan: Plan, made: Collection[Artefact]) -> list[Artefact]:
    """Comparisons through a crosscoder, then those of unlike checkpoints."""
    unlike = {config.name for config in plan.recipe.unlike}
    of_evaluations = [a for a in made if a.kind == "evaluation" and a.name in unlike]
    return [*(a for a in made if a.kind == "comparison"), *of_evaluations]


def _checkpoint(artefact: Artefact) -> dict[str, Any]:
    figures = artefact.figures
    wanted = ("stage", "parent", "steps", "params", "plateau", "metrics")
    return {"metrics": {}} | {key: figures[key] for key in wanted if key in figures}


_DICTIONARY_METRICS = ("l0", "fvu", "dead_share", "ce_score", "pca_fvu", "pca_ce_score")


def _dictionary(artefact: Artefact) -> dict[str, Any]:
    figures = artefact.figures
    about = {
        key: figures[key]
        for key in ("kind", "arch", "site", "target_site", "d_sae", "k", "heldout_tokens")
        if key in figures
    }
    metrics = {key: figures[key] for key in _DICTIONARY_METRICS}
    return {**about, "checkpoints": artefact.config["checkpoints"], "metrics": metrics}


def _step(resolved: Resolved) -> dict[str, str]:
    state = "done" if resolved.artefact else "begun" if resolved.partial else "missing"
    return {"step": resolved.step.key, "id": resolved.step.id, "state": state}


def describe(found: dict[str, Any]) -> str:
    """The status as text for a terminal."""
    lines = [f"lab {found['lab']} ({found['preset']}, {found['corpus']}), {found['bytes'] / 1e6:.0f} MB"]
    for name, entry in found["checkpoints"].items():
        parent = f" from {entry['parent']}" if entry.get("parent") else ""
        lines.append(f"  checkpoint {name}{parent}: {_terse(entry['metrics'])}")
    for name, entry in found["dictionaries"].items():
        lines.append(f"  {entry.get('kind', 'dictionary')} {name}: {_terse(entry.get('metrics', {}))}")
    counted = [e["heldout_tokens"] for e in found["dictionaries"].values() if "heldout_tokens" in e]
    if counted and (said := dead_on_few(min(counted))):
        lines.append(f"  note: {said}")
    for name, figures in found["comparisons"].items():
        apart = f": {figures['headline']}" if "headline" in figures else ""
        lines.append(f"  comparison {name}{apart}")
    lines += [f"  probe {name}: {figures['claim']}" for name, figures in found["probes"].items()]
    waiting = [s["step"] for s in found["steps"] if s["state"] != "done"]
    if waiting:
        lines.append(f"  not grown yet: {', '.join(waiting)}")
    for job in found["jobs"]:
        if job["state"] == "running":
            place = f"step {job.get('step_position')} of {job.get('n_steps')} ({job.get('step')})"
            lines.append(f"  running: {job['what']}, {place}")
    return "\n".join(lines)


def _terse(metrics: dict[str, Any]) -> str:
    parts = []
    for key, value in metrics.items():
        if isinstance(value, float):
            parts.append(f"{key} {value:.3g}")
        elif isinstance(value, dict) and key in ("accuracy", "elicited"):
            made = " made to show steps" if key == "elicited" else ""
            parts += [
                f"{task}{made} {p['mean']:.2f} [{p['low']:.2f}, {p['high']:.2f}]" for task, p in value.items()
            ]
        elif isinstance(value, dict):
            numbers = [f"{k} {v:.3g}" for k, v in value.items() if isinstance(v, float)]
            parts.append(f"{key} ({', '.join(numbers)})")
    return ", ".join(parts)
