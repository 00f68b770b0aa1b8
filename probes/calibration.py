"""Do checkpoints know how often they are right, and did a stage make them overconfident?

Confidence c is the probability of the greedy next token on held-out text, or the product of the probabilities of
the tokens of a greedy answer's result (well-formed answers alone, behind whatever steps they show); y is whether
that token came, or the answer was right. In `BINS` bins of equal mass

    ECE = Σ_b n_b / n · |mean c − mean y|        overconfidence = mean c − mean y

ECE is above 0 even for a calibrated model, the more the fewer the cases: it is held against that of one which has
the same confidences and is right with just those probabilities (y drawn from c). Brier's score (c − y)² is split
into reliability Σ n_b/n (c̄_b − ȳ_b)², resolution and what is left [Murphy 1973]; nats a token into what a
temperature fitted on half of the documents saves on the other half, which is miscalibration, and the rest. [Guo
2017; equal mass: Nixon 2019.] Intervals are over documents or questions. Gold chats and world stories hold what
was made to be learned, prose does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, beyond
from probes.kit.nulls import EITHER, GREATER, against, beside
from probes.kit.plots import bars, dots
from probes.kit.readings import answers, held_out, opened
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.subjects import chat_questions, one_family
from workbench.checkpoint import Checkpoint
from workbench.intervals import ratio_interval, resampled_sums
from workbench.lab import Lab
from workbench.splice import tokens_per_batch

READS = ("activations", "corpus")
BINS, DRAWS = 10, 999
LEAST_ANSWERS = 10
TEMPERATURES = (0.8, 0.9, 1.0, 1.15, 1.3)
DOMAINS = ("prose", "world", "chat")
TASKS = ("capitals", "sums", "letter_counts")
ANSWERS = "answers"


class Told(NamedTuple):
    """Confidence, whether right, the document of each case, and nats under each temperature (none for answers)."""

    confidence: Float[np.ndarray, " case"]
    right: Float[np.ndarray, " case"]
    document: Int[np.ndarray, " case"]
    nats: Float[np.ndarray, "temperature case"]

    def only(self, kept: np.ndarray) -> Told:
        """Some of the cases."""
        return Told(self.confidence[kept], self.right[kept], self.document[kept], self.nats[:, kept])


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], n_tokens: int = 2_000, n_answers: int = 20, seed: int = 0
) -> Finding:
    """`n_tokens` of each domain, `n_answers` of each task."""
    at_least(100, n_tokens=n_tokens)
    at_least(4, n_answers=n_answers)
    at_least(0, seed=seed)
    one_family(lab, checkpoints)
    figures, curve, rows, over = (
        list[Figure](),
        list[dict[str, Any]](),
        list[dict[str, Any]](),
        list[dict[str, Any]](),
    )
    mute = dict[str, str]()
    for checkpoint in checkpoints:
        told = on_text(checkpoint, n_tokens, seed)
        try:
            told[ANSWERS] = on_answers(lab, checkpoint, n_answers)
        except LackingError as error:  # text alone is asked about, and why is said
            mute[checkpoint.address] = str(error)
        for where, cases in told.items():
            made = _figures(cases, where, checkpoint.address, seed)
            figures += made
            over.append({"row": where, "series": checkpoint.address, "x": made[1].value, "low": made[1].low,
                         "high": made[1].high, "n": made[1].n})  # fmt: skip
            rows.append({"checkpoint": checkpoint.address, "where": where, **scores(cases, seed)})
            curve += [
                {"series": checkpoint.address, "x": c, "y": y, "text": f"{where}, n {n:,}"}
                for c, y, n in reliability(cases) if where != ANSWERS
            ]  # fmt: skip
    plots = [
        bars("Overconfidence", "mean confidence − share right", over,
             "Mean confidence less share right by domain and checkpoint, with intervals; 0 is calibrated", 0.0),
        dots("Reliability", "mean confidence of a bin", "share right", curve,
             "Share right against mean confidence by bin, domain and checkpoint; the diagonal is calibrated", True),
    ]  # fmt: skip
    return Finding(
        _claim(figures, [each.address for each in checkpoints], mute),
        figures,
        "a model with the same confidences that is right with just those probabilities",
        "Other text: on what a stage was trained for it can be calibrated, and overconfident on the rest; sampling "
        "at a temperature other than 1 changes confidences and not what is right.",
        plots,
        rows,
    )


def on_text(checkpoint: Checkpoint, n_tokens: int, seed: int) -> dict[str, Told]:
    """Cases by domain: next tokens of held-out windows drawn at random, chat markers left out."""
    tokens, model = held_out(checkpoint), opened(checkpoint).model
    of = tokens.domain[np.asarray(tokens.document)[tokens.starts]]
    order = np.random.default_rng(seed).permutation(len(tokens.starts))
    lengths = tokens.stops - tokens.starts
    found = {}
    for domain in DOMAINS:
        mine = order[of[order] == domain]
        chosen = mine[: int(np.searchsorted(np.cumsum(lengths[mine]), n_tokens)) + 1]
        if not len(chosen):
            continue
        parts = list[Told]()
        for batch in tokens.batches(tokens_per_batch(model), chosen):
            keep = batch.real & ~np.asarray(tokens.special)[batch.rows]
            with torch.inference_mode():
                logits = model(input_ids=torch.from_numpy(batch.ids).to(model.device), use_cache=False).logits
                logits = logits[:, :-1][torch.from_numpy(keep).to(model.device)].float()
            targets = torch.from_numpy(batch.ids[:, 1:][keep]).to(logits.device)
            parts.append(_cases(logits, targets, np.asarray(tokens.document)[batch.rows[keep]]))
        found[domain] = _joined(parts)
    if not found:
        raise LackingError("the held-out set has no windows: raise activations.heldout_tokens and grow the lab")
    return found


def _cases(logits: torch.Tensor, targets: torch.Tensor, document: np.ndarray) -> Told:
    goal, best = logits.gather(1, targets[:, None])[:, 0], logits.max(dim=-1)
    at = {t: torch.logsumexp(logits / t, dim=-1) for t in TEMPERATURES}
    nats = torch.stack([at[t] - goal / t for t in TEMPERATURES])
    confidence = (best.values - at[1.0]).exp()
    right = best.indices == targets
    told, came, lost = (each.double().cpu().numpy() for each in (confidence, right, nats))
    return Told(told, came, document, lost)


def _joined(parts: Sequence[Told]) -> Told:
    return Told(
        np.concatenate([part.confidence for part in parts]),
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.document for part in parts]),
        np.concatenate([part.nats for part in parts], axis=1),
    )


def on_answers(lab: Lab, checkpoint: Checkpoint, n: int) -> Told:
    """Well-formed greedy answers: the product of their result's tokens' probabilities, and whether it is right."""
    from probes.kit.pushes import log_p_at, prompts

    here = opened(checkpoint)
    rows, spans, right = list[list[int]](), list[tuple[int, int]](), list[float]()
    for task in chat_questions(lab, checkpoint, TASKS):
        said = answers(checkpoint, task, at_most=n)
        for c, well, good in zip(said.completions, said.well_formed, said.right, strict=True):
            if well:
                start = len(c.prompt_ids)
                first, last = result_span([str(here.tokenizer.decode([i])) for i in c.ids])
                rows, spans = [*rows, c.prompt_ids + c.ids], [*spans, (start + first, start + last)]
                right.append(float(good))
    if len(rows) < LEAST_ANSWERS:
        raise LackingError(
            f"{checkpoint.address!r} gives {len(rows)} well-formed answers, and {LEAST_ANSWERS} are needed"
        )
    ids = prompts(rows, here.tokenizer.pad_token_id or 0).ids
    at = torch.zeros_like(ids, dtype=torch.bool)
    for row, (first, last) in enumerate(spans):
        at[row, first - 1 : last - 1] = True
    row_, place = torch.nonzero(at, as_tuple=True)
    log_p = log_p_at(here.model, ids, at).cpu().gather(1, ids[row_, place + 1][:, None])[:, 0]
    confidence = np.exp(np.bincount(row_.numpy(), log_p.double().numpy(), len(ids)))
    return Told(confidence, np.array(right), np.arange(len(rows)), np.zeros((0, len(rows))))


def result_span(pieces: Sequence[str]) -> tuple[int, int]:
    """Which of a well-formed answer's tokens hold its result: those behind the last "is ", up to the full stop; all
    of an answer that has none.

    >>> result_span(["It", " is", " 4", "2", ".", ""])
    (2, 4)
    """
    text, ends = "".join(pieces), np.cumsum([len(piece) for piece in pieces])
    stop = text.rfind(".")
    begin = text.rfind(" is ", 0, stop)
    begin = begin + 4 if begin >= 0 else 0
    inside = [i for i, end in enumerate(ends) if end > begin and end - len(pieces[i]) < stop]
    return inside[0], inside[-1] + 1


def bins(confidence: Float[np.ndarray, " case"], n: int = BINS) -> Int[np.ndarray, " case"]:
    """The bin of each case: bins of equal mass, by rank."""
    found = np.empty(len(confidence), int)
    found[np.argsort(confidence, kind="stable")] = (
        np.arange(len(confidence)) * min(n, len(confidence)) // len(confidence)
    )
    return found


def ece(
    confidence: Float[np.ndarray, " case"], right: Float[np.ndarray, " case"], at: Int[np.ndarray, " case"]
) -> float:
    """Expected calibration error over given bins: Σ |Σ_b (c − y)| / n.

    >>> ece(np.array([0.2, 0.2, 0.8, 0.8]), np.array([0.0, 1.0, 1.0, 1.0]), np.array([0, 0, 1, 1]))
    0.25
    """
    return float(np.abs(np.bincount(at, confidence - right)).sum() / len(right))


def _ece_interval(cases: Told, at: np.ndarray, seed: int) -> tuple[float, float]:
    """Bootstrap over documents: bins stay, their gaps are summed by document."""
    _, document = np.unique(cases.document, return_inverse=True)
    sums = np.zeros((int(document.max()) + 1, int(at.max()) + 2))
    np.add.at(sums, (document, at), cases.confidence - cases.right)
    sums[:, -1] = np.bincount(document)
    drawn = resampled_sums(sums, seed)
    found = np.abs(drawn[:, :-1]).sum(axis=1) / drawn[:, -1]
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def _figures(cases: Told, where: str, name: str, seed: int) -> list[Figure]:
    """ECE and overconfidence beside a calibrated model's; no claim rests on ECE where the sign is told anyway."""
    at, rng, n = bins(cases.confidence), np.random.default_rng(seed), len(cases.right)
    drawn = rng.random((DRAWS, n), np.float32) < cases.confidence.astype(np.float32)
    documents, of = np.unique(cases.document, return_inverse=True)
    what, noun = "a calibrated model", "questions" if where == ANSWERS else "documents"
    value = ece(cases.confidence, cases.right, at)
    low, high = _ece_interval(cases, at, seed)
    null = against(value, [ece(cases.confidence, y.astype(float), at) for y in drawn[:200]], what, GREATER)
    gap, sizes = cases.confidence - cases.right, np.bincount(of).astype(float)
    ends = ratio_interval(np.bincount(of, gap), sizes, seed) if len(documents) > 1 else (gap.mean(), gap.mean())
    over = against(float(gap.mean()), float(cases.confidence.mean()) - drawn.mean(axis=1), what, EITHER)
    placed: dict[str, Any] = {"checkpoint": name, "where": where}
    count = len(documents)
    return [
        Figure("ECE", value, min(low, value), high, count, noun, beside(null), **placed),
        Figure(
            "overconfidence", float(gap.mean()), float(ends[0]), float(ends[1]), count, noun, over, **placed
        ),
    ]


def reliability(cases: Told) -> list[tuple[float, float, int]]:
    """Mean confidence, share right and number of cases of each bin."""
    at = bins(cases.confidence)
    n = np.bincount(at)
    pairs = (np.bincount(at, each) / n for each in (cases.confidence, cases.right))
    return [(float(c), float(y), int(k)) for c, y, k in zip(*pairs, n, strict=True)]


def scores(cases: Told, seed: int) -> dict[str, float]:
    """Brier's score and its parts; nats a token and what the best temperature of one half saves on the other."""
    curve = np.array(reliability(cases))
    weight, mean = curve[:, 2] / len(cases.right), cases.right.mean()
    found = {
        "n": float(len(cases.right)),
        "mean confidence": float(cases.confidence.mean()),
        "share right": float(mean),
        "Brier": float(((cases.confidence - cases.right) ** 2).mean()),
        "reliability": float((weight * (curve[:, 0] - curve[:, 1]) ** 2).sum()),
        "resolution": float((weight * (curve[:, 1] - mean) ** 2).sum()),
        "uncertainty": float(mean * (1 - mean)),
    }
    if len(cases.nats):
        documents = np.unique(cases.document)
        first = np.isin(
            cases.document, np.random.default_rng(seed).permutation(documents)[: len(documents) // 2]
        )
        best = int(cases.nats[:, first].sum(axis=1).argmin()) if first.any() else TEMPERATURES.index(1.0)
        plain = cases.nats[TEMPERATURES.index(1.0)]
        saved = (plain - cases.nats[best])[~first]
        found |= {
            "nats": float(plain.mean()),
            "temperature": TEMPERATURES[best],
            "nats saved": float(saved.mean()),
        }
    return found


def _claim(figures: Sequence[Figure], names: Sequence[str], mute: Mapping[str, str]) -> str:
    """`mute` says of which checkpoints answers were not read, and why."""
    passed, parts = [f for f in beyond(figures) if f.name == "overconfidence"], []
    for name in names:
        mine = [f for f in passed if f.checkpoint == name]
        told = [
            f"{word} on {', '.join(f'{f.where} ({f.value:+.3f})' for f in of)}"
            for word, of in (
                ("overconfident", [f for f in mine if f.value > 0]),
                ("underconfident", [f for f in mine if f.value <= 0]),
            )
            if of
        ]
        parts.append(
            f"{name} is {', '.join(told)}" if told else f"{name} is not shown to differ from a calibrated model"
        )
    why = f" Answers are not told: {'; '.join(dict.fromkeys(mute.values()))}." if mute else ""
    return f"{'; '.join(parts)}.{why}"


if __name__ == "__main__":
    main(__file__)
