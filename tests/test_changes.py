"""The ranking of changes: silence, completeness, and a change planted in the head's reach."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import workbench.changes as changes
from tests.benchmarks.planted import rank_of, silently_moved
from tests.tiny_lab import shared_lab
from workbench.changes import descent, divergence, head_of, last_streams, ranked_changes
from workbench.lab import Lab
from workbench.tokens import TokenSet, token_set


@pytest.fixture(scope="module")
def lab() -> Lab:
    return shared_lab()


@pytest.fixture(scope="module")
def tokens(lab: Lab) -> TokenSet:
    return token_set(lab, "base")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(changes.DIFFERENCES, n_latents=64, n_steps=80, batch_size=512)
    monkeypatch.setattr(changes, "DIFFERENCES", config)


def windows(tokens: TokenSet) -> np.ndarray:
    return np.arange(60)


def test_a_checkpoint_beside_itself_is_silent(lab: Lab, tokens: TokenSet) -> None:
    model = lab.checkpoint("sft").model()
    found = ranked_changes(model, model, tokens, windows(tokens))
    assert found.silent
    assert found.kl == 0
    assert found.entries == ()


def test_weights_moved_along_symmetries_are_silent(lab: Lab, tokens: TokenSet) -> None:
    model, moved = lab.checkpoint("sft").model(), silently_moved(lab)
    old, new = (m.model.layers[1].mlp.down_proj.weight for m in (model, moved))
    assert (old - new).norm() > 0.5 * old.norm()
    found = ranked_changes(model, moved, tokens, windows(tokens))
    assert found.silent
    assert found.largest < 1e-5


def test_divergence_and_its_descent_agree_with_the_models(lab: Lab, tokens: TokenSet) -> None:
    """KL from the streams is KL from the logits; the gradient along the path sums to what the streams say."""
    before, after = lab.checkpoint("base").model(), lab.checkpoint("sft").model()
    streams, heads = last_streams(before, after, tokens, windows(tokens)), (head_of(before), head_of(after))
    kl = divergence(*heads, streams)
    batch = next(tokens.batches(100_000, windows(tokens)))
    with torch.no_grad():
        log_a, log_b = (
            m(input_ids=torch.from_numpy(batch.ids)).logits[:, :-1].log_softmax(-1) for m in (before, after)
        )
    plain = (log_b.exp() * (log_b - log_a)).sum(-1)[torch.from_numpy(batch.real)]
    order = np.argsort(streams.rows)
    assert np.allclose(kl[order], plain.numpy()[np.argsort(batch.rows[batch.real])], atol=1e-5)
    by_streams = divergence(heads[1], heads[1], streams).sum()
    along = float((descent(heads[1], streams) * (streams.after - streams.before)).sum())
    assert along == pytest.approx(by_streams, rel=0.05)


def test_a_planted_word_is_found_first(lab: Lab, tokens: TokenSet) -> None:
    """The later model says one token more wherever another stands before: its embedding writes what promotes it."""
    before, after = lab.checkpoint("sft").model(), lab.checkpoint("sft").model()
    common = int(np.bincount(tokens.tokens).argsort()[-4])
    planted = int(np.bincount(tokens.tokens, minlength=400).argsort()[20])
    layer = after.model.layers[-1]
    direction = before.get_output_embeddings().weight[planted].detach()

    def write(module, inputs, output):
        stream = output if isinstance(output, torch.Tensor) else output[0]
        here = write.ids == common
        changed = (
            stream + 8 * stream.norm(dim=2, keepdim=True) * here[:, :, None] * direction / direction.norm()
        )
        return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

    after.model.embed_tokens.register_forward_pre_hook(lambda module, inputs: setattr(write, "ids", inputs[0]))
    layer.register_forward_hook(write)
    found = ranked_changes(before, after, tokens, windows(tokens))
    assert rank_of((e.tokens for e in found.entries), {planted}) == 1
    first = found.entries[0]
    assert first.moved[0].token == planted
    assert first.moved[0].by > 0.01
    assert set(first.active) == {common}


def test_rank_of_nothing_is_none() -> None:
    assert rank_of([{1, 2}, {3}], {3}) == 2
    assert rank_of([{1, 2}, {3}], {4}) is None
