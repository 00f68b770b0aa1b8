"""Several widths, k and seeds of an SAE: one pass, equal to training alone, also after a kill."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from tests.tiny_lab import shared_lab
from workbench import cli, dictionaries, dictionary_requests
from workbench.grow import grow
from workbench.lab import Lab
from workbench.recipe import DictionaryConfig, read_recipe

NAMES = [f"sae-sft-{w}-k{k}{s}" for w in (48, 64) for k in (4, 6) for s in ("", "-s1")]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A copy of the shared lab; what is asked for trains 40 steps, with states every 15."""
    shutil.copytree(shared_lab().path, tmp_path / "tiny")
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))

    def short(*given, **named):
        return DictionaryConfig(*given, **{"steps": 40, "batch_size": 256} | named)

    monkeypatch.setattr(dictionary_requests, "DictionaryConfig", short)
    monkeypatch.setattr(dictionaries, "STATE_EVERY", 15)
    return tmp_path


@pytest.fixture
def passes(monkeypatch):
    """How many dictionaries each pass through the activations trained."""
    counted, real = [], dictionaries.fit_together

    def counting(activations, configs, **options):
        counted.append(len(configs))
        return real(activations, configs, **options)

    monkeypatch.setattr(dictionaries, "fit_together", counting)
    return counted


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["workbench", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


def weights(lab, name):
    return (lab.find("dictionary", name).path / "sae_weights.safetensors").read_bytes()


def test_they_train_in_one_pass_and_end_as_alone(home, passes, monkeypatch, capsys):
    several = ("--width", "48,64", "--k", "4,6", "--seed", "0,1", "--json")
    assert call(monkeypatch, "sae", "tiny", "--checkpoint", "sft", *several) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["dictionaries"]) == NAMES
    assert passes == [8]
    lab = Lab(home / "tiny")
    assert all(lab.find("features", name) for name in NAMES)
    assert len({weights(lab, name) for name in NAMES}) == 8
    assert not (lab.find("dictionary", NAMES[3]).path / "resume").exists()
    for name in (NAMES[0], NAMES[3]):
        together = weights(lab, name)
        shutil.rmtree(lab.find("dictionary", name).path)
        grow(lab, [f"dictionary/{name}"], quiet=True)
        assert weights(lab, name) == together
    assert passes == [8, 1, 1]


@pytest.mark.parametrize("at", ["training", "scoring"])
def test_a_kill_loses_nothing(home, passes, monkeypatch, at):
    class Stopped(BaseException):
        pass

    lab, whole = Lab(home / "tiny"), Lab(home / "whole")
    shutil.copytree(lab.path, whole.path)
    steps = [f"dictionary/{n}" for n in ("sae-sft-48-k4", "sae-sft-64-k4")]
    for each in (lab, whole):
        dictionary_requests.request_saes(each, "sft", [None], [48, 64], [4])
    grow(whole, steps, quiet=True)
    with monkeypatch.context() as patch:
        if at == "training":
            real = dictionaries.fit_together

            def cut(*given, on_step, **options):
                def stop(reports):
                    if reports[0].step >= 25:  # a state of step 15 is on disk
                        raise Stopped

                return real(*given, on_step=stop, **options)

            patch.setattr(dictionaries, "fit_together", cut)
        else:

            def stop(*given, **options):
                raise Stopped

            patch.setattr(dictionaries, "save_and_score", stop)
        with pytest.raises(Stopped):
            grow(lab, steps, quiet=True)
    states = list(lab.path.glob("dictionary/.partial-*/resume/*"))
    assert states
    grow(lab, steps, quiet=True)
    assert passes == [2, 2, 2] if at == "training" else passes == [2, 2]
    for step in steps:
        name = step.split("/")[1]
        assert weights(lab, name) == weights(whole, name)
        assert lab.find("dictionary", name).figures == whole.find("dictionary", name).figures


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sae", "--width", "48,64", "--name", "mine"), "--name names one dictionary and 2 are asked for"),
        (("sae", "--site", "0,1", "--name", "mine"), "--name names one dictionary and 2 are asked for"),
        (("transcoder", "--layer", "0,1", "--name", "mine"), "--name names one dictionary and 2"),
        (("sae", "--width", "64,8", "--k", "16"), "width 8 with k 16 cannot be"),
        (("sae", "--width", "64,wide"), "no list of whole numbers"),
        (("sae", "--seed", "0,99999999999999999999"), "below 2^63"),
    ],
)
def test_nothing_is_written_where_one_cannot_be(home, monkeypatch, capsys, arguments, sentence):
    before = read_recipe(home / "tiny" / "recipe.toml")
    command, *rest = arguments
    assert call(monkeypatch, command, "tiny", "--checkpoint", "sft", *rest) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert read_recipe(home / "tiny" / "recipe.toml") == before
