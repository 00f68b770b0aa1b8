"""Circuits: a patching grid beside TransformerLens' loop, EAP-IG beside its own passes, scores beside the truth.

    MARBLE_HOME=labs python -m tests.benchmarks.circuits [--json] [--quick]

Rows with `config.job` = "resid_pre grid": the clean stream into the corrupt run at every layer and position, from
token ids to the mean logit difference of each cell, runs that are patched from and into included. The model has the
demo lab's shape and random weights, on which speed does not depend. The peer is `get_act_patch_resid_pre` on a
TransformerBridge; both must give the same grid within 1e-5.

"EAP-IG": `edge_scores` of five steps beside its forward and backward passes alone (two without gradients, five with
that of the embedding), on the same bridge; `cost` is the ratio of their times, to be at most 1.3.

"scores" holds EAP and EAP-IG of 5 and 20 steps against every edge patched for itself (Pearson, Spearman, overlap of
the foremost tenth) and gives f, on other pairs, of the circuit that is found and of the greedy one of a fifth of
the edges: of a model that has learned induction and, where a lab `demo` is finished, a row a task and checkpoint.
There, "one task" is `circuit` on three checkpoints, with curves, controls, floors and F[i, j], in a copy of the lab
that has no circuit.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.benchmarks import report
from tests.benchmarks.harvest import _save_tokenizer
from tests.benchmarks.repeats import VOCAB as VOCAB_OF_REPEATS
from tests.benchmarks.repeats import repeated_pairs, trained_on_repeats
from workbench.circuits.activation_patching import Patching
from workbench.circuits.attribution import edge_scores
from workbench.circuits.circuit import GREEDY, chosen
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.circuit_requests import request_circuit
from workbench.circuits.competence import competence
from workbench.circuits.edge_patching import exact_scores
from workbench.circuits.faithfulness import circuit_scores, ends, faithfulness
from workbench.circuits.found_circuits import FoundCircuits
from workbench.circuits.pairs import Pairs, logit_difference
from workbench.circuits.study import find
from workbench.circuits.tasks import task_pairs
from workbench.device import keep_freed_memory
from workbench.grow import grow
from workbench.lab import Lab, labs_home
from workbench.site import with_fast_attention

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

DEMO = {"hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 3, "num_attention_heads": 4}
VOCAB, WIDTH, N_THREADS = 2_048, 24, 2
N_PROMPTS = (1, 8, 64)
TOLERANCE = 1e-5
LAB, TASKS = "demo", ("sums_units", "sums_tens", "capitals", "induction")


def model_of(attention: str) -> LlamaForCausalLM:
    """The demo's shape, the same random weights each time."""
    torch.manual_seed(0)
    config = LlamaConfig(**DEMO, vocab_size=VOCAB, max_position_embeddings=128, tie_word_embeddings=True)
    config._attn_implementation = attention
    return LlamaForCausalLM(config).eval()


def random_pairs(n_prompts: int) -> Pairs:
    """Prompts that differ right behind BOS: the later a task's prompts part, the less is left to patch for ours."""
    rng = torch.Generator().manual_seed(n_prompts)
    clean = torch.randint(5, VOCAB, (n_prompts, WIDTH), generator=rng)
    clean[:, 0] = 1
    corrupt = clean.clone()
    corrupt[:, 1] = torch.randint(5, VOCAB, (n_prompts,), generator=rng)
    target = torch.randint(5, VOCAB // 2, (n_prompts,), generator=rng)
    last = torch.full((n_prompts,), WIDTH - 1)
    return Pairs("random", clean, corrupt, target, target + 1, last)


def bridge_of(model: LlamaForCausalLM, vocab: int = VOCAB) -> TransformerBridge:
    """A TransformerBridge on the same weights, as its users boot it."""
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
        _save_tokenizer(vocab, folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, device="cpu")


def looped(bridge: object, pairs: Pairs) -> Tensor:
    """The peer: one forward pass for every cell."""
    import transformer_lens.patching as peer
    from tqdm.auto import tqdm

    peer.tqdm = lambda rows: tqdm(rows, disable=True)  # no time goes into a progress bar
    rows = torch.arange(len(pairs))

    def metric(logits: Tensor) -> Tensor:
        return logit_difference(logits[rows, pairs.last], pairs.target, pairs.foil).mean()

    with torch.inference_mode():
        _, cache = bridge.run_with_cache(pairs.clean, names_filter=lambda name: name.endswith("hook_resid_pre"))
        return peer.get_act_patch_resid_pre(bridge, pairs.corrupt, cache, metric)


def grids(n_prompts: int, bridge: object, model: LlamaForCausalLM, rounds: int) -> report.Row:
    """Both in turn on the same pairs; `grids_per_s` is the figure that is compared."""
    pairs = random_pairs(n_prompts)

    def ours() -> Tensor:
        return torch.from_numpy(Patching(model, pairs).grid("resid_pre").m.mean(axis=0))

    def timed(run: Callable[[], Tensor]) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
            return {"grids_per_s": 1 / seconds, "seconds": seconds}

        return measure

    gap = float((ours() - looped(bridge, pairs)).abs().max())  # warms both
    if gap > TOLERANCE:
        sys.exit(f"the grids differ by up to {gap:.2g}: nothing to compare")
    medians = report.in_turn(
        {"ours": timed(ours), "transformer_lens": timed(lambda: looped(bridge, pairs))}, rounds
    )
    config = {
        "job": "resid_pre grid",
        "n_prompts": n_prompts,
        "n_positions": WIDTH,
        "vocab_size": VOCAB,
        **DEMO,
    }
    mine = medians.pop("ours") | {"largest_gap": gap}
    return report.Row.of(config, mine, medians, "grids_per_s")


def passes(model: CircuitModel, pairs: Pairs, n_steps: int) -> None:
    """The runs that EAP-IG makes, and nothing of what it reads from them."""
    with torch.no_grad():
        for ids in (pairs.clean, pairs.corrupt):
            model.run(ids, pairs.last, [])
    for _ in range(n_steps):
        leaf: list[Tensor] = []

        def enter(x: Tensor, hook: object, leaf: list[Tensor] = leaf) -> Tensor:
            leaf.append(x.detach().requires_grad_(True))
            return leaf[0]

        with torch.enable_grad():
            logits = model.run(pairs.clean, pairs.last, [("blocks.0.hook_resid_pre", enter)])
            torch.autograd.grad(logit_difference(logits, pairs.target, pairs.foil).sum(), leaf)


def attribution(n_prompts: int, model: CircuitModel, rounds: int, n_steps: int = 5) -> report.Row:
    """EAP-IG and its bare passes in turn."""
    pairs = random_pairs(n_prompts)
    runs = {"ours": lambda: edge_scores(model, pairs, n_steps), "passes": lambda: passes(model, pairs, n_steps)}

    def timed(run: Callable[[], object]) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
            return {"prompts_per_s": n_prompts / seconds, "seconds": seconds}

        return measure

    for run in runs.values():
        run()
    medians = report.in_turn({name: timed(run) for name, run in runs.items()}, rounds)
    mine = medians.pop("ours")
    mine["cost"] = mine["seconds"] / medians["passes"]["seconds"]
    config = {"job": "EAP-IG", "n_prompts": n_prompts, "n_steps": n_steps, **DEMO}
    return report.Row.of(config, mine, medians, "prompts_per_s")


def against_exact(
    task: str, name: str, pairs: Pairs, judge: Pairs, plain: PreTrainedModel, bridge: TransformerBridge
) -> report.Row:
    """How near attribution comes to patching every edge, and what the circuit that it finds is worth."""
    does, model = competence(plain, judge), CircuitModel(bridge)
    on = model.graph.edges
    exact = exact_scores(model, pairs).mean[on]
    figures: dict[str, float] = {"does_it": float(does.does_it), "n_edges": float(on.sum())}
    for n_steps in (1, 5, 20):
        scores = edge_scores(model, pairs, n_steps)
        estimate, tenth = scores.mean[on], round(0.1 * on.sum())
        foremost = [set(np.argsort(-np.abs(each))[:tenth]) for each in (exact, estimate)]
        figures |= {
            f"{scores.method} pearson": float(np.corrcoef(exact, estimate)[0, 1]),
            f"{scores.method} spearman": float(spearmanr(exact, estimate).statistic),
            f"{scores.method} top tenth": len(foremost[0] & foremost[1]) / tenth,
        }
    found = find(model, name, pairs)
    fifth = chosen(model.graph, found.circuit.scores, round(0.2 * model.graph.n_edges), GREEDY)
    m, between = circuit_scores(model, judge, np.stack([found.circuit.edges, fifth])), ends(model, judge)
    figures |= {"share": found.circuit.share}
    for name_of_f, each in zip(("f", "f of a fifth"), m, strict=True):
        f = faithfulness(each, between)
        figures |= {name_of_f: f.f, f"{name_of_f} low": f.low, f"{name_of_f} high": f.high}
    config = {"job": "scores", "task": task, "checkpoint": name, "n_pairs": len(pairs)}
    report.say(f"scores of {task} in {name} are compared")
    return report.Row(config, figures, {}, {})


def of_repeats(n_pairs: int) -> report.Row:
    """The same of a model that has learned induction."""
    model = trained_on_repeats()
    pairs = (repeated_pairs(n_pairs, seed) for seed in (0, 1))
    return against_exact(
        "induction", "two layers trained on repeats", *pairs, model, bridge_of(model, VOCAB_OF_REPEATS)
    )


def one_task(lab: Lab, task: str) -> report.Row:
    """The time of `circuit` on three checkpoints, from nothing: what is there already is built again beside it."""
    with tempfile.TemporaryDirectory() as home:
        copy = Lab(Path(shutil.copytree(lab.path, Path(home) / lab.name, ignore=_LEFT_OUT)))
        name = request_circuit(copy, task, ("base", "sft", "grpo"), 64)
        shutil.rmtree(copy.path / "circuit", ignore_errors=True)
        began = time.perf_counter()
        grow(copy, [f"circuit/{name}"], quiet=True)
        seconds = time.perf_counter() - began
        figures = FoundCircuits.of(copy, name).figures["checkpoints"]
    told = {
        f"{each} {key}": float(figures[each][key]) for each in figures for key in ("share", "f", "residual")
    }
    config = {"job": "one task", "task": task, "checkpoints": "base sft grpo"}
    return report.Row(config, {"seconds": seconds, **told}, {}, {})


_LEFT_OUT = shutil.ignore_patterns("activations", "dictionary", "features", "evaluation", "comparison", "jobs")


def rows_of(lab: Lab, n_pairs: int) -> Iterator[report.Row]:
    """What needs a lab."""
    for task in TASKS:
        for name in ("base", "sft", "grpo"):
            checkpoint = lab.checkpoint(name)
            pairs = (task_pairs(lab, task, n_pairs, use, checkpoint=name) for use in ("search", "judge"))
            yield against_exact(task, name, *pairs, checkpoint.model(), checkpoint.bridge())
    yield one_task(lab, TASKS[0])


def main() -> None:
    switches = report.parse("Patching grids, EAP-IG and the way to a circuit.")
    keep_freed_memory()  # for both
    rounds, n_pairs = (3, 8) if switches.quick else (7, 32)
    torch.set_num_threads(N_THREADS)
    bridge = bridge_of(model_of("eager"))
    model = with_fast_attention(model_of("eager"))
    rows = [grids(n, bridge, model, rounds) for n in N_PROMPTS]
    rows += [attribution(n, CircuitModel(bridge), rounds) for n in N_PROMPTS[1:]]
    rows.append(of_repeats(n_pairs))
    absent = {}
    if (labs_home() / LAB / "recipe.toml").is_file():
        rows += rows_of(Lab.open(LAB), n_pairs)
    else:
        absent["lab"] = f"no lab {LAB!r} in $MARBLE_HOME: `python -m workbench grow {LAB} --preset quick`"
    report.write("circuits", rows, switches.json, absent)


if __name__ == "__main__":
    sys.exit(main())
