"""Caring for a lab on disk: `prune` removes what no recipe names, `verify` proves what is there and that the
instruments find a truth that was planted in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

from workbench.builders import BUILDERS
from workbench.disk import folder_bytes
from workbench.findings import current_findings
from workbench.lab import KINDS, Lab
from workbench.plan import Plan

_SAID = {"unit_auroc": "AUROC", "unit_ap": "AP", "unit_f1": "F1", "mcc": "MCC"}


class Pruned(NamedTuple):
    """Folders removed (or that would be) and their bytes."""

    folders: list[str]
    bytes: int


def prune(lab: Lab, dry_run: bool) -> Pruned:
    """Remove artefacts and partial folders that the lab's recipe does not name, and answers of probes about
    checkpoints that it does not name."""
    with lab.writing("prune"):
        plan = Plan.of(lab)
        named = {f"{s.name}-{s.id}" for s in plan.steps.values()}
        named |= {f"{finding.name}-{finding.id}" for finding in current_findings(lab, plan)}
        stray = [
            path
            for kind in KINDS
            for path in sorted((lab.path / kind).glob("*"))
            if path.is_dir() and path.name.removeprefix(".partial-") not in named
        ]
        total = sum(folder_bytes(path) for path in stray)
        if not dry_run:
            for path in stray:
                shutil.rmtree(path)
    return Pruned([str(path.relative_to(lab.path)) for path in stray], total)


class Check(NamedTuple):
    """One thing proved or refuted."""

    name: str
    passed: bool
    detail: str


def verify(lab: Lab, report: Callable[[Check], None]) -> list[Check]:
    """Hashes of every file the recipe names, then parity and null checks on the finished checkpoints, and a truth
    planted in the first finished activations."""
    checks: list[Check] = []

    def note(name: str, passed: bool, detail: str) -> None:
        checks.append(Check(name, passed, detail))
        report(checks[-1])

    plan = Plan.of(lab)
    for step in plan.steps.values():
        artefact = lab.artefact(step.kind, step.name, step.id)
        if artefact is None:
            note(step.key, True, "not grown yet")
            continue
        altered = artefact.check_hashes()
        detail = (
            f"altered: {', '.join(altered)}"
            if altered
            else f"{len(artefact.manifest['files'])} files as written"
        )
        note(step.key, not altered, detail)
    if all(check.passed for check in checks):
        names = [
            s.name for s in plan.steps.values() if s.kind == "checkpoint" and lab.artefact(s.kind, s.name, s.id)
        ]
        for name in names:
            for check in _model_checks(lab, name):
                note(*check)
        for check in _planted_checks(lab, plan):
            note(*check)
    return checks


def _model_checks(lab: Lab, name: str) -> list[Check]:
    """The hooked model equals the Hugging Face model; a checkpoint is at no distance from its copy."""
    import torch

    from workbench.changes import SILENT
    from workbench.representation_drift import cka_between
    from workbench.verdict_sheet import UNCHANGED, verdict_of
    from workbench.weight_drift import total_moved, weight_drift

    checkpoint = lab.checkpoint(name)
    model, copy = checkpoint.model(), checkpoint.model()
    ids = torch.arange(5, 5 + min(64, checkpoint.n_ctx - 1))[None] % model.config.vocab_size
    with torch.no_grad():
        one, other = (m(input_ids=ids, output_hidden_states=True) for m in (model, copy))
        gap = (checkpoint.bridge()(ids) - one.logits).abs().max().item()
        p, q = (out.logits.log_softmax(-1) for out in (one, other))
        apart = (p.exp() * (p - q)).sum(-1)
        kl = apart.sum().item()
    weights = total_moved(weight_drift(dict(model.named_parameters()), dict(copy.named_parameters())))
    hidden = zip(one.hidden_states, other.hidden_states, strict=True)
    off = max(abs(cka_between(x[0].numpy(), y[0].numpy()) - 1) for x, y in hidden)
    said = verdict_of(weights, kl, apart.max().item(), SILENT)
    return [
        Check(f"{name}: hooked model against Hugging Face", gap < 1e-4, f"largest logit difference {gap:.1e}"),
        Check(f"{name}: KL to its own copy", kl == 0.0, f"{kl:.1e} nats, must be exactly 0"),
        Check(f"{name}: verdict on its own copy", said == UNCHANGED, f"{said}, must be {UNCHANGED}"),
        Check(f"{name}: weights of its own copy", weights == 0.0, f"moved by {weights:.1e}, must be exactly 0"),
        Check(
            f"{name}: CKA with its own copy", off < 1e-12, f"at most {off:.1e} from 1 at any layer, bound 1e-12"
        ),
    ]


def _planted_checks(lab: Lab, plan: Plan) -> list[Check]:
    """The scorer finds directions that were added to real activations and nothing where labels are shuffled, and
    an SAE recovers them; each beside its null."""
    from saes.arrays import ActivationArrays
    from saes.errors import DictionaryError
    from saes.planted import FOUND, METRICS, planted_truth

    read = [s for s in plan.steps.values() if s.builder.function == BUILDERS["activations"].function]
    grown = [(s.name, a) for s in read if (a := lab.artefact(s.kind, s.name, s.id)) is not None]
    if not grown:
        return [Check("planted truth", True, "no activations to plant one in are grown yet")]
    name, artefact = grown[0]
    where = f"{name}: planted truth"
    try:
        found = planted_truth(ActivationArrays([artefact.path / "heldout.npy"]))
    except DictionaryError as error:
        return [Check(where, False, str(error))]
    held, by_chance, shuffled = (
        ", ".join(f"{_SAID[m]} {told[m].mean:.3f}" for m in METRICS)
        for told in (found.held, found.random, found.shuffled)
    )
    n = f"n {found.tokens:,} tokens, {found.features} directions, seed {found.seed}"
    mcc = f"MCC {found.recovered:.3f} (random directions {found.recovered_random:.3f}), at least {FOUND}; {n}"
    return [
        Check(f"{where}, scorer", found.scorer_finds, f"{held} (a random dictionary: {by_chance}); {n}"),
        Check(f"{where}, shuffled labels", found.scorer_invents_nothing, f"{shuffled}, must be chance; {n}"),
        Check(f"{where}, an SAE trained on it", found.trainer_recovers, mcc),
    ]


def failures(checks: list[Check]) -> list[dict[str, Any]]:
    """The checks that did not pass."""
    return [check._asdict() for check in checks if not check.passed]
