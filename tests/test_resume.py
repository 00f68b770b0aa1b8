"""A run that was cut off, at any time and by any means, ends with the same ids and equal weights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.conftest import tiny_recipe
from workbench import base, grpo, sft
from workbench import tokenizer as tokenizers
from workbench.corpus import documents_of, read_corpus
from workbench.errors import Failure
from workbench.grow import grow
from workbench.lab import Lab
from workbench.lab_callback import LabCallback, latest_resume, snapshot_steps
from workbench.recipe import write_recipe
from workbench.stage import load_parent


class CutOff(Exception):
    """Stands for the kill."""


class Kill(TrainerCallback):
    """Ends the run after a step, once the work of that step is on disk."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise CutOff


class KillingCallback(LabCallback):
    """A `LabCallback` that saves every step and dies after one of them."""

    def __init__(self, folder: Path, step: int | None) -> None:
        super().__init__(folder, snapshots=(0, 2))
        self._kill = Kill(step)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._kill.on_step_begin(*args, **kwargs)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_step_end(*args, **kwargs)
        self._kill.on_step_end(*args, **kwargs)


def _train(stage: str, lab: Lab, folder: Path, kill: int | None) -> dict[str, torch.Tensor]:
    """Run a stage of the tiny lab from scratch or from what `folder` holds; return its weights."""
    recipe = tiny_recipe()
    corpus = read_corpus(lab.find("corpus", "text"))
    tokenizer = tokenizers.load(lab.find("tokenizer", "bpe").path)
    callback = KillingCallback(folder, kill)
    if stage == "base":
        model = base.new_model(recipe.model, len(tokenizer), seed=0)
        prose, world = (base.training_documents(corpus, tokenizer, domain) for domain in ("prose", "world"))
        config = recipe.base
        data = base.windows(prose, world, config, recipe.model.n_ctx, tokenizer.bos_token_id)
        base.train(folder, model, data, config, callback)
    elif stage == "sft":
        model = load_parent(lab.find("checkpoint", "base"), seed=0)
        chats = sft.tokenised_chats(tokenizer, documents_of(corpus, "train", "chat", "sft").head(200))
        sft.train(folder, model, tokenizer, chats, chats.select(range(20)), recipe.sft, callback)
    else:
        model = load_parent(lab.find("checkpoint", "sft"), seed=0)
        questions = grpo.prompts(documents_of(corpus, "train", "chat", "grpo").head(64))
        grpo.train(folder, model, tokenizer, questions, recipe.grpo, callback)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("stage", "kill"), [("base", 7), ("sft", 5), ("grpo", 2)])
def test_every_stage_resumes_to_equal_weights(stage: str, kill: int, tiny_lab: Lab, tmp_path: Path) -> None:
    whole = _train(stage, tiny_lab, tmp_path / "whole", None)
    with pytest.raises(CutOff):
        _train(stage, tiny_lab, tmp_path / "cut", kill)
    resumed = latest_resume(tmp_path / "cut" / "resume")
    assert resumed is not None
    assert resumed.name == f"checkpoint-{kill}"
    again = _train(stage, tiny_lab, tmp_path / "cut", None)
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


def test_a_resumable_checkpoint_cut_off_while_written_is_not_used(tmp_path: Path) -> None:
    for step, marked in ((10, True), (20, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if marked:
            (folder / "complete").touch()
    found = latest_resume(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-10"
    assert not (tmp_path / "checkpoint-20").exists()


def test_kill_9_of_a_growing_lab_then_grow_ends_the_same(tiny_lab: Lab, tmp_path: Path) -> None:
    """The process is killed as soon as base has taken 16 steps; the lab then grows on."""
    write_recipe(tmp_path / "tiny" / "recipe.toml", tiny_recipe())
    for kind in ("corpus", "tokenizer"):
        shutil.copytree(tiny_lab.path / kind, tmp_path / "tiny" / kind)
    environment = {**os.environ, "MARBLE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "workbench", "grow", "tiny", "--only", "checkpoint/base"]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait(lambda: bool(list(tmp_path.glob("tiny/checkpoint/.partial-base-*/snapshots/step-000016"))))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    lab = Lab.open("tiny", tmp_path)
    assert lab.artefacts("checkpoint") == []
    grow(lab, ["checkpoint/base"], quiet=True)
    ours, theirs = lab.find("checkpoint", "base"), tiny_lab.find("checkpoint", "base")
    assert ours.id == theirs.id
    first, second = (load_file(a.path / "model.safetensors") for a in (ours, theirs))
    assert all(torch.equal(first[name], second[name]) for name in first)
    snapshots = [sorted(p.name for p in (a.path / "snapshots").iterdir()) for a in (ours, theirs)]
    assert snapshots[0] == snapshots[1]


def _wait(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the process did not get that far in time"
        time.sleep(0.02)


def test_a_second_grow_builds_nothing(tiny_lab: Lab) -> None:
    assert grow(tiny_lab, quiet=True) == []


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(tiny_lab: Lab, tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                with torch.no_grad():
                    kwargs["model"].model.norm.weight[0] = float("nan")

    recipe = tiny_recipe()
    tokenizer = tokenizers.load(tiny_lab.find("tokenizer", "bpe").path)
    corpus = read_corpus(tiny_lab.find("corpus", "text"))
    model = load_parent(tiny_lab.find("checkpoint", "base"), seed=0)
    chats = sft.tokenised_chats(tokenizer, documents_of(corpus, "train", "chat", "sft").head(200))

    class Both(LabCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            Poison().on_step_begin(*args, **kwargs)

    callback = Both(tmp_path, snapshots=snapshot_steps(10, 2.0))
    with pytest.raises(Failure, match=r"not finite in batch 4 of 24.*last good snapshot is step-000002"):
        sft.train(tmp_path, model, tokenizer, chats, chats.select(range(4)), recipe.sft, callback)
    kept = load_file(tmp_path / "snapshots" / "step-000002" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_snapshots_are_log_spaced_from_zero() -> None:
    assert snapshot_steps(100, 2.0) == [0, 1, 2, 4, 8, 16, 32, 64, 100]
    assert snapshot_steps(1, 2.0) == [0, 1]
