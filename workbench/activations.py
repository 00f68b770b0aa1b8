"""Builds the activations of one checkpoint: `resid_post` of one layer for every token of both sets.

`<set>.npy` `[token, d_model]`, rows as in the family's token sets, so that row i is the same token in every
checkpoint. bfloat16 is stored as its bits in uint16 (`saes.arrays` reads it so). The forward pass ends at the
wanted layer. Written window by window into a memory map: memory does not grow with the set, and a build
that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.disk import write_json
from workbench.errors import Failure, Misuse
from workbench.grow import Build
from workbench.site import checked_layer, hook_name, read_resid_post, with_fast_attention
from workbench.tokens import SETS, TokenSet, WindowBatch

TOKENS_PER_BATCH = 2048  # larger ones fall out of the processor's cache
FLUSH_EVERY = 32  # batches between notes of how far a build has come
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def build(build: Build) -> Mapping[str, Any]:
    """Builder of `activations/<checkpoint>` and `activations/<checkpoint>-layer<L>`."""
    keys = list(build.step.parents)
    sets = [TokenSet(build.parents[keys[0]].path, name) for name in SETS]
    checkpoint = Checkpoint.of(build.lab, keys[1].split("/", 1)[1])
    wanted = build.config["layer"]
    layer = checkpoint.default_layer if wanted is None else wanted
    dtype = checked_dtype(build.config["dtype"])
    model = with_fast_attention(checkpoint.model(best_device()))
    checked_layer(model, layer)
    resume = build.draft.path / "resume"
    resume.mkdir(exist_ok=True)
    total = sum(len(s.starts) for s in sets)
    build.progress.start(total, "windows", label=f"activations of {checkpoint.name}")
    for token_set in sets:
        _check_vocabulary(model, token_set, checkpoint.name)
        path = build.draft.path / f"{token_set.name}.npy"
        for n_windows in harvest(model, layer, token_set, path, dtype, resume / f"{token_set.name}.json"):
            build.progress.advance(n_windows)
    return {
        "site": hook_name(layer),
        "layer": layer,
        "dtype": dtype,
        "stored_as": "bfloat16 bits in uint16" if dtype == "bfloat16" else dtype,
        "d_model": checkpoint.d_model,
        "tokens": {s.name: len(s) for s in sets},
    }


def checked_dtype(name: str) -> str:
    """`name` if activations can be stored so."""
    if name not in STORED:
        raise Misuse(f"activations cannot be stored as {name!r}: choose {', '.join(STORED)}")
    return name


def _check_vocabulary(model: PreTrainedModel, token_set: TokenSet, name: str) -> None:
    size, largest = model.get_input_embeddings().get_parameter("weight").shape[0], int(token_set.tokens.max())
    if largest >= size:
        raise Misuse(
            f"checkpoint {name!r} knows {size} tokens but its family's texts use token {largest}: it has "
            "another tokenizer, so add it without that parent"
        )


def harvest(
    model: PreTrainedModel, layer: int, token_set: TokenSet, path: Path, dtype: str, note: Path
) -> Iterator[int]:
    """Write the set's activations to `path`; yield how many windows each batch added.

    `note` keeps how many batches are safely on disk; the order of batches is a function of the set alone. The
    map is opened anew at each note, so that written pages do not stay in memory.
    """
    begun = json.loads(note.read_text()) if note.exists() and path.exists() else {}
    done = begun["batches"] if begun.get("tokens_per_batch") == TOKENS_PER_BATCH else 0
    d_model = model.config.get_text_config().hidden_size
    mode, shape = ("r+", None) if done else ("w+", (len(token_set), d_model))
    out = np.lib.format.open_memmap(path, mode=mode, dtype=STORED[dtype], shape=shape)

    def keep(batches: int) -> None:
        out.flush()
        write_json(note, {"batches": batches, "tokens_per_batch": TOKENS_PER_BATCH})

    number = 0
    for number, batch in enumerate(token_set.batches(TOKENS_PER_BATCH), start=1):
        if number > done:
            residual = read_resid_post(model, layer, torch.from_numpy(batch.ids).to(model.device))
            values = residual[:, 1:].cpu()[torch.from_numpy(batch.real)]
            out[batch.rows[batch.real]] = stored(values, dtype, token_set, batch)
            if number % FLUSH_EVERY == 0:
                keep(number)
                out = np.lib.format.open_memmap(path, mode="r+")
        yield len(batch.ids)
    keep(number)


def stored(values: Float[Tensor, "token d"], dtype: str, token_set: TokenSet, batch: WindowBatch) -> np.ndarray:
    """The values as they are written; refuses what is not finite and says in which document."""
    cast = values.to(getattr(torch, dtype))
    bad = ~torch.isfinite(cast.sum(dim=1, dtype=torch.float32))
    if bad.any():
        row = int(batch.rows[batch.real][int(bad.nonzero()[0])])
        document = token_set.documents.row(int(token_set.document[row]), named=True)["id"]
        way = "" if torch.isfinite(values).all() else " already in float32"
        raise Failure(
            f"activations are not finite{way} at position {int(token_set.position[row])} of document "
            f"{document!r}: its weights are broken, or (if only in float16) store them as bfloat16"
        )
    return cast.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else cast.numpy()
