"""A sweep is each of its runs alone; the front is what nobody beats; the command writes table and plot."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import saes
from saes import DictionaryError, TensorActivations, TrainConfig
from saes.sweep import front, grid, measured, sweep
from saes.sweep_plot import pareto_figure, write_html
from tests.saes.planted import planted
from tests.saes.test_command_line import arrays, call  # noqa: F401

SMALL = TrainConfig(n_latents=64, n_steps=40, batch_size=256, k_start=16)


def test_a_sweep_of_two_k_is_each_of_them_alone():
    x = TensorActivations(planted(4000, 48, 16)[0])
    configs = grid(SMALL, ["batchtopk"], [64], [3, 6])
    together = sweep(x, configs)
    for name, k in (("batchtopk-w64-k3", 3), ("batchtopk-w64-k6", 6)):
        alone = saes.fit(x, replace(SMALL, k=k))
        assert torch.equal(together[name].W_dec, alone.W_dec)
        assert torch.equal(together[name].threshold, alone.threshold)
    found = measured(together, configs, x)
    assert [p.k for p in found] == [3, 6]
    assert [p.l0 for p in found] == pytest.approx([3, 6], abs=0.05)
    assert found[0].fvu == pytest.approx(saes.evaluate(together["batchtopk-w64-k3"], x).fvu["model0"], rel=1e-5)


def test_the_grid_is_every_combination_once():
    made = grid(SMALL, ["topk", "batchtopk", "topk"], [32, 64], [2])
    assert list(made) == ["topk-w32-k2", "topk-w64-k2", "batchtopk-w32-k2", "batchtopk-w64-k2"]
    assert made["topk-w64-k2"] == replace(SMALL, arch="topk", n_latents=64, k=2)
    with pytest.raises(DictionaryError, match="at least one"):
        grid(SMALL, [], [32], [2])
    with pytest.raises(DictionaryError, match="k cannot be the larger"):
        grid(SMALL, ["topk"], [32], [33])


def test_the_front_by_hand():
    l0 = np.array([4.0, 4.0, 8.0, 16.0, 32.0])
    fvu = np.array([0.5, 0.6, 0.3, 0.35, 0.1])
    assert front(l0, fvu).tolist() == [True, False, True, False, True]
    assert front(np.array([1.0, 1.0]), np.array([2.0, 2.0])).tolist() == [True, True]  # equals beat nobody


def test_the_plot_fills_what_nobody_beats_and_markup_stays_text(tmp_path):
    rows = [
        {"arch": "<b>topk", "width": 64, "k": k, "l0": k, "fvu": fvu, "dead_share": 0.0}
        for k, fvu in ((4, 0.5), (8, 0.6), (16, 0.2))
    ]
    made = pareto_figure(rows, "fvu", "FVU", baseline=[{"l0": 4, "fvu": 0.7}])
    assert made.data[0].marker.symbol == ("circle", "circle-open", "circle")
    assert made.data[0].name == "&lt;b&gt;topk, width 64"
    assert made.data[1].name == "PCA"
    write_html(tmp_path / "plot.html", [made, made], "<i>L0</i>")
    text = (tmp_path / "plot.html").read_text()
    assert "&lt;i&gt;L0" in text
    assert 'src="https://' not in text


def test_sweep_command(arrays, monkeypatch, capsys):  # noqa: F811
    small = (
        "--tokens",
        2560,
        "--batch-size",
        256,
        "--json",
        "--width",
        24,
        "--k",
        "2,4",
        "--arch",
        "topk,batchtopk",
    )
    out = arrays / "swept"
    assert call(monkeypatch, "sweep", arrays / "base.npy", "--out", out, *small) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["points"]) == 4
    assert json.loads((out / "sweep.json").read_text()) == result["points"]
    assert (out / "pareto.html").stat().st_size > 1e5
    assert saes.load(out / "topk-w24-k4").k == 4
    assert (
        call(monkeypatch, "sweep", arrays / "base.npy", "--out", arrays / "no", *small[:-2], "--arch", "topp")
        == 2
    )
    assert "there is no architecture 'topp'" in capsys.readouterr().err
    assert not (arrays / "no").exists()
