"""Reading and writing the tables of an artefact that the lab builds: whole, with the columns that they should have;
and what the parts of a comparison have in common as they are read.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from workbench.errors import Failure
from workbench.lab import Lab
from workbench.parts import part_name

if TYPE_CHECKING:
    import polars as pl

P = TypeVar("P", bound="Part")


def read_part(folder: Path, name: str, columns: Iterable[str], remedy: str = "compare again") -> pl.DataFrame:
    """`<name>.parquet` of an artefact; `Failure` where it is damaged or of another version, with what to do."""
    import polars as pl

    path = folder / f"{name}.parquet"
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise Failure(f"{path} cannot be read ({type(error).__name__}): {remedy}") from error
    if missing := set(columns) - set(table.columns):
        raise Failure(f"{path} lacks the column {min(missing)!r}: {remedy}")
    return table


def write_part(folder: Path, name: str, table: pl.DataFrame) -> None:
    """`<name>.parquet` of an artefact; what is not a number is null."""
    import polars as pl

    table.with_columns(pl.col(pl.Float64).fill_nan(None)).write_parquet(folder / f"{name}.parquet")


class Tables(abc.ABC):
    """Tables of an artefact in the folder `path`, each read once; `TABLES` says what columns each has."""

    TABLES: ClassVar[Mapping[str, Iterable[str]]]
    path: Path

    @property
    @abc.abstractmethod
    def remedy(self) -> str:
        """What to do where one is damaged."""

    def table(self, name: str) -> pl.DataFrame:
        """One of the tables in `TABLES`."""
        if name not in self._read:
            self._read[name] = read_part(self.path, name, self.TABLES[name], self.remedy)
        return self._read[name]

    @functools.cached_property
    def _read(self) -> dict[str, pl.DataFrame]:
        return {}


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the parts of a finished comparison (`workbench.parts`): its key figures, and where its tables lie."""

    PART: ClassVar[str]
    comparison: str
    figures: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls: type[P], lab: Lab, comparison: str) -> P:
        """`Misuse` where the comparison has not been taken apart."""
        artefact = lab.find("evaluation", part_name(cls.PART, comparison))
        return cls(comparison, artefact.figures, artefact.path)
