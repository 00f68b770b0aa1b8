"""Laws of the training stages' set-up: what a step sees, and in what order."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.recipe import load_preset, write_recipe
from workbench.sft import in_steps, plateau
from workbench.stage import stage_config
from workbench.stage_config import SftConfig


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    write_recipe(tmp_path / "here" / "recipe.toml", load_preset("quick"))
    return Lab(tmp_path / "here")


def chats(n: int) -> Dataset:
    rows = [{"input_ids": [i] * (1 + (7 * i) % 11), "labels": [i] * (1 + (7 * i) % 11)} for i in range(n)]
    return Dataset.from_list(rows)


def test_each_epoch_of_sft_shows_every_chat_once() -> None:
    ordered = in_steps(chats(24), SftConfig(steps=9, batch_size=8, lr=1e-3))
    shown = [ids[0] for ids in ordered["input_ids"]]
    assert len(shown) == 72
    for epoch in range(3):
        assert sorted(shown[24 * epoch : 24 * (epoch + 1)]) == list(range(24))
    assert shown[:24] != shown[24:48]


def test_a_step_of_sft_is_sorted_by_length_and_nothing_else() -> None:
    plain = SftConfig(steps=3, batch_size=8, lr=1e-3)
    lengths = [len(ids) for ids in in_steps(chats(24), plain)["input_ids"]]
    steps = [lengths[at : at + 8] for at in range(0, 24, 8)]
    assert all(step == sorted(step) for step in steps)
    assert lengths != sorted(lengths)


def test_micro_batches_that_do_not_divide_a_step_are_refused() -> None:
    with pytest.raises(Misuse, match="30 examples cannot be cut into 4 equal micro-batches"):
        stage_config(SftConfig, {"steps": 1, "batch_size": 30, "lr": 1e-3, "gradient_accumulation": 4})


def test_plateau_is_the_gain_over_the_last_quarter() -> None:
    falling = plateau([(25, 2.0), (50, 1.5), (75, 1.0), (100, 0.9)])
    assert falling["gain_over_last_quarter"] == pytest.approx(0.1)
    assert not falling["reached"]
    assert plateau([(25, 2.0), (50, 1.5), (75, 1.0), (100, 0.995)])["reached"]


def test_a_bare_name_is_the_checkpoint_and_not_its_activations(lab: Lab) -> None:
    assert [step.key for step in Plan.of(lab).needed_for("base")] == [
        "corpus/text",
        "tokenizer/bpe",
        "checkpoint/base",
    ]


def test_a_kind_means_all_its_steps(lab: Lab) -> None:
    plan = Plan.of(lab)
    assert [step.key for step in plan.needed_for("tokenizer")] == ["corpus/text", "tokenizer/bpe"]
    checkpoints = {step.key for step in plan.needed_for("checkpoint") if step.kind == "checkpoint"}
    assert checkpoints == {"checkpoint/base", "checkpoint/sft", "checkpoint/grpo"}
