"""Checkpoints from outside the lab: what a source names, the hash that pins it, and entering it in the recipe.

A source is a Hugging Face folder, a `.gguf` file, or a hub id (`hub:NAME`, `OWNER/NAME`, either with
`@REVISION`). `add` opens it in full before the recipe changes, so that what is entered can be grown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.disk import sha256_file
from workbench.errors import Failure, Misuse, unknown
from workbench.lab import Lab, canonical, checked_name
from workbench.loading import TOKENIZER_FILES, Shape, Unreadable
from workbench.plan import Plan, plan
from workbench.recipe import AddedCheckpoint, Recipe, read_recipe, write_recipe

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo
    from transformers import PreTrainedTokenizerFast

    from workbench.checkpoint import Checkpoint

_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?(@[\w./-]+)?$")
_HUB_TIMEOUT = 10  # seconds
FILES = ("config.json", "generation_config.json", "trainer_state.json", "*.safetensors", *TOKENIZER_FILES)


@dataclasses.dataclass(frozen=True)
class Source:
    """`kind` is folder, gguf or hub; `location` an absolute path, or a hub id with or without @revision."""

    kind: str
    location: str

    def __str__(self) -> str:
        return f"hub:{self.location}" if self.kind == "hub" else self.location

    @property
    def path(self) -> Path:
        return Path(self.location)


def parse_source(text: str) -> Source:
    """What `text` names. A path that exists goes before a hub id that looks the same."""
    if text.startswith("hub:"):
        location = text.removeprefix("hub:")
        if not _HUB_ID.match(location) or ".." in location:
            raise Misuse(
                f"{text!r} is no hub id: it should look like hub:OWNER/NAME or hub:OWNER/NAME@REVISION"
            )
        return Source("hub", location)
    path = Path(text).expanduser() if text else Path("/nowhere")
    if path.is_dir():
        return Source("folder", str(path.resolve()))
    if path.is_file():
        if path.suffix != ".gguf":
            raise Misuse(
                f"{text} is a file, but not a .gguf: give a .gguf file or the folder that holds config.json"
            )
        return Source("gguf", str(path.resolve()))
    if _HUB_ID.match(text) and text.count("/") == 1 and ".." not in text and not text.startswith("."):
        return Source("hub", text)
    raise Misuse(
        f"there is nothing at {text!r}: "
        "give a Hugging Face folder, a .gguf file, or a hub id such as hub:OWNER/NAME"
    )


def source_digest(source: Source) -> str:
    """What pins the source: SHA-256 over the files that are imported, or a hub repository's commit."""
    if source.kind == "hub":
        return _hub_commit(source.location)
    if source.kind == "gguf":
        return sha256_file(source.path)
    files = sorted({path for pattern in FILES for path in source.path.glob(pattern)})
    listing = [[path.name, sha256_file(path)] for path in files]
    return hashlib.sha256(canonical(listing).encode()).hexdigest()


def hub_folder(location: str, commit: str) -> Path:
    """The files of a hub repository at `commit`, downloaded into the hub's cache; no code, no pickles."""
    import huggingface_hub

    name = location.partition("@")[0]
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=commit, allow_patterns=list(FILES)))
    except Exception as error:
        raise _hub_failure(name, error) from error


def _hub_commit(location: str) -> str:
    """The commit that a hub id means now; without network, the one in the hub's cache."""
    import huggingface_hub

    name, _, revision = location.partition("@")
    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision or None, timeout=_HUB_TIMEOUT)
    except Exception as error:
        try:
            cached = huggingface_hub.snapshot_download(name, revision=revision or None, local_files_only=True)
        except Exception:
            raise _hub_failure(name, error) from error
        return Path(cached).name
    return _checked_commit(name, info)


def _checked_commit(name: str, info: ModelInfo) -> str:
    """The commit, if the repository holds what can be imported."""
    files = [sibling.rfilename for sibling in info.siblings or ()]
    if "config.json" not in files or not any(f.endswith(".safetensors") and "/" not in f for f in files):
        raise Misuse(
            f"hub:{name} has no config.json with safetensors beside it: "
            "ask its author for safetensors, or convert it and add the folder"
        )
    return str(info.sha)


def _hub_failure(name: str, error: Exception) -> Failure | Misuse:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return Misuse(f"hub:{name} asks for consent on its page: agree there, `hf auth login`, then try again")
    if isinstance(
        error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.HFValidationError
    ):
        return Misuse(f"the hub knows no model {name!r} (or not that revision): check the spelling")
    return Failure(
        f"hub:{name} could not be fetched, the hub is not reachable ({type(error).__name__}): "
        "download the model where there is a network and add its folder by path"
    )


def add(lab: Lab, name: str, source: str, stage: str, parent: str | None = None) -> Recipe:
    """Enter the checkpoint at `source` in the lab's recipe as `name`; `grow` imports it then.

    The source is opened in full first, its tokenizer and shape held against those of `parent`.
    """
    checked_name(name, "checkpoint")
    checked_name(stage, "stage")
    with lab.writing("add"):
        recipe = read_recipe(lab.path / "recipe.toml")
        _check_free(name, plan(recipe))
        if parent is not None and parent not in recipe.checkpoint_names:
            raise unknown("checkpoint", parent, recipe.checkpoint_names)
        found = parse_source(source)
        digest = source_digest(found)
        _check_opens(lab, name, found, digest, parent)
        entry = AddedCheckpoint(name, str(found), stage, parent, digest)
        recipe = dataclasses.replace(recipe, added=(*recipe.added, entry))
        plan(recipe)
        write_recipe(lab.path / "recipe.toml", recipe)
    return recipe


def _check_free(name: str, plan_: Plan) -> None:
    taken = [step.key for step in plan_.steps.values() if step.name == name]
    if taken or name.startswith("tokens-"):
        what = f"already means {taken[0]}" if taken else "begins with 'tokens-', which names token sets"
        raise Misuse(f"the name {name!r} {what} in this lab: choose another")


def _check_opens(lab: Lab, name: str, source: Source, digest: str, parent: str | None) -> None:
    """Open the source once; what cannot be read is the person's to mend here, before it is in the recipe."""
    from workbench.added import open_source
    from workbench.checkpoint import Checkpoint

    try:
        opened = open_source(source, digest)
    except Unreadable as error:
        raise Misuse(str(error)) from error
    if parent is None:
        return
    step = Plan.of(lab).step("checkpoint", parent)
    if lab.artefact("checkpoint", parent, step.id) is not None:  # else it is checked when it is imported
        check_family(name, opened.shape, opened.tokenizer, Checkpoint.of(lab, parent))


def check_family(name: str, shape: Shape, tokenizer: PreTrainedTokenizerFast, parent: Checkpoint) -> None:
    """`Misuse` unless `parent`'s tokens mean the same in the child and both have one shape.

    A child may know more tokens (chat markers added in finetuning), never other ones under the same id.
    """
    mine, theirs = _told(shape), _told(parent.shape)
    if mine != theirs:
        raise Misuse(
            f"{name!r} is {mine} but its parent {parent.name!r} is {theirs}: "
            "a child keeps its parent's shape; leave --parent out to add it as a root of its own"
        )
    ours, known = tokenizer.get_vocab(), parent.tokenizer().get_vocab()
    other = _differing(ours, known)
    if other or shape.vocab_size <= max(known.values()):
        example = f" (for one, {other[0]!r})" if other else ""
        raise Misuse(
            f"the tokenizer of {name!r} differs from that of its parent {parent.name!r} in {len(other)} of "
            f"{len(known)} tokens{example}: a child reads its parent's tokens; leave --parent out"
        )


def _told(shape: Shape) -> str:
    return f"{shape.model_type} with {shape.n_layers} layers of width {shape.d_model}"


def _differing(ours: dict[str, int], known: dict[str, int]) -> Sequence[str]:
    """Tokens that the child lacks or has under another id."""
    return sorted(token for token, id_ in known.items() if ours.get(token) != id_)
