"""What notebooks show: HTML without Streamlit or scripts, texts escaped; and the notebook in docs/ runs."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.tiny_lab import shared_lab
from workbench.features import FeatureTable
from workbench.lab import Lab
from workbench.notebook import Shown

NOTEBOOK = Path(__file__).parents[1] / "docs" / "marble.ipynb"


class Tags(HTMLParser):
    """Collects tags that open, and the text between them; fails where one closes that was not open."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.seen: set[str] = set()
        self.words = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag != "br":
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def table() -> FeatureTable:
    return FeatureTable.of(shared_lab(), "sae-sft")


def whole(shown: Shown) -> Tags:
    tags = Tags(shown._repr_html_())
    assert tags.opened == []
    assert not tags.seen & {"script", "img", "iframe", "link"}
    return tags


def test_a_lab_shows_its_checkpoints_and_dictionaries(table):
    shown = table.lab.show()
    words = whole(shown).words
    for name in ("sft", "grpo", "sae-base", "crosscoder", "fvu"):
        assert name in words
    assert "crosscoder" in repr(shown)


def test_a_table_shows_labels_and_their_scores(table):
    best = table.table.sort(["label_score", "latent"], descending=[True, False], nulls_last=True).row(
        0, named=True
    )
    words = whole(table.show()).words
    assert best["label"] in words
    assert f"{best['label_score']:.3g}" in words


def test_every_latent_of_both_kinds_shows(table):
    for each in (table, FeatureTable.of(table.lab, "crosscoder")):
        ordered = each.table.sort("density", descending=True)["latent"]
        for latent in (ordered[0], ordered[5], ordered[-1]):
            tags = whole(each.show(int(latent)))
            assert f"Latent {latent} of {each.name}" in tags.words


def test_markup_in_texts_and_labels_is_text(tmp_path):
    """The tiny lab's prose holds `<script>`: a latent that fires there shows it as text."""
    shutil.copytree(shared_lab().path, tmp_path / "tiny")
    table = FeatureTable.of(Lab(tmp_path / "tiny"), "sae-sft")
    latent = int(table.search("<script>")["latent"][0])
    numbers = [e for e in table.dashboard(latent).examples if "script" in "".join(e.tokens)]
    assert numbers
    tags = whole(table.show(latent))
    assert "script" not in tags.seen
    table.annotations.path.parent.mkdir(parents=True, exist_ok=True)
    table.annotations.path.write_text(
        json.dumps({"latents": {str(latent): {"label": "<b>x</b>", "star": False, "changed": 0}}})
    )
    assert "<b>x</b>" in whole(table.show(latent)).words


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs_from_top_to_bottom(table, monkeypatch):
    """Each cell as a notebook runs it: statements, then the value of a last expression, which must show."""
    monkeypatch.setenv("MARBLE_HOME", str(table.lab.path.parent))
    monkeypatch.setenv("MARBLE_LAB", table.lab.name)
    names: dict[str, object] = {}
    shown = []
    for number, source in enumerate(cells()):
        tree = ast.parse(source, filename=f"cell {number}")
        last = tree.body[-1]
        body, value = (tree.body[:-1], last.value) if isinstance(last, ast.Expr) else (tree.body, None)
        exec(compile(ast.Module(body, []), f"cell {number}", "exec"), names)
        if value is not None:
            shown.append(eval(compile(ast.Expression(value), f"cell {number}", "eval"), names))
    assert sum(hasattr(value, "_repr_html_") for value in shown) >= 5
    assert 0 < float(shown[-3]) < 1


def test_showing_needs_no_streamlit(table):
    """In a fresh process: nothing imports Streamlit."""
    script = (
        "import sys; from pathlib import Path; from workbench.lab import Lab; "
        "from workbench.features import FeatureTable; "
        f"lab = Lab(Path({str(table.lab.path)!r})); lab.show()._repr_html_(); "
        "FeatureTable.of(lab, 'sae-sft').show(3)._repr_html_(); "
        "assert 'streamlit' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=NOTEBOOK.parents[1], timeout=300)
