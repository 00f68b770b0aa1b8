"""Reading the tables of an artefact that the lab built: whole, with the columns that they should have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import Failure

if TYPE_CHECKING:
    import polars as pl


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
