"""Token sets and activations: what lies in them is what the documents and the models say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.tiny_lab import build, make_lab, shared_lab, tiny_llama, tiny_recipe
from workbench.corpus import read_corpus
from workbench.errors import Failure, Misuse
from workbench.external import add
from workbench.features import FeatureTable
from workbench.labelled import label_documents
from workbench.recipe import write_recipe
from workbench.site import checked_layer, direct_logits, read_resid_post, replaced_resid_post
from workbench.token_sets import SHARES, allot
from workbench.tokens import SETS, TokenSet, token_set
from workbench.vocabulary import read


@pytest.fixture(scope="module")
def lab():
    return shared_lab()


@pytest.fixture(params=SETS)
def tokens(request, lab):
    return token_set(lab, "base", request.param)


def text_of(tokens: TokenSet, start: int, stop: int) -> str:
    return b"".join(read(tokens.vocabulary[i]) for i in tokens.tokens[start:stop]).decode(errors="replace")


def test_a_window_holds_one_document_and_counts_from_one(tokens):
    assert (tokens.stops - tokens.starts).max() <= tokens.settings["n_ctx"] - 1
    for start, stop in zip(tokens.starts, tokens.stops, strict=True):
        assert len(set(tokens.document[start:stop])) == 1
        assert tokens.position[start:stop].tolist() == list(range(1, stop - start + 1))


def test_batches_read_every_row_once_behind_bos(tokens):
    rows = []
    for batch in tokens.batches(300):
        assert (batch.ids[:, 0] == tokens.settings["bos"]).all()
        assert (batch.ids[:, 1:][batch.real] == tokens.tokens[batch.rows[batch.real]]).all()
        rows += batch.rows[batch.real].tolist()
    assert sorted(rows) == list(range(len(tokens)))


def test_documents_read_as_the_corpus_wrote_them(lab, tokens):
    corpus = read_corpus(lab.find("corpus", "text")).documents
    texts = dict(corpus.select("id", "text").iter_rows())
    for start, stop in zip(tokens.starts, tokens.stops, strict=True):
        row = tokens.documents.row(int(tokens.document[start]), named=True)
        assert row["start"] <= start < stop <= row["stop"]
        if row["author"] is None:
            assert text_of(tokens, start, stop).strip("\ufffd") in texts[row["id"]]
    assert set(tokens.documents["domain"]) == {"prose", "world", "chat", "rollout"}
    assert set(tokens.documents["author"].drop_nulls()) == {"base", "sft", "grpo"}


def test_sets_share_no_document(lab):
    ids = [
        set(token_set(lab, "base", name).documents.filter(pl.col("author").is_null())["id"]) for name in SETS
    ]
    assert not ids[0] & ids[1]


def test_prose_cannot_smuggle_in_chat_markers(tokens):
    prose = np.isin(tokens.document, np.flatnonzero(tokens.domain == "prose"))
    assert prose.any()
    assert not (np.asarray(tokens.tokens)[prose] < 5).any()
    assert not np.asarray(tokens.special)[prose].any()
    chat = np.isin(tokens.document, np.flatnonzero(tokens.domain == "chat"))
    markers = np.isin(tokens.tokens, (2, 3, 4))
    assert (np.asarray(tokens.special)[chat] == markers[chat]).all()


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)


@pytest.mark.parametrize("template", ["own", CHATML, None], ids=["own", "chatml", "plain"])
def test_factor_spans_survive_tokenisation(lab, template):
    """A token carries a factor exactly if it covers a character of one of its spans, whatever the template."""
    corpus = read_corpus(lab.find("corpus", "text"))
    tokenizer = lab.checkpoint("base").tokenizer()
    if template != "own":
        tokenizer.chat_template = template
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    rows = corpus.documents.filter((pl.col("split") == "heldout") & (pl.col("domain") != "prose"))
    rows = pl.concat([rows.filter(pl.col("domain") == d).head(12) for d in ("world", "chat")])
    for row, document in zip(rows.iter_rows(named=True), label_documents(tokenizer, rows), strict=True):
        pieces = tokenizer.convert_ids_to_tokens(document.ids.tolist())
        assert len(document.special) == len(document.ids) == len(pieces)
        for factor in {s["factor"] for s in row["spans"]}:
            spans = [(s["start"], s["end"]) for s in row["spans"] if s["factor"] == factor]
            tokens = document.factors[document.factors[:, 1] == factor, 0]
            found = "".join(tokenizer.decode([i]) for i in document.ids[tokens]).replace(" ", "")
            merged = merge(spans)
            if row["domain"] == "world":
                for start, stop in merged:
                    assert row["text"][start:stop].replace(" ", "") in found
                covered = sum(len(row["text"][a:b].replace(" ", "")) for a, b in merged)
                assert len(found) >= covered
        if row["domain"] == "chat":
            said = document.ids[~document.special]
            assert tokenizer.decode(said).replace(" ", "") == (row["question"] + row["answer"]).replace(" ", "")
            assert tokenizer.decode(document.ids[document.answer :]).strip().startswith(row["answer"].strip())


def merge(spans):
    """Overlapping spans as one."""
    out = []
    for start, stop in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(stop, out[-1][1]))
        else:
            out.append((start, stop))
    return out


def test_factors_of_a_hand_made_sentence(lab):
    tokenizer = lab.checkpoint("base").tokenizer()
    text = "Mira saw 42 owls"
    spans = [
        {"start": 0, "end": 4, "factor": 7},
        {"start": 9, "end": 11, "factor": 8},
        {"start": 9, "end": 10, "factor": 9},
    ]
    empty = {
        "id": "x",
        "domain": "world",
        "kind": "story",
        "question": None,
        "year": None,
        "president": None,
        "party": None,
    }
    document = label_documents(tokenizer, pl.DataFrame([{**empty, "text": text, "spans": spans}]))[0]
    carried = {
        f: "".join(tokenizer.decode([document.ids[t]]) for t, g in document.factors if g == f)
        for f in (7, 8, 9)
    }
    assert {f: c.strip() for f, c in carried.items()} == {7: "Mira", 8: "42", 9: "4"}


def test_every_checkpoint_stores_the_same_tokens_in_the_same_order(lab, tokens):
    """Row i is token i: a window run alone, in full, gives the stored rows, for each checkpoint."""
    for name in ("base", "grpo"):
        stored = np.load(lab.find("activations", name).path / f"{tokens.name}.npy", mmap_mode="r")
        assert stored.shape == (len(tokens), 32)
        model = lab.checkpoint(name).model()
        for window in (0, 7, len(tokens.starts) - 1):
            rows = slice(tokens.starts[window], tokens.stops[window])
            ids = torch.tensor([[tokens.settings["bos"], *tokens.tokens[rows]]])
            with torch.no_grad():
                hidden = model(ids, output_hidden_states=True).hidden_states[2][0, 1:]
            torch.testing.assert_close(torch.from_numpy(np.array(stored[rows])), hidden, atol=1e-5, rtol=0)


def models():
    small = {"vocab_size": 50, "num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 2}
    kinds = {
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**small, num_key_value_heads=1, intermediate_size=32)),
        "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**small, intermediate_size=32)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=3, n_embd=16, n_head=2)),
        "llama": lambda: tiny_llama(tiny_recipe()),
    }
    return [pytest.param(make, id=name) for name, make in kinds.items()]


@pytest.mark.parametrize("make", models())
def test_the_truncated_forward_is_the_whole_one(make):
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.randint(0, 50, (3, 9))
    with torch.no_grad():
        whole = model(ids, output_hidden_states=True)
    for layer in range(2):  # the last of `hidden_states` is normed
        found = read_resid_post(model, layer, ids)
        torch.testing.assert_close(found, whole.hidden_states[layer + 1], atol=1e-6, rtol=0)
        with replaced_resid_post(model, layer, lambda x: x.clone()), torch.no_grad():
            assert torch.equal(model(ids).logits, whole.logits)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, whole.logits)  # no hook is left behind
    with pytest.raises(Misuse, match="no layer 99"):
        checked_layer(model, 99)


@pytest.mark.parametrize("make", models())
def test_direct_logits_are_what_a_large_stream_gives(make):
    """With the stream along d alone, the final norm scales it: logits are proportional to the direct ones."""
    torch.manual_seed(1)
    model = make().eval()
    d = torch.randn(2, model.config.get_text_config().hidden_size) * 100
    with (
        replaced_resid_post(model, len(_layers(model)) - 1, lambda x: d[:, None].expand_as(x)),
        torch.no_grad(),
    ):
        logits = model(torch.zeros(2, 1, dtype=torch.long)).logits[:, 0]
    cosine = torch.cosine_similarity(direct_logits(model, d), logits)
    torch.testing.assert_close(cosine, torch.ones(2), atol=1e-4, rtol=0)


def _layers(model):
    from workbench.site import decoder_layers

    return decoder_layers(model)


def test_shares_are_kept_and_what_is_lacking_made_up():
    plenty = dict.fromkeys(SHARES, 10**6)
    assert allot(plenty, 1000) == {name: int(1000 * share) for name, share in SHARES.items()}
    short = {"prose": 10**6, "world": 10**6, "chat": 0, "rollout": 20}
    found = allot(short, 1000)
    assert found["rollout"] == 20
    assert found["chat"] == 0
    assert 998 <= sum(found.values()) <= 1000
    assert allot({"prose": 5, "world": 6, "chat": 0, "rollout": 0}, 1000) == {
        "prose": 5,
        "world": 6,
        "chat": 0,
        "rollout": 0,
    }


def test_another_family_reads_the_same_documents_with_its_own_tokenizer(tmp_path, lab):
    """A GPT-NeoX with a tokenizer of its own, no template and no BOS: token sets, activations, aligned rows."""
    from workbench.tokenizer import as_pretrained, train

    words = train(["one two three letters and words"] * 3, 300)
    tokenizer = as_pretrained(words, 48)
    tokenizer.chat_template, tokenizer.bos_token, tokenizer.pad_token = None, None, None
    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=48, bos_token_id=4, eos_token_id=4,
    )  # fmt: skip
    source = tmp_path / "source"
    GPTNeoXForCausalLM(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    other = make_lab(tmp_path, "other")
    recipe = add(other, "other", str(source), "base")
    sae = dataclasses.replace(recipe.dictionaries[0], name="sae-other", checkpoints=("other",))
    recipe = dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries, sae))
    write_recipe(other.path / "recipe.toml", recipe)
    build(other, "features/sae-other")
    tokens = token_set(other, "other")
    assert tokens.settings == {"bos": 4, "pad": 4, "n_ctx": 48}
    assert set(tokens.domain) == {"prose", "world", "chat", "rollout:other"}
    stored = np.load(other.find("activations", "other").path / "heldout.npy", mmap_mode="r")
    assert stored.shape == (len(tokens), 16)
    corpus = dict(read_corpus(other.find("corpus", "text")).documents.select("id", "text").iter_rows())
    world = tokens.documents.filter(pl.col("domain") == "world").row(0, named=True)
    assert text_of(tokens, world["start"], world["stop"]) in corpus[world["id"]]
    assert tokens.factors.height > 0
    table = FeatureTable.of(other, "sae-other")
    assert table.table.height == 96
    assert "density_other" in table.table.columns
    assert table.fires_on("words and letters").height > 0


def test_a_damaged_array_is_told(lab, tmp_path):
    tokens = token_set(lab, "base")
    (tmp_path / "heldout-tokens.npy").write_bytes((tokens.folder / "heldout-tokens.npy").read_bytes()[:100])
    with pytest.raises(Failure, match="cannot be read as an array"):
        _ = TokenSet(Path(tmp_path), "heldout").tokens
    with pytest.raises(Misuse, match="did you mean 'heldout'"):
        TokenSet(Path(tmp_path), "held-out")
