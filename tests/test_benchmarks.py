"""The benchmarks' shared output, and that the training benchmark's bare loop trains as the lab's stage does."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch

import saes
from tests.benchmarks import feature_index, report, training
from tests.benchmarks.sae_training import superposed
from workbench import base
from workbench.lab_callback import LabCallback
from workbench.stage_config import BaseConfig, ModelConfig

TINY = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=48, n_ctx=16)


def test_contenders_run_in_turn_and_the_median_counts():
    order: list[str] = []
    speeds = {"ours": iter([3.0, 9.0, 4.0]), "peer": iter([2.0, 2.0, 8.0])}

    def contender(name: str):
        def run() -> dict[str, float]:
            order.append(name)
            return {"tokens_per_s": next(speeds[name])}

        return run

    found = report.in_turn({name: contender(name) for name in speeds}, 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert found == {"ours": {"tokens_per_s": 4.0}, "peer": {"tokens_per_s": 2.0}}
    row = report.Row.of({"k": 1}, found["ours"], {"peer": found["peer"]}, "tokens_per_s")
    assert row.ratio == {"peer": 2.0}
    with pytest.raises(ValueError, match="at least 3"):
        report.in_turn({}, 2)


def test_json_is_one_document_in_the_agreed_form(capsys):
    row = report.Row.of({"k": 1}, {"a": 1.0}, {"peer": {"a": 4.0, "b": 2_000.0}}, "a")
    report.write("name", [row], True, report.missing("json", "no_such_peer"))
    document = json.loads(capsys.readouterr().out)
    assert document["rows"] == [
        {
            "config": {"k": 1},
            "ours": {"a": 1.0},
            "peers": {"peer": {"a": 4.0, "b": 2000.0}},
            "ratio": {"peer": 0.25},
        }
    ]
    assert set(document) == {"name", "machine", "rows", "missing"}
    assert list(document["missing"]) == ["no_such_peer"]
    report.write("name", [row], False, {"no_such_peer": "why"})
    table = capsys.readouterr().out
    assert "2,000" in table
    assert "missing: no_such_peer (why)" in table


def test_the_bare_loop_learns_what_the_stage_learns(tmp_path):
    """Same start, same batches, same optimizer: after four steps the weights agree."""
    config = BaseConfig(steps=4, batch_size=4, lr=3e-3, bf16=False, gradient_accumulation=2)
    task = training.Task.of(TINY, config, vocab_size=64)
    stage, bare = copy.deepcopy(task.model), copy.deepcopy(task.model)
    assert len(training.train_bare(bare, task)) == 4
    base.train(tmp_path, stage, task.data, config, LabCallback(tmp_path))
    moved = 0.0
    for start, ours, theirs in zip(
        task.model.parameters(), stage.cpu().parameters(), bare.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        moved = max(moved, float((ours - start).detach().abs().max()))
    assert moved > 1e-3


def test_flops_by_hand():
    config = BaseConfig(steps=2, batch_size=2, lr=1e-3)
    task = training.Task.of(TINY, config, vocab_size=64)
    block = 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32
    assert training.flops_per_token(task) == 6 * (64 * 32 + 2 * block + 32) + 12 * 2 * 32 * 16
    assert dataclasses.replace(task, config=config).tokens_per_step == 32


@pytest.mark.filterwarnings("ignore")
def test_the_index_and_a_dense_pass_make_the_same_dashboards(tmp_path: Path) -> None:
    """What the benchmark of the feature index compares is the same thing made twice."""
    import sae_lens

    x = superposed(6_000, feature_index.D, 2 * feature_index.N_LATENTS)
    config = saes.TrainConfig(n_latents=feature_index.N_LATENTS, k=feature_index.K, n_steps=4, batch_size=1_024)
    dictionary = saes.fit(saes.TensorActivations(x[:, None]), config)
    saes.save(dictionary, tmp_path)
    sae = sae_lens.SAE.load_from_disk(tmp_path)
    feature_index.agree(feature_index.from_index(dictionary, x), feature_index.from_dense(sae, x))
