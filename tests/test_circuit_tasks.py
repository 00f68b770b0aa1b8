"""Tasks of circuits: fair pairs, whose targets are right by another computation, and how well a model does them."""

from __future__ import annotations

import dataclasses
import functools
import json
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests import tiny_lab
from tests.tiny_lab import build, make_lab, tiny_recipe
from tests.tiny_models import save_tiny
from workbench.circuit_config import CircuitConfig
from workbench.circuits.circuit_requests import request_circuit
from workbench.circuits.competence import Answered, answered, competence, of_answers
from workbench.circuits.control_task import control_of, controls_of
from workbench.circuits.own_tasks import own_task
from workbench.circuits.tasks import TASKS, known_task, task_pairs
from workbench.errors import Misuse
from workbench.external import add
from workbench.lexicon import make_world
from workbench.recipe import load_preset, read_recipe, write_recipe
from workbench.stage_config import ModelConfig, TokenizerConfig
from workbench.tasks import sum_use

N = 16
WORDS = (
    "between letter river banana window green summer apple tree little people states government which their there "
    "these would other should public great country united have been from under congress system nation whole "
    "business american present every against necessary interest treasury without during service labor"
).split()
FROM_IDS = ("induction", "previous_token", "brackets")
FROM_TEXT = tuple(name for name in TASKS if name not in FROM_IDS)


def _recipe(**corpus):
    recipe = tiny_recipe()
    return dataclasses.replace(
        recipe,
        corpus=dataclasses.replace(recipe.corpus, n_countries=48, **corpus),
        tokenizer=TokenizerConfig(vocab_size=900),
        model=ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=64, n_ctx=160),
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_lab, "WORDS", tuple(WORDS))  # with ten words too few letters are held out
        return make_lab(tmp_path_factory.mktemp("tasks"), recipe=_recipe(), characters=60_000)


@pytest.fixture(scope="module")
def drawn(lab):
    return functools.cache(lambda name, use="search": task_pairs(lab, name, N, use))


@pytest.fixture(scope="module")
def tokenizer(lab):
    return lab.checkpoint("base").tokenizer()


def _texts(pairs, tokenizer):
    """(clean prompt, corrupt prompt, target, foil) of each pair as texts, BOS left out."""
    for row in range(len(pairs)):
        end = int(pairs.last[row]) + 1
        prompts = (pairs.clean[row, 1:end], pairs.corrupt[row, 1:end])
        answers = (pairs.target[row : row + 1], pairs.foil[row : row + 1])
        yield tuple(tokenizer.decode(each) for each in (*prompts, *answers))


@pytest.mark.parametrize("use", ["search", "judge"])
@pytest.mark.parametrize("name", TASKS)
def test_pairs_are_fair_and_drawn_alike_again(lab, drawn, tokenizer, name, use):
    pairs = drawn(name, use)
    assert 8 <= len(pairs) <= N
    assert pairs.clean.shape == pairs.corrupt.shape
    assert pairs.clean.shape[1] <= 160
    assert (pairs.target != pairs.foil).all()
    assert (pairs.clean != pairs.corrupt).any(dim=1).all()
    assert (pairs.clean[:, 0] == tokenizer.bos_token_id).all()
    behind = torch.arange(pairs.clean.shape[1]) > pairs.last[:, None]
    assert (pairs.clean[behind] == tokenizer.pad_token_id).all()
    both = torch.cat([pairs.clean, pairs.corrupt], dim=1)
    assert len(both.unique(dim=0)) == len(pairs)
    again = task_pairs(lab, name, N, use)
    assert torch.equal(pairs.clean, again.clean)
    assert torch.equal(pairs.foil, again.foil)


@pytest.mark.parametrize("name", FROM_TEXT)
def test_prompt_and_answer_are_the_tokens_of_both_together(drawn, tokenizer, name):
    pairs = drawn(name)
    for clean, corrupt, target, foil in _texts(pairs, tokenizer):
        for prompt, answer in ((clean, target), (corrupt, foil)):
            apart = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer)]
            assert tokenizer.encode(prompt + answer, add_special_tokens=False) == apart[0] + apart[1]


@functools.cache
def _world(lab):
    config = lab.find("corpus", "text").config
    return make_world(config["n_countries"], (), config["seed"])


def _asked_about(name, prompt, lab):
    """What a prompt asks about, read off its text."""
    if name.startswith("sums") or (name == "answer_form" and "+" in prompt):
        return {tuple(sorted(map(int, re.search(r"(\d\d)\+(\d\d)", prompt).groups())))}
    if name.startswith("letter_counts"):
        return {re.search(r"stand in ([a-z]+)\?", prompt)[1]}
    if name == "names":
        return set(re.findall(r"(?:, |asked )([A-Z][a-z]+)", prompt))
    if name in ("things", "quotes"):
        return {re.search(r"There [A-Z][a-z]+ [a-z]+ a [a-z]+ ([a-z]+)\.", prompt)[1]}
    found = {c for c in _world(lab).countries if re.search(rf"\b{c}\b", prompt)}
    return {c for c in found if prompt.rindex(c) == max(map(prompt.rindex, found))}


@pytest.mark.parametrize("name", FROM_TEXT)
def test_what_finds_a_circuit_is_not_what_judges_it(lab, drawn, tokenizer, name):
    asked = {
        use: {
            each
            for clean, corrupt, *_ in _texts(drawn(name, use), tokenizer)
            for prompt in (clean, corrupt)
            for each in _asked_about(name, prompt, lab)
        }
        for use in ("search", "judge")
    }
    assert asked["search"]
    assert asked["judge"]
    assert not asked["search"] & asked["judge"]
    if name.startswith("sums"):
        assert all(sum_use(a, b) == "heldout" for each in asked.values() for a, b in each)


@pytest.mark.parametrize("name", FROM_IDS)
def test_random_tokens_of_the_two_uses_share_no_last_token(drawn, name):
    last = {}
    for use in ("search", "judge"):
        pairs = drawn(name, use)
        last[use] = set(pairs.clean[torch.arange(len(pairs)), pairs.last].tolist())
    assert not last["search"] & last["judge"]


def _answer(name, prompt, lab):
    """The right continuation, by a computation of its own."""
    if name.startswith("sums") or name == "answer_form":
        if "+" not in prompt:
            return "It is"
        a, b = map(int, re.search(r"(\d\d)\+(\d\d)", prompt).groups())
        if name == "answer_form":
            return "Step by step"
        steps = {0: a + b, 1: a % 10 + b % 10, 2: a // 10 + b // 10}
        return str(steps[prompt.count("=")])
    if name.startswith("letter_counts"):
        letter, word = re.search(r"letter (.) stand in ([a-z]+)\?", prompt).groups()
        if name == "letter_counts":
            return str(sum(each == letter for each in word))
        pairs = re.search(r"Letter by letter: (.*)", prompt)[1].split(" ")
        at = len(pairs) - 1
        assert "".join(each[0] for each in pairs) == word[: at + 1]
        return "1" if word[at] == letter else f" {word[at + 1]}" if at + 1 < len(word) else ","
    if name.startswith("capitals"):
        (country,) = _asked_about("capitals", prompt, lab)
        return f" {_world(lab).capital_of[country]}"
    if name == "chat_form":
        return "It is" if prompt.endswith("<|assistant|>") else " is"
    if name == "names":
        giver = re.findall(r"([A-Z][a-z]+) [a-z]+ the [a-z]+ to$", prompt)[0]
        (other,) = _asked_about("names", prompt, lab) - {giver}
        return f" {other}"
    if name == "things":
        return f" {re.search(r' a [a-z]+ ([a-z]+)[.] ', prompt)[1]}"
    return '?"' if prompt.count('"') % 2 else "."


@pytest.mark.parametrize("name", FROM_TEXT)
def test_target_and_foil_are_what_the_two_prompts_ask_for(lab, drawn, tokenizer, name):
    for clean, corrupt, target, foil in _texts(drawn(name), tokenizer):
        assert _answer(name, clean, lab).startswith(target), clean
        assert _answer(name, corrupt, lab).startswith(foil), corrupt


def test_carry_pairs_differ_in_whether_a_carry_comes(drawn, tokenizer):
    for clean, corrupt, target, foil in _texts(drawn("sums_carry_chat"), tokenizer):
        units = [
            sum(int(each[-1]) for each in re.search(r"\d\d\+\d\d", text)[0].split("+"))
            for text in (clean, corrupt)
        ]
        assert (units[0] > 9) != (units[1] > 9)
        assert (target == "1") == (units[0] > 9)
        assert (foil == "1") == (units[1] > 9)


def test_induction_goes_on_as_the_first_time(drawn):
    pairs = drawn("induction")
    for row in range(len(pairs)):
        last = int(pairs.last[row])
        for ids, answer in ((pairs.clean[row], pairs.target[row]), (pairs.corrupt[row], pairs.foil[row])):
            before = [i for i in range(last) if ids[i] == ids[last]]
            assert len(before) == 1
            assert ids[before[0] + 1] == answer
        assert (pairs.clean[row] != pairs.corrupt[row]).sum() == 1


def test_previous_token_pairs_differ_in_that_token_alone(drawn):
    pairs = drawn("previous_token")
    for clean, corrupt, last in zip(pairs.clean, pairs.corrupt, pairs.last, strict=True):
        assert (clean != corrupt).nonzero().flatten().tolist() == [int(last) - 1]


def test_brackets_are_closed_as_a_stack_closes_them(drawn, tokenizer):
    """Both prompts are told what to close by a stack; some have a pair of the other kind closed inside."""
    pairs, nested = drawn("brackets"), 0
    for row in range(len(pairs)):
        last, answers = int(pairs.last[row]), []
        for ids in (pairs.clean[row], pairs.corrupt[row]):
            stack, closes = [], {"(": ")", "[": "]"}
            for text in map(tokenizer.decode, ids[: last + 1].tolist()):
                if text in closes:
                    stack.append(closes[text])
                elif text in closes.values():
                    nested += 1
                    assert stack.pop() == text
            answers.append(stack)
        assert answers == [[tokenizer.decode(i)] for i in (pairs.target[row].item(), pairs.foil[row].item())]
    assert 0 < nested < 2 * len(pairs)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_tasks_control_is_of_its_form_and_about_something_else(name):
    task = TASKS[name]
    controls = [known_task(each) for each in controls_of(task)]
    assert controls
    for control in controls:
        assert control.wording == task.wording
        assert control.name != name
        assert task.about
        assert control.about
        assert not set(control.about) & set(task.about)


def test_the_first_control_that_can_be_made_is_taken():
    task = known_task("sums_units")
    names = list(controls_of(task))
    assert control_of(task, lambda name: True) == names[0]
    assert control_of(task, lambda name: name == names[-1]) == names[-1]
    assert control_of(task, lambda name: False) == ""


def test_another_seed_draws_others(lab, drawn):
    assert not torch.equal(drawn("sums_units").clean, task_pairs(lab, "sums_units", N, seed=1).clean)


def test_pairs_of_one_length(lab, drawn):
    assert not drawn("capitals").one_length
    pairs = task_pairs(lab, "capitals", N, one_length=True)
    assert pairs.one_length
    assert len(pairs) >= 8


def test_a_lab_without_a_world_has_the_tasks_of_any_text(tmp_path):
    lab = make_lab(tmp_path, recipe=_recipe(world_characters=0))
    with pytest.raises(Misuse, match=r"has no generated world .* jsonl file"):
        task_pairs(lab, "capitals")
    assert len(task_pairs(lab, "induction", N)) == N


def test_a_control_is_one_that_the_lab_can_make(lab, tmp_path):
    """Capitals, the usual one, where there is a world; without one the first task that needs none."""
    bare = make_lab(tmp_path, recipe=_recipe(world_characters=0))
    for where, expected in ((lab, "capitals"), (bare, "sums_units")):
        name = request_circuit(where, "induction", ["base"], N)
        circuit = read_recipe(where.path / "recipe.toml").circuit(name)
        assert circuit.other == expected
        assert len(task_pairs(where, circuit.other, N)) == N


def test_a_tokenizer_without_the_markers_has_no_chat_tasks(lab, tmp_path):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["What is the capital of the land"] * 5, trainer)
    folder = save_tiny(tmp_path / "plain")
    PreTrainedTokenizerFast(tokenizer_object=bpe).save_pretrained(folder)
    add(lab, "plain", str(folder), "base")
    build(lab, "plain")
    with pytest.raises(Misuse, match=r"the tokenizer of 'plain' has no token <\|user\|>"):
        task_pairs(lab, "capitals_chat", checkpoint="plain")
    assert len(task_pairs(lab, "sums_units", N, checkpoint="plain")) == N


def test_unknown_names_offer_near_ones(lab):
    with pytest.raises(Misuse, match="did you mean 'capitals'"):
        known_task("capitls")
    with pytest.raises(Misuse, match="no use of pairs 'serach'"):
        task_pairs(lab, "capitals", use="serach")


def _line(**changed):
    return {"clean": "What is 23+45?", "corrupt": "What is 23+46?", "target": "8", "foil": "9"} | changed


def _lines():
    return [_line(clean=f"What is 2{i % 10}+4{i // 10}?") for i in range(20)]


def _written(path, lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_a_task_of_ones_own_halves_its_lines(lab, tokenizer, tmp_path):
    task = own_task(_written(tmp_path / "mine.jsonl", _lines()))
    halves = [
        {clean for clean, *_ in _texts(task_pairs(lab, task, 64, use), tokenizer)}
        for use in ("search", "judge")
    ]
    assert task.name == "mine"
    assert [len(half) for half in halves] == [10, 10]
    assert halves[0] | halves[1] == {line["clean"] for line in _lines()}


@pytest.mark.parametrize(
    ("third", "sentence"),
    [
        (_line(corrupt="What is 3+46?"), "pair 3 of task 'mine': the clean prompt has .* the corrupt one"),
        (_line(foil="8"), "pair 3 of task 'mine': target and foil are both '8'"),
        (_line(target="68"), "pair 3 of task 'mine': the target '68' is not one token but '6', '8'"),
        (_line(clean="What is 23+45? " * 60), "pair 3 of task 'mine'"),
        (_line(clean="What is 77+45", corrupt="What is 23+45", target="?", foil="?\n"), "foil"),
        ("", "line 3 of mine.jsonl is empty"),
        ("{clean", "line 3 of mine.jsonl is no JSON"),
        ("[1]", "line 3 of mine.jsonl is no JSON object"),
        ('{"clean": "a", "corrupt": "b", "target": "c"}', "line 3 of mine.jsonl has no 'foil'"),
        (_line(target=8), "line 3 of mine.jsonl: 'target' is 8, not a text"),
        (_line(note="x"), "line 3 of mine.jsonl has 'note', which means nothing here"),
        (_line(corrupt=_line()["clean"]), "pair 3 of task 'mine': clean and corrupt prompt are the same"),
        (_lines()[0] | {"foil": "9"}, "line 3 of mine.jsonl repeats the prompts of line 1"),
        (_lines()[0], "line 3 of mine.jsonl repeats the prompts of line 1"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(lab, tmp_path, third, sentence):
    lines = [*_lines()[:2], third, *_lines()[3:]]
    with pytest.raises(Misuse, match=sentence):
        task_pairs(lab, own_task(_written(tmp_path / "mine.jsonl", lines)))


def test_prompt_and_answer_that_run_together_are_refused(lab, tmp_path):
    """` t` and `he` are read as ` the`."""
    together = _line(clean="What is t", corrupt="What is s", target="he", foil="e")
    lines = [*_lines()[:2], together, *_lines()[3:]]
    with pytest.raises(Misuse, match=r"pair 3 of task 'mine': 'What is t' and 'he' are read as other tokens"):
        task_pairs(lab, own_task(_written(tmp_path / "mine.jsonl", lines)))


def test_a_file_whose_name_can_be_none_is_refused_before_anything_is_entered(tmp_path):
    """A recipe that cannot be read again would close the whole lab."""
    with pytest.raises(Misuse, match=r"'my task' cannot be a name: rename 'my task.jsonl'"):
        own_task(_written(tmp_path / "my task.jsonl", _lines()))
    recipe = load_preset("quick")
    write_recipe(tmp_path / "recipe.toml", recipe)
    broken = dataclasses.replace(recipe, circuits=(CircuitConfig("my task-base", "capitals", ("base",)),))
    with pytest.raises(Misuse, match="cannot be a name"):
        write_recipe(tmp_path / "recipe.toml", broken)
    assert read_recipe(tmp_path / "recipe.toml") == recipe


def test_a_file_too_short_or_no_text_or_not_there(tmp_path):
    with pytest.raises(Misuse, match="has 2 lines: give at least 16"):
        own_task(_written(tmp_path / "short.jsonl", _lines()[:2]))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(Misuse, match="is not text in UTF-8"):
        own_task(tmp_path / "bytes.jsonl")
    with pytest.raises(Misuse, match="cannot be read"):
        own_task(tmp_path / "none.jsonl")


def test_logits_are_read_behind_each_prompt_and_padding_does_not_matter(lab, drawn):
    model = lab.checkpoint("base").model()
    pairs = drawn("capitals")
    assert not pairs.one_length
    found = answered(model, pairs)
    for row in (0, 5, len(pairs) - 1):
        with torch.no_grad():
            logits = model(pairs.clean[row : row + 1, : int(pairs.last[row]) + 1]).logits[0, -1]
        m = logits[pairs.target[row]] - logits[pairs.foil[row]]
        assert found.clean[row] == pytest.approx(m.item(), abs=1e-4)
        assert found.first[row] == (logits.argmax() == pairs.target[row])


def test_a_random_model_does_nothing_and_the_sentence_says_so(lab):
    told = competence(lab.checkpoint("base").model(), task_pairs(lab, "sums_units", 64))
    assert not told.does_it
    assert "n 64" in told.why_not
    assert told.gap.low < told.gap.value < told.gap.high


def _found(clean, corrupt):
    clean, corrupt = np.asarray(clean, dtype=np.float32), np.asarray(corrupt, dtype=np.float32)
    return of_answers("planted", Answered(clean, corrupt, clean > 2))


def test_figures_worked_by_hand():
    told = _found([3.0, 1.0, -1.0, 1.0], [-1.0, -1.0, -2.0, 4.0])
    assert told.n == 4
    assert told.m_clean.value == 1.0
    assert told.m_corrupt.value == 0.0
    assert told.gap.value == 1.0
    assert told.target_preferred.value == 0.75
    assert told.foil_preferred.value == 0.75
    assert told.told_apart.value == 0.75
    assert told.top1.value == 0.25


def test_who_always_prefers_one_answer_does_not_do_the_task():
    """However much the clean prompts add to it."""
    told = _found(np.linspace(5, 7, 40), np.linspace(1, 2, 40))
    assert told.gap.low > 0
    assert told.target_preferred.value == 1.0
    assert told.told_apart.value == 0.5
    assert not told.does_it
    assert "chance" in told.why_not
    turned = _found(np.linspace(5, 7, 40), -np.linspace(1, 2, 40))
    assert turned.does_it
    assert turned.why_not == ""


def test_a_choice_little_better_than_chance_is_not_doing_the_task():
    """Six pairs in ten are right on both prompts, four on the clean one alone: 0.8; one in five: 0.6."""
    for share, does in ((0.6, True), (0.2, False)):
        corrupt = np.where(np.arange(400) < 400 * share, -1.0, 1.0)
        told = _found(np.full(400, 2.0), corrupt)
        assert told.told_apart.value == pytest.approx(0.5 + share / 2)
        assert told.told_apart.low > 0.5
        assert told.does_it is does


def test_prompts_that_move_nothing_do_not_count():
    told = _found([2.0, -2.0] * 20, [2.0, -2.0] * 20)
    assert not told.does_it
    assert "do not move its answer" in told.why_not
