"""What did supervised finetuning add: which answers, in which texts, and what its mean activation difference says?

    answers    well formed, ended, right (by task): after − before, by question        greedy, held out
    KL         KL(after ‖ before) in nats per token, by domain and document
    trace      δ = mean(x_after − x_before) over the first five tokens of held-out prose, last layer: the mean
               share of the vocabulary that δ promotes less than the tokens that finetuning is about (chat
               markers; the first words of answers), by the later head        [Minder 2025, arXiv 2510.13900]
    latents    of the pair's crosscoder, where the lab has one: Σ f_j ‖d_j^after − d_j^before‖ / Σ f_j ‖d_j^before‖

The checkpoint finetuned is held to its parent, or two checkpoints that are named to each other. What the stage did
is held against its sham's (the parent trained on, on its own data, for as many steps) where the lab has one, p of
the difference, with the sign of each question or document at random. Without a sham answers are held against signs
at random, KL against documents dealt to domains at random. The trace is held against random directions of δ's
length and, document by document, against the sham's δ: p is the larger of the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from probes.kit.asking import judged, questions
from probes.kit.commands import main
from probes.kit.finding import Figure, Finding, Null, beyond
from probes.kit.nulls import GREATER, against, beside, mean_of
from probes.kit.plots import of_figures
from probes.kit.readings import held_out, one_a_document, opened
from probes.kit.settings import at_least
from probes.kit.stages import FLIPPED, Change, beside_sham, change, held, of_control
from workbench.behaviour import kl_by_token
from workbench.checkpoint import Checkpoint
from workbench.dictionary_folder import open_dictionary
from workbench.difference_lens import DIRECTIONS, PLAIN, ranks
from workbench.difference_lens import change as promoted_by
from workbench.difference_steering import beginnings
from workbench.difference_tables import ANSWERS, MARKERS
from workbench.errors import MarbleError
from workbench.features import FeatureTable
from workbench.intervals import ratio_interval
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.points import Site
from workbench.site import read_sites
from workbench.splice import log_probabilities
from workbench.tasks import OPENINGS
from workbench.tokens import TokenSet

READS = ("activations", "checkpoint", "corpus", "dictionary", "features")
TASKS = ("capitals", "sums", "letter_counts")
DOMAINS = ("prose", "world", "chat")
FIRST = 5  # tokens of prose that no finetuning was about
TOKENS_AT_ONCE = 2_048
N_LATENTS, N_PROMOTED = 8, 6
DRAWN = 400  # of documents
TRACE, RANDOM = "trace", "random directions"


class Moved(NamedTuple):
    """What one crosscoder's latents write otherwise."""

    name: str
    moved: Float[np.ndarray, " latent"]  # f_j ‖Δd_j‖
    written: Float[np.ndarray, " latent"]  # f_j ‖d_j^before‖
    table: FeatureTable


PROMOTED = "What the mean difference promotes"


def ask(
    lab: Lab, checkpoints: Sequence[Checkpoint], n: int = 40, documents: int = 20, seed: int = 0
) -> Finding:
    """`n` questions a task, `documents` of each domain."""
    at_least(3, n=n, documents=documents)
    at_least(0, seed=seed)
    pair = change(lab, checkpoints, ("sft",))
    figures = [*answered(pair, n, seed), *parted(pair, documents, seed), *traces(pair, seed)]
    latents, rows = largest(pair)
    figures += latents
    read = {
        "Answers": ("share of questions", [f for f in figures if f.of == "questions"]),
        "KL by domain": ("nats per token", [f for f in figures if f.name == "KL"]),
        PROMOTED: ("share of the vocabulary below", [f for f in figures if f.of == "texts"]),
    }
    return Finding(
        claim(pair, figures, promoted(pair, seed)), figures, f"{pair.null}; for the trace directions at random",
        "Other questions than the four tasks of the demonstrations; a wider crosscoder, or another seed of it, for "
        "the latents.",
        [of_figures(name, unit, of, f"{name}, each beside its null") for name, (unit, of) in read.items() if of],
        rows,
    )  # fmt: skip


def answered(pair: Change, n: int, seed: int) -> list[Figure]:
    """How answers changed: their form over all tasks, right ones task by task."""
    of = questions(pair.after, TASKS, n)
    plain = {each.address: judged(each, of) for each in pair.everyone if each is not pair.sibling}
    task, found = np.array([q.task for q in of]), []
    asked = [("well formed", ""), ("ended", ""), *(("right", name) for name in TASKS if name in task)]
    for form, where in asked:
        here = (task == where) | (where == "")
        before, after, sham = (
            None if each is None else plain[each.address].of(form)[here]
            for each in (pair.before, pair.after, pair.sham)
        )
        placed = {"checkpoint": pair.after.address, "where": where}
        found.append(held(f"more {form}", before, after, sham, "questions", seed, **placed))
    return found


def parted(pair: Change, documents: int, seed: int) -> list[Figure]:
    """KL(after ‖ before) by domain, beside the sham's, or that of documents of any domain: whether it is more."""
    tokens = held_out(pair.after)
    first = one_a_document(tokens, len(tokens.starts), seed)
    domain = tokens.domain[np.asarray(tokens.document)[tokens.starts[first]]]
    windows = {name: first[domain == name][:documents] for name in DOMAINS}
    windows = {name: each for name, each in windows.items() if len(each) > 2}
    chosen = np.sort(np.concatenate(list(windows.values())))
    own, went_on = kl_by_window(tokens, chosen, pair)
    found = []
    for name, each in windows.items():
        here = np.isin(chosen, each)
        value, low, high, _ = mean_of(own[here], FLIPPED, seed)
        if went_on is None:
            rng = np.random.default_rng(seed)
            dealt = [own[rng.permutation(len(own))[: len(each)]].mean() for _ in range(999)]
            null = against(value, dealt, "domains at random", GREATER)
        else:
            null = of_control(went_on[here], own[here] - went_on[here], "sham", seed, GREATER)
        found.append(Figure("KL", value, low, high, len(each), "documents", null, pair.after.address, name))
    return found


def kl_by_window(
    tokens: TokenSet, windows: np.ndarray, pair: Change
) -> tuple[Float[np.ndarray, " window"], Float[np.ndarray, " window"] | None]:
    """KL(after ‖ before) and KL(sham ‖ before), nats per token of each window."""
    place = {int(w): i for i, w in enumerate(windows)}
    sums, n = np.zeros((2, len(windows))), np.zeros(len(windows))
    for batch in tokens.batches(TOKENS_AT_ONCE, windows):
        where = np.array([place[tokens.window_of(int(row))] for row in batch.rows[:, 0]])
        where = np.repeat(where, batch.real.sum(axis=1))
        n += np.bincount(where, minlength=len(n))
        before = log_probabilities(opened(pair.before).model, batch)
        for i, each in enumerate((pair.after, pair.sham)):
            if each is not None:
                kl = kl_by_token(log_probabilities(opened(each).model, batch), before)
                sums[i] += np.bincount(where, kl, len(n))
    return sums[0] / n, None if pair.sham is None else sums[1] / n


def first_differences(pair: Change, after: Checkpoint, seed: int = 0) -> Float[np.ndarray, "document d"]:
    """Mean of x_after − x_before over the first tokens of each address (of its windows), last layer."""
    tokens = held_out(after)
    document = np.asarray(tokens.document)[tokens.starts]
    prose = np.flatnonzero(tokens.domain[document] == "prose")
    prose = np.sort(np.random.default_rng(seed).permutation(prose)[:240])
    last = Site(min(after.n_layers, pair.before.n_layers) - 1)
    sums = dict[int, list[np.ndarray]]()
    for batch in beginnings(tokens, prose, FIRST, TOKENS_AT_ONCE * 8):
        ids = torch.from_numpy(batch.ids)
        read = [
            read_sites(model, [last], ids.to(model.device))[last][:, 1:].float().cpu().numpy()
            for model in (opened(after).model, opened(pair.before).model)
        ]
        for row, real, rows in zip(read[0] - read[1], batch.real, batch.rows, strict=True):
            sums.setdefault(int(tokens.document[rows[0]]), []).append(row[real].mean(axis=0))
    return np.stack([np.mean(each, axis=0) for each in sums.values()]) if sums else np.zeros((0, after.d_model))


def watched(pair: Change) -> dict[str, list[int]]:
    """The tokens that finetuning is about."""
    tokens, tokenizer = held_out(pair.after), opened(pair.after).tokenizer
    plain = {tokens.settings["bos"], tokens.settings["pad"]}
    words = ["It", *(opening.split()[0] for opening in OPENINGS.values())]
    first = [tokenizer.encode(word, add_special_tokens=False)[:1] for word in words]
    return {
        MARKERS: sorted({*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()} - plain),
        ANSWERS: sorted({ids[0] for ids in first if ids}),
    }


def traces(pair: Change, seed: int) -> list[Figure]:
    """How far δ lifts the watched tokens, beside random directions, and the sham's δ with it. p is the larger of
    two: of random directions that lift them as far, and of drawings of documents in which the sham's δ does."""
    parts = first_differences(pair, pair.after, seed)
    other = None if pair.sham is None else first_differences(pair, pair.sham, seed)
    delta = parts.mean(axis=0) if len(parts) else np.zeros(1)
    if len(parts) < 3 or not delta.any():
        return []
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(parts), (DRAWN, len(parts)))
    chance = rng.standard_normal((DIRECTIONS, len(delta)))
    chance *= np.linalg.norm(delta) / np.linalg.norm(chance, axis=1, keepdims=True)
    found = []
    for name, ids in watched(pair).items():
        if not ids:
            continue
        null = lifted(pair, chance, ids)
        own, again = _lift(pair, parts, drawn, ids)
        made = against(own, null, RANDOM)
        if pair.sham is not None and other is not None:
            went_on, as_well = _lift(pair, other, drawn, ids)
            beyond_sham = float((1 + (as_well >= again).sum()) / (1 + DRAWN))
            made = dataclasses.replace(made, p=max(made.p or 0.0, beyond_sham))
            beside_it = beside(against(went_on, null, RANDOM))
            found.append(_trace(went_on, as_well, len(other), beside_it, pair.sham.address, name))
        found.append(_trace(own, again, len(parts), made, pair.after.address, name))
    return found


def _lift(
    pair: Change, parts: Float[np.ndarray, "document d"], drawn: np.ndarray, ids: Sequence[int]
) -> tuple[float, Float[np.ndarray, " draw"]]:
    """How far the mean of the parts lifts tokens, and the means of drawings of them."""
    return float(lifted(pair, parts.mean(axis=0)[None], ids)[0]), lifted(pair, parts[drawn].mean(axis=1), ids)


def _trace(value: float, again: np.ndarray, n: int, null: Null, address: str, name: str) -> Figure:
    low, high = (float(end) for end in np.quantile(again, (0.025, 0.975)))
    return Figure(TRACE, value, min(value, low), max(value, high), n, "texts", null, address, name)


def lifted(pair: Change, deltas: Float[np.ndarray, "row d"], ids: Sequence[int]) -> Float[np.ndarray, " row"]:
    """The mean share of the vocabulary that each direction promotes less than these tokens."""
    model = opened(pair.after).model
    added = promoted_by(model, np.zeros(deltas.shape[1]), deltas.astype(np.float32), PLAIN)
    return 1 - (ranks(added, ids).mean(axis=1) - 1) / (added.shape[1] - 1)


def promoted(pair: Change, seed: int) -> list[str]:
    """The tokens that δ promotes most."""
    parts = first_differences(pair, pair.after, seed)
    if not len(parts) or not parts.any():
        return []
    added = promoted_by(opened(pair.after).model, np.zeros(parts.shape[1]), parts.mean(axis=0)[None], PLAIN)[0]
    shown = held_out(pair.after).vocabulary
    return [shown[i] for i in np.argsort(-added)[:N_PROMOTED]]


def crosscoder(pair: Change, after: Checkpoint | None) -> Moved | None:
    """The lab's usual crosscoder of exactly this pair, with what its latents write otherwise; None without one."""
    if after is None:
        return None
    names, lab = (pair.before.address, after.address), after.lab
    for config in Plan.of(lab).recipe.dictionaries:
        if config.checkpoints != names or not config.usual or config.minus or config.target:
            continue
        try:
            table = FeatureTable.of(lab, config.name)
            W_dec = (
                open_dictionary(lab.find("dictionary", config.name).path, config.name).W_dec.detach().numpy()
            )
        except MarbleError:  # not grown yet
            continue
        f = (table.table["density"] * table.table["mean_activation"]).fill_null(0.0).fill_nan(0.0).to_numpy()
        moved, written = np.linalg.norm(W_dec[:, 1] - W_dec[:, 0], axis=1), np.linalg.norm(W_dec[:, 0], axis=1)
        return Moved(config.name, f * moved, f * written, table)
    return None


def largest(pair: Change) -> tuple[list[Figure], list[dict[str, Any]]]:
    """How much latents write otherwise, beside the sham's crosscoder, and the foremost of them."""
    own, other = crosscoder(pair, pair.after), crosscoder(pair, pair.sham)
    if own is None:
        return [], []
    rows = []
    share = own.moved / own.moved.sum()
    for latent in np.argsort(-share, kind="stable")[:N_LATENTS]:
        told = own.table.table.row(int(latent), named=True)
        rows.append(
            {"latent": int(latent), "of": own.name, "share of the change": round(float(share[latent]), 4),
             "fires on": ", ".join(told["top_tokens"][:4]), "promotes": ", ".join(told["promoted"][:4]),
             "label": told["label"]}
        )  # fmt: skip
    if other is None:
        return [], rows
    value, spread = float(own.moved.sum() / own.written.sum()), ratio_interval(own.moved, own.written)
    went_on, ends = float(other.moved.sum() / other.written.sum()), ratio_interval(other.moved, other.written)
    alive, null_alive = int((own.written > 0).sum()), int((other.written > 0).sum())
    null = Null(went_on, *ends, null_alive, "sham's crosscoder")
    return [Figure("latents write otherwise", value, *spread, alive, "latents", null, pair.after.address)], rows


def claim(pair: Change, figures: Sequence[Figure], tokens: Sequence[str]) -> str:
    """What was added, in one sentence."""
    found = beyond(figures)
    moved = [f for f in found if f.of == "questions"]
    answers = [f"{f.name} {f.where}".rstrip() + f" {beside_sham(pair, f)}" for f in moved]
    apart = [f"{f.where} {f.value:.2f} ({f.null.what} {f.null.value:.2f})" for f in found if f.name == "KL"]
    went_on = {
        f.where: f", sham {f.value:.3f}" for f in figures if pair.sham and f.checkpoint == pair.sham.address
    }
    seen = [f"{f.where} {f.value:.3f}{went_on.get(f.where, '')}" for f in found if f.name == TRACE]
    if not (answers or apart or seen):
        return f"{pair.arrow} is not shown to add anything beyond its null."
    parts = [
        f"{pair.arrow} changes answers{pair.otherwise}: {', '.join(answers)}"
        if answers
        else f"{pair.arrow} is not shown to change answers"
    ]
    if apart:
        others = "on other domains" if pair.sham is None else f"{pair.sham.address}'s do"
        parts.append(
            f"its predictions part from {pair.before.address}'s on {', '.join(apart)}, in nats per token, more "
            f"than {others}"
        )
    said = " ".join(tokens)
    if seen:
        parts.append(
            f"on prose that has nothing to do with it the mean difference promotes {said} ({', '.join(seen)})"
        )
    elif tokens:
        own = [f for f in figures if f.name == TRACE and f.checkpoint == pair.after.address]
        lifts = [f"{f.where} {f.value:.3f}{went_on.get(f.where, '')}" for f in own]
        parts.append(
            f"the mean difference on prose promotes {said}, not shown to go "
            f"further than its null ({'; '.join(lifts)})"
        )
    return f"{'; '.join(parts)}."


if __name__ == "__main__":
    main(__file__)
