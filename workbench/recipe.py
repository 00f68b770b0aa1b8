"""The recipe of a lab: every setting of every step, resolved, written to `recipe.toml`.

Presets are the TOML files in `workbench/presets/`; a lab keeps its own resolved copy, so a preset that
changes later never changes a lab that exists. All configurations are frozen: derive, never mutate.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.circuit_config import CircuitConfig, FeatureCircuitConfig
from workbench.disk import plain_disk_errors
from workbench.errors import Misuse, unknown
from workbench.lab import checked_name
from workbench.points import RESID_POST
from workbench.settings import LATER, given, parse
from workbench.stage_config import (
    BaseConfig,
    CorpusConfig,
    GrpoConfig,
    ModelConfig,
    SftConfig,
    StageConfig,
    TokenizerConfig,
)

PRESETS = Path(__file__).parent / "presets"
STAGES = ("base", "sft", "grpo")
SAE, CROSSCODER, DIFFERENCE, TRANSCODER = "sae", "crosscoder", "difference", "transcoder"
SHAM, SIBLING, BRANCH = "sham", "sibling", "branch"  # kinds of a checkpoint beside the lineage
N = typing.TypeVar("N", "DictionaryConfig", "ComparisonConfig", "SweepConfig", "UnlikeConfig", "CircuitConfig")


@dataclasses.dataclass(frozen=True)
class ActivationsConfig:
    """What dictionaries read: tokens per set, and own samples of each checkpoint among them."""

    dictionary_tokens: int = 400_000
    heldout_tokens: int = 240_000
    n_rollouts: int = 256  # own samples of each checkpoint, in each set
    dtype: str = "bfloat16"


@dataclasses.dataclass(frozen=True)
class DictionaryConfig:
    """One sparse dictionary: an SAE reads one checkpoint, a crosscoder several. A checkpoint may be a snapshot
    (`sft@64`)."""

    name: str
    checkpoints: tuple[str, ...]
    d_sae: int = 2_048
    k: int = 16
    arch: str = "batchtopk"
    layer: int | None = None  # None: the middle, (n_layers - 1) // 2
    steps: int = 2_000
    batch_size: int = 2_048
    lr: float = 2e-3
    seed: int = 0
    point: str = dataclasses.field(default=RESID_POST, metadata=LATER)  # of the layer: `workbench.points`
    source: str = dataclasses.field(default="", metadata=LATER)  # where an imported one comes from
    source_sha256: str = dataclasses.field(default="", metadata=LATER)  # of its weights as they came
    target: str = dataclasses.field(default="", metadata=LATER)  # a transcoder's: the point that it writes at
    # The share of a crosscoder's latents that each checkpoint has to itself.
    dedicated: float = dataclasses.field(default=0.0, metadata=LATER)
    # The checkpoint whose activations are taken off: a difference dictionary.
    minus: str = dataclasses.field(default="", metadata=LATER)
    # A transcoder's linear path beside its latents.
    skip: bool = dataclasses.field(default=False, metadata=LATER)

    @property
    def kind(self) -> str:
        if self.target:
            return TRANSCODER
        if self.minus:
            return DIFFERENCE
        return SAE if len(self.checkpoints) == 1 else CROSSCODER

    @property
    def reads(self) -> tuple[str, ...]:
        """Every checkpoint that is run for it."""
        return (*self.checkpoints, *([self.minus] if self.minus else []))

    @property
    def for_contrast(self) -> bool:
        """An L1 crosscoder: it stands beside another, to show what that one does not invent."""
        return self.arch == "l1"

    @property
    def usual(self) -> bool:
        """What a comparison takes unasked: not the L1 form, nor one with dedicated latents."""
        return self.arch == "batchtopk" and not self.dedicated

    def settings(self) -> dict[str, Any]:
        """What the dictionary's id is made of."""
        return given(self)


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """Checkpoints laid side by side through one crosscoder."""

    name: str
    checkpoints: tuple[str, ...]
    dictionary: str


@dataclasses.dataclass(frozen=True)
class UnlikeConfig:
    """Checkpoints without tokens, shape or root in common, compared in what can be (`workbench.unlike`)."""

    name: str
    checkpoints: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Dictionaries of every architecture, width and k on one checkpoint, trained together over one pass."""

    name: str
    checkpoint: str
    archs: tuple[str, ...] = ("batchtopk",)
    widths: tuple[int, ...] = (1_024, 2_048)
    ks: tuple[int, ...] = (4, 8, 16, 32)
    layer: int | None = None  # None: the middle, as of a dictionary
    steps: int = 700
    batch_size: int = 2_048
    lr: float = 3e-3
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class PathsConfig:
    """Stage-wise model diffing of a checkpoint and its child, through an SAE trained as `dictionary` was."""

    parent: str
    child: str
    dictionary: str

    @property
    def name(self) -> str:
        return f"paths-{self.parent}-{self.child}"


@dataclasses.dataclass(frozen=True)
class AddedCheckpoint:
    """A checkpoint brought from outside: `source` is an HF folder, a hub id or a GGUF file."""

    name: str
    source: str
    stage: str
    parent: str | None = None
    source_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class BranchConfig:
    """A checkpoint beside the lineage: stage `of` grown again with another seed (`SIBLING`) or from another parent
    (`BRANCH`), or its parent trained on, on the parent's own data, for as many steps (`SHAM`)."""

    name: str
    kind: str
    of: str
    parent: str
    seed: int = 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a lab."""

    preset: str
    corpus: CorpusConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    base: BaseConfig
    sft: SftConfig
    grpo: GrpoConfig
    activations: ActivationsConfig
    dictionaries: tuple[DictionaryConfig, ...] = ()
    comparisons: tuple[ComparisonConfig, ...] = ()
    added: tuple[AddedCheckpoint, ...] = ()
    branches: tuple[BranchConfig, ...] = ()  # of the lineage: controls, and GRPO without SFT
    compared: tuple[str, ...] = ()  # comparisons to be taken apart: drift, latent scaling
    evaluations: tuple[str, ...] = ()  # dictionaries to be judged: against the world's factors, beside controls
    sweeps: tuple[SweepConfig, ...] = ()
    paths: tuple[PathsConfig, ...] = ()  # from a checkpoint to its child, to be walked by fine-tuning an SAE
    unlike: tuple[UnlikeConfig, ...] = ()
    circuits: tuple[CircuitConfig, ...] = ()
    circuit_histories: tuple[str, ...] = ()  # circuits to be followed along the snapshots
    feature_circuits: tuple[FeatureCircuitConfig, ...] = ()
    circuit_checks: tuple[str, ...] = ()  # circuits whose edges are patched one by one, beside their estimates
    lenses: tuple[str, ...] = ()  # checkpoints, or snapshots, to have a tuned lens
    superposition: tuple[str, ...] = ()  # SAEs whose checkpoints are studied for it

    def stage(self, name: str) -> StageConfig:
        return typing.cast(StageConfig, getattr(self, name))

    @property
    def checkpoint_names(self) -> tuple[str, ...]:
        return (*STAGES, *(b.name for b in self.branches), *(a.name for a in self.added))

    def dictionary(self, name: str) -> DictionaryConfig:
        return _named("dictionary", self.dictionaries, name)

    def comparison(self, name: str) -> ComparisonConfig:
        return _named("comparison", self.comparisons, name)

    def circuit(self, name: str) -> CircuitConfig:
        return _named("circuit", self.circuits, name)

    def sweep(self, name: str) -> SweepConfig:
        return _named("sweep", self.sweeps, name)


def stage_of(address: str) -> str:
    """The checkpoint that an address means a moment of: `sft` of both `sft` and its snapshot `sft@64`."""
    return address.partition("@")[0]


def joined(addresses: Sequence[str]) -> str:
    """Checkpoints in the name of what reads them: `base-sft.64` of `base` and `sft@64`."""
    return "-".join(address.replace("@", ".") for address in addresses)


def _named(kind: str, configs: Sequence[N], name: str) -> N:
    """The one called `name`; near names are offered for unknown ones."""
    for config in configs:
        if config.name == name:
            return config
    raise unknown(kind, name, [c.name for c in configs])


def load_preset(name: str) -> Recipe:
    """A preset by name: `quick`, `standard` or `gpu`."""
    path = PRESETS / f"{name}.toml"
    if "/" in name or not path.is_file():
        raise unknown("preset", name, [p.stem for p in PRESETS.glob("*.toml")])
    return read_recipe(path)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file."""
    try:
        return _recipe_of(path.read_text(encoding="utf-8"), path.name)
    except tomllib.TOMLDecodeError as error:
        raise Misuse(f"{path} is not valid TOML ({error}): mend that line or restore the file") from error


@functools.lru_cache(maxsize=16)  # a page asks for its lab's four times a run, which was a fifth of the run
def _recipe_of(text: str, name: str) -> Recipe:
    recipe = parse(Recipe, tomllib.loads(text), name)
    named = (
        recipe.dictionaries,
        recipe.comparisons,
        recipe.added,
        recipe.branches,
        recipe.sweeps,
        recipe.unlike,
        recipe.circuits,
        recipe.feature_circuits,
    )
    for each in itertools.chain(*named):
        checked_name(each.name)
    return recipe


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe as TOML under a temporary name, then rename."""
    import tomli_w

    text = tomli_w.dumps(_without_none(dataclasses.asdict(recipe)))
    _recipe_of(text, path.name)  # what cannot be read again would close the whole lab
    temporary = path.with_name(f".{path.name}.tmp")
    with plain_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def _without_none(value: Any) -> Any:
    """TOML has no null: an absent key means None."""
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value]
    return value
