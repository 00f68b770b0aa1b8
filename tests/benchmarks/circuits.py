"""Circuits: a whole patching grid beside `transformer_lens.patching`.

    python -m tests.benchmarks.circuits [--json] [--quick]

Rows with `config.job` = "resid_pre grid": the clean stream into the corrupt run at every layer and position, from
token ids to the mean logit difference of each cell, runs that are patched from and into included. The model has the
demo lab's shape and random weights, on which speed does not depend. The peer is `get_act_patch_resid_pre` on a
TransformerBridge; both must give the same grid within 1e-5.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.benchmarks import report
from tests.benchmarks.harvest import _save_tokenizer
from workbench.circuits.activation_patching import Patching
from workbench.circuits.pairs import Pairs, logit_difference
from workbench.device import keep_freed_memory
from workbench.site import with_fast_attention

DEMO = {"hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 3, "num_attention_heads": 4}
VOCAB, WIDTH, N_THREADS = 2_048, 24, 2
N_PROMPTS = (1, 8, 64)
TOLERANCE = 1e-5


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


def bridge_of(model: LlamaForCausalLM) -> object:
    """A TransformerBridge on the same weights, as its users boot it."""
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
        _save_tokenizer(VOCAB, folder)
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


def main() -> None:
    switches = report.parse("Patching grids beside looping transformer_lens.patching.")
    keep_freed_memory()  # for both
    torch.set_num_threads(N_THREADS)
    bridge = bridge_of(model_of("eager"))
    model = with_fast_attention(model_of("eager"))
    rows = [grids(n, bridge, model, 3 if switches.quick else 7) for n in N_PROMPTS]
    report.write("circuits", rows, switches.json)


if __name__ == "__main__":
    sys.exit(main())
