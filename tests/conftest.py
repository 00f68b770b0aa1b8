"""Shared fixtures: shapes are checked at run time, and labs are grown once for a whole run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook(["saes", "workbench", "probes"], "beartype.beartype")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from tests.grown_once import grown_once, home_of_run  # noqa: E402
from tests.tiny_models import FAMILIES, Machine, machine_of  # noqa: E402
from workbench.grow import grow  # noqa: E402
from workbench.lab import Lab  # noqa: E402
from workbench.recipe import Recipe, load_preset, write_recipe  # noqa: E402

home_of_run()

# Files of few tests that take long: begun last, one of them would leave all workers but its own idle.
FIRST = (
    "test_own_checkpoints.py", "test_stage_paths.py", "test_browser.py", "test_controls.py",
    "test_more_dictionaries.py", "test_compare_faults.py", "test_architectures.py", "test_circuit_pages.py",
    "test_feature_circuit_lab.py", "test_circuit_finders.py", "test_planted_circuits.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first (`make test` keeps this order among its workers)."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


def tiny_recipe() -> Recipe:
    """The quick recipe at a size that grows in seconds: the same code, real text, a two-layer model."""
    quick = load_preset("quick")
    replace = dataclasses.replace
    return replace(
        quick,
        preset="tiny",
        corpus=replace(
            quick.corpus,
            max_prose_characters=900_000,
            world_characters=300_000,
            n_heldout=3,
            n_dictionary=3,
            n_countries=12,
            n_words=150,
            n_chats=600,
            n_questions=60,
        ),
        tokenizer=replace(quick.tokenizer, vocab_size=512),
        model=replace(quick.model, n_layers=2, d_model=32, n_heads=2, d_mlp=64, n_ctx=64),
        base=replace(quick.base, steps=60, batch_size=16, gradient_accumulation=1),
        sft=replace(quick.sft, steps=24, batch_size=32),
        grpo=replace(quick.grpo, steps=4, batch_size=32),
        activations=replace(quick.activations, dictionary_tokens=24_000, heldout_tokens=16_000, n_rollouts=8),
        dictionaries=tuple(replace(d, d_sae=128, k=8, steps=80, batch_size=512) for d in quick.dictionaries),
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower on two threads than on one, most of all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The lab that many tests read, grown up to its comparison, as the one that pages show. Read-only."""
    from tests.tiny_lab import on_pages, shared_lab

    return on_pages(shared_lab(), monkeypatch)


@pytest.fixture(scope="module", params=FAMILIES)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """(model, tokenizer) of each family, read back from disk."""
    return machine_of(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The first family alone."""
    return machine_of(tmp_path_factory.mktemp("llama"), "llama")


@grown_once
def trained_lab(home: Path) -> Lab:
    """A lab with every step of the recipe grown."""
    write_recipe(home / "tiny" / "recipe.toml", tiny_recipe())
    lab = Lab.open("tiny", home)
    grow(lab, quiet=True)
    return lab


@pytest.fixture(scope="session")
def tiny_lab() -> Iterator[Lab]:
    """The trained lab, below `$MARBLE_HOME` for the rest of the session. Read-only: a test that writes makes
    its own."""
    lab = trained_lab()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARBLE_HOME", str(lab.path.parent))
        yield lab
