"""Laws of differences: none is exactly none, and what is planted is recovered, read and closed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.tiny_models import tiny_model, tiny_tokenizer
from workbench.activation_difference import (
    BLOCKS,
    DifferenceSums,
    Facet,
    GroupSums,
    cosine,
    half_differences,
    mean_difference,
)
from workbench.difference_components import shuffled, spectrum, strongest
from workbench.difference_lens import AT_MEAN, PLAIN, READINGS, change, promoted, ranks, watched
from workbench.difference_steering import RANDOM, pushes, steered
from workbench.intervals import document_blocks
from workbench.points import Site
from workbench.token_kinds import DIGITS, MARKERS, PUNCTUATION, WORDS, kind_of
from workbench.tokens import WindowBatch
from workbench.vocabulary import TokenText, Vocabulary

N, D = 4_000, 32
RNG = np.random.default_rng(0)
X = (RNG.standard_normal((N, D)) + 1).astype(np.float32)
U = np.eye(D)[3] * 2.0
POSITION = np.arange(N) % 10 + 1
BLOCK = document_blocks(200, BLOCKS)[np.arange(N) // 20]
FACETS = {
    "all": Facet(("all",), np.zeros(N, np.int64)),
    "position": Facet.by(np.array(["", *map(str, range(1, 11))]), POSITION, ("1", "2")),
}


def sums_of(x: np.ndarray, y: np.ndarray) -> DifferenceSums:
    sums = DifferenceSums(FACETS, BLOCK)
    for at in range(0, N, 700):
        rows = np.arange(at, min(N, at + 700))
        sums.add({"a": x[rows], "b": y[rows]}, rows)
    return sums


def test_a_checkpoint_beside_itself_has_no_difference_and_promotes_nothing() -> None:
    model, part = tiny_model("llama"), sums_of(X, X.copy()).group("all", "all")
    found = mean_difference(part, "a", "b")
    assert not found.delta.any()
    assert (found.size, found.low, found.high, found.null, found.null_high) == (0, 0, 0, 0, 0)
    assert math.isnan(found.coherence)
    for reading in READINGS:
        added = change(model, part.mean("a"), found.delta[None], reading)[0]
        assert [len(each) for each in promoted(added)] == [0, 0, 0, 0]
    assert watched(model, part, "a", "b", [1, 2]) is None
    assert pushes(half_differences(part, "a", "b"), 0.0, found.coherence) == []
    assert np.isnan(spectrum(X - X, np.arange(N) // 20).share).all()


def test_a_direction_planted_at_one_position_is_recovered_there_and_nowhere_else() -> None:
    y = X.astype(np.float64) + np.where(POSITION == 1, 1.0, 0.0)[:, None] * U
    sums = sums_of(X.astype(np.float64), y)
    first = mean_difference(sums.group("position", "1"), "a", "b")
    assert first.delta == pytest.approx(U, abs=1e-12)
    assert cosine(first.delta, U) == pytest.approx(1.0, abs=1e-12)
    assert first.coherence == pytest.approx(1.0, abs=1e-12)
    lengths = np.linalg.norm(X[POSITION == 1].astype(np.float64), axis=1)
    assert first.size == pytest.approx(2.0 / lengths.mean(), rel=1e-9)
    assert first.low <= first.size <= first.high
    assert first.size > first.null_high
    assert mean_difference(sums.group("position", "2"), "a", "b").size == 0
    whole = mean_difference(sums.group("all", "all"), "a", "b")
    assert whole.delta == pytest.approx(U / 10, abs=1e-12)
    assert [name for _, name, _ in sums.groups()][:3] == ["all", "1", "2"]


def test_noise_is_no_longer_than_its_null() -> None:
    y = X + 0.5 * RNG.standard_normal(X.shape).astype(np.float32)
    found = mean_difference(sums_of(X, y).group("all", "all"), "a", "b")
    assert 0.5 * found.null < found.size < 1.3 * found.null_high
    assert abs(found.halves) < 0.6


def test_mean_difference_by_hand() -> None:
    """Two tokens, one a block: x_a of length 5 and 1, differences (3, 0) and (1, 0)."""
    x = {"a": np.array([[3.0, 4.0], [0.0, 1.0]]), "b": np.array([[6.0, 4.0], [1.0, 1.0]])}
    found = mean_difference(GroupSums.of(x, np.array([0, 1]), BLOCKS), "a", "b")
    assert found.delta.tolist() == [2.0, 0.0]
    assert found.size == pytest.approx(4 / 6)
    assert found.coherence == 1.0
    assert found.halves == 1.0
    assert found.null == pytest.approx((2 + 4) / 2 / 6, abs=0.05)  # signs alike: 4, unlike: 2
    assert found.null_high == pytest.approx(4 / 6)


def test_tokens_of_no_group_are_left_out() -> None:
    x = {"a": np.ones((3, 2)), "b": np.zeros((3, 2))}
    sums = GroupSums.of(x, np.array([0, -1, 2]), 4)
    assert sums.n.tolist() == [1, 0, 1, 0]
    assert sums.vectors["a"].sum() == 4
    nothing = GroupSums.of(x, np.array([-1, -1, -1]), 4)
    assert nothing.n.sum() == nothing.lengths["a"].sum() == 0.0
    assert sums.plus(sums).some(slice(2, 3)).lengths["a"].tolist() == [2 * 2**0.5]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_what_is_planted_along_a_token_s_row_has_that_token_on_top(family: str) -> None:
    model, token = tiny_model(family), 77
    row = model.get_output_embeddings().weight[token].detach().numpy().astype(np.float64)
    y = X.astype(np.float64) + row
    part = sums_of(X.astype(np.float64), y).group("all", "all")
    delta = mean_difference(part, "a", "b").delta
    for reading in READINGS:
        added = change(model, part.mean("a"), 50 * delta[None], reading)[0]
        said = promoted(added)
        assert said.up[0] == token
        assert said.up_by[0] == added.max() > 0 > said.down_by[0] == added.min()
    (said, score) = watched(model, part, "a", "b", [token], PLAIN) or pytest.fail("no readout")
    assert said.rank.tolist() == [1]
    assert said.low[0] == said.high[0] == 1
    assert said.p[0] < 0.05
    assert score.score == 1.0
    assert 0.4 < score.null < 0.6  # a random direction ranks a token by chance


def test_at_the_mean_stream_the_lens_is_what_the_head_does() -> None:
    model = tiny_model("llama")
    h, delta = X.mean(0).astype(np.float64), U
    with torch.inference_mode():
        logits = model.lm_head(model.model.norm(torch.tensor(np.stack([h, h + delta]), dtype=torch.float32)))
    wanted = (logits[1] - logits[0]).numpy()
    found = change(model, h, delta[None], AT_MEAN)[0]
    assert found == pytest.approx(wanted - wanted.mean(), abs=1e-5)
    assert ranks(found[None], [int(wanted.argmax()), int(wanted.argmin())]).tolist() == [[1, len(wanted)]]


def test_one_planted_direction_is_all_there_is() -> None:
    document = np.arange(N) // 20
    found = spectrum(np.outer(RNG.gamma(2.0, size=N), U).astype(np.float64), document)
    assert found.share[0] == pytest.approx(1.0, abs=1e-9)
    assert found.low[0] == pytest.approx(1.0, abs=1e-9)
    assert found.basis[0] == pytest.approx(np.eye(D)[3], abs=1e-9)  # the longer tail is above zero
    several = RNG.standard_normal((N, 1)) @ np.ones((1, D)) + 0.1 * RNG.standard_normal((N, D))
    assert spectrum(several, document).share[0] > 0.95
    assert spectrum(shuffled(several), document).share[0] < 2 / D  # what the coordinates had in common is gone


def test_the_strongest_are_one_a_document() -> None:
    scores, document = np.array([5.0, 4.0, 1.0, 3.0]), np.array([0, 0, 1, 2])
    assert strongest(scores, document, 2).tolist() == [0, 3]
    assert strongest(-scores, document, 5).tolist() == [2, 3, 1]


def shifted_pair(u: np.ndarray) -> tuple:
    """A GPT-2, and one whose last layer writes `u` more at every position."""
    before, after = tiny_model("gpt2"), tiny_model("gpt2")
    with torch.no_grad():
        after.transformer.h[-1].mlp.c_proj.bias += torch.tensor(u, dtype=torch.float32)
    return before, after


def batch_of(n_windows: int = 4, n: int = 12) -> WindowBatch:
    ids = np.random.default_rng(1).integers(5, 300, (n_windows, n + 1))
    ids[:, 0] = 1
    return WindowBatch(ids, np.arange(n_windows * n).reshape(n_windows, n))


def test_the_difference_of_a_linear_plant_closes_the_whole_gap() -> None:
    u = np.random.default_rng(2).standard_normal(D) * 2
    models, batch = shifted_pair(u), batch_of()
    document, half = np.repeat(np.arange(4), 12), np.array([0, 1, 0, 1])
    doses = pushes(np.stack([u, u]), float(np.linalg.norm(u)), 1.0)
    found = steered(models, Site(2), doses, [batch], document, half)
    assert found.n.tolist() == [11] * 4  # nothing is added at BOS
    closed = 1 - found.to_after.sum(1) / found.gap.sum()
    by_dose = {(push.direction, push.alpha): share for push, share in zip(doses, closed, strict=True)}
    assert by_dose["difference", 1.0] == pytest.approx(1.0, abs=1e-4)
    assert 0 < by_dose["difference", 0.5] < 1
    assert by_dose[RANDOM, 1.0] < 0.3
    assert found.strayed[[push.alpha for push in doses].index(1.0)].sum() > 0


def test_a_document_is_pushed_by_the_vector_of_the_other_half() -> None:
    u = np.random.default_rng(2).standard_normal(D) * 2
    document, half = np.repeat(np.arange(4), 12), np.array([0, 1, 0, 1])
    doses = pushes(np.stack([u, -u]), float(np.linalg.norm(u)), 1.0, alphas=())
    found = steered(shifted_pair(u), Site(2), doses[:1], [batch_of()], document, half)
    right = found.to_after[0] < 1e-4 * found.gap
    assert right.tolist() == [False, True, False, True]  # those of half 1 are given u, the vector of half 0


@pytest.mark.parametrize(
    ("data", "special", "kind"),
    [
        ("<|end|>", True, MARKERS), (" 7", False, DIGITS), ("12", False, DIGITS), (" the", False, WORDS),
        ("b2", False, WORDS), ("\n", False, PUNCTUATION), (" +", False, PUNCTUATION),
    ],
)  # fmt: skip
def test_kinds_of_tokens(data: str, special: bool, kind: str) -> None:
    assert kind_of(TokenText(0, data.encode(), data, special)) == kind


def test_half_a_character_is_punctuation_and_a_marker_a_marker() -> None:
    vocabulary = Vocabulary(tiny_tokenizer())
    assert kind_of(TokenText(0, b"\xf0\x9f", "⟨F0 9F⟩", False)) == PUNCTUATION
    assert [kind_of(vocabulary[i]) for i in range(5)] == [MARKERS] * 5
