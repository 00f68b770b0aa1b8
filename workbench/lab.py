"""The lab on disk: content-addressed artefacts, one writer, any number of readers.

An artefact is a folder `<kind>/<name>-<id>/` with a `manifest.json`. It is built in
`<kind>/.partial-<name>-<id>/`; the manifest is written last and the folder renamed, so a folder
under its final name is complete. `id` hashes (kind, configuration, ids of the parents, code version
of the kind): a changed setting never reuses a stale artefact, an unchanged one is never made twice.

Snapshots inside a partial checkpoint folder are renamed in whole and may be read at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.disk import plain_disk_errors, sha256_file, write_json
from workbench.errors import Failure, Misuse, unknown

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint
    from workbench.notebook import Shown

KINDS = (
    "corpus", "tokenizer", "checkpoint", "activations", "dictionary",
    "features", "comparison", "evaluation", "circuit", "probe",
)  # fmt: skip
MANIFEST = "manifest.json"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}$")
_RECORDED = ("torch", "transformers", "trl", "tokenizers", "sae-lens", "numpy", "polars")


def labs_home() -> Path:
    """Folder that holds the labs: `$MARBLE_HOME`, else `./labs`."""
    return Path(os.environ.get("MARBLE_HOME", "labs"))


def checked_name(name: str, what: str = "name") -> str:
    """`name` if it can be a folder's name; refuses separators, `..` and anything not plain."""
    if not _NAME.match(name) or ".." in name:
        raise Misuse(
            f"{name!r} cannot be a {what}: use letters, digits, '.', '_', '+' and '-', "
            "starting with a letter or digit, without '..' or path separators"
        )
    return name


def canonical(value: object) -> str:
    """JSON that is equal for equal values (keys sorted, no spaces, dataclasses as mappings)."""

    def plain(obj: object) -> object:
        if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
            return dataclasses.asdict(obj)
        if isinstance(obj, Path):
            return str(obj)
        raise TypeError(f"{type(obj).__name__} cannot be part of a configuration")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain, allow_nan=False)


def artefact_id(kind: str, config: Mapping[str, Any], parents: list[str], version: int) -> str:
    """First 12 hex digits of SHA-256 over (kind, configuration, parents' ids, code version)."""
    text = canonical([kind, dict(config), list(parents), version])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A finished artefact: its folder and what its manifest says."""

    kind: str
    name: str
    id: str
    path: Path
    manifest: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.manifest["config"]

    @property
    def figures(self) -> Mapping[str, Any]:
        return self.manifest["figures"]

    def check_sizes(self) -> None:
        """Raise `Failure` if a file is missing or has another size than the manifest says."""
        for relative, entry in self.manifest["files"].items():
            path = self.path / relative
            size = path.stat().st_size if path.exists() else None
            if size != entry["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
                raise Failure(
                    f"{path} {found}: the artefact {self.kind} {self.name!r} is damaged; remove the folder "
                    f"{self.path.name} and run `python -m workbench grow {self.path.parents[1].name}`"
                )

    def check_hashes(self) -> list[str]:
        """Files whose bytes differ from the manifest's SHA-256, as relative paths."""
        return [
            relative
            for relative, entry in self.manifest["files"].items()
            if not (self.path / relative).exists() or sha256_file(self.path / relative) != entry["sha256"]
        ]


def read_artefact(path: Path) -> Artefact:
    """The artefact in a finished folder."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return Artefact(manifest["kind"], manifest["name"], manifest["id"], path, manifest)
    except (FileNotFoundError, json.JSONDecodeError, KeyError) as error:
        raise Failure(
            f"{path / MANIFEST} is missing or damaged ({type(error).__name__}): remove the folder {path.name} "
            f"and run `python -m workbench grow {path.parents[1].name}`"
        ) from error


@dataclasses.dataclass(frozen=True)
class Draft:
    """An artefact being built in its partial folder; `commit` gives it its final name."""

    kind: str
    name: str
    id: str
    version: int
    config: Mapping[str, Any]
    parents: Mapping[str, str]
    path: Path
    final: Path

    def commit(self, figures: Mapping[str, Any], seed: int | None = None) -> Artefact:
        """Write the manifest, flush, rename the folder to its final name.

        Entries whose name begins with '.' and the folder `resume/` are working state and are removed.
        """
        for entry in list(self.path.iterdir()):
            if entry.name.startswith(".") or entry.name == "resume":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        files = {
            str(path.relative_to(self.path)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path != self.path / MANIFEST
        }
        manifest = {
            "kind": self.kind,
            "name": self.name,
            "id": self.id,
            "version": self.version,
            "config": json.loads(canonical(dict(self.config))),
            "parents": dict(self.parents),
            "seed": seed,
            "packages": package_versions(),
            "created": time.time(),
            "files": files,
            "figures": dict(figures),
        }
        with plain_disk_errors(self.path):
            write_json(self.path / MANIFEST, manifest)
            if self.final.exists():  # left by a damaged earlier build: the new one replaces it
                shutil.rmtree(self.final)
            self.path.rename(self.final)
        return read_artefact(self.final)


def package_versions() -> dict[str, str]:
    """Installed versions of the packages whose numbers can change a result."""
    versions = {}
    for package in _RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


@dataclasses.dataclass(frozen=True)
class Lab:
    """One lab folder. Reading needs no lock; `writing()` holds the lab for one process."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def open(cls, name: str, home: Path | None = None) -> Lab:
        """An existing lab by name below `home` (default `$MARBLE_HOME`); `Misuse` names the near ones."""
        checked_name(name, "lab")
        home = labs_home() if home is None else home
        path = home / name
        if not (path / "recipe.toml").is_file():
            existing = [p.parent.name for p in home.glob("*/recipe.toml")]
            error = unknown("lab", name, existing)
            raise Misuse(f"{error}; `python -m workbench grow {name}` grows it")
        return cls(path)

    def show(self) -> Shown:
        """For a notebook: checkpoints, dictionaries, figures."""
        from workbench.notebook import show_lab

        return show_lab(self)

    def artefacts(self, kind: str) -> list[Artefact]:
        """All finished artefacts of a kind, whatever recipe made them, oldest first."""
        found = [read_artefact(p.parent) for p in (self.path / kind).glob(f"[!.]*/{MANIFEST}")]
        return sorted(found, key=lambda a: a.manifest["created"])

    def artefact(self, kind: str, name: str, id_: str) -> Artefact | None:
        """The finished artefact with this id, sizes checked, or None if it has yet to be built."""
        path = self.path / kind / f"{name}-{id_}"
        if not (path / MANIFEST).is_file():
            return None
        artefact = read_artefact(path)
        artefact.check_sizes()
        return artefact

    def find(self, kind: str, name: str) -> Artefact:
        """The artefact that `name` means in the lab's current recipe."""
        from workbench.jobs import how_to_grow
        from workbench.plan import Plan

        plan = Plan.of(self)
        step = plan.step(kind, name)
        artefact = self.artefact(kind, name, step.id)
        if artefact is None:
            raise Misuse(f"{kind} {name!r} of lab {self.name!r} has not been grown yet: {how_to_grow(self)}")
        return artefact

    def begin(
        self, kind: str, name: str, config: Mapping[str, Any], parents: Mapping[str, str], version: int
    ) -> Draft:
        """Open (or reopen, after an interruption) the partial folder of an artefact."""
        if kind not in KINDS:
            raise unknown("kind of artefact", kind, KINDS)
        checked_name(name)
        id_ = artefact_id(kind, config, list(parents.values()), version)
        path = self.path / kind / f".partial-{name}-{id_}"
        with plain_disk_errors(self.path):
            path.mkdir(parents=True, exist_ok=True)
        return Draft(kind, name, id_, version, config, parents, path, self.path / kind / f"{name}-{id_}")

    def partial(self, kind: str, name: str, id_: str) -> Path | None:
        """The partial folder of a growing artefact, if there is one."""
        path = self.path / kind / f".partial-{name}-{id_}"
        return path if path.is_dir() else None

    def checkpoint(self, name: str) -> Checkpoint:
        """A checkpoint by name; `sft@128` is its snapshot at step 128."""
        from workbench.checkpoint import Checkpoint

        return Checkpoint.of(self, name)

    def checkpoints(self, *names: str) -> tuple[Checkpoint, ...]:
        """Several checkpoints by name, in the given order."""
        return tuple(self.checkpoint(name) for name in names)

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Hold the lab as its only writer; `what` is the command that does, and a second writer is told of it.

        A busy lab is `Failure`: what was asked for is right, and can be had later.
        """
        from filelock import FileLock, Timeout

        with plain_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        holder = self.path / ".lock-holder.json"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            try:
                known = json.loads(holder.read_text())
                who = f"the command `{known['what']}` (process {known['pid']})"
            except (OSError, ValueError, KeyError):
                who = "another process"
            raise Failure(
                f"lab {self.name!r} is being written by {who}: wait for it to end or stop it, then try again"
            ) from None
        try:
            write_json(holder, {"pid": os.getpid(), "what": what, "since": time.time()})
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()
