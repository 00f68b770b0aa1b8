"""Labels and stars by people: kept, bounded, plain text, whole on disk; they outlive the feature table."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from tests.tiny_lab import shared_lab
from workbench.annotations import MAX_LENGTH, Annotation, Annotations, checked_label, said
from workbench.care import prune
from workbench.errors import Failure, Misuse
from workbench.features import FeatureTable
from workbench.grow import grow
from workbench.lab import Lab


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    return Annotations(tmp_path / "annotations" / "sae-x.json", 10)


def test_a_label_and_a_star_are_kept_and_taken_away(annotations):
    annotations.set_label(3, "  digits after a plus  ")
    annotations.set_star(3, True)
    annotations.set_star(5, True)
    again = Annotations(annotations.path, 10)
    assert again[3].label == "digits after a plus"
    assert again[3].star
    assert again.starred() == [3, 5]
    assert again[4] == Annotation()
    again.set_label(3, "   ")
    again.set_star(5, False)
    assert annotations[3].label is None
    assert set(json.loads(annotations.path.read_text())["latents"]) == {"3"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<b>bold</b>", "HTML"),
        ("x <script>alert(1)</script>", "HTML"),
        ("<img src=x onerror=alert(1)>", "HTML"),
        ("a &lt; b", "HTML"),
        ("a" * (MAX_LENGTH + 1), "characters"),
        ("two\nlines", "one line"),
        ("bell \a", "one line"),
    ],
)
def test_what_cannot_be_a_label_is_one_sentence_and_nothing_is_lost(annotations, text, words):
    annotations.set_label(1, "kept")
    with pytest.raises(Misuse, match=words):
        annotations.set_label(1, text)
    assert annotations[1].label == "kept"


@pytest.mark.parametrize("text", ["a < b", "x > 3 & y", "after <|user|>", "␣the, ␣a", "3 <4", "R&D"])
def test_plain_signs_are_no_html(text):
    assert checked_label(text) == text


def test_there_is_no_eleventh_latent(annotations):
    with pytest.raises(Misuse, match="latents 0 to 9"):
        annotations.set_star(10, True)
    assert not annotations.path.exists()


@pytest.mark.parametrize(
    "damaged", ['{"latents": {"1": {"lab', "[]", '{"latents": {"1": {"label": 3, "star": true, "changed": 0}}}']
)
def test_a_damaged_file_is_a_sentence_and_is_not_written_over(annotations, damaged):
    annotations.path.parent.mkdir()
    annotations.path.write_text(damaged)
    with pytest.raises(Failure, match="cannot be read as annotations"):
        annotations.set_label(1, "new")
    assert annotations.path.read_text() == damaged


def _label_many(path: Path, latents: list[int]) -> None:
    for latent in latents:
        Annotations(path, 100).set_label(latent, f"by {latent}")


def test_two_people_at_once_lose_nothing(annotations):
    context = multiprocessing.get_context("fork")
    parts = [list(range(start, 40, 2)) for start in (0, 1)]
    people = [context.Process(target=_label_many, args=(annotations.path, part)) for part in parts]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert Annotations(annotations.path, 100).all().keys() == set(range(40))


def test_labels_live_on_when_features_are_made_anew_and_a_prune_leaves_them(tmp_path):
    shutil.copytree(shared_lab().path, tmp_path / "tiny")
    lab = Lab(tmp_path / "tiny")
    FeatureTable.of(lab, "sae-sft").annotations.set_label(7, "mine")
    shutil.rmtree(lab.find("features", "sae-sft").path)
    grow(lab, ["features/sae-sft"], quiet=True)
    prune(lab, False)
    table = FeatureTable.of(lab, "sae-sft")
    assert table.annotations[7].label == "mine"
    assert said(table.row(7), table.annotations[7])["label"] == "mine"
    assert said(table.row(8), table.annotations[8]) == table.row(8)
    assert FeatureTable.of(lab, "crosscoder").annotations[7].label is None
