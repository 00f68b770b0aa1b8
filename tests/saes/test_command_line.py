"""`python -m saes`: one JSON document out, one sentence and exit code 2 for misuse."""

import json
import subprocess
import sys

import numpy as np
import pytest

import saes
from saes import __main__ as command
from tests.saes.planted import planted


@pytest.fixture
def arrays(tmp_path):
    x = planted(3000, 24, 16, n_models=2)[0]
    for m, name in enumerate(("base", "sft")):
        np.save(tmp_path / f"{name}.npy", x[:, m].numpy())
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "wide.npy", np.zeros((9, 20), np.float32))
    np.savez(tmp_path / "other" / "many.npz", x=np.zeros((9, 16), np.float32))
    return tmp_path


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["saes", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        command.main()
    return end.value.code


def test_train_then_evaluate(arrays, monkeypatch, capsys):
    small = ("--width", 32, "--k", 3, "--tokens", 6400, "--batch-size", 256, "--json")
    state = arrays / "state"
    options = ("--out", arrays / "cc", "--state", state, "--state-every", 5)
    assert call(monkeypatch, "train", arrays / "base.npy", arrays / "sft.npy", *options, *small) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["fvu"]) == set(result["pca_fvu"]) == {"base", "sft"}
    assert saes.load(arrays / "cc").names == ("base", "sft")
    assert call(monkeypatch, "evaluate", arrays / "cc", arrays, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["fvu"] == pytest.approx(result["fvu"])
    assert call(monkeypatch, "train", arrays / "base.npy", "--out", arrays / "cc", *small) == 2
    assert "exists already" in capsys.readouterr().err


def test_several_train_together(arrays, monkeypatch, capsys):
    several = ("--arch", "topk", "--width", "24,32", "--k", 3, "--seed", "0,1")
    small = ("--tokens", 2560, "--batch-size", 256, "--json")
    assert call(monkeypatch, "train", arrays / "base.npy", "--out", arrays / "many", *several, *small) == 0
    found = json.loads(capsys.readouterr().out)["dictionaries"]
    assert set(found) == {f"w{w}-k3-seed{s}" for w in (24, 32) for s in (0, 1)}
    for name in found:
        assert saes.load(arrays / "many" / name).activation == "topk"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "nowhere.npy", "--out", "o"], "does not exist"),
        (["train", "base.npy", "--out", "o", "--k", "5000"], "k cannot be the larger"),
        (["train", "base.npy", "--out", "o", "--lr", "nan"], "lr is nan; it has to be a number above 0"),
        (["train", "base.npy", "--out", "o", "--tokens", "1"], "less than one batch"),
        (["train", "base.npy", "--out", "o", "--arch", "topp"], "there is no architecture 'topp'"),
        (["train", "base.npy", "--out", "o", "--width", "20,wide"], "not a list of whole numbers"),
        (["train", "base.npy", "--out", "o", "--heldout", "other/wide.npy"], "have to be of one kind"),
        (["train", "base.npy", "--out", "o", "--batch-size", "0"], "at least 1"),
        (["train", "base.npy", "--out", "o", "--device", "cude"], "there is no device 'cude'"),
        (["train", "base.npy", "--out", "o", "--seed", "99999999999999999999"], "seed is"),
        (["train", "other/many.npz", "--out", "o"], "is an archive of arrays"),
        (["evaluate", "nowhere", "base.npy"], "holds no cfg.json"),
        (["train", "base.npy"], "Missing option"),
    ],
)
def test_misuse(arrays, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(arrays)
    assert call(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_the_library_needs_no_sae_lens_and_no_lab():
    """A process of its own, because other tests import the rival."""
    unwanted = ("sae_lens", "workbench", "streamlit", "scipy")
    code = f"import sys, saes; print([m for m in {unwanted} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_transcoder_without_the_special_rows(arrays, monkeypatch, capsys):
    """Trains in between two arrays of different widths; excluded rows are never read, so they may be broken."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 12)).astype(np.float32)
    y = np.maximum(x @ rng.normal(size=(12, 7)), 0).astype(np.float32)
    special = np.arange(3000) % 10 == 0
    x[special] = np.nan
    for name, array in (("in", x), ("out", y), ("special", special)):
        np.save(arrays / "other" / f"{name}.npy", array)
    read = (arrays / "other" / "in.npy", "--target", arrays / "other" / "out.npy")
    without = ("--exclude", arrays / "other" / "special.npy")
    small = ("--width", 32, "--k", 3, "--tokens", 25600, "--batch-size", 256, "--json", "--kind", "transcoder")
    assert call(monkeypatch, "train", *read, "--out", arrays / "t", *small, *without, "--skip") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n_tokens"] == 2700
    assert result["fvu"]["in"] < 0.6
    assert saes.load(arrays / "t").W_skip.shape == (7, 12)
    assert call(monkeypatch, "evaluate", arrays / "t", *read, *without, "--json") == 0
    assert json.loads(capsys.readouterr().out)["fvu"] == pytest.approx(result["fvu"])
    for arguments, sentence in [
        (("train", *read, "--out", arrays / "u", *small), "not finite in row 0"),
        (("train", read[0], "--out", arrays / "u", *small, *without), "takes one array and a --target"),
        (("evaluate", arrays / "t", read[0], *without), "is a transcoder: give its --target"),
        (("evaluate", arrays / "t", read[0], "--target", read[0], *without), "writes 7 coordinates"),
        (("train", *read, "--out", arrays / "u", "--exclude", read[0]), "expected bool (3000,)"),
    ]:
        assert call(monkeypatch, *arguments) == 2
        assert sentence in capsys.readouterr().err


def test_pca_beside_a_dictionary_from_elsewhere_has_its_l0(arrays, monkeypatch, capsys):
    """A folder of thresholds that does not say its k, as other tools write them."""
    small = ("--width", 32, "--k", 3, "--tokens", 6400, "--batch-size", 256, "--json")
    assert call(monkeypatch, "train", arrays / "base.npy", "--out", arrays / "d", *small) == 0
    ours = json.loads(capsys.readouterr().out)
    config = json.loads((arrays / "d" / "cfg.json").read_text())
    del config["metadata"]["marble"]
    (arrays / "d" / "cfg.json").write_text(json.dumps(config))
    assert saes.load(arrays / "d").k == 1
    assert call(monkeypatch, "evaluate", arrays / "d", arrays / "base.npy", "--json") == 0
    theirs = json.loads(capsys.readouterr().out)
    assert round(theirs["l0"]) == 3
    assert theirs["pca_fvu"]["model"] == pytest.approx(ours["pca_fvu"]["base"])


def test_the_bar_says_fvu_l0_and_dead(arrays, monkeypatch, capsys):
    small = ("--width", 32, "--k", 3, "--tokens", 6400, "--batch-size", 256)
    assert call(monkeypatch, "train", arrays / "base.npy", "--out", arrays / "bar", *small) == 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(f"{figure}=" in last for figure in ("fvu", "l0", "dead"))
    assert 2 < float(last.split("l0=")[1].split(",")[0].strip("]")) < 4
