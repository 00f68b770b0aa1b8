"""Reading a residual stream into a file, beside TransformerLens and a bare truncated Hugging Face forward.

    python -m tests.benchmarks.harvest [--json] [--quick]

All read the same windows in the same batches and write the same bfloat16 memory map. Ours is the lab's own
`workbench.harvest`. `transformer_lens` stops at the layer and caches only the site,
`transformer_lens_full` is the plain `run_with_cache`, `bare` is the base model cut off after the layer, its
final norm taken out. The second part harvests growing sets in processes of their own: peak memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.benchmarks import report
from workbench.device import best_device, keep_freed_memory
from workbench.harvest import TOKENS_PER_BATCH, Target, harvest
from workbench.points import Site
from workbench.site import hook_name, with_fast_attention
from workbench.tokens import ARRAYS, TokenSet

N_CTX = 128
DEMO = {"hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 4, "num_attention_heads": 4}
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
SMALLEST = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def model_of(shape: Mapping[str, int], vocab_size: int) -> LlamaForCausalLM:
    """A Llama of this shape with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape, vocab_size=vocab_size, max_position_embeddings=N_CTX, tie_word_embeddings=True
    )
    return with_fast_attention(LlamaForCausalLM(config).eval().to(best_device()))


def token_set(folder: Path, n_tokens: int, vocab_size: int) -> TokenSet:
    """A set of random tokens in documents of one to three windows, written piece by piece."""
    rng = np.random.default_rng(0)
    size = N_CTX - 1
    lengths = rng.integers(size // 2, 3 * size, n_tokens // size + 8)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), n_tokens)) + 1]
    stops = np.minimum(np.cumsum(lengths), n_tokens)
    starts = np.concatenate([[0], stops[:-1]])
    columns = {what: _column(folder, what, n_tokens) for what in ARRAYS}
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        columns["tokens"][start:stop] = rng.integers(5, vocab_size, stop - start)
        columns["document"][start:stop] = number
        columns["position"][start:stop] = 1 + np.arange(stop - start) % size
        columns["special"][start:stop] = False
    for column in columns.values():
        column.flush()
    ids = [f"document-{i}" for i in range(len(starts))]
    pl.DataFrame({"id": ids}).write_parquet(folder / "heldout-documents.parquet")
    (folder / "sets.json").write_text(json.dumps({"bos": 1, "pad": 0, "n_ctx": N_CTX}))
    return TokenSet(folder, "heldout")


def _column(folder: Path, what: str, n_tokens: int) -> np.memmap:
    path = folder / f"heldout-{what}.npy"
    return np.lib.format.open_memmap(path, mode="w+", dtype=ARRAYS[what], shape=(n_tokens,))


Read = Callable[[torch.Tensor], torch.Tensor]  # ids [window position] -> residual [window position d]


def written(tokens: TokenSet, d_model: int, read: Read, path: Path) -> None:
    """A peer's harvest: our batches and memory map around its own forward pass."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(len(tokens), d_model))
    with torch.inference_mode():
        for batch in tokens.batches(TOKENS_PER_BATCH):
            residual = read(torch.from_numpy(batch.ids).to(best_device()))
            values = residual[:, 1:].cpu()[torch.from_numpy(batch.real)].to(torch.bfloat16)
            out[batch.rows[batch.real]] = values.view(torch.int16).numpy().view(np.uint16)
    out.flush()


def bridge_readers(shape: Mapping[str, int], vocab_size: int, layer: int) -> dict[str, Read]:
    """TransformerLens: stopped at the layer with one site cached, and everything cached."""
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder:
        model = model_of(shape, vocab_size)
        model.save_pretrained(folder)
        _save_tokenizer(vocab_size, folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(
            folder, hf_model=model, tokenizer=tokenizer, device=best_device()
        )
    site = hook_name(layer)

    def stopped(ids: torch.Tensor) -> torch.Tensor:
        return bridge.run_with_cache(ids, names_filter=[site], stop_at_layer=layer + 1)[1][site]

    return {
        "transformer_lens": stopped,
        "transformer_lens_full": lambda ids: bridge.run_with_cache(ids)[1][site],
    }


def _save_tokenizer(vocab_size: int, folder: str) -> None:
    """The bridge wants one, from a folder; it is never asked for ids."""
    from tokenizers import Tokenizer, models

    words = {f"<{i}>": i for i in range(vocab_size)}
    made = Tokenizer(models.WordLevel(words, unk_token="<0>"))
    special = {"bos_token": "<1>", "eos_token": "<2>", "pad_token": "<0>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)


def bare_reader(shape: Mapping[str, int], vocab_size: int, layer: int) -> Read:
    """The base model without the layers above, its final norm and the unembedding."""
    base = model_of(shape, vocab_size).model
    base.layers = base.layers[: layer + 1]
    base.norm = torch.nn.Identity()
    return lambda ids: base(input_ids=ids, use_cache=False).last_hidden_state


def compare(name: str, shape: Mapping[str, int], vocab_size: int, n_tokens: int) -> report.Row:
    """Everybody in turn on one model's middle layer."""
    layer = shape["num_hidden_layers"] // 2 - 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokens = token_set(folder, n_tokens, vocab_size)
        own = model_of(shape, vocab_size)
        peers = bridge_readers(shape, vocab_size, layer) | {"bare": bare_reader(shape, vocab_size, layer)}

        def ours() -> dict[str, float]:
            (folder / "note.json").unlink(missing_ok=True)
            began = time.perf_counter()
            target = Target(Site(layer), folder / "ours.npy", folder / "note.json")
            for _ in harvest(own, [target], tokens, "bfloat16"):
                pass
            return {"tokens_per_s": n_tokens / (time.perf_counter() - began)}

        def peer(read: Read) -> dict[str, float]:
            began = time.perf_counter()
            written(tokens, shape["hidden_size"], read, folder / "peer.npy")
            return {"tokens_per_s": n_tokens / (time.perf_counter() - began)}

        runs = {"ours": ours} | {who: (lambda read=read: peer(read)) for who, read in peers.items()}
        for who, run in runs.items():  # warm: threads, caches, imports
            run()
            if who != "ours":
                _same(*(np.load(folder / f"{of}.npy", mmap_mode="r")[:256] for of in ("ours", "peer")))
        medians = report.in_turn(runs, 3)
    mine = medians.pop("ours")
    config = {
        "model": name,
        "layer": layer,
        "n_tokens": n_tokens,
        "tokens_per_batch": TOKENS_PER_BATCH,
        **shape,
    }
    return report.Row.of(config, mine, medians, "tokens_per_s")


def _same(a: np.ndarray, b: np.ndarray) -> None:
    """Stop if the contenders do not compute the same numbers (two steps of bfloat16 apart at most)."""
    x, y = (torch.from_numpy(v.view(np.int16).copy()).view(torch.bfloat16).float() for v in (a, b))
    if not torch.allclose(x, y, rtol=2e-2, atol=2e-2):
        sys.exit(f"the contenders differ by up to {float((x - y).abs().max()):.3f}: nothing to compare")


def peak_memory(n_tokens: int) -> dict[str, float]:
    """Peak resident memory in GiB and tokens per second of a harvest in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.harvest", "--memory-of", str(n_tokens)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def harvest_alone(n_tokens: int) -> dict[str, float]:
    """Make a set of `n_tokens` and harvest it with a very small model; what `peak_memory` runs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        token_set(folder, n_tokens, 512)
        model = model_of(SMALLEST, 512)
        began = time.perf_counter()
        tokens = TokenSet(folder, "heldout")
        target = Target(Site(0), folder / "ours.npy", folder / "note.json")
        for _ in harvest(model, [target], tokens, "bfloat16"):
            pass
        seconds = time.perf_counter() - began
    return {"tokens_per_s": n_tokens / seconds, "peak_memory_gib": report.peak_memory()}


def main() -> None:
    if "--memory-of" in sys.argv:
        print(json.dumps(harvest_alone(int(sys.argv[sys.argv.index("--memory-of") + 1]))))
        return
    switches = report.parse("Harvesting activations beside TransformerLens and a bare forward pass.")
    keep_freed_memory()  # for all of them
    rows = [compare("demo", DEMO, 2_048, 30_000 if switches.quick else 200_000)]
    if not switches.quick:
        rows.append(compare("SmolLM2-135M", SMOLLM2 | {"num_key_value_heads": 3}, 49_152, 16_000))
    for n_tokens in (10**5, 10**6) if switches.quick else (10**5, 10**6, 10**7):
        rows.append(
            report.Row.of({"job": "memory", "n_tokens": n_tokens}, peak_memory(n_tokens), {}, "tokens_per_s")
        )
    report.write("harvest", rows, switches.json)


if __name__ == "__main__":
    sys.exit(main())
