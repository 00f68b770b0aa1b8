"""What the lab asks of the disk: hashes, sizes, files that are whole or absent, a sentence when it is full."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import Failure


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """`value` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name beside `path`, flush to disk, rename: never half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there only where something went wrong


def folder_bytes(path: Path) -> int:
    """Bytes of all regular files below `path`; a file that vanishes meanwhile counts nothing."""
    total = 0
    for entry in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if entry.is_file() and not entry.is_symlink():
                total += entry.stat().st_size
    return total


@contextlib.contextmanager
def plain_disk_errors(where: Path) -> Iterator[None]:
    """Turn 'no space left' into the sentence a person can act on."""
    try:
        yield
    except Exception as error:
        if not _is_full_disk(error):
            raise
        free = shutil.disk_usage(where if where.exists() else where.parent).free
        raise Failure(
            f"no space left on the disk that holds {where} ({free / 1e6:.0f} MB free): free some space "
            "(`python -m workbench prune LAB` removes what no recipe names) and run the same command "
            "again; finished steps are kept"
        ) from error


def _is_full_disk(error: Exception) -> bool:
    """Also where a Rust library (safetensors, polars) reports it as an error of its own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)
