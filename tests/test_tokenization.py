"""Tokens, merges and letters: equal to what `tokenizers` does, on any text, and on cases worked by hand."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import tiny_model, tiny_tokenizer
from workbench.errors import Misuse
from workbench.letter_counts import ask, last_number, question
from workbench.prompt import read_prompt
from workbench.sentence_costs import ENGLISH, SENTENCES, cost, costs, fingerprint
from workbench.tokenization import MOST_LETTERS, Merges, letters, origin, pieces, why_not

pytestmark = pytest.mark.usefixtures("one_thread")

RANGES = ((0x20, 0x7F), (0x00, 0x20), (0xA0, 0x250), (0x370, 0x600), (0x900, 0x980), (0x200B, 0x2070),
          (0xD800, 0xE000), (0x4E00, 0x4F00), (0x1F300, 0x1F700), (0x20, 0x10FFFF))  # fmt: skip
WORDS = ("hello", " world", " this", " test", " marbles", "1234", " is", "👩‍🚒", "<|user|>", "\r\n", "شلام")


def random_texts(n: int) -> list[str]:
    """Any characters: controls, lone surrogates, right-to-left, joined emoji, words that the tokenizer knows."""
    rng = random.Random(0)
    made = []
    for _ in range(n):
        parts = []
        for _ in range(rng.randint(1, 12)):
            low, high = rng.choice(RANGES)
            parts.append(rng.choice(WORDS) if rng.random() < 0.5 else chr(rng.randrange(low, high)))
        made.append("".join(parts))
    return made


def by_hand(ignore_merges: bool = False) -> PreTrainedTokenizerFast:
    """Four letters and the merges a b, ab c, b c."""
    vocab = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    for joined in ("ab", "abc", "bc", "bcbc"):
        vocab[joined] = len(vocab)
    bpe = Tokenizer(models.BPE(vocab, [("b", "c"), ("a", "b"), ("ab", "c")], ignore_merges=ignore_merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def unigram() -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer: no merges."""
    pieces_ = [("<unk>", 0.0), ("▁", -2.0), ("▁the", -1.0), ("r", -3.0), ("e", -3.0), ("▁tree", -4.0)]
    made = Tokenizer(models.Unigram(pieces_, unk_id=0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def test_merges_by_hand():
    """`abc` is a b c → a bc (rank 0 first): then a and bc have no merge. With `ab` first it would be one token."""
    merges = Merges.of(by_hand())
    done = merges.replay("abc")
    assert done.tokens == ("a", "bc")
    [step] = done.merges
    assert (step.rank, step.left, step.right, step.start, step.stop) == (0, b"b", b"c", 1, 3)
    assert merges.replay("abab").tokens == ("ab", "ab")
    assert [m.start for m in merges.replay("abab").merges] == [0, 2]  # the leftmost first
    assert by_hand()("abcabab").tokens() == ["a", "bc", "ab", "ab"]


def test_a_piece_that_is_taken_whole_has_no_merges():
    tokenizer = by_hand(ignore_merges=True)
    done = Merges.of(tokenizer).replay("bcbc")
    assert done.at_once
    assert list(done.tokens) == tokenizer("bcbc").tokens()
    assert Merges.of(by_hand()).replay("bcbc").tokens == ("bc", "bc")


def test_a_very_long_piece_is_not_replayed():
    merges = Merges.of(by_hand())
    assert merges.replay("d" * (MOST_LETTERS + 1)).too_long
    assert merges.replay("d" * 9).tokens == ("d",) * 9


@pytest.mark.parametrize("chat", [False, True])
def test_replayed_merges_are_what_tokenizers_gives(chat):
    """On any text, token by token; the merges of the tokens of a piece are all merges of the piece."""
    tokenizer = tiny_tokenizer()
    merges = Merges.of(tokenizer)
    n_steps = 0
    for text in random_texts(300):
        prompt = read_prompt(tokenizer, text, 512, chat=chat)
        assert len(prompt.words) == len(prompt.ids)
        found = [origin(tokenizer, merges, prompt, i) for i in range(len(prompt.ids))]
        for i, each in enumerate(found):
            if each is None:
                assert prompt.tokens[i].special
                continue
            assert each.exact
            assert prompt.tokens[i].data == (
                each.own[-1].left + each.own[-1].right if each.own else prompt.tokens[i].data[:1]
            )
            assert len(each.own) == len(prompt.tokens[i].data) - 1
        n_steps += sum(len(each.own) for each in found if each)
    assert n_steps > 1_000


def test_a_cut_inside_a_piece_is_said():
    """a bc bc without its a would be taken whole, as bcbc: the replay cannot show how it was read."""
    tokenizer = by_hand(ignore_merges=True)
    prompt = read_prompt(tokenizer, "abcbc", 2)
    assert [t.data for t in prompt.tokens] == [b"bc", b"bc"]
    assert not origin(tokenizer, Merges.of(tokenizer), prompt, 0).exact
    assert origin(tokenizer, Merges.of(tokenizer), read_prompt(tokenizer, "abcbc", 3), 1).exact


def test_tokens_cover_their_characters():
    """Bytes put together again are the text; every character of it lies in at least one token."""
    tokenizer = tiny_tokenizer()
    for text in random_texts(200):
        prompt = read_prompt(tokenizer, text, 512)
        found = pieces(prompt.tokens)
        assert [piece.token for piece in found] == list(prompt.tokens)
        read_back = b"".join(piece.token.data for piece in found if not piece.token.special).decode()
        assert read_back == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    bos, *emoji = pieces(read_prompt(tokenizer, "🙂", 512).tokens)
    assert bos.characters == ""
    assert [(e.hexadecimal, e.characters, e.whole) for e in emoji] == [
        (byte, "🙂", False) for byte in ("F0", "9F", "99", "82")
    ]


def test_letters_by_hand():
    """s t r a w b e r r y: none of its letters was merged in the tiny tokenizer but those of its own words."""
    tokenizer = tiny_tokenizer(text="the straw berry berry straw")
    found = letters(tokenizer, question("strawberry", "r"), "strawberry", "r")
    assert found.n == 3
    assert b"".join(h.token.data for h in found.held).strip() == b"strawberry"
    assert sum(h.n_whole for h in found.held) == 3
    assert max(h.n_whole for h in found.held) == 2  # `berry` is one token
    spread = letters(tokenizer, "in café", "café", "é")
    assert (spread.n, [h.n_parts for h in spread.held if h.n_parts]) == (
        1,
        [1, 1],
    )  # its two bytes are two tokens


def test_letters_are_counted_as_python_counts_them():
    tokenizer = tiny_tokenizer()
    rng = random.Random(1)
    for _ in range(100):
        word = "".join(rng.choice("abermRr éß🙂") for _ in range(rng.randint(1, 9))).strip() or "a"
        letter = rng.choice("abrRé🙂")
        found = letters(tokenizer, question(word, letter), word, letter)
        assert found.n == word.lower().count(letter.lower())
        bytes_held = sum(h.n_whole for h in found.held) + (sum(h.n_parts for h in found.held) > 0)
        assert (bytes_held > 0) == (found.n > 0)


@pytest.mark.parametrize(("word", "letter"), [("tree", ""), ("tree", "ab"), ("tree", " "), (" ", "a")])
def test_what_is_no_letter_of_a_word_is_one_sentence(word, letter):
    with pytest.raises(Misuse, match="type a"):
        letters(tiny_tokenizer(), question(word, letter), word, letter)


def test_a_letter_without_bytes_is_read_as_the_replacement_character():
    word = "a\ud800b"
    assert letters(tiny_tokenizer(), question(word, "b"), word, "b").n == 1
    assert letters(tiny_tokenizer(), question(word, "\ud800"), word, "\ud800").n == 1


def test_an_answer_is_the_models_likeliest():
    """The same text as Hugging Face's greedy `generate` writes."""
    import torch

    tokenizer, model = tiny_tokenizer(), tiny_model("llama", n_ctx=128)
    found = ask(model, tokenizer, 128, "marble", "a", 1)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question("marble", "a")}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=48)
    expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    assert found.text == expected
    assert last_number("12 and 3, so 4.") == 4


def test_costs_are_bounded_by_bytes():
    """A byte-level BPE never needs more tokens than there are bytes; of what is new to it, nearly as many."""
    tokenizer = tiny_tokenizer(text=SENTENCES[ENGLISH])
    found = {c.language: c for c in costs(tokenizer)}
    assert list(found) == list(SENTENCES)
    assert all(1 <= c.n_tokens <= c.n_bytes for c in found.values())
    assert found[ENGLISH].per_byte < 0.5
    assert all(found[name].per_byte > 0.9 for name in ("Greek", "Hindi", "Korean"))
    hindi = found["Hindi"]
    assert (hindi.n_characters, hindi.n_bytes) == (len(SENTENCES["Hindi"]), len(SENTENCES["Hindi"].encode()))
    assert cost(tokenizer, "broken", "\ud800").n_bytes == 3  # read as U+FFFD


def test_fingerprints_tell_tokenizers_apart():
    assert fingerprint(tiny_tokenizer()) == fingerprint(tiny_tokenizer())
    assert fingerprint(tiny_tokenizer()) != fingerprint(tiny_tokenizer(text="another text"))


def test_a_tokenizer_without_merges_is_said_and_read_all_the_same():
    tokenizer = unigram()
    assert Merges.of(tokenizer) is None
    assert "Unigram and has no merges" in why_not(tokenizer)
    prompt = read_prompt(tokenizer, "the tree", 64)
    assert [p.token.data for p in pieces(prompt.tokens)] == [b" the", b" tree"]
    assert letters(tokenizer, "in the tree", "tree", "e").held[-1].n_whole == 2
