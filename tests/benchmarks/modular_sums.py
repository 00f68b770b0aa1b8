"""A one-layer decoder trained on a + b mod p, against what is known of it [Nanda 2023].

    a b = → c      p = 31, four fifths of all pairs learned, AdamW on all of them at once, strong weight decay

What is known: (1) the embedding of numbers has few frequencies w = 2πk/p; (2) its logits are sums of
cos(w(a + b − c)) at these; (3) heads move what a and b are to the last place, the MLP multiplies, and its output is
read. Each is held against a null: (1) the same share in random embeddings and before training; (2) as many
frequencies that are none of the key ones, and the key ones before training; (3) circuits by shuffled scores. (A
random circuit with the degrees of the known one is the known one: all heads are in it.)

Only the last place is answered from, where both prompts of a pair have `=`: embed→logits, embed→m0 and embed→<q>
are worth nothing by construction. That heads write for the MLP and not for the logits, and that what is moved (<v>)
matters more than where from (<k>), is for the model to show.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers as hf
from jaxtyping import Float

from tests.benchmarks.hand_set import linear_gpt2, opened, shuffled_circuit
from workbench.circuits.attribution import edge_scores
from workbench.circuits.circuit import GREEDY, chosen
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.edge_patching import exact_scores
from workbench.circuits.faithfulness import Ends, circuit_scores, ends, faithfulness
from workbench.circuits.graph import EMBED, LOGITS, READS, Edges, Graph
from workbench.circuits.pairs import PairIds, Pairs, padded
from workbench.circuits.study import find
from workbench.intervals import wilson

P = 31
LEARNED, HELD_IN_VARIANCE = 0.8, 0.9
STEPS, RATE, DECAY = 800, 3e-3, 2.0
SEEDS = 3
N_SEARCH, N_JUDGE, N_NULL, N_SHUFFLED = 48, 96, 200, 5


class Trained(NamedTuple):
    """The model before and after, and its right answers on the pairs that it did not learn."""

    before: hf.GPT2LMHeadModel
    after: hf.GPT2LMHeadModel
    right: int
    n: int


def table() -> torch.Tensor:
    """All prompts `[a b]` in order, as ids."""
    a, b = np.divmod(np.arange(P * P), P)
    return torch.from_numpy(np.stack([a, b, np.full(P * P, P)], axis=1))


def fresh(seed: int) -> hf.GPT2LMHeadModel:
    torch.manual_seed(seed)
    model = linear_gpt2(n_layers=1, d_model=64, n_heads=4, n_ctx=3, vocab=P + 1, d_mlp=128)
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=64**-0.5)
    return model


def answers(model: hf.GPT2LMHeadModel, ids: torch.Tensor) -> Float[torch.Tensor, "pair number"]:
    """Logits of the numbers behind `=`."""
    last = model.transformer(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
    return model.lm_head(last)[:, :P]


def train(seed: int = 0, n_steps: int = STEPS) -> Trained:
    """Full batches, weight decay on all matrices."""
    model, before, ids = fresh(seed), fresh(seed), table()
    sums = ids[:, :2].sum(dim=1) % P
    order = torch.randperm(P * P, generator=torch.Generator().manual_seed(seed))
    learned, left = order[: int(LEARNED * P * P)], order[int(LEARNED * P * P) :]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY, betas=(0.9, 0.98))
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 10)
        loss = torch.nn.functional.cross_entropy(answers(model, ids[learned]), sums[learned])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = int((answers(model, ids[left]).argmax(dim=1) == sums[left]).sum())
    return Trained(before, model, right, len(left))


def by_frequency(embedding: Float[np.ndarray, "number d_model"]) -> Float[np.ndarray, "frequency"]:
    """The share of the numbers' variance at each frequency k = 1 … (p − 1)/2."""
    power = (np.abs(np.fft.rfft(embedding, axis=0)) ** 2).sum(axis=1)[1:]
    return power / power.sum()


def of_numbers(model: hf.GPT2LMHeadModel) -> Float[np.ndarray, "number d_model"]:
    return model.transformer.wte.weight[:P].detach().double().numpy()


def key_frequencies(shares: Float[np.ndarray, "frequency"]) -> list[int]:
    """The fewest that hold nine tenths of the variance."""
    order = np.argsort(-shares)
    n = int(np.searchsorted(np.cumsum(shares[order]), HELD_IN_VARIANCE)) + 1
    return sorted(int(k) + 1 for k in order[:n])


@torch.no_grad()
def all_answers(model: hf.GPT2LMHeadModel) -> Float[np.ndarray, "a b c"]:
    """Logits of every c behind every prompt."""
    return answers(model, table()).double().numpy().reshape(P, P, P)


def logit_shares(logits: Float[np.ndarray, "a b c"]) -> Float[np.ndarray, "frequency"]:
    """The share of the logits' variance over all a, b, c (their mean over c taken out) that cos(w(a + b − c))
    explains, for each frequency: these functions are orthogonal, so shares add."""
    logits = logits - logits.mean(axis=2, keepdims=True)
    n, k = np.arange(P), np.arange(1, (P - 1) // 2 + 1)
    apart = n[:, None, None] + n[None, :, None] - n[None, None, :]
    waves = np.cos(2 * np.pi * k * n[:, None] / P)[apart % P]  # [a, b, c, frequency]
    return np.einsum("abc,abck->k", logits, waves) ** 2 / (waves**2).sum(axis=(0, 1, 2)) / (logits**2).sum()


def mechanism(trained: Trained, rng: np.random.Generator) -> dict[str, Any]:
    """(1) and (2) with their nulls; a null that was drawn is given as its largest value."""
    shares = by_frequency(of_numbers(trained.after))
    keys = key_frequencies(shares)
    n, at = len(keys), np.array(keys) - 1
    drawn = [by_frequency(rng.standard_normal((P, 64))) for _ in range(N_NULL)]
    logits, untrained = (logit_shares(all_answers(model)) for model in (trained.after, trained.before))
    others = np.setdiff1d(np.arange(len(logits)), at)
    chance = [logits[rng.choice(others, min(n, len(others)), replace=False)].sum() for _ in range(N_NULL)]
    low, high = wilson(trained.right, trained.n)
    return {
        "heldout": {"share": trained.right / trained.n, "low": low, "high": high, "n": trained.n},
        "key_frequencies": keys,
        "embedding": float(shares[at].sum()),
        "embedding_random": float(max(np.sort(each)[-n:].sum() for each in drawn)),
        "embedding_untrained": float(np.sort(by_frequency(of_numbers(trained.before)))[-n:].sum()),
        "logits": float(logits[at].sum()),
        "logits_other_frequencies": float(max(chance)),
        "logits_untrained": float(untrained[at].sum()),
    }


def pairs(n: int, seed: int) -> Pairs:
    """a + b, and a' + b in the corrupt prompt; b is even for even seeds and odd for odd ones."""
    rng, rows = random.Random(seed), list[PairIds]()
    while len(rows) < n:
        a, other, b = (rng.randrange(P) for _ in range(3))
        if a != other and b % 2 == seed % 2:
            rows.append(PairIds([a, b, P], [other, b, P], (a + b) % P, (other + b) % P))
    return padded("modular sums", rows, P)


def groups(graph: Graph) -> dict[str, Edges]:
    """The edges by what they are."""
    reads = {f"<{read}>": [(EMBED, f"a0.h{h}<{read}>") for h in range(graph.n_heads)] for read in READS}
    heads = [f"a0.h{h}" for h in range(graph.n_heads)]
    named = reads | {
        "heads→m0": [(head, "m0") for head in heads],
        "heads→logits": [(head, LOGITS) for head in heads],
        "m0→logits": [("m0", LOGITS)],
        "embed→m0": [(EMBED, "m0")],
        "embed→logits": [(EMBED, LOGITS)],
    }
    found = {}
    for name, edges in named.items():
        found[name] = np.zeros(graph.edges.shape, dtype=bool)
        for edge in edges:
            found[name][graph.named(*edge)] = True
    return found


def by_edges(model: CircuitModel, seed: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """What groups of edges are worth, and circuits beside the known one (what is moved, multiplied, read)."""
    search, judge = pairs(N_SEARCH, 2 * seed), pairs(N_JUDGE, 2 * seed + 1)
    of, between = groups(model.graph), ends(model, judge)
    known = of["<v>"] | of["heads→m0"] | of["m0→logits"]
    without = circuit_scores(model, judge, np.stack([model.graph.edges & ~group for group in of.values()]))
    yield {
        "lost_without": {
            name: 1 - faithfulness(m, between).f for name, m in zip(of, without, strict=True)
        }
    }  # fmt: skip
    n, scores = int(known.sum()), edge_scores(model, search).mean
    circuits = {
        "known": known,
        "known and <k>": known | of["<k>"],
        "EAP-IG 5, greedy": chosen(model.graph, scores, n, GREEDY),
        "exact, greedy": chosen(model.graph, exact_scores(model, search).mean, n, GREEDY),
        "study": find(model, "planted", search).circuit.edges,
    }
    circuits |= {
        f"shuffled scores {i}": shuffled_circuit(model.graph, scores, n, rng) for i in range(N_SHUFFLED)
    }
    m = circuit_scores(model, judge, np.stack(list(circuits.values())))
    for (finder, edges), own in zip(circuits.items(), m, strict=True):
        yield beside(finder, edges, known, own, between)


def beside(
    finder: str, edges: Edges, known: Edges, m: Float[np.ndarray, "pair"], between: Ends
) -> dict[str, Any]:
    """A circuit beside the known one."""
    hits, measured = int((edges & known).sum()), faithfulness(m, between)
    return {
        "finder": finder, "found": int(edges.sum()), "true": int(known.sum()),
        "precision": hits / max(1, int(edges.sum())), "recall": hits / int(known.sum()), "f": measured._asdict(),
    }  # fmt: skip


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Per seed a row of what the weights show, one of what edges are worth, and one a circuit."""
    for seed in range(1 if quick else SEEDS):
        told = {"model": "modular sums", "seed": seed}
        rng, trained = np.random.default_rng(seed), train(seed, STEPS // 2 if quick else STEPS)
        yield told | mechanism(trained, rng)
        for row in by_edges(opened(trained.after), seed, rng):
            yield told | row
