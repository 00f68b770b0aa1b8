"""What a person says of latents: a label of their own, a star. Kept in the lab, one small JSON a dictionary.

The file is named by the dictionary artefact's id: labels stay when the feature table is made anew, and a
dictionary that is trained anew begins without them, since its latents are others. An edit is read, changed and
written under a lock of its own, so two people lose nothing, and never waits for a lab that grows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.disk import plain_disk_errors, write_json
from workbench.errors import Failure, Misuse
from workbench.lab import Lab

if TYPE_CHECKING:
    import polars as pl

FOLDER = "annotations"
MAX_LENGTH = 120  # characters
LOCK_SECONDS = 10
_MARKUP = re.compile(r"<\s*[/!?]?\s*[A-Za-z][^<]*>|&(#\d+|#x[0-9a-f]+|[a-z]+);", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Annotation:
    """`label` is None where the person gave none; `changed` in seconds since 1970."""

    label: str | None = None
    star: bool = False
    changed: float = 0.0


def checked_label(text: str) -> str | None:
    """`text` as a label: blanks trimmed, None if nothing is left; `Misuse` for what cannot be one."""
    label = " ".join(text.split(" ")).strip()
    if not label:
        return None
    if len(label) > MAX_LENGTH:
        raise Misuse(
            f"the label has {len(label)} characters and {MAX_LENGTH} are the most: say it in fewer words"
        )
    if any(not char.isprintable() for char in label):
        raise Misuse("the label holds a line break or a character that cannot be shown: write it in one line")
    if found := _MARKUP.search(label):
        raise Misuse(
            f"the label holds HTML ({found.group()[:40]!r}), and labels are plain text: leave the tag out"
        )
    return label


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The annotations of one dictionary; every read sees what is on disk."""

    path: Path
    n_latents: int

    @classmethod
    def of(cls, lab: Lab, dictionary: str) -> Annotations:
        """Those of the dictionary that the lab's recipe means now."""
        artefact = lab.find("dictionary", dictionary)
        path = lab.path / FOLDER / f"{dictionary}-{artefact.id}.json"
        return cls(path, int(artefact.figures["d_sae"]))

    @property
    def explanations_path(self) -> Path:
        """What language models say of the same latents (`workbench.explanations`)."""
        return self.path.with_suffix(".explanations.json")

    def all(self) -> dict[int, Annotation]:
        """By latent, only those that say something."""
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            return {int(latent): _read(entry) for latent, entry in stored["latents"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Failure(
                f"{self.path} cannot be read as annotations ({type(error).__name__}): "
                "mend it or move it away; labels are made anew without it"
            ) from error

    def __getitem__(self, latent: int) -> Annotation:
        return self.all().get(latent, Annotation())

    def set_label(self, latent: int, text: str) -> Annotation:
        """Give a latent a label; an empty one takes it away."""
        label = checked_label(text)
        return self._change(latent, lambda old: dataclasses.replace(old, label=label))

    def set_star(self, latent: int, star: bool) -> Annotation:
        """Star a latent, or take the star away."""
        return self._change(latent, lambda old: dataclasses.replace(old, star=star))

    def starred(self) -> list[int]:
        """Latents with a star, ascending."""
        return sorted(latent for latent, entry in self.all().items() if entry.star)

    def _change(self, latent: int, change: Callable[[Annotation], Annotation]) -> Annotation:
        if not 0 <= latent < self.n_latents:
            raise Misuse(f"there is no latent {latent}: the dictionary has latents 0 to {self.n_latents - 1}")
        with plain_disk_errors(self.path.parent.parent), held(self.path):
            entries = self.all()
            new = change(entries.get(latent, Annotation()))
            entries[latent] = dataclasses.replace(new, changed=time.time())
            kept = {j: e for j, e in sorted(entries.items()) if e.label is not None or e.star}
            write_json(self.path, {"latents": {str(j): dataclasses.asdict(e) for j, e in kept.items()}})
        return entries[latent]


def _read(entry: Mapping[str, Any]) -> Annotation:
    """An entry of the file; `TypeError` where its label is no text."""
    if not isinstance(entry["label"], str | None):
        raise TypeError("a label is text or null")
    return Annotation(entry["label"], bool(entry["star"]), float(entry["changed"]))


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Inside, this process alone changes the file at `path`."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise Failure(f"{path.name} is held by another process: try again in a moment") from error


def said(row: Mapping[str, Any], annotation: Annotation) -> dict[str, Any]:
    """A table's row with the person's label in place of ours, where there is one, without the figures of ours."""
    if annotation.label is None:
        return dict(row)
    ours = {name: None for name in row if name.startswith("label_")}
    return {**row, **ours, "label": annotation.label, "label_kind": "person"}


def annotated(rows: pl.DataFrame, told: Mapping[int, Annotation]) -> pl.DataFrame:
    """A table of all latents in their order, with `star` and `own_label` (null where nobody wrote one)."""
    import polars as pl

    stars = [False] * rows.height
    labels: list[str | None] = [None] * rows.height
    for latent, entry in told.items():
        if latent < rows.height:
            stars[latent], labels[latent] = entry.star, entry.label
    return rows.with_columns(
        pl.Series("star", stars, dtype=pl.Boolean), pl.Series("own_label", labels, dtype=pl.String)
    )
