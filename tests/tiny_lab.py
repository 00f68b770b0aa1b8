"""A lab of a few thousand tokens with real parts: generated text, a trained BPE, small Llamas that descend
from one another. Stages are not trained: each is its parent with its weights moved a little."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.grown_once import grown_once
from workbench import recipe as recipes
from workbench import tokenizer as tokenizers
from workbench.corpus import _row, as_table
from workbench.grow import grow
from workbench.lab import Draft, Lab
from workbench.lexicon import leaf_factors, make_world, with_ancestors
from workbench.parts import PARTS
from workbench.plan import Plan
from workbench.stage_config import ModelConfig, TokenizerConfig
from workbench.tasks import ASSISTANT, END, all_questions, gold_chat
from workbench.world import world_documents

WORDS = ("between", "letter", "river", "banana", "window", "green", "summer", "apple", "tree", "little")


def tiny_recipe() -> recipes.Recipe:
    """The quick recipe, two orders of magnitude smaller."""
    quick = recipes.load_preset("quick")
    small = {"d_sae": 96, "k": 6, "steps": 60, "batch_size": 256}
    return dataclasses.replace(
        quick,
        corpus=dataclasses.replace(quick.corpus, world_characters=40_000, n_countries=12, n_chats=80),
        tokenizer=TokenizerConfig(vocab_size=400),
        model=ModelConfig(n_layers=4, d_model=32, n_heads=2, d_mlp=64, n_ctx=64),
        activations=recipes.ActivationsConfig(
            dictionary_tokens=9_000, heldout_tokens=7_000, n_rollouts=8, dtype="float32"
        ),
        dictionaries=tuple(dataclasses.replace(d, **small) for d in quick.dictionaries),
    )


def rows_of_corpus(recipe: recipes.Recipe, characters: int = 9_000) -> tuple[pl.DataFrame, list[str]]:
    """Documents of a corpus: world (`characters` a split), chats, and little prose with a script in it."""
    world = make_world(recipe.corpus.n_countries, WORDS, 0)
    questions = [q for q in all_questions(world) if q.task != "letter_counts" or len(set(q.about)) > 1]
    counted = [(word, word[1]) for word in WORDS]
    pairs = [(a, b) for a in range(10, 60, 7) for b in range(11, 90, 9)]
    kept: list[dict] = []
    for split in ("train", "dictionary", "heldout"):
        rng = random.Random(split)
        documents = world_documents(rng, world, pairs, counted, characters)
        kept += [_row(f"{split}-{i}", split, "world", None, d) for i, d in enumerate(documents)]
        for i, question in enumerate(rng.sample(questions, 80)):
            row = _row(f"{split}-chat-{i}", split, "chat", None, gold_chat(question, worked=False))
            answer = row["text"].split(ASSISTANT)[1].removesuffix(END)
            asked = {"question": question.prompt, "answer": answer}
            kept.append(row | asked | {"task": question.task, "result": question.result})
        for i in range(6):
            text = f"Fellow citizens <script>alert({i})</script> café <|end|> " + " ".join(
                rng.choices(WORDS, k=150)
            )
            about = {"year": 1900 + i, "president": "Nobody", "spans": ()}
            kept.append(
                {"id": f"{split}-prose-{i}", "split": split, "domain": "prose", "kind": "address", "text": text}
                | about
            )
    names = with_ancestors(leaf_factors(world))
    return as_table(kept, names), names


def draft(lab: Lab, kind: str, name: str) -> Draft:
    """The partial folder of a step of the lab's plan."""
    step = Plan.of(lab).step(kind, name)
    return lab.begin(kind, name, step.config, step.parents, step.builder.version)


def make_lab(
    home: Path, name: str = "tiny", recipe: recipes.Recipe | None = None, characters: int = 9_000
) -> Lab:
    """Corpus, tokenizer and checkpoints; the rest is for the builders."""
    torch.set_num_threads(1)
    recipe = recipe or tiny_recipe()
    recipes.write_recipe(home / name / "recipe.toml", recipe)
    lab = Lab(home / name)
    documents, names = rows_of_corpus(recipe, characters)
    corpus = draft(lab, "corpus", "text")
    documents.write_parquet(corpus.path / "documents.parquet")
    (corpus.path / "factors.json").write_text(json.dumps(names))
    corpus.commit({})
    bpe = tokenizers.train(documents["text"], recipe.tokenizer.vocab_size)
    tokenizer = tokenizers.as_pretrained(bpe, recipe.model.n_ctx)
    folder = draft(lab, "tokenizer", "bpe")
    tokenizer.save_pretrained(folder.path)
    folder.commit({})
    torch.manual_seed(0)
    model = tiny_llama(recipe)
    for stage in recipes.STAGES:
        folder = draft(lab, "checkpoint", stage)
        model.save_pretrained(folder.path)
        tokenizer.save_pretrained(folder.path)
        folder.commit({})
        moved(model, 0.2)
    return lab


def tiny_llama(recipe: recipes.Recipe) -> LlamaForCausalLM:
    """A fresh Llama of the recipe's shape, its weights large enough for its layers to matter."""
    shape = recipe.model
    config = LlamaConfig(
        vocab_size=recipe.tokenizer.vocab_size, hidden_size=shape.d_model, intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
        max_position_embeddings=shape.n_ctx, bos_token_id=1, eos_token_id=4, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    return moved(model, 5.0)


def moved(model: LlamaForCausalLM, share: float) -> LlamaForCausalLM:
    """Every matrix moved by noise of `share` times its initial scale."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter += share * 0.02 * torch.randn_like(parameter)
    return model


def build(lab: Lab, *steps: str) -> Lab:
    """Grow the named steps and what they stand on."""
    grow(lab, steps, quiet=True)
    return lab


def on_pages(lab: Lab, patch: pytest.MonkeyPatch) -> Lab:
    """The lab as the one that pages and commands find."""
    patch.setenv("MARBLE_HOME", str(lab.path.parent))
    patch.setenv("MARBLE_LAB", lab.name)
    return lab


@grown_once
def shared_lab(home: Path) -> Lab:
    """One lab for all tests of a run, grown up to its comparison. Tests read it and never write to it."""
    recipe = dataclasses.replace(tiny_recipe(), compared=("base-sft-grpo",))
    parts = (f"evaluation/{part}-base-sft-grpo" for part in PARTS)
    return build(make_lab(home, recipe=recipe), "base-sft-grpo", "features/sae-sft", *parts)


def begun_lab(home: Path, recipe: recipes.Recipe, *without: str) -> Lab:
    """A lab of one's own by `recipe`, which need not grow again what the shared lab holds of it. A change of
    files that a step's id does not show (snapshots, say) asks for the steps that read them to be left out."""
    lab = Lab(Path(shutil.copytree(shared_lab().path, home / "tiny")))
    for pattern in without:
        for folder in lab.path.glob(pattern):
            shutil.rmtree(folder)
    recipes.write_recipe(lab.path / "recipe.toml", recipe)
    return lab
