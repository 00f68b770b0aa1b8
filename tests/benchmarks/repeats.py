"""A two-layer model that has learned induction, and pairs that ask for it: what the demo lab's models never learn.

Random tokens come twice, only the second time is learned. Within some hundred steps the loss falls from chance to
near nothing, for which a head looks one token back and another goes where that has been [Olsson 2022].
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.circuits.pairs import Pairs

VOCAB, FIRST, COPY, N_STEPS, BATCH = 64, 3, 16, 800, 64


def trained_on_repeats(seed: int = 0) -> LlamaForCausalLM:
    """About a minute on one core."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    model, draw = LlamaForCausalLM(config), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    for _ in range(N_STEPS):
        length = int(torch.randint(6, COPY + 1, (1,), generator=draw))
        copy = torch.randint(FIRST, VOCAB, (BATCH, length), generator=draw)
        ids = torch.cat([torch.ones(BATCH, 1, dtype=torch.long), copy, copy], dim=1)
        logits = model(ids).logits[:, length:-1]
        loss = functional.cross_entropy(logits.reshape(-1, VOCAB), ids[:, length + 1 :].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def repeated_pairs(n: int, seed: int) -> Pairs:
    """BOS, different tokens, the first of them again; the corrupt prompt had two exchanged the first time, so that
    where to look and what stands there both differ."""
    draw = torch.Generator().manual_seed(seed)
    clean, corrupt, target, foil = [], [], [], []
    for _ in range(n):
        copy = FIRST + torch.randperm(VOCAB - FIRST, generator=draw)[:COPY]
        k = int(torch.randint(4, COPY - 2, (1,), generator=draw))
        other = int(torch.randint(1, k - 2, (1,), generator=draw))
        swapped = copy.clone()
        swapped[[k - 1, other]] = copy[[other, k - 1]]
        pad = torch.zeros(COPY - k, dtype=torch.long)
        clean.append(torch.cat([torch.ones(1, dtype=torch.long), copy, copy[:k], pad]))
        corrupt.append(torch.cat([torch.ones(1, dtype=torch.long), swapped, copy[:k], pad]))
        target.append(int(copy[k]))
        foil.append(int(copy[other + 1]))
    last = torch.tensor([int((row != 0).sum()) - 1 for row in clean])
    return Pairs(
        "induction", torch.stack(clean), torch.stack(corrupt), torch.tensor(target), torch.tensor(foil), last
    )
