"""Laws of the inference dictionary, for one model and for three."""

import json
from dataclasses import replace

import pytest
import torch

import saes
from saes import DictionaryError
from tests.saes.planted import random_dictionary


@pytest.fixture(params=[1, 3])
def dictionary(request):
    return random_dictionary(n_models=request.param)


@pytest.fixture
def x(dictionary):
    return torch.randn(5000, dictionary.n_models, dictionary.d)


def test_sparse_code_is_the_dense_code(dictionary, x):
    code = dictionary.encode_sparse(x)
    torch.testing.assert_close(code.dense(len(x), dictionary.n_latents), dictionary.encode(x))
    torch.testing.assert_close(dictionary.decode_sparse(code, len(x)), dictionary.decode(dictionary.encode(x)))


def test_contributions_sum_to_the_preactivation(dictionary, x):
    chosen = torch.tensor([3, 0, 7])
    parts = dictionary.contributions(x, chosen)
    total = parts.sum(dim=2) + dictionary.b_enc[chosen]
    torch.testing.assert_close(total, dictionary.preactivations(x)[:, chosen], atol=1e-4, rtol=1e-4)


def test_relative_norms_sum_to_one(dictionary):
    torch.testing.assert_close(dictionary.relative_norms().sum(dim=1), torch.ones(dictionary.n_latents))


def test_folder_returns_every_field(dictionary, tmp_path):
    saes.save(dictionary, tmp_path / "d", {"recipe": "demo"})
    again = saes.load(tmp_path / "d")
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "scales"):
        assert torch.equal(getattr(again, name), getattr(dictionary, name)), name
    assert (again.names, again.k, again.site) == (dictionary.names, dictionary.k, dictionary.site)
    assert saes.folder.metadata(tmp_path / "d")["recipe"] == "demo"


@pytest.mark.filterwarnings("ignore")
def test_sae_lens_opens_the_folder_and_agrees(dictionary, x, tmp_path):
    """The rival as oracle: same active set, same latents, same reconstruction."""
    sae_lens = pytest.importorskip("sae_lens")
    saes.save(dictionary, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        flat = theirs.encode(x.flatten(1))
        ours = dictionary.encode(x)
        assert torch.equal(flat > 0, ours > 0)
        torch.testing.assert_close(flat, ours, atol=1e-5, rtol=1e-5)
        decoded = theirs.decode(flat).view_as(x)
        torch.testing.assert_close(decoded, dictionary.decode(ours), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_sae_lens_wrote_opens(tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    config = sae_lens.JumpReLUSAEConfig(d_in=8, d_sae=20, apply_b_dec_to_input=True)
    theirs = sae_lens.JumpReLUSAE(config)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.rand_like(p) if p.ndim == 1 else torch.randn_like(p))
    theirs.save_model(tmp_path)
    ours = saes.load(tmp_path)
    x = torch.randn(50, 1, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x), theirs.encode(x[:, 0]), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", ["topk", "abstopk"])
def test_sae_lens_opens_a_topk_folder_and_agrees(x, tmp_path, activation):
    sae_lens = pytest.importorskip("sae_lens")
    ours = replace(random_dictionary(1), threshold=torch.zeros(20), activation=activation)
    x = x[:, :1]
    saes.save(ours, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    assert theirs.cfg.architecture() == activation
    again = saes.load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(x[:, 0]), ours.encode(x), atol=1e-5, rtol=1e-5)
        assert torch.equal(again.encode(x), ours.encode(x))


@pytest.mark.filterwarnings("ignore")
def test_sae_lens_opens_a_matching_pursuit_folder_and_agrees(tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    made = random_dictionary(1)
    b_enc = -made.b_dec.flatten() @ made.W_dec[:, 0].T
    ours = replace(
        made,
        activation="matching_pursuit",
        threshold=torch.zeros(20),
        W_enc=made.W_dec.permute(1, 2, 0),
        b_enc=b_enc,
    )
    saes.save(ours, tmp_path)
    theirs, again, x = sae_lens.SAE.load_from_disk(tmp_path), saes.load(tmp_path), torch.randn(300, 1, 8)
    with torch.no_grad():
        latents = theirs.encode(x[:, 0])
        torch.testing.assert_close(latents, ours.encode(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(again.encode(x), ours.encode(x))
        torch.testing.assert_close(theirs.decode(latents), ours.reconstruct(x)[:, 0], atol=1e-4, rtol=1e-4)
    code = ours.encode_sparse(x)
    torch.testing.assert_close(code.dense(len(x), 20), ours.encode(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rescale", [False, True])
def test_a_topk_folder_that_sae_lens_wrote_opens(tmp_path, rescale):
    sae_lens = pytest.importorskip("sae_lens")
    config = sae_lens.TopKSAEConfig(
        d_in=8, d_sae=20, k=3, apply_b_dec_to_input=True, rescale_acts_by_decoder_norm=rescale
    )
    theirs = sae_lens.TopKSAE(config)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn_like(p))
    theirs.save_model(tmp_path)
    ours = saes.load(tmp_path)
    x = torch.randn(50, 1, 8)
    with torch.no_grad():
        latents = theirs.encode(x[:, 0])
        torch.testing.assert_close(ours.encode(x), latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.reconstruct(x)[:, 0], theirs.decode(latents), atol=1e-5, rtol=1e-5)


def truncate(folder):
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder):
    path = folder / "sae_weights.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(bytes(raw))


def edit(key, value):
    def change(folder):
        config = json.loads((folder / "cfg.json").read_text())
        config["metadata"]["marble"][key] = value
        (folder / "cfg.json").write_text(json.dumps(config))

    return change


def halve_config(folder):
    path = folder / "cfg.json"
    path.write_text(path.read_text()[:80])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "truncated"),
        (flip, "altered"),
        (edit("scales", [9.0]), "altered"),
        (edit("k", 5), "altered"),
        (halve_config, "not whole JSON"),
        (lambda f: (f / "cfg.json").unlink(), "holds no cfg.json"),
    ],
)
def test_damaged_folders_are_refused(damage, sentence, tmp_path):
    saes.save(random_dictionary(), tmp_path)
    damage(tmp_path)
    with pytest.raises(DictionaryError, match=sentence):
        saes.load(tmp_path)


def test_wrong_width_is_refused(dictionary):
    with pytest.raises(DictionaryError, match="this dictionary reads"):
        dictionary.encode(torch.randn(4, dictionary.n_models, dictionary.d + 1))
