"""Patching: a latent that alone makes one model the other, planted; identities; laws of what is summed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pages.components import patched
from saes.dictionary import Dictionary
from tests.test_pages import errors, opened, sentences
from tests.tiny_lab import moved, shared_lab, tiny_llama, tiny_recipe
from workbench.chat_answers import Chats, answer_span, chat_windows, chats, first_tokens
from workbench.cli import app as commands
from workbench.comparison_account import account
from workbench.dictionary_folder import open_dictionary
from workbench.errors import Failure
from workbench.gains import OFF, ON
from workbench.joint_reading import JointReading
from workbench.lab import Lab
from workbench.mediation import swap
from workbench.patch_sets import MainSet, candidates, main_set
from workbench.patch_trial import (
    CONTENT,
    MARKERS,
    OWN,
    Pair,
    Patch,
    Read,
    norm_differences,
    read_chats,
    recovered,
)
from workbench.patching import ALL, EVERY, EXACT, FIRST, ITSELF, NONE, REST, Patching, beside_controls
from workbench.patching_build import _Study
from workbench.points import MLP_OUT, Site
from workbench.specificity import read_scaling
from workbench.tokens import TokenSet, token_set

NAME = "base-sft-grpo"
MARKER, END = 5, 4  # ids of the planted chats
N_LATENTS, PLANTED = 6, 0
WAYS = (ON, OFF)


@pytest.fixture(scope="module")
def planted() -> tuple[JointReading, Dictionary, list[Read]]:
    """Two models that are one but for what the marker's embedding says; layer 0 adds nothing, so that the streams
    behind it differ by v at markers and nowhere else. Latent 0 fires with 1 at markers, its decoders differ by v;
    the others fire elsewhere and write the same in both, or never fire and would write something else."""
    torch.manual_seed(0)
    one = moved(tiny_llama(tiny_recipe()), 2.0)
    with torch.no_grad():
        one.model.layers[0].self_attn.o_proj.weight.zero_()
        one.model.layers[0].mlp.down_proj.weight.zero_()
        one.model.embed_tokens.weight[:, 0] = 0
        one.model.embed_tokens.weight[MARKER, 0] = 1
    other = tiny_llama(tiny_recipe())
    other.load_state_dict(one.state_dict())
    v = torch.randn(32)
    v[0] = 0  # the code reads coordinate 0
    with torch.no_grad():
        other.model.embed_tokens.weight[MARKER] += v
    models = {"a": one, "b": other}
    for model in models.values():
        model.requires_grad_(False)
    W_enc, W_dec = torch.zeros(2, 32, N_LATENTS), torch.randn(N_LATENTS, 1, 32).repeat(1, 2, 1)
    W_enc[0, 0, PLANTED] = 1.0
    W_enc[0, 1:, 1:4] = torch.randn(31, 3)
    W_dec[PLANTED, 1] += v
    W_dec[4:, 1] += torch.randn(2, 32)  # never fire
    threshold = torch.tensor([0.5, 0.01, 0.01, 0.01, 1e3, 1e3])
    zeros = torch.zeros(2, 32)
    coder = Dictionary(
        W_enc,
        torch.zeros(N_LATENTS),
        W_dec,
        zeros,
        threshold,
        torch.ones(2),
        ("a", "b"),
        2,
        "blocks.0.hook_resid_post",
    )
    reading = JointReading(models, shared_lab().checkpoint("sft").tokenizer(), Site(0))
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(10, 300, (5, 12), generator=rng)
    ids[:, 0], ids[:, 1], ids[:, 6], ids[:, 11] = 1, MARKER, MARKER, END
    marker = ids == MARKER
    marker[:, 11] = True
    at = torch.zeros(5, 11, dtype=torch.bool)
    at[:, 6:] = True
    real = torch.ones_like(marker)
    real[:, 0] = False
    asked = Chats(ids, at, marker, real, np.arange(5))
    return reading, coder, read_chats(reading, coder, [asked])


def scores(pair: Pair, reads: list[Read], patches: list[Patch]) -> list[float]:
    kl = pair.kl(reads, [Patch(), *patches])
    document = np.concatenate([r.chats.of_token for r in reads])
    return [s.recovered for s in recovered(kl[0], kl[1:], document, np.ones(len(document), dtype=bool))]


@pytest.mark.parametrize("way", WAYS)
def test_the_planted_latent_recovers_everything_and_no_other_anything(planted, way: str) -> None:
    reading, coder, reads = planted
    pair = Pair(reading, coder, swap(coder, "a", "b"), way)
    assert pair.kl(reads, [Patch()]).mean() > 0.01
    others = tuple(j for j in range(N_LATENTS) if j != PLANTED)
    alone, everything, rest, error, marked, content = scores(
        pair, reads,
        [Patch((PLANTED,)), Patch(tuple(range(N_LATENTS))), Patch(others), Patch(error=True), Patch(whole=MARKERS),
         Patch(whole=CONTENT)],
    )  # fmt: skip
    assert alone == pytest.approx(1, abs=1e-4)
    assert everything == pytest.approx(1, abs=1e-4)
    assert marked == pytest.approx(1, abs=1e-4)
    assert rest == 0
    assert content == 0
    assert error == pytest.approx(0, abs=1e-4)
    for j in others:
        assert scores(pair, reads, [Patch((j,))]) == [0]


def test_doses_lead_from_nothing_through_everything_to_too_much(planted) -> None:
    reading, coder, reads = planted
    pair = Pair(reading, coder, swap(coder, "a", "b"), ON)
    none, half, whole, twice = scores(pair, reads, [Patch((PLANTED,), dose=d) for d in (0.0, 0.5, 1.0, 2.0)])
    assert none == 0
    assert 0 < half < whole
    assert twice < whole


def test_both_orders_put_the_planted_latent_first_and_it_is_the_main_set(planted) -> None:
    reading, coder, reads = planted
    pair = Pair(reading, coder, swap(coder, "a", "b"), ON)
    lab = shared_lab()
    scaling = read_scaling(lab.find("evaluation", f"scaling-{NAME}").path).filter(own="nobody")
    found = candidates(pair, coder, reads, scaling)
    assert all(order[0] == PLANTED for order in found.orders.values())
    assert found.length([PLANTED]) == 1
    assert set(found.shared) <= {PLANTED}  # a control has to write something differently
    assert main_set(pair, found, reads, N_LATENTS) == MainSet(min(found.orders), 1)
    # integrated gradients: the planted latent's part is what it takes off the KL
    none, patched_kl = pair.kl(reads, [Patch(), Patch((PLANTED,))]).sum(axis=1)
    nats, sizes = pair.attribution(reads)
    assert nats[PLANTED] == pytest.approx(none - patched_kl, rel=0.2)
    n = sum(int(r.chats.marker[r.chats.real].sum()) for r in reads) - len(reads[0].chats.ids)
    v = (coder.W_dec[PLANTED, 1] - coder.W_dec[PLANTED, 0]).norm().item()
    assert sizes[PLANTED] == pytest.approx(n * v, rel=1e-5)  # it fires with 1 at every marker but the end's
    tokens = sum(int(r.chats.real.sum()) for r in reads)
    assert norm_differences(pair.mover, reads)[PLANTED] == pytest.approx(v * np.sqrt(n / tokens), rel=1e-5)


@pytest.fixture(scope="module")
def grown() -> tuple[JointReading, Dictionary, list[Read]]:
    """The tiny lab's own models, crosscoder and chats."""
    lab = shared_lab()
    coder = open_dictionary(lab.find("dictionary", "crosscoder").path, "crosscoder")
    models = {name: lab.checkpoint(name).model() for name in coder.names}
    for model in models.values():
        model.requires_grad_(False)
    reading = JointReading(models, lab.checkpoint("sft").tokenizer(), Site(1))
    tokens = token_set(lab, "base")
    windows = chat_windows(tokens, {"chat": 10, "rollout:sft": 4})
    return reading, coder, read_chats(reading, coder, chats(tokens, windows, 512, 32))


def test_a_checkpoint_patched_with_itself_is_itself_exactly(grown) -> None:
    reading, coder, reads = grown
    everything = tuple(range(coder.n_latents))
    for name in coder.names:
        for way in WAYS:
            pair = Pair(reading, coder, swap(coder, name, name), way)
            patches = [Patch(), Patch(everything), Patch((3, 5)), Patch(bias=True), Patch(whole=MARKERS)]
            assert (pair.kl(reads, patches) == 0).all()


@pytest.mark.parametrize("way", WAYS)
def test_latents_bias_and_error_together_are_the_whole_stream(grown, way: str) -> None:
    reading, coder, reads = grown
    pair = Pair(reading, coder, swap(coder, "base", "grpo"), way)
    whole = Patch(tuple(range(coder.n_latents)), bias=True, error=True)
    assert scores(pair, reads, [whole]) == [pytest.approx(1, abs=1e-4)]
    assert (pair.kl(reads, [Patch(whole=OWN)]) == 0).all()
    for read in reads:
        assert torch.allclose(pair.stream(read, whole), read.streams[pair.patched], atol=1e-4)
        both = torch.where(
            read.chats.marker[:, :, None],
            pair.stream(read, Patch(whole=MARKERS)),
            pair.stream(read, Patch(whole=CONTENT)),
        )
        assert torch.equal(both, read.streams[pair.patched])
        assert torch.equal(pair.stream(read, Patch())[:, 0], read.streams[pair.patched][:, 0])  # BOS


def test_what_is_put_in_is_the_decoders_difference_in_the_streams_units(grown) -> None:
    """By a dense product, in the units of each model's activations whatever their scales."""
    reading, coder, reads = grown
    pair, chosen = Pair(reading, coder, swap(coder, "base", "sft"), ON), (2, 7, 11)
    for read in reads:
        x = torch.stack([read.streams[n].flatten(0, 1) for n in coder.names], dim=1)
        f = coder.encode(x)[:, list(chosen)] * read.chats.real.flatten()[:, None]
        d = coder.W_dec[list(chosen)]
        wanted = read.streams["base"] + (f @ (d[:, 1] - d[:, 0])).view_as(read.streams["base"])
        found = pair.stream(read, Patch(chosen))
        assert torch.allclose(found[read.chats.real], wanted[read.chats.real], atol=1e-4)


def test_entering_at_the_site_says_what_replacing_there_does(grown) -> None:
    """Skipping the lower half changes nothing, gradients included; the model is left as it was."""
    reading, _, reads = grown
    for read in reads:
        chats_, stream = read.chats, read.streams["base"].clone().requires_grad_()
        quick = reading.log_probabilities("sft", chats_.ids, chats_.at, stream)
        ahead = chats_.ids[:, 1:][chats_.at]
        told = quick.gather(1, ahead[:, None])[:, 0]
        slow = reading.log_p("sft", chats_.ids, stream)[chats_.at]
        assert torch.allclose(told, slow, atol=1e-5)
        gradients = [torch.autograd.grad(each.sum(), stream)[0] for each in (told, slow)]
        assert torch.allclose(*gradients, atol=1e-4)
        before = reading.log_p("sft", chats_.ids)[chats_.at]
        after = reading.log_probabilities("sft", chats_.ids, chats_.at).gather(1, ahead[:, None])[:, 0]
        assert torch.allclose(before, after, atol=1e-5)
    assert all("forward" not in layer.__dict__ for layer in reading.models["sft"].model.layers)


def test_what_an_mlp_writes_can_be_patched_too(grown) -> None:
    """Another point of the layer is replaced, not entered: the stream below it counts there."""
    reading, _, reads = grown
    at_mlp = JointReading(reading.models, reading.tokenizer, Site(1, MLP_OUT))
    asked = reads[0].chats
    own = at_mlp.streams(asked.ids)["sft"]
    same = at_mlp.log_probabilities("sft", asked.ids, asked.at, own)
    assert torch.equal(same, at_mlp.log_probabilities("sft", asked.ids, asked.at))


def test_recovered_by_hand() -> None:
    none, document = np.array([1.0, 1.0, 2.0, 4.0]), np.array([0, 0, 1, 1])
    half, worse = none / 2, none * 2
    every = np.ones(4, dtype=bool)
    found = recovered(none, np.stack([half, worse, none]), document, every)
    assert [s.recovered for s in found] == [0.5, -1.0, 0.0]
    assert (found[0].low, found[0].high) == (0.5, 0.5)
    # sums divided once: 1 − (0 + 6) / (2 + 6), not the mean of two documents' shares
    (uneven,) = recovered(none, np.array([[0.0, 0.0, 2.0, 4.0]]), document, every)
    assert uneven.recovered == pytest.approx(0.25)
    assert uneven.low == 0
    assert uneven.high == 1
    (only,) = recovered(none, half[None], document, document == 0)
    assert only.recovered == 0.5
    assert np.isnan(only.low)  # one document has no interval
    assert np.isnan(recovered(none * 0, none[None] * 0, document, every)[0].recovered)


@pytest.mark.parametrize(
    ("special", "span"),
    [
        ([1, 0, 0, 1, 0, 0, 1], (4, 7)),  # its end marker is the answer's
        ([1, 0, 0, 1, 0, 0], (4, 6)),  # cut off by the length that was asked for
        ([1, 1, 0, 1, 1, 0, 1, 1], (5, 7)),  # headers of several tokens
        ([0, 0, 1, 0, 0], (3, 5)),  # no header
        ([0, 0, 0, 0], None),  # no chat
        ([0, 0, 0, 1], None),  # an address that ends
        ([1, 0, 1], None),  # an answer of nothing but its end
    ],
)  # fmt: skip
def test_where_an_answer_is(special: list[int], span: tuple[int, int] | None) -> None:
    assert answer_span(np.array(special, dtype=bool)) == span


def test_answers_are_those_of_the_corpus(lab: Lab) -> None:
    tokens: TokenSet = token_set(lab, "base")
    tokenizer = lab.checkpoint("sft").tokenizer()
    windows = chat_windows(tokens, {"chat": 20})
    assert len(windows) == 20
    for longest in (32, 3):
        for batch in chats(tokens, windows, 256, longest):
            for row, document in enumerate(batch.document):
                told = batch.ids[row, 1:][batch.at[row]].tolist()
                start = int(tokens.documents["start"][int(document)])
                whole = tokens.tokens[start : int(tokens.documents["stop"][int(document)])].tolist()
                text = tokenizer.decode(whole).partition("<|assistant|>")[2]
                assert tokenizer.decode(told) == text or len(told) == longest
                assert text.startswith(tokenizer.decode(told))
            assert len(batch.of_token) == len(batch.place) == int(batch.at.sum())
            assert batch.place.max() < longest
    assert first_tokens(np.array([6, 8, 40]), 10) == 4
    assert first_tokens(np.array([60, 80]), 10) == 10
    assert first_tokens(np.array([1]), 10) == 1


def test_a_broken_identity_is_told(grown) -> None:
    reading, coder, _ = grown
    pair = Pair(reading, coder, swap(coder, "base", "sft"), ON)
    good, bad = np.zeros(3), np.ones(3)
    _Study.check(pair, {ITSELF: good, EXACT: good}, bad)
    with pytest.raises(Failure, match="cannot be patched"):
        _Study.check(pair, {ITSELF: good, EXACT: bad}, bad)


def test_the_part_is_built_and_read(lab: Lab) -> None:
    found = Patching.of(lab, NAME)
    assert found.pairs == [("base", "sft"), ("base", "grpo"), ("sft", "grpo")]
    for before, after in found.pairs:
        for into in (before, after):
            told = {name: found.score(before, after, into, name) for name in (NONE, ALL, EXACT, ITSELF)}
            assert told[NONE]["recovered"] == 0
            assert told[NONE]["kl"] > 0
            assert told[ITSELF]["recovered"] == 1
            assert told[EXACT]["recovered"] == pytest.approx(1, abs=1e-3)
            assert told[ALL]["low"] <= told[ALL]["recovered"] <= told[ALL]["high"]
            parts = [found.score(before, after, into, NONE, tokens)["n"] for tokens in (FIRST, REST)]
            assert sum(parts) == told[NONE]["n"] == found.score(before, after, into, ALL, EVERY)["n"]
        curve = found.curves(before, after, after)
        assert (curve["low"] <= curve["recovered"]).all()
        assert (curve["recovered"] <= curve["high"]).all()
        assert curve.filter(order="random")["draws"].unique().to_list() == [3]
        if (main := found.main(before, after)) is not None:
            assert len(found.main_latents(before, after)) == main.size
            doses = found.rows(found.doses, before, after, after).filter(latents="main set")
            assert doses.filter(dose=0.0)["recovered"].item() == 0
            on_curve = curve.filter(order=main.order, size=main.size)["recovered"].item()
            assert doses.filter(dose=1.0)["recovered"].item() == on_curve
    assert len(found.sentences()) == 3
    assert "all latents recover" in found.sentences()[0]
    assert "gold" in found.judged()


def test_compare_tells_it(lab: Lab) -> None:
    told = account(lab, NAME)
    assert told.figures["patching"]["base|sft"]["into sft"][NONE]["recovered"] == 0
    assert "patched: sft on base's stream" in told.describe()
    made = CliRunner().invoke(commands, ["compare", lab.path.name, "base", "sft", "grpo", "--json"])
    assert made.exit_code == 0
    assert set(json.loads(made.stdout)["patching"]) == {"base|sft", "base|grpo", "sft|grpo"}


@pytest.mark.parametrize("said", ["base's stream in sft", "sft's stream in base"])
@pytest.mark.parametrize("tokens", ["all", "first", "gold chats"])
def test_the_view_shows_both_ways(lab: Lab, said: str, tokens: str) -> None:
    app = opened("compare", view="Patching", patched=said, **{"answer-tokens": tokens})
    assert not app.exception
    assert errors(app) == []
    into = said.rsplit(" ", 1)[1]
    assert any(f"{into}'s upper half is given" in text for text in sentences(app))
    told = Patching.of(lab, NAME).score("base", "sft", into, ALL, tokens)
    assert any(
        f"(n = {told['n']:,}); all latents recover {told['recovered']:.3f}" in text for text in sentences(app)
    )
    heads = [each.value for each in app.subheader]
    assert heads == [
        "How few latents it takes",
        "What else brings it",
        "More or less of it",
        "The foremost latents",
    ]
    foremost = Patching.of(lab, NAME).latents.filter(before="base", after="sft", order="attribution")["latent"][
        0
    ]
    link = f"compare?lab={lab.name}&amp;comparison={NAME}&amp;view=Latents&amp;joint={foremost}"
    assert any(link in text for text in sentences(app))


def test_a_lab_without_controls_has_no_null(lab: Lab) -> None:
    assert beside_controls(lab, "base", "sft") == []
    assert beside_controls(lab, "base", "grpo") == []  # grpo's parent is sft


def test_a_latent_is_opened_in_its_own_comparison() -> None:
    assert patched.address("demo", "base-sft", 7) == "compare?lab=demo&comparison=base-sft&view=Latents&joint=7"
