"""A checkpoint of a lab: one model at one moment of its training, as a plain Hugging Face folder.

`sft` is the finished stage, `sft@128` its snapshot at step 128, `sft@latest` the newest there is. A stage
that still grows shows its snapshots from its partial folder; each was renamed there in whole.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.disk import sha256_file
from workbench.errors import Failure, Misuse
from workbench.jobs import how_to_grow
from workbench.lab import MANIFEST, Artefact, Lab, read_artefact
from workbench.loading import (
    Shape,
    Unreadable,
    has_tokenizer,
    load_model,
    load_tokenizer,
    not_finite,
    read_shape,
    weight_files,
)
from workbench.plan import Plan
from workbench.steps import Step

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_SNAPSHOT = re.compile(r"^step-(\d+)$")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """`step` is None for the finished stage; `path` is the folder to hand to `from_pretrained`."""

    lab: Lab
    name: str
    stage: str
    step: int | None
    parent: str | None
    path: Path

    @classmethod
    def of(cls, lab: Lab, address: str) -> Checkpoint:
        """The checkpoint at `NAME`, `NAME@STEP` or `NAME@latest`; near names are offered for unknown ones."""
        name, at, wanted = address.partition("@")
        plan = Plan.of(lab)
        step = plan.step("checkpoint", name)
        finished = lab.artefact("checkpoint", name, step.id)
        folder = finished.path if finished else lab.partial("checkpoint", name, step.id)
        known = {
            "lab": lab,
            "name": name,
            "stage": step.config["stage"],
            "parent": plan.parent_checkpoint(name),
        }
        if finished and (not at or wanted == "latest"):
            return cls(**known, step=None, path=finished.path)
        steps = _snapshots(folder) if folder else []
        number = _chosen(lab, name, wanted if at else None, steps, finished is not None)
        assert folder is not None  # `_chosen` refuses where there is no snapshot
        return cls(**known, step=number, path=folder / "snapshots" / f"step-{number:06d}")

    @property
    def address(self) -> str:
        """What `Checkpoint.of` finds this one by."""
        return self.name if self.step is None else f"{self.name}@{self.step}"

    @property
    def folder(self) -> Path:
        """The folder of the whole stage, finished or growing."""
        return self.path if self.step is None else self.path.parents[1]

    @property
    def growing(self) -> bool:
        """The stage is not finished yet."""
        return not (self.folder / MANIFEST).is_file()

    @property
    def artefact(self) -> Artefact | None:
        """The finished artefact this belongs to; None while it grows."""
        return None if self.growing else read_artefact(self.folder)

    @property
    def figures(self) -> Mapping[str, Any]:
        """The stage's key figures; none while it grows."""
        artefact = self.artefact
        return artefact.figures if artefact else {}

    @property
    def shape(self) -> Shape:
        return read_shape(self._current().path)

    @property
    def n_layers(self) -> int:
        return self.shape.n_layers

    @property
    def d_model(self) -> int:
        return self.shape.d_model

    @property
    def n_ctx(self) -> int:
        return self.shape.n_ctx

    @property
    def default_layer(self) -> int:
        """The middle: the layer whose `resid_post` dictionaries read unless told otherwise."""
        return (self.n_layers - 1) // 2

    def lineage(self) -> tuple[str, ...]:
        """Names from the root of the family down to this checkpoint."""
        plan, names = Plan.of(self.lab), [self.name]
        while (parent := plan.parent_checkpoint(names[-1])) is not None:
            names.append(parent)
        return tuple(reversed(names))

    def snapshots(self) -> list[int]:
        """Steps at which the stage was kept, ascending."""
        return _snapshots(self._current().folder)

    def at(self, step: int) -> Checkpoint:
        """The snapshot of the same stage at `step`."""
        return Checkpoint.of(self.lab, f"{self.name}@{step}")

    def model(self, device: str = "cpu") -> PreTrainedModel:
        """A fresh model: fp32, eager attention, eval mode. Weights that were altered are `Failure`."""
        here = self._current()
        try:
            here._check_weights()
            model = load_model(here.path, device)
        except Unreadable as error:
            raise Failure(f"{error}: {here._remedy()}") from error
        if (broken := not_finite(model)) is not None:
            raise Failure(
                f"checkpoint {here.address!r} cannot be used, {broken} holds NaN or infinite numbers (its training "
                "came apart): leave it out, or lower its learning rate in recipe.toml and grow it again"
            )
        return model

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer beside the weights, else the stage's, else (for the lab's own stages) the lab's."""
        here = self._current()
        for folder in dict.fromkeys((here.path, here.folder)):
            if has_tokenizer(folder):
                return load_tokenizer(folder)
        if "tokenizer/bpe" in here._plan_step().parents:
            return load_tokenizer(self.lab.find("tokenizer", "bpe").path)
        raise Failure(f"{here.path} has no tokenizer: {here._remedy()}")

    def bridge(self, device: str = "cpu", model: PreTrainedModel | None = None) -> TransformerBridge:
        """A TransformerBridge on raw weights (nothing folded), one fresh model under it, or `model`, which is this
        checkpoint's and has been read and not changed.

        Booting changes that model in place and hooks mutate it: never share it, lock a cached bridge.
        """
        from transformer_lens.model_bridge import TransformerBridge

        here = self._current()
        model, tokenizer = here.model(device) if model is None else model, here.tokenizer()
        return TransformerBridge.boot_transformers(
            str(here.path), hf_model=model, tokenizer=tokenizer, device=device
        )

    def _current(self) -> Checkpoint:
        """Itself; found anew if the stage was finished, and its folder renamed, since it was opened."""
        return self if self.path.is_dir() else Checkpoint.of(self.lab, self.address)

    def _plan_step(self) -> Step:
        return Plan.of(self.lab).step("checkpoint", self.name)

    def _check_weights(self) -> None:
        """The weights are the bytes that the manifest recorded (a growing stage has no manifest yet)."""
        files, artefact = weight_files(self.path), self.artefact
        if artefact is None:
            return
        for path in files:
            recorded = artefact.manifest["files"].get(str(path.relative_to(artefact.path)))
            if recorded is None or recorded["sha256"] != sha256_file(path):
                raise Unreadable(f"{path} is not the file that was written when {self.name!r} was grown")

    def _remedy(self) -> str:
        return f"remove the folder {self.folder.name} and run `python -m workbench grow {self.lab.name}`"


def fast_models(lab: Lab, names: Iterable[str]) -> dict[str, PreTrainedModel]:
    """Checkpoints in memory, on the best device, with fused attention where their family has it."""
    from workbench.device import best_device
    from workbench.site import with_fast_attention

    return {name: with_fast_attention(Checkpoint.of(lab, name).model(best_device())) for name in names}


def _snapshots(folder: Path) -> list[int]:
    found = (_SNAPSHOT.match(path.name) for path in folder.glob("snapshots/step-*"))
    return sorted(int(match.group(1)) for match in found if match)


def _chosen(lab: Lab, name: str, wanted: str | None, steps: list[int], finished: bool) -> int:
    """The snapshot step that `wanted` ("128", "latest"; None: the finished stage) means; else `Misuse`."""
    if not finished and (wanted is None or not steps):
        look = f"; what there is of it: {name}@{steps[-1]}" if steps else ""
        raise Misuse(
            f"checkpoint {name!r} of lab {lab.name!r} has not been grown yet: {how_to_grow(lab)}{look}"
        )
    if not steps:
        raise Misuse(f"checkpoint {name!r} has no snapshots: ask for {name!r} itself")
    if wanted == "latest":
        return steps[-1]
    if wanted is None or not wanted.isdecimal() or int(wanted) not in steps:
        listed = ", ".join(str(step) for step in steps)
        raise Misuse(f"checkpoint {name!r} has no snapshot {wanted!r}: there are {listed}, and 'latest'")
    return int(wanted)
