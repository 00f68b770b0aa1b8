"""What a stage changes: nothing between a stage and itself, and the sign is later − earlier."""

from __future__ import annotations

import numpy as np
import pytest

from saes.heldout import Ratio
from workbench.intervals import newcombe, wilson
from workbench.stage_changes import FIGURES, Stage, changes


def stage(seed: int, several: float = 0.3, crowd: float = 0.3, left: float = 0.2, alive: float = 0.9) -> Stage:
    rng = np.random.default_rng(seed)
    total = rng.uniform(50, 100, 80)
    return Stage(
        neurons=np.where(rng.random(200) < several, 2, 1) * (rng.random(200) < 0.9),
        latents=np.where(rng.random(300) < several, 3, 1) * (rng.random(300) < 0.8),
        nearest=rng.normal(crowd, 0.05, 270),
        alive=np.arange(300) < 300 * alive,
        fvu=Ratio(total * left * rng.uniform(0.8, 1.2, 80), total),
        d_model=32,
    )


def test_a_stage_differs_from_itself_by_nothing():
    own = stage(0)
    table = changes({"a": own, "b": own}, {"a": own, "b": own})
    assert table["figure"].to_list() == list(FIGURES)
    assert table["change"].to_list() == [0.0] * 5
    assert not table["clear"].any()
    for row in table.iter_rows(named=True):
        if row["over"] in ("neurons", "documents"):  # drawn together: no resample can tell the two apart
            assert row["low"] == row["high"] == 0
        else:
            assert row["low"] < 0 < row["high"]
            assert row["low"] == pytest.approx(-row["high"], rel=0.35)


def test_the_sign_is_later_minus_earlier_and_the_floor_decides():
    """Three stages: the second has more of everything, the third is the second again."""
    more = stage(2, 0.7, 0.5, 0.4, 1.0)
    stages = {"base": stage(1), "sft": more, "grpo": more}
    table = changes(stages, {"base": stage(4), "sft": stage(5, 0.7, 0.5, 0.4), "grpo": more})
    first, second = table.filter(later="sft"), table.filter(later="grpo")
    assert first["earlier"].unique().to_list() == ["base"]
    assert (first["low"] > 0).all()
    assert (first["change"].is_between(first["low"], first["high"])).all()
    assert first.filter(figure="fvu")["change"][0] == pytest.approx(0.2, abs=0.02)
    assert first.filter(figure="nearest_cosine")["change"][0] == pytest.approx(0.2, abs=0.02)
    # Another seed of sft has a tenth of its latents silent: alive latents move no further than seeds do.
    alive = first.filter(figure="alive_per_dimension")
    assert alive["change"][0] == pytest.approx(30 / 32) == alive["floor"][0]
    assert dict(zip(first["figure"], first["clear"], strict=True)) == {
        name: name != "alive_per_dimension" for name in FIGURES
    }
    assert not second["clear"].any()
    backwards = changes({"sft": stages["sft"], "base": stages["base"]}, stages)
    assert backwards["change"].to_list() == pytest.approx([-c for c in first["change"]])
    assert (backwards["high"] < 0).all()


def test_the_floor_is_the_larger_of_both_checkpoints_and_of_neurons_there_is_none():
    stages, again = {"a": stage(1), "b": stage(2)}, {"a": stage(3), "b": stage(4)}
    for row in changes(stages, again).iter_rows(named=True):
        if row["figure"] == "polysemantic_neurons":
            assert row["floor"] is None
            continue
        level = FIGURES[row["figure"]].level
        assert row["floor"] == max(abs(level(stages[c]) - level(again[c])) for c in stages)


def test_where_all_latents_fire_the_interval_is_newcombes_and_has_width():
    full = stage(0, alive=1.0)
    row = changes({"a": full, "b": full}, {"a": full, "b": full}).filter(figure="alive_per_dimension")
    # the lower end of one share and the upper end (1) of the other, squared and added
    assert row["high"][0] == pytest.approx((1 - wilson(300, 300).low) * 300 / 32)
    assert row["low"][0] == pytest.approx(-row["high"][0])


def test_a_figure_that_is_not_there_is_null():
    """No unit follows a factor, and no latent fires."""
    none = stage(0)._replace(latents=np.zeros(300, int), nearest=np.zeros(0), alive=np.zeros(300, bool))
    table = changes({"a": stage(1), "b": none}, {"a": stage(1), "b": none})
    lacking = table.filter(table["change"].is_null())
    assert lacking["figure"].to_list() == ["polysemantic_latents", "nearest_cosine"]
    assert lacking["low"].is_null().all()
    assert not lacking["clear"].any()
    assert changes({"a": stage(1)}, {"a": stage(1)}).height == 0


def test_newcombes_interval_by_the_published_example() -> None:
    """56/70 against 48/80: 0.0524 to 0.3339 [Newcombe 1998, table II, case a, method 10]."""
    low, high = newcombe((48, 80), (56, 70))
    assert low == pytest.approx(0.0524, abs=1e-4)
    assert high == pytest.approx(0.3339, abs=1e-4)
