"""The command line as a person meets it: one sentence, the right exit code, one JSON document."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.command_line import assert_one_sentence, run, run_alone
from workbench.errors import Failure
from workbench.lab import Lab, canonical
from workbench.recipe import load_preset, write_recipe
from workbench.serve import free_port


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "nowhere"], ["there is no lab 'nowhere'", "grow nowhere"]),
        (["status", "tiyn"], ["did you mean 'tiny'"]),
        (["status", "../etc"], ["cannot be a lab"]),
        (["grow", "fresh", "--preset", "quik"], ["did you mean 'quick'"]),
        (["grow", "tiny", "--only", "sftt"], ["there is no step 'sftt'"]),
        (["generate", "tiny", "sff", "hello"], ["did you mean 'sft'"]),
        (["generate", "tiny", "sft@9999", "hello"], ["9999"]),
        (["generate", "tiny", "sft", "  "], ["the prompt is empty"]),
        (["generate", "tiny", "sft", "word " * 400], ["tokens too long"]),
        (["sae", "tiny", "--checkpoint", "sft", "--width", "8", "--k", "9"], ["k must be at least 1"]),
        (["sae", "tiny", "--checkpoint", "sft", "--site", "7"], ["blocks.0.hook_resid_post"]),
        (["sae", "tiny", "--checkpoint", "sfft"], ["did you mean 'sft'"]),
        (["compare", "tiny", "base"], ["two"]),
        (["compare", "tiny", "base", "grop"], ["grop"]),
        (["grow", "fresh", "--corpus", "missing/*.txt"], ["missing"]),
        (["add", "tiny", "mine", "no/such/folder/here", "--stage", "base"], ["no/such/folder/here"]),
        (["add", "tiny", "../mine", "folder", "--stage", "base"], ["cannot be a checkpoint"]),
    ],
)
def test_misuse_is_one_sentence_and_exit_2(arguments: list[str], words: list[str], tiny_lab: Lab) -> None:
    assert_one_sentence(run(tiny_lab.path.parent, *arguments), 2, *words)
    assert not (tiny_lab.path.parent / "fresh").exists()


def test_status_is_one_json_document(tiny_lab: Lab) -> None:
    done = run_alone(tiny_lab.path.parent, "status", "tiny", "--json")
    found = json.loads(done.stdout)
    assert set(found["checkpoints"]) == {"base", "sft", "grpo"}
    base, grpo = (found["checkpoints"][name]["metrics"] for name in ("base", "grpo"))
    assert {"bits_per_byte", "unigram_bits_per_byte", "bigram_bits_per_byte", "trigram_bits_per_byte"} <= set(
        base
    )
    assert set(grpo["accuracy"]) == {"capitals", "sums", "letter_counts"}
    assert set(grpo["accuracy"]["sums"]) == {"mean", "low", "high", "n"}
    assert {"well_formed", "kl_from_parent", "prose_loss"} <= set(grpo)
    assert set(found["dictionaries"]) == {"sae-base", "sae-sft", "sae-grpo", "crosscoder"}
    wanted = {"l0", "fvu", "dead_share", "ce_score", "pca_fvu", "pca_ce_score"}
    assert wanted <= set(found["dictionaries"]["sae-sft"]["metrics"])
    assert set(found["dictionaries"]["crosscoder"]["metrics"]["fvu"]) == {"base", "sft", "grpo"}
    assert found["bytes"] > 0


def test_status_for_a_person_fits_a_terminal(tiny_lab: Lab) -> None:
    done = run(tiny_lab.path.parent, "status", "tiny")
    assert done.returncode == 0
    assert "checkpoint grpo from sft" in done.stdout


def test_generate_answers(tiny_lab: Lab) -> None:
    done = run(
        tiny_lab.path.parent, "generate", "tiny", "sft", "What is 12+30?", "--chat", "--tokens", "8", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"lab", "checkpoint", "prompt", "text"}


def test_verify_finds_an_altered_file(tiny_lab: Lab, tmp_path: Path) -> None:
    whole = run(tiny_lab.path.parent, "verify", "tiny")
    assert whole.returncode == 0
    planted = [line for line in whole.stderr.splitlines() if "planted truth" in line]
    assert len(planted) == 3
    assert all(line.startswith("ok") and "16 directions, seed 0" in line for line in planted)
    assert "random directions 0." in planted[2]
    lab = Lab(tmp_path / "copy")
    write_recipe(lab.path / "recipe.toml", load_preset("quick"))
    from workbench.plan import Plan

    step = Plan.of(lab).step("corpus", "text")
    draft = lab.begin("corpus", "text", step.config, step.parents, step.builder.version)
    (draft.path / "data.txt").write_text("hello")
    made = draft.commit({})
    (made.path / "data.txt").write_text("hallo")
    done = run(tmp_path, "verify", "copy")
    assert done.returncode == 1
    assert "altered: data.txt" in done.stderr
    assert "checks failed, the first is corpus/text" in done.stderr, "told as what it is, not as trouble"
    assert "Traceback" not in done.stderr


def test_a_truncated_checkpoint_is_one_sentence(tiny_lab: Lab, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_lab.path, tmp_path / "tiny")
    weights = next((tmp_path / "tiny" / "checkpoint").glob("sft-*/model.safetensors"))
    with weights.open("r+b") as handle:
        handle.truncate(weights.stat().st_size // 2)
    assert_one_sentence(run(tmp_path, "generate", "tiny", "sft", "hello"), 1, "model.safetensors")


def test_a_port_in_use_gives_the_next_and_none_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
        with pytest.raises(Failure, match="all in use"):
            free_port(port, tries=1)


def test_a_configuration_cannot_hold_what_json_cannot() -> None:
    with pytest.raises(TypeError, match="cannot be part of a configuration"):
        canonical({"x": object()})
