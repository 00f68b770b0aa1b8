"""Patching in circuits: TransformerLens as oracle, laws, one case by hand, and refusals."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from tests.tiny_models import save_tiny, tiny_model
from workbench.circuits.activation_patching import (
    CONVENTIONS,
    DENOISE,
    MEAN,
    NOISE,
    RESAMPLE,
    ZERO,
    Patching,
    other_prompts,
)
from workbench.circuits.cross_patching import cross_grids, cross_joint
from workbench.circuits.direct_patching import direct_grid
from workbench.circuits.grids import HEAD, LAYER, POSITION, Grid
from workbench.circuits.pairs import Pairs, logit_difference
from workbench.circuits.pattern_patching import PATTERN, pattern_grid
from workbench.circuits.places import ATTN_OUT, MLP_OUT, POINTS, RESID_MID, RESID_POST, RESID_PRE, Cell, Z
from workbench.errors import Misuse
from workbench.site import with_fast_attention

FAMILIES = (
    "llama",
    "gpt2",
    "gpt_neox",
)  # grouped queries; one projection for q, k, v; attention beside the MLP
N_PAIRS, WIDTH = 3, 6


def pairs_of(last: tuple[int, ...] = (WIDTH - 1,) * N_PAIRS, seed: int = 0) -> Pairs:
    """Random prompts that differ everywhere, padded on the right where `last` says so."""
    rng = torch.Generator().manual_seed(seed)
    clean, corrupt = torch.randint(5, 300, (2, len(last), WIDTH), generator=rng)
    for row, end in enumerate(last):
        clean[row, end + 1 :] = corrupt[row, end + 1 :] = 0
    ids = torch.full((len(last),), 7)
    return Pairs("random", clean, corrupt, ids, ids + 2, torch.tensor(last))


@pytest.fixture(scope="module", params=FAMILIES)
def patching(request) -> Patching:
    return Patching(tiny_model(request.param), pairs_of())


def own_m(model, pairs: Pairs, ids: torch.Tensor) -> np.ndarray:
    """The model's own logit difference, by an ordinary call."""
    with torch.inference_mode():
        logits = model(ids).logits[torch.arange(len(pairs)), pairs.last]
    return logit_difference(logits, pairs.target, pairs.foil).numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [*FAMILIES, "qwen3"])
def test_grids_are_those_of_transformer_lens(family: str, tmp_path: Path) -> None:
    from transformer_lens import patching as oracle
    from transformer_lens.model_bridge import TransformerBridge

    save_tiny(tmp_path, family)
    tokenizer = hf.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    bridge = TransformerBridge.boot_transformers(str(tmp_path), hf_model=model, tokenizer=tokenizer)
    pairs = pairs_of((3,) * N_PAIRS)[:]  # four positions: the oracle runs once for each cell
    own = Patching(tiny_model(family), pairs)
    by_place, by_head, by_both = (LAYER, POSITION), (LAYER, HEAD), (LAYER, HEAD, POSITION)
    theirs = [
        (RESID_PRE, by_place, oracle.get_act_patch_resid_pre),
        (ATTN_OUT, by_place, oracle.get_act_patch_attn_out),
        (MLP_OUT, by_place, oracle.get_act_patch_mlp_out),
        (Z, by_head, oracle.get_act_patch_attn_head_out_all_pos),
        (Z, by_both, oracle.get_act_patch_attn_head_out_by_pos),
        ("q", by_head, oracle.get_act_patch_attn_head_q_all_pos),
        ("k", by_head, oracle.get_act_patch_attn_head_k_all_pos),
        ("v", by_head, oracle.get_act_patch_attn_head_v_all_pos),
        (PATTERN, by_head, oracle.get_act_patch_attn_head_pattern_all_pos),
        (PATTERN, by_both, oracle.get_act_patch_attn_head_pattern_by_pos),
    ]
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        _, cache = bridge.run_with_cache(pairs.clean)
        for point, axes, patch in theirs:
            wanted = patch(
                bridge,
                pairs.corrupt,
                cache,
                lambda logits: logit_difference(logits[:, -1], pairs.target, pairs.foil).mean(),
            )
            grid = pattern_grid(own, DENOISE, axes) if point == PATTERN else own.grid(point, DENOISE, axes)
            wanted = (wanted.transpose(1, 2) if point == Z and axes == by_both else wanted).numpy()
            np.testing.assert_allclose(grid.m.mean(axis=0), wanted, atol=1e-5, err_msg=point)
            assert np.abs(wanted - grid.m_from.mean()).max() > 0.05  # something was patched


def test_everything_put_in_place_is_the_other_run(patching: Patching) -> None:
    model, pairs = patching.model, patching.pairs
    clean, corrupt = (own_m(model, pairs, ids) for ids in (pairs.clean, pairs.corrupt))
    n_layers = model.config.get_text_config().num_hidden_layers
    parts = [Cell(point, layer) for layer in range(n_layers) for point in (Z, MLP_OUT)]
    for direction, start, end in ((DENOISE, corrupt, clean), (NOISE, clean, corrupt)):
        for point in (RESID_PRE, RESID_POST):
            grid = patching.grid(point, direction, (LAYER,))
            np.testing.assert_allclose(grid.m, np.repeat(end[:, None], n_layers, 1), atol=1e-5)
            np.testing.assert_allclose(grid.m_from, start, atol=1e-5)
            np.testing.assert_allclose(grid.m_to, end, atol=1e-5)
        joint = patching.joint([[], [Cell(RESID_PRE, 0), *parts], parts], direction)
        np.testing.assert_allclose(joint.m[:, 0], start, atol=1e-5)  # nothing put in place
        np.testing.assert_allclose(joint.m[:, 1], end, atol=1e-5)
        assert np.abs(joint.m[:, 2] - end).max() > 1e-3  # the embedding is not in place


def test_the_same_prompt_patched_into_itself_changes_nothing(patching: Patching) -> None:
    pairs = patching.pairs
    same = Pairs("same", pairs.clean, pairs.clean.clone(), pairs.target, pairs.foil, pairs.last)
    itself = Patching(patching.model, same)
    for point in (RESID_PRE, Z, "k", MLP_OUT):
        grid = itself.grid(point)
        assert np.abs(grid.change().value).max() < 1e-5
        assert not grid.apart
        assert np.isnan(grid.effect().value).all()


def test_cells_where_the_prompts_do_not_part_yet_are_left_out(patching: Patching, monkeypatch) -> None:
    """Up to the first position at which any pair differs nothing is run, and the rest is as it was."""
    pairs = patching.pairs
    corrupt = pairs.clean.clone()
    corrupt[0, 3], corrupt[1, 4] = 9, 9
    late = Pairs("late", pairs.clean, corrupt, pairs.target, pairs.foil, pairs.last)
    sizes: list[int] = []
    few = Patching(patching.model, late)
    run = few.replay._patched
    monkeypatch.setattr(few.replay, "_patched", lambda *args: sizes.append(len(args[2])) or run(*args))
    grid = few.grid(RESID_PRE)
    assert sizes[-1] == 2 + 3 + 3  # of 18: before block 0 even position 5 is the same
    clean = few.run(True)
    cells = [[Cell(RESID_PRE, layer, None, p)] for layer in range(3) for p in range(WIDTH)]
    every = run(few.run(False), clean.value, cells, N_PAIRS)
    np.testing.assert_allclose(grid.m, every.T.reshape(N_PAIRS, 3, WIDTH), atol=1e-5)


def test_patches_do_not_depend_on_how_they_are_batched(patching: Patching) -> None:
    small = Patching(patching.model, patching.pairs)
    small.replay.max_tokens = 2 * WIDTH  # two pairs of one cell at a time
    for point, axes in ((RESID_PRE, (LAYER, POSITION)), (Z, (LAYER, HEAD)), (ATTN_OUT, (LAYER,))):
        whole, cut = (each.grid(point, NOISE, axes).m for each in (patching, small))
        np.testing.assert_allclose(whole, cut, atol=1e-5)
        assert np.ptp(whole, axis=1).max() > 0.05


def test_heads_and_positions_are_parts_of_what_the_attention_writes(patching: Patching) -> None:
    """All heads at a position are attn_out there; fused attention gives the same numbers."""
    cells = [[Cell(Z, 1, head, WIDTH - 1) for head in range(4)], [Cell(ATTN_OUT, 1, None, WIDTH - 1)]]
    joint = patching.joint(cells)
    np.testing.assert_allclose(joint.m[:, 0], joint.m[:, 1], atol=1e-5)
    family = patching.model.config.model_type
    fused = Patching(with_fast_attention(tiny_model(family)), patching.pairs)
    for point in (RESID_PRE, "v"):
        np.testing.assert_allclose(fused.grid(point).m, patching.grid(point).m, atol=1e-5)
    np.testing.assert_allclose(pattern_grid(fused, NOISE).m, pattern_grid(patching, NOISE).m, atol=1e-5)
    assert fused.model.config._attn_implementation == "sdpa"


def test_ablations_put_in_what_they_say(patching: Patching) -> None:
    """By hand with plain hooks: W_O's input of layer 1 is zero, the mean, another prompt's."""
    model, pairs = patching.model, patching.pairs
    z = patching.run(True, [Z]).value(Z, 1).flatten(2)
    partners = other_prompts(pairs.last, patching.seed)
    assert sorted(partners.tolist()) == list(range(N_PAIRS))
    assert not (partners == torch.arange(N_PAIRS)).any()
    values = {ZERO: 0 * z, MEAN: z.mean(dim=0).expand_as(z), RESAMPLE: z[partners]}
    out = patching.replay.model.get_submodule(
        {"llama": "model.layers.1.self_attn.o_proj", "gpt2": "transformer.h.1.attn.c_proj"}.get(
            model.config.model_type, "gpt_neox.layers.1.attention.dense"
        )
    )
    for how, value in values.items():
        with torch.inference_mode():
            hook = out.register_forward_pre_hook(lambda _m, _args, value=value: (value.contiguous(),))
            wanted = own_m(model, pairs, pairs.clean)
            hook.remove()
        grid = patching.grid(Z, how, (LAYER,))
        np.testing.assert_allclose(grid.m[:, 1], wanted, atol=1e-5)
        assert np.abs(grid.m[:, 1] - grid.m_from).max() > 0.05


def test_resid_mid_is_what_the_mlp_reads() -> None:
    llama, neox = (Patching(tiny_model(family), pairs_of()) for family in ("llama", "gpt_neox"))
    grid = llama.grid(RESID_MID, DENOISE, (LAYER,))
    np.testing.assert_allclose(grid.m, np.repeat(grid.m_to[:, None], 3, axis=1), atol=1e-5)
    with pytest.raises(Misuse, match=r"no resid_mid.*attn_out or mlp_out"):
        neox.grid(RESID_MID)


def test_prompts_of_unequal_length_are_read_where_each_ends() -> None:
    model = tiny_model("llama")
    mixed, alone = pairs_of((5, 3, 5)), pairs_of((5, 3, 5))[1:2]
    grid = Patching(model, mixed).grid(RESID_PRE)
    assert alone.clean.shape[1] == 4
    np.testing.assert_allclose(grid.m[1, :, :4], Patching(model, alone).grid(RESID_PRE).m[0], atol=1e-5)
    assert np.isnan(grid.m[1, :, 4:]).all()
    assert np.isfinite(grid.m[[0, 2]]).all()
    assert np.isfinite(grid.change().value).all()
    with pytest.raises(Misuse, match="only one prompt has 4 tokens"):
        Patching(model, mixed).grid(Z, RESAMPLE)


def test_an_effect_is_a_ratio_of_sums_with_an_interval() -> None:
    """By hand: two pairs whose gaps are 4 and 1, of which a part moves 3 and 0."""
    m_from, m_to = np.array([0.0, 1.0]), np.array([4.0, 2.0])
    m = np.array([[3.0, 4.0], [1.0, np.nan]])
    grid = Grid("z", (HEAD,), "", m, m_from, m_to)
    effect = grid.effect()
    np.testing.assert_allclose(effect.value, [3 / 5, 4 / 4])
    np.testing.assert_allclose([effect.low[0], effect.high[0]], [0, 3 / 4])
    np.testing.assert_allclose(grid.change().value, [1.5, 4])
    assert grid.gap.value == 2.5
    assert grid.vague  # its interval, 1 to 4, is wider
    assert not Grid("z", (HEAD,), "", m, m_from, np.array([4.0, 4.0])).vague  # 3.5 in 3 to 4
    undone = Grid("z", (HEAD,), "", m, m_from, np.array([4.0, -2.0]))
    assert not undone.apart  # the gap's interval, -3 to 4, holds 0
    assert np.isnan(undone.effect().value).all()


def test_a_checkpoint_patched_into_another_makes_it_that_one(patching: Patching) -> None:
    family = patching.model.config.model_type
    other = Patching(tiny_model(family, seed=1), patching.pairs)
    into, back = cross_grids(patching, other, RESID_POST, (LAYER,), ("sft", "base"))
    assert into.convention.startswith("sft into base")
    np.testing.assert_allclose(into.m_from, own_m(other.model, other.pairs, other.pairs.clean), atol=1e-5)
    np.testing.assert_allclose(into.m_to, back.m_from, atol=1e-5)
    assert np.abs(into.m[:, 0] - into.m_to).max() > 0.01  # the layers above are still the other's
    every = cross_joint(patching, other, [[], [Cell(RESID_POST, 2)]], ("sft", "base"))
    np.testing.assert_allclose(every.m[:, 0], every.m_from, atol=1e-5)
    np.testing.assert_allclose(every.m[:, 1], into.m[:, 2], atol=1e-5)
    for point in (RESID_PRE, Z, MLP_OUT):
        same, _ = cross_grids(patching, Patching(patching.model, patching.pairs), point)
        assert np.abs(same.change().value).max() < 1e-5
        assert np.isnan(same.effect().value).all()


def test_the_direct_path_is_the_whole_one_where_nothing_lies_above(patching: Patching) -> None:
    """In the top layer the MLP writes straight to the logits, so does attention where they stand side by side."""
    for direction in (DENOISE, ZERO):
        mlps = direct_grid(patching, MLP_OUT, direction).m
        whole = patching.grid(MLP_OUT, direction, (LAYER,)).m
        np.testing.assert_allclose(mlps[:, -1], whole[:, -1], atol=1e-5)
        assert np.abs(mlps[:, 0] - whole[:, 0]).max() > 0.01  # layers above answer
    heads, attention = (direct_grid(patching, point) for point in (Z, ATTN_OUT))
    assert heads.m.shape == (N_PAIRS, 3, 4)
    if patching.model.config.model_type == "gpt_neox":
        for direct, axes in ((heads, (LAYER, HEAD)), (attention, (LAYER,))):
            whole = patching.grid(direct.point, DENOISE, axes).m
            np.testing.assert_allclose(direct.m[:, -1], whole[:, -1], atol=1e-5)
    with pytest.raises(Misuse, match="did you mean 'mlp_out'"):
        direct_grid(patching, "mlp_ou")


def test_what_cannot_be_patched_is_refused_in_a_sentence() -> None:
    patching = Patching(tiny_model("llama"), pairs_of())
    refused = {
        "did you mean 'resid_pre'": lambda: patching.grid("resid_per"),
        "did you mean 'attn_out'": lambda: patching.joint([[Cell("atn_out", 0)]]),
        "did you mean 'noise'": lambda: patching.grid(Z, "nois"),
        "did you mean 'position'": lambda: patching.grid(Z, NOISE, (LAYER, "positon")),
        "in this order": lambda: patching.grid(Z, NOISE, (POSITION, LAYER)),
        "mlp_out has no heads": lambda: patching.grid(MLP_OUT, NOISE, (LAYER, HEAD)),
        "its heads are 0 to 1": lambda: patching.joint([[Cell("k", 0, 2)]]),  # four heads share two keys
        "layers are 0 to 2": lambda: patching.joint([[Cell(Z, 3)]]),
        "positions are 0 to 5": lambda: patching.joint([[Cell(RESID_PRE, 0, None, 6)]]),
        "different prompts": lambda: cross_grids(patching, Patching(patching.model, pairs_of(seed=1)), Z),
        "only where these agree": lambda: cross_grids(
            patching, Patching(tiny_model("llama", n_layers=2), pairs_of()), Z
        ),
    }
    for sentence, ask in refused.items():
        with pytest.raises(Misuse, match=sentence):
            ask()
    with pytest.raises(Misuse, match="direction of patching a pattern 'mean'"):
        pattern_grid(patching, MEAN)
    assert set(CONVENTIONS) == {DENOISE, NOISE, ZERO, MEAN, RESAMPLE}
    assert len(POINTS) == 9
