"""Comparisons on a damaged lab: one sentence, nothing lost, and a rerun ends what was begun."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.command_line import assert_one_sentence, begin, run
from tests.test_unlike import NAME, unlike_lab
from tests.tiny_lab import draft, make_lab, shared_lab, tiny_recipe
from tests.tiny_models import save_tiny
from workbench.comparison_requests import compare, request_comparisons
from workbench.disk import write_json
from workbench.errors import Failure, Misuse
from workbench.external import add
from workbench.grow import grow
from workbench.jobs import jobs, settle
from workbench.lab import Lab
from workbench.lives import Lives
from workbench.plan import Plan
from workbench.recipe import AddedCheckpoint, BranchConfig, read_recipe, write_recipe
from workbench.unlike import Unlike


def bare(home: Path) -> Lab:
    """Corpus, tokenizer and checkpoints alone."""
    return make_lab(home, "tiny", dataclasses.replace(tiny_recipe(), dictionaries=(), comparisons=()))


def copied(lab: Lab, home: Path) -> Lab:
    """A lab of one's own, to be damaged."""
    shutil.copytree(lab.path, home / lab.name)
    return Lab(home / lab.name)


def changed(lab: Lab, **settings: object) -> Lab:
    """The lab with other settings in its recipe, as if edited by hand."""
    path = lab.path / "recipe.toml"
    write_recipe(path, dataclasses.replace(read_recipe(path), **settings))  # type: ignore[arg-type]
    return lab


def unlike_folder(lab: Lab) -> tuple[Path, Path]:
    """Where the comparison of unlike checkpoints is, and where it is built."""
    step = Plan.of(lab).step("evaluation", NAME)
    folder = lab.path / "evaluation"
    return folder / f"{NAME}-{step.id}", folder / f".partial-{NAME}-{step.id}"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], ["two or more", "found none"]),
        (["base"], ["two or more", "found base"]),
        (["base", "base"], ["two or more", "found base, base"]),
        (["base", "sfd"], ["did you mean 'sft'"]),
        (["base", "sft@1"], ["has no snapshots", "ask for 'sft'"]),
    ],
)
def test_names_that_cannot_be_compared(names: list[str], words: list[str], tmp_path: Path) -> None:
    lab = bare(tmp_path)
    before = (lab.path / "recipe.toml").read_text()
    assert_one_sentence(run(tmp_path, "compare", "tiny", *names), 2, *words)
    assert (lab.path / "recipe.toml").read_text() == before


def test_a_parent_that_the_recipe_lacks_is_told_with_its_child(tmp_path: Path) -> None:
    lab = bare(tmp_path)
    for settings, told in (
        (
            {"added": (AddedCheckpoint("kid", "somewhere", "sft", "gone"),)},
            "'kid' the parent 'gone', but there is no",
        ),
        ({"added": (AddedCheckpoint("kid", "somewhere", "sft", "kid"),)}, "which is itself"),
        (
            {
                "added": tuple(
                    AddedCheckpoint(n, "somewhere", "sft", p) for n, p in (("kid", "mum"), ("mum", None))
                )
            },
            "'mum', which comes later",
        ),
        (
            {"added": (), "branches": (BranchConfig("again", "sibling", "grpo", "gone"),)},
            "'again' the parent 'gone'",
        ),
    ):
        changed(lab, **settings)
        with pytest.raises(Misuse, match=told):
            Plan.of(lab)
        assert_one_sentence(run(tmp_path, "compare", "tiny", "base", "sft"), 2, told)
        assert_one_sentence(run(tmp_path, "status", "tiny"), 2, told)


def test_a_comparison_of_a_checkpoint_that_was_taken_out_says_which(tmp_path: Path) -> None:
    lab = copied(unlike_lab(), tmp_path)
    changed(lab, added=tuple(a for a in read_recipe(lab.path / "recipe.toml").added if a.name != "wide"))
    with pytest.raises(Misuse, match=rf"comparison '{NAME}' of recipe.toml names 'wide'"):
        Plan.of(lab)


def test_a_checkpoint_that_was_deleted_is_imported_again_or_asked_for(tmp_path: Path) -> None:
    lab = bare(tmp_path)
    source = save_tiny(tmp_path / "mine")
    add(lab, "mine", str(source), "base")
    grow(lab, ["checkpoint/mine"], quiet=True)
    mine = lab.checkpoint("mine").path
    shutil.rmtree(mine)
    source.rename(tmp_path / "elsewhere")
    done = run(tmp_path, "compare", "tiny", "base", "mine")
    assert_one_sentence(done, 1, "not on the disk, and so grown first: checkpoint mine", "has to be imported")
    (tmp_path / "elsewhere").rename(source)
    done = run(tmp_path, "compare", "tiny", "base", "mine")
    assert done.returncode == 0, done.stderr
    assert mine.is_dir()


def test_snapshots_that_were_deleted_leave_lives_that_say_so() -> None:
    """The tiny lab's stages were never trained: there are no snapshots in them at all."""
    (told,) = Lives.of(shared_lab(), "base-sft-grpo").sentences()
    assert told == (
        "no snapshots of base, sft, grpo (imported, or snapshots gone): births and deaths cannot be dated"
    )


def test_a_layer_that_one_of_them_lacks_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    lab = bare(tmp_path)
    model = dataclasses.replace(
        tiny_recipe().dictionaries[-1], name="deep", checkpoints=("base", "sft"), layer=9
    )
    changed(lab, dictionaries=(model,))
    before = (lab.path / "recipe.toml").read_text()
    with pytest.raises(
        Misuse, match=r"'deep' of the recipe reads layer 9, but base has layers 0 to 3, sft has"
    ):
        compare(lab, ["base", "sft"])
    assert (lab.path / "recipe.toml").read_text() == before
    assert compare(lab, ["base", "grpo"]) == "base-grpo"  # whose own crosscoder falls back on the middle
    assert read_recipe(lab.path / "recipe.toml").dictionary("crosscoder-base-grpo").layer is None


def test_a_point_that_no_layer_has_is_told(tmp_path: Path) -> None:
    lab = bare(tmp_path)
    model = dataclasses.replace(tiny_recipe().dictionaries[-1], name="odd", checkpoints=("base", "sft"))
    changed(lab, dictionaries=(dataclasses.replace(model, point="mlp_outt"),))
    with pytest.raises(Misuse, match=r"dictionary 'odd' of the recipe\) 'mlp_outt': did you mean 'mlp_out'"):
        compare(lab, ["base", "sft"])


def test_names_too_long_for_a_folder_are_cut(tmp_path: Path) -> None:
    """A name that no folder can have would shut the lab: every command reads it."""
    lab = bare(tmp_path)
    for letter in "ab":
        add(lab, letter * 60, str(save_tiny(tmp_path / letter, seed=ord(letter))), "base")
    changed(
        lab,
        added=tuple(dataclasses.replace(a, parent="base") for a in read_recipe(lab.path / "recipe.toml").added),
    )
    name = compare(lab, ["a" * 60, "b" * 60])
    assert all(len(step.name) <= 80 for step in Plan.of(lab).steps.values() if name in step.name)


def test_a_cut_checkpoint_and_a_changed_one_are_told(tmp_path: Path) -> None:
    lab = copied(unlike_lab(), tmp_path)
    done, _ = unlike_folder(lab)
    shutil.rmtree(done)
    weights = lab.checkpoint("foreign").path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert_one_sentence(run(tmp_path, "compare", "tiny", "sft", "foreign", "wide"), 1, "is damaged", "foreign")
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert_one_sentence(
        run(tmp_path, "compare", "tiny", "sft", "foreign", "wide"), 1, "is not the file", "foreign"
    )
    weights.write_bytes(whole)
    assert run(tmp_path, "compare", "tiny", "sft", "foreign", "wide").returncode == 0
    assert done.is_dir()


def test_activations_that_were_cut_are_told(tmp_path: Path) -> None:
    lab = copied(shared_lab(), tmp_path)
    array = lab.find("activations", "grpo").path / "dictionary.npy"
    os.truncate(array, array.stat().st_size - 8)
    assert_one_sentence(run(tmp_path, "compare", "tiny", "sft", "grpo"), 1, "dictionary.npy", "is damaged")


def test_weights_that_are_not_finite_are_told(tmp_path: Path) -> None:
    """A training that diverged: its files are as written, its numbers are none."""
    lab = bare(tmp_path)
    add(lab, "mine", str(save_tiny(tmp_path / "mine")), "base")
    grow(lab, ["checkpoint/mine"], quiet=True)
    step = Plan.of(lab).step("checkpoint", "sft")
    model = LlamaForCausalLM.from_pretrained(lab.checkpoint("sft").path)
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = torch.nan
    tokenizer = lab.checkpoint("sft").tokenizer()
    shutil.rmtree(lab.path / "checkpoint" / f"sft-{step.id}")
    folder = draft(lab, "checkpoint", "sft")
    model.save_pretrained(folder.path)
    tokenizer.save_pretrained(folder.path)
    folder.commit({})
    told = ("checkpoint 'sft' cannot be used", "layers.1.mlp.up_proj.weight holds NaN")
    assert_one_sentence(run(tmp_path, "compare", "tiny", "sft", "mine"), 1, *told)
    assert_one_sentence(run(tmp_path, "compare", "tiny", "base", "sft"), 1, *told)


def test_a_full_disk_leaves_nothing_half_written_and_a_rerun_ends_it(tmp_path: Path) -> None:
    """The table is written to /dev/full, which is what a full disk answers."""
    lab = copied(unlike_lab(), tmp_path)
    done, partial = unlike_folder(lab)
    shutil.rmtree(done)
    partial.mkdir()
    (partial / "cka.parquet").symlink_to("/dev/full")
    with pytest.raises(Failure, match="no space left on the disk"):
        grow(lab, [f"evaluation/{NAME}"], quiet=True)
    assert not done.exists()
    assert sorted(p.name for p in (partial / "resume").glob("wide-*"))
    (partial / "cka.parquet").unlink()
    grow(lab, [f"evaluation/{NAME}"], quiet=True)
    assert not (done / "resume").exists()
    one, other = Unlike.of(lab, NAME), Unlike.of(unlike_lab(), NAME)
    assert one.cka.equals(other.cka)
    assert one.bits.equals(other.bits)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_comparison_stopped_by_any_gentle_signal_says_so(tmp_path: Path, number: signal.Signals) -> None:
    lab = copied(unlike_lab(), tmp_path)
    shutil.rmtree(unlike_folder(lab)[0])
    running = subprocess.Popen(
        [sys.executable, "-m", "workbench", "compare", "tiny", "sft", "foreign", "wide"],
        env={**os.environ, "MARBLE_HOME": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # as where the tests run under nohup
    )  # fmt: skip
    assert running.stderr is not None
    read = ""
    while not re.search(r"bits of foreign", read):
        read += running.stderr.read(1)
    running.send_signal(number)
    running.communicate(timeout=120)
    newest = jobs(lab)[0]
    assert running.returncode == 130
    assert (newest.state, newest.status["state"]) == ("stopped", "stopped")
    assert "kept" in newest.status["message"]


def test_a_killed_job_is_written_down_as_lost_when_the_lab_grows_again(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lab = Lab(tmp_path / "tiny")
    gone, done = ({"state": state, "pid": ended.pid, "started": 0.0} for state in ("running", "done"))
    for name, status in (("1-grow", gone), ("2-grow", done)):
        (lab.path / "jobs" / name).mkdir(parents=True)
        write_json(lab.path / "jobs" / name / "status.json", status)
    settle(lab)
    assert [job.status["state"] for job in jobs(lab)] == ["done", "lost"]


def test_a_dictionary_that_is_not_there_is_answered_with_what_can_serve(tmp_path: Path) -> None:
    lab = copied(shared_lab(), tmp_path)
    recipe = read_recipe(lab.path / "recipe.toml")
    names = recipe.comparisons[0].checkpoints
    with pytest.raises(Misuse) as said:
        request_comparisons(lab, names, dictionary="nope")
    for config in recipe.dictionaries:
        told = re.search(rf"(?<![\w-]){re.escape(config.name)}(?![\w-])", str(said.value)) is not None
        assert told == (config.checkpoints == names)
    with pytest.raises(Misuse, match=r"there is none yet.*crosscoder tiny base grpo"):
        request_comparisons(lab, ("base", "grpo"), dictionary="nope")
    assert read_recipe(lab.path / "recipe.toml") == recipe


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    lab = copied(unlike_lab(), tmp_path)
    done, partial = unlike_folder(lab)
    shutil.rmtree(done)
    running = begin(tmp_path, "compare", "tiny", "sft", "foreign", "wide")
    assert running.stderr is not None
    read = ""
    while not re.search(r"bits of foreign", read):
        read += running.stderr.read(1)
    running.send_signal(signal.SIGINT)
    said, told = running.communicate(timeout=300)
    assert running.returncode == 130
    assert said == ""
    assert "marble: stopped; finished steps are kept" in told
    assert not done.exists()
    assert (partial / "resume" / "sft-bits.npy").exists()
    again = run(tmp_path, "compare", "tiny", "sft", "foreign", "wide")
    assert again.returncode == 0, again.stderr
    assert "bits of sft" not in again.stderr
    assert done.is_dir()
    assert Unlike.of(lab, NAME).bits.equals(Unlike.of(unlike_lab(), NAME).bits)
