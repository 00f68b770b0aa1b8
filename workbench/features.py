"""The feature table of a dictionary: one row a latent, read by every page that shows latents.

`table.parquet` holds the rows, `index/` every activation over the held-out tokens sorted by latent,
`examples.parquet` the strongest excerpts, `logits-<checkpoint>-{ids,values}.npy` what each latent's decoder
promotes and suppresses, the files of `workbench.feature_parts` the rest of a dashboard. Opening reads two small
tables; a dashboard reads slices of memory maps.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from workbench.annotations import Annotations, annotated
from workbench.dashboard import Dashboard, make_dashboard
from workbench.errors import Failure, Misuse
from workbench.lab import Lab
from workbench.part_steps import read_names
from workbench.plan import Plan
from workbench.points import RESID_POST, Site
from workbench.tokens import TokenSet

if TYPE_CHECKING:
    from saes.arrays import ActivationArrays
    from saes.dictionary import Dictionary
    from saes.index import FeatureIndex
    from workbench.notebook import Shown

DENSITY, SHARE = "density_", "w_"
PARTS = ("intervals", "neighbours", "factors", "sources", "neurons", "writers")  # files beside the table
N_LOGITS = 12  # tokens promoted and suppressed, each

# Every table has these; a crosscoder's also `w_<checkpoint>`, and all `density_<checkpoint>`.
SCHEMA: dict[str, Any] = {
    "latent": pl.Int32,
    "density": pl.Float64,  # share of held-out tokens it fires on
    "mean_activation": pl.Float32,  # of |f| over the tokens it fires on, as all strengths here
    "max_activation": pl.Float32,
    "top_token": pl.String,  # the token with the largest summed activation
    "top_tokens": pl.List(pl.String),
    "promoted": pl.List(pl.String),  # by the last of its checkpoints
    "suppressed": pl.List(pl.String),
    "factor": pl.String,  # the world's factor it follows best (F1), chosen on one half of the documents
    "factor_auroc": pl.Float64,  # on the other half, as the next two
    "factor_ap": pl.Float64,
    "factor_f1": pl.Float64,
    "label": pl.String,  # a rule that predicts it (see `workbench.labels`); null where none does
    "label_kind": pl.String,
    "label_score": pl.Float64,  # correlation of rule and activation on the half that did not choose it
    "label_null": pl.Float64,  # the best that a few other latents' labels reach on it
    "label_detection": pl.Float64,  # how well the rule tells held-out texts apart, as explanations are scored
    "label_detection_n": pl.Float64,  # on how many texts
    "label_f1": pl.Float64,  # token by token, as the next
    "label_balanced": pl.Float64,
    "writer": pl.String,  # the component that adds most to it on its strongest tokens, in the last checkpoint
    "writer_share": pl.Float32,
    "norm": pl.Float32,  # Σ_m ‖d^m‖ in normalised units
}


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """The latents of one dictionary. Cached parts are read when first asked for."""

    lab: Lab
    name: str
    checkpoints: tuple[str, ...]  # those the dictionary reads
    layer: int | None
    family: str
    path: Path
    point: str = RESID_POST
    minus: str = ""  # the checkpoint whose activations are taken off, of a difference dictionary

    @classmethod
    def of(cls, lab: Lab, name: str) -> FeatureTable:
        """The feature table of dictionary `name`; `Misuse` where there is no such dictionary, or not yet."""
        plan = Plan.of(lab)
        config = plan.recipe.dictionary(name)
        path = lab.find("features", name).path
        family = plan.family(config.checkpoints[0])
        return cls(lab, name, config.checkpoints, config.layer, family, path, config.point, config.minus)

    @cached_property
    def table(self) -> pl.DataFrame:
        """One row a latent, columns of `SCHEMA` and the per-checkpoint ones."""
        return read_table(self.path / "table.parquet")

    @cached_property
    def by_density(self) -> pl.DataFrame:
        """rank (from 1), latent, density and strongest token of every latent, the commonest first."""
        ordered = self.table.sort("density", descending=True).select("latent", "density", "top_token")
        return ordered.with_row_index("rank", offset=1)

    @cached_property
    def excerpts(self) -> pl.DataFrame:
        """The strongest excerpts of every latent: latent, rank, peak, start, stop, value, text."""
        return _parquet(self.path / "examples.parquet")

    @cached_property
    def parts(self) -> dict[str, pl.DataFrame]:
        """What dashboards show beyond the table, by name (see `workbench.feature_parts`)."""
        return {name: _parquet(self.path / f"{name}.parquet") for name in PARTS}

    @cached_property
    def index(self) -> FeatureIndex:
        return open_index(self.path, self.name)

    @cached_property
    def annotations(self) -> Annotations:
        """What people said of the latents; each question reads the disk anew."""
        return Annotations.of(self.lab, self.name)

    @property
    def rows(self) -> pl.DataFrame:
        """The table with what people say of its latents now: `star`, `own_label`."""
        return annotated(self.table, self.annotations.all())

    @property
    def told_when(self) -> tuple[int, int]:
        """When people, and language models, last said something of the latents; 0 for never."""
        files = (self.annotations.path, self.annotations.explanations_path)
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)  # type: ignore[return-value]

    @cached_property
    def token_set(self) -> TokenSet:
        """The held-out tokens that the index counts in."""
        return TokenSet(self.lab.find("activations", f"tokens-{self.family}").path, "heldout")

    @cached_property
    def dictionary(self) -> Dictionary:
        from workbench.dictionary_folder import open_dictionary

        return open_dictionary(self.lab.find("dictionary", self.name).path, self.name)

    @cached_property
    def activations(self) -> ActivationArrays:
        """`[token, model, d]` of the dictionary's own checkpoints on the held-out tokens."""
        from saes.arrays import ActivationArrays
        from workbench.dictionary_folder import dictionary_sentences

        names = read_names(Plan.of(self.lab).recipe.dictionary(self.name), self.point)
        with dictionary_sentences(self.name):
            return ActivationArrays([self.lab.find("activations", n).path / "heldout.npy" for n in names])

    def row(self, latent: int) -> dict[str, Any]:
        """A latent's row; `Misuse` if there is no such latent."""
        if not 0 <= latent < self.table.height:
            raise Misuse(f"{self.name!r} has latents 0 to {self.table.height - 1}; there is no latent {latent}")
        return self.table.row(latent, named=True)

    def logit_arrays(self, checkpoint: str) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and logits `[latent, 2 (promoted, suppressed), N_LOGITS]` through a checkpoint's head."""
        ids, values = (_array(self.path / f"logits-{checkpoint}-{what}.npy") for what in ("ids", "values"))
        return ids, values

    def dashboard(self, latent: int) -> Dashboard:
        """Everything a page shows of one latent."""
        return make_dashboard(self, latent)

    def show(self, latent: int | None = None) -> Shown:
        """For a notebook: one latent, or the table's best-labelled ones."""
        from workbench.notebook import show_latent, show_table

        return show_table(self) if latent is None else show_latent(self, latent)

    def contributions(self, latent: int, pieces: Sequence[tuple[int, int]]) -> dict[str, list[list[float]]]:
        """For each checkpoint and each piece (rows start…stop) ⟨x^m, W_enc^m_j⟩ on its tokens."""
        import torch

        if not pieces:
            return {name: [] for name in self.checkpoints}
        rows = np.concatenate([np.arange(start, stop) for start, stop in pieces])
        added = self.dictionary.contributions(self.activations[rows], torch.tensor([latent]))[:, 0].numpy()
        ends = np.cumsum([stop - start for start, stop in pieces])[:-1]
        return {
            name: [part.tolist() for part in np.split(added[:, m], ends)]
            for m, name in enumerate(self.checkpoints)
        }

    def search(self, text: str) -> pl.DataFrame:
        """Latents one of whose strongest excerpts contains `text` (capitals ignored): their rows, and
        `hits` excerpts; most hits first."""
        contains = pl.col("text").str.to_lowercase().str.contains(text.lower(), literal=True)
        hits = self.excerpts.filter(contains).group_by("latent").agg(pl.len().alias("hits"))
        found = self.table.join(hits, on="latent", how="inner")
        return found.sort(["hits", "latent"], descending=[True, False])

    def fires_on(self, text: str, chat: bool = False) -> pl.DataFrame:
        """Latents that fire on `text`, read by the dictionary's own checkpoints: latent, value (farthest from 0),
        token (where), position (from 1), values `[token]`; strongest first.

        With `chat`, markers such as `<|user|>` in the text are tokens.
        """
        import torch

        from workbench.site import read_sites

        ids = self._ids(text, chat)
        with self._lock:
            models, _, site = self._readers
            batch = torch.tensor([[self.token_set.settings["bos"], *ids]])
            x = torch.stack([read_sites(model, [site], batch)[site][0, 1:] for model in models], dim=1)
        if self.minus:
            x = x[:, :1] - x[:, 1:]
        return self._strongest(self.dictionary.encode(x).numpy(), ids)

    def tokens_of(self, text: str, chat: bool = False) -> list[str]:
        """The tokens of `text` as `fires_on` reads them, cut at the context's length."""
        return [self.token_set.vocabulary[i] for i in self._ids(text, chat)]

    def _ids(self, text: str, chat: bool) -> list[int]:
        from workbench.tokenizer import encode

        with self._lock:  # encoding switches the tokenizer's reading of chat markers for its time
            ids = encode(self._readers[1], [text], chat)[0].ids[1 : self.token_set.settings["n_ctx"]]
        if not ids:
            raise Misuse("the text is empty: type at least one character")
        return ids

    def _strongest(self, latents: np.ndarray, ids: Sequence[int]) -> pl.DataFrame:
        on = np.flatnonzero((latents != 0).any(axis=0))
        where = np.abs(latents[:, on]).argmax(axis=0)
        shown = self.token_set.vocabulary
        found = {
            "latent": on,
            "value": latents[where, on],
            "token": [shown[ids[i]] for i in where],
            "position": where + 1,
            "values": [latents[:, j].tolist() for j in on],
        }
        schema: dict[str, Any] = {
            "latent": pl.Int32,
            "value": pl.Float32,
            "token": pl.String,
            "position": pl.Int32,
            "values": pl.List(pl.Float32),
        }
        return pl.DataFrame(found, schema=schema).sort(pl.col("value").abs(), descending=True)

    @cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()  # reading a model puts a hook on it

    @cached_property
    def _readers(self) -> tuple[list[Any], Any, Site]:
        """The models, their tokenizer and the site that the dictionary reads."""
        checkpoints = self.lab.checkpoints(*self.checkpoints, *([self.minus] if self.minus else []))
        layer = checkpoints[0].default_layer if self.layer is None else self.layer
        return [c.model() for c in checkpoints], checkpoints[0].tokenizer(), Site(layer, self.point)


def open_index(path: Path, name: str) -> FeatureIndex:
    """The index in the folder of `name`'s features; what is wrong with it in one sentence."""
    from saes.errors import DictionaryError
    from saes.index import FeatureIndex

    try:
        return FeatureIndex.load(path / "index")
    except DictionaryError as error:
        raise Failure(
            f"features of {name!r}: {error} (remove the folder {path.name} and run "
            f"`python -m workbench grow {path.parents[1].name}`)"
        ) from error


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Failure(f"{path} cannot be read ({type(error).__name__}): grow the features again") from error


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise Failure(f"{path} cannot be read ({type(error).__name__}): grow the features again") from error


def read_table(path: Path) -> pl.DataFrame:
    """A feature table whose columns and types are as `SCHEMA` says."""
    table = _parquet(path)
    for column, kind in SCHEMA.items():
        if table.schema.get(column) != kind:
            raise Failure(
                f"{path}: column {column!r} is {table.schema.get(column)}, expected {kind}: "
                "grow the features again"
            )
    return table
