"""What probes stand on: nulls that keep their level, findings that tell, discovery, runs in which one may fail."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from probes.kit import classifiers, nulls, readings
from probes.kit.finding import LEVEL, Figure, Finding, Null, beyond, holm
from probes.kit.found import checked_options, probes
from probes.kit.plots import bars, heat, lines
from probes.kit.running import LackingError
from probes.kit.settings import at_least
from probes.kit.stored import Asked, stored
from probes.kit.stored import grown as steps_now
from tests.command_line import assert_one_sentence, run, run_probes
from tests.tiny_lab import make_lab
from tests.tiny_models import tiny_tokenizer
from workbench.care import prune
from workbench.errors import Failure, Misuse
from workbench.grow import grow
from workbench.lab import MANIFEST, Lab
from workbench.plan import Plan
from workbench.status import status

pytestmark = pytest.mark.usefixtures("one_thread")

COUNTS = '''"""How many letters has a checkpoint's name?"""

from probes.kit.finding import Finding
from probes.kit.nulls import share_figure


def ask(lab, checkpoints, chance=0.5):
    hits = len(checkpoints[0].name)
    figure = share_figure("letters", hits, 10, "places", chance, "a coin")
    return Finding("It has some.", [figure], "a coin", "Another name.")
'''


def figure(p: float | None, value: float = 0.7) -> Figure:
    return Figure("share", value, value - 0.1, value + 0.1, 10, "cases", Null(0.5, 0.3, 0.7, 99, "a coin", p))


def finding(*chances: float | None) -> Finding:
    return Finding("Something.", [figure(p) for p in chances], "a coin", "More coins.")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARBLE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = make_lab(tmp_path_factory.mktemp("labs"))
    grow(lab, ["activations/tokens-base"], quiet=True)
    return lab


def own(home: Path, name: str, text: str) -> Path:
    path = home / "probes" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# Nulls and findings.


def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .5 times 4 3 2 1, each at least the one before."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])


def test_a_finding_claims_only_what_is_beyond_its_null_together() -> None:
    assert finding(0.04).claims
    assert not finding(0.04, 0.04).claims, "0.04 twice is 0.08"
    assert not finding(None).claims, "a figure that no claim rests on"
    assert [f.null.p for f in beyond([figure(0.2), figure(0.001), figure(None)])] == [0.001]


@pytest.mark.parametrize("broken", [{"value": float("nan")}, {"n": 0}])
def test_a_figure_without_a_number_or_a_case_is_refused(broken: dict) -> None:
    parts = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3} | broken
    with pytest.raises(ValueError, match="finite numbers and at least one case"):
        Figure("share", of="cases", null=Null(0.5, 0.4, 0.6, 9, "a coin"), **parts)


def test_sign_flips_keep_their_level_and_find_what_is_there() -> None:
    """Of 300 samples of pure noise about one in twenty is called; of a shift of one sd every one is."""
    rng = np.random.default_rng(0)

    def called(shift: float) -> float:
        draws = rng.normal(shift, 1.0, size=(300, 30))
        return float(np.mean([nulls.mean_of(x, "signs", draws=199)[3].p <= LEVEL for x in draws]))

    assert called(0.0) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert called(1.0) > 0.95


@pytest.mark.parametrize("scale", [1.0, 1e-7, 0.1])
def test_few_cases_are_held_against_every_pattern_of_signs(scale: float) -> None:
    """Four of one sign: of 16 patterns two are as far either way, one is one way; ties count as they are."""
    alike = scale * np.array([0.1, 0.7, 0.3, 0.2])
    assert nulls.mean_of(alike, "signs")[3].p == 2 / 16
    assert nulls.mean_of(alike, "signs", side=nulls.GREATER)[3].p == 1 / 16
    assert nulls.mean_of(-alike, "signs", side=nulls.LESS)[3].p == 1 / 16
    assert nulls.mean_of(0.5 + alike, "signs", about=0.5)[3].p == 2 / 16
    equal = scale * np.array(
        [0.3] * 6 + [-0.3]
    )  # as far: seven patterns of one sign other, and none, either way
    assert nulls.mean_of(equal, "signs")[3].p == 2 * (1 + 7) / 2**7


def test_a_sign_flip_test_of_many_cases_is_that_of_coins() -> None:
    """20 equal cases, 15 of them above: P(15 or more heads of 20, or tails), whichever the seed."""
    from scipy.stats import binom

    cases = np.array([0.3] * 15 + [-0.3] * 5)
    found = [nulls.mean_of(cases, "signs", seed=s, draws=4_999)[3] for s in range(5)]
    assert [null.value for null in found] == [0.0] * 5
    assert np.mean([null.p for null in found]) == pytest.approx(2 * binom.sf(14, 20, 0.5), abs=0.004)


def test_draws_are_enough_for_all_tests_together() -> None:
    for tests in (2, 9, 30):
        assert nulls.tellable(1 / (1 + nulls.enough(19, tests)), tests)
    assert not nulls.tellable(1 / 32, 2)


def test_a_share_is_held_against_its_chance_exactly() -> None:
    """9 of 10 heads: P(at least 9) = 11/1024."""
    found = nulls.share_figure("heads", 9, 10, "throws", 0.5, "a coin")
    assert found.null.p == pytest.approx(11 / 1024)
    assert found.low < 0.9 < found.high


def test_the_least_chance_is_one_in_the_number_of_draws_and_one() -> None:
    assert nulls.against(9.0, [1.0, 2.0, 3.0], "draws").p == 0.25
    assert nulls.against(-9.0, [1.0, 2.0, 3.0], "draws", nulls.EITHER).p == 0.25


def test_shuffled_labels_stay_together_in_their_group() -> None:
    """Groups of equal length hand whole runs of labels on; nothing is lost."""
    labels = np.repeat(np.arange(6), 4)
    dealt = nulls.shuffled(labels, labels, seed=1)
    assert sorted(dealt) == sorted(labels)
    assert all(len(set(dealt[labels == g])) == 1 for g in range(6))
    assert (dealt != labels).any()


def test_a_probe_finds_planted_labels_and_nothing_in_random_ones() -> None:
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(60), 10), rng.integers(0, 3, 600)
    x = rng.normal(size=(600, 8))
    planted = x + 3 * np.eye(8)[labels]
    parts = classifiers.split(groups)
    assert not set(groups[parts.fit]) & set(groups[parts.score])

    def score(at: np.ndarray, kind: str) -> tuple[float, float]:
        told = classifiers.fit(at, labels, parts, kind).told(at[parts.score])
        truth = labels[parts.score]
        return classifiers.balanced(truth, told), classifiers.balanced_interval(
            truth, told, groups[parts.score]
        )[0]

    for kind in (classifiers.LINEAR, classifiers.MLP):
        accuracy, low = score(planted, kind)
        assert accuracy > 0.85 > 1 / 3
        assert low < accuracy
        assert score(x, kind)[0] < 0.5


def test_pictures_keep_their_rows_and_show_markup_as_text() -> None:
    rows = [{"series": "<b>sft</b>", "x": 1, "y": 0.5, "low": 0.4, "high": 0.6}]
    made = lines("Curve", "step", "share", rows, "a curve", null=0.5)
    assert made.rows == rows
    assert "<b>" not in made.figure["data"][0]["hovertemplate"]
    assert made.figure["layout"]["shapes"][0]["y0"] == 0.5
    cells = heat(
        "Map", [{"row": "a", "column": "x", "value": 1.0}, {"row": "b", "column": "y", "value": 2.0}], "", "u"
    )
    assert cells.figure["data"][0]["z"] == [[1.0, None], [None, 2.0]]
    dots = bars(
        "Bars", "share", [{"row": "a", "series": "s", "x": 1.0}, {"row": "a", "series": "t", "x": 2.0}], ""
    )
    heights = [trace["y"][0] for trace in dots.figure["data"]]
    assert heights[0] < 0 < heights[1], "series of one row stand above each other"


# What is read of a lab.


def test_streams_are_what_the_model_computes(grown: Lab) -> None:
    """A row of `streams` equals the hidden states of Hugging Face at that token."""
    import torch

    sft = grown.checkpoint("sft")
    tokens = readings.held_out(sft)
    window = int(readings.one_a_document(tokens, 3)[1])
    rows = tokens.rows_of(np.array([window]))
    found = readings.streams(sft, rows)
    (batch,) = tokens.batches(1, np.array([window]))
    with torch.no_grad():
        hidden = sft.model()(torch.from_numpy(batch.ids), output_hidden_states=True).hidden_states
    assert found.shape == (sft.n_layers + 1, len(rows), sft.d_model)
    for level in range(sft.n_layers):  # the last one is normed there
        np.testing.assert_allclose(found[level], hidden[level][0, 1:].numpy(), atol=2e-5)


def test_one_window_a_document(grown: Lab) -> None:
    tokens = readings.held_out(grown.checkpoint("base"))
    windows = readings.one_a_document(tokens, 10_000)
    documents = np.asarray(tokens.document)[tokens.starts[windows]]
    assert len(set(documents)) == len(documents) == len(set(np.asarray(tokens.document)))


# Probes that are found, run, stored.


def test_probes_of_ones_own_are_found_and_what_cannot_be_asked_is_told(home: Path) -> None:
    own(home, "counts", COUNTS)
    own(home, "quiet", '"""No probe."""\nX = 1\n')
    own(home, "torn", '"""Torn?"""\ndef ask(lab, checkpoints:\n')
    own(home, "silent", "def ask(lab, checkpoints):\n    return 1\n")
    own(home, "_shared", "X = 1\n")
    there = {probe.name: probe for probe in probes() if probe.own}
    assert set(there) == {"counts", "torn", "silent", "quiet"}
    assert "no function `ask`" in there["quiet"].broken
    assert there["counts"].question == "How many letters has a checkpoint's name?"
    assert dict(there["counts"].options) == {"chance": 0.5}
    assert "line 2" in there["torn"].broken
    assert "docstring" in there["silent"].broken


@pytest.mark.parametrize("reads", ['"dictionary"', '("dictionarys",)', "(1,)", "KINDS"])
def test_what_a_probe_reads_is_named_by_kinds_or_told(home: Path, reads: str) -> None:
    own(home, "counts", COUNTS.replace("def ask", f"READS = {reads}\n\n\ndef ask"))
    (probe,) = (each for each in probes() if each.own)
    assert "READS" in probe.broken
    assert "dictionary" in probe.broken
    own(home, "counts", COUNTS.replace("def ask", 'READS: tuple = ("dictionary",)\n\n\ndef ask'))
    (probe,) = (each for each in probes() if each.own)
    assert (probe.broken, probe.reads) == ("", ("dictionary",))


def test_a_probe_with_a_dataclass_is_loaded_and_one_that_fails_leaves_nothing(home: Path) -> None:
    head = "from __future__ import annotations\n\nimport dataclasses\n"
    body = "\n\n@dataclasses.dataclass\nclass Case:\n    n: int\n\n\ndef ask"
    own(home, "counts", COUNTS.replace("\nfrom probes", f"\n{head}from probes", 1).replace("\n\ndef ask", body))
    own(home, "raises", '"""Raises?"""\n1 / 0\n\n\ndef ask(lab, checkpoints):\n    return 1\n')
    counts, raises = (each for each in probes() if each.own)
    assert counts.module().Case(3).n == 3
    with pytest.raises(Failure, match="division by zero"):
        raises.module()
    assert "own_probes.raises" not in sys.modules


def test_an_option_without_a_kind_takes_values_and_no_guesses(home: Path) -> None:
    own(home, "counts", COUNTS.replace("chance=0.5", "only=None"))
    (probe,) = (each for each in probes() if each.own)
    assert checked_options(probe, ["only='sft'"]) == {"only": "sft"}
    assert checked_options(probe, ["only=None"]) == {"only": None}
    with pytest.raises(Misuse, match="a plain value, a text in quotes is expected"):
        checked_options(probe, ["only=sft"])


def test_every_probe_names_what_it_reads() -> None:
    """Tokens and documents are of their own: checkpoints that were taken in do not stand on them."""
    tokens = {"held_out", "tokens_of", "streams", "labelled", "factor_cases"}
    text = {"texts", "questions", "answers", "chat_questions", "corpus_of", "read_corpus"}
    for probe in probes():
        tree = ast.walk(ast.parse(probe.path.read_text(encoding="utf-8")))
        names = {a.name for node in tree if isinstance(node, ast.ImportFrom) for a in node.names}
        assert "activations" in probe.reads or not names & tokens, probe.name
        assert "corpus" in probe.reads or not names & text, probe.name


def test_an_answer_is_asked_again_when_what_it_reads_is_grown(
    grown: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned, it has an id already; grown, it is there to be read."""
    home = grown.path.parent
    monkeypatch.setenv("MARBLE_HOME", str(home))
    own(home, "reads", COUNTS.replace("def ask", 'READS = ("dictionary",)\n\n\ndef ask'))
    put = Asked(next(each for each in probes() if each.name == "reads"), ("base",), {})
    answer = put.write(grown, finding(0.5), 0.0)
    assert put.found(grown) is not None
    assert answer.outdated(put.probe, steps_now(grown, Plan.of(grown))) == ""
    step = next(s for s in Plan.of(grown).steps.values() if s.kind == "dictionary")
    made = grown.path / step.kind / f"{step.name}-{step.id}"
    made.mkdir(parents=True)
    (made / MANIFEST).write_text("{}")
    assert put.found(grown) is None
    assert step.key in answer.outdated(put.probe, steps_now(grown, Plan.of(grown)))
    shutil.rmtree(made)
    assert put.found(grown) is not None
    (home / "probes" / "reads.py").unlink()


def test_the_newest_of_a_stage_is_stored_as_what_it_is(grown: Lab) -> None:
    home = grown.path.parent
    own(home, "counts", COUNTS)
    run_probes(home, "run", "tiny", "counts", "--checkpoints", "base@latest")
    assert any(each.checkpoints == ("base",) for each in stored(grown))
    done = run_probes(home, "run", "tiny", "counts", "--checkpoints", "base,base@latest")
    assert_one_sentence(done, 2, "base is named twice")


def test_tokens_that_are_not_there_are_lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned and not grown; or of a family that nothing was planned for."""
    lab = make_lab(tmp_path)
    sft, plan = lab.checkpoint("sft"), Plan.of(lab)
    told = r"no tokens are kept for 'sft' to read: `python -m workbench sae tiny --checkpoint sft` makes them"
    with pytest.raises(LackingError, match=told):
        readings.held_out(sft)
    monkeypatch.setattr(readings.Plan, "of", lambda _: dataclasses.replace(plan, steps={}))
    with pytest.raises(LackingError, match=told):
        readings.tokens_of(sft, "dictionary")


def test_a_checkpoint_is_asked_in_a_form_that_it_knows_and_padded_with_its_end(grown: Lab) -> None:
    """A tokenizer without a pad token asks as it did with one; one that splits the markers is not asked."""
    base = grown.checkpoint("base")
    whole = base.tokenizer()
    bare = base.tokenizer()
    bare.pad_token = None

    def asked(tokenizer: object) -> list[str]:
        readings.opened.cache_clear()
        readings.answers.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(base), "tokenizer", lambda _: tokenizer)
            return [c.text for c in readings.answers(base, "capitals", 4).completions]

    assert asked(bare) == asked(whole)
    with pytest.raises(LackingError, match="does not know the lab's chat form"):
        asked(tiny_tokenizer(text="nothing of a chat", bos=False))
    readings.opened.cache_clear()
    readings.answers.cache_clear()


def test_an_answer_is_stored_asked_again_when_the_file_changes_and_kept_by_prune(grown: Lab) -> None:
    home = grown.path.parent
    path = own(home, "counts", COUNTS)
    first = json.loads(run_probes(home, "run", "tiny", "counts", "--checkpoints", "sft", "--json").stdout)
    (told,) = first["probes"].values()
    assert told["state"] == "done"
    assert told["figures"][0]["n"] == 10
    assert told["figures"][0]["null"]["value"] == 0.5
    again = run_probes(home, "run", "tiny", "counts", "--checkpoints", "sft", "--json")
    assert json.loads(again.stdout)["probes"] == first["probes"], "an unchanged probe is read, not asked"
    assert again.stderr == ""
    assert status(grown)["probes"]["counts"]["claim"] == "It has some."
    kept = len(grown.artefacts("probe"))
    path.write_text(COUNTS.replace("some.", "several."), encoding="utf-8")
    changed = json.loads(run_probes(home, "run", "tiny", "counts", "--checkpoints", "sft", "--json").stdout)
    assert changed["probes"]["counts"]["claim"] == "It has several."
    prune(grown, dry_run=False)
    assert len(grown.artefacts("probe")) == kept + 1


def test_a_setting_is_another_answer(grown: Lab) -> None:
    home = grown.path.parent
    own(home, "counts", COUNTS)
    done = run_probes(home, "run", "tiny", "counts", "--checkpoints", "sft", "--set", "chance=0.25", "--json")
    assert json.loads(done.stdout)["probes"]["counts"]["figures"][0]["null"]["value"] == 0.25
    kept = len(grown.artefacts("probe"))
    for setting in ([], ["--set", "chance=0.5"]):
        run_probes(home, "run", "tiny", "counts", "--checkpoints", "sft,base", *setting)
    assert len(grown.artefacts("probe")) == kept + 1, "a default that is typed is the same question"


def test_one_that_raises_is_told_and_the_others_go_on(grown: Lab) -> None:
    home = grown.path.parent
    own(home, "counts", COUNTS)
    own(home, "raises", '"""Raises?"""\ndef ask(lab, checkpoints):\n    return {}["here"]\n')
    own(
        home,
        "ends",
        '"""Ends?"""\nimport sys\ndef ask(lab, checkpoints):\n    print("talk")\n    sys.exit(3)\n',
    )
    done = run_probes(home, "run", "tiny", "raises,ends,counts", "--checkpoints", "base", "--again", "--json")
    told = json.loads(done.stdout)["probes"]
    assert done.returncode == 1
    assert [each["state"] for each in told.values()] == ["failed", "failed", "done"]
    assert told["raises"]["message"] == "KeyError: 'here' (line 3 of raises.py)"
    assert "Traceback" not in done.stdout + done.stderr
    log = max((grown.path / "jobs").glob("*probes/log.txt"))
    assert "KeyError" in log.read_text()
    for name in ("raises", "ends"):
        (home / "probes" / f"{name}.py").unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "tiny"], ["--all"]),
        (["run", "tiny", "count"], ["'counts'"]),
        (["run", "tiny", "counts", "--checkpoints", "sft,grop"], ["'grpo'"]),
        (["run", "tiny", "counts", "--checkpoints", ","], ["name a checkpoint"]),
        (["run", "tiny", "counts", "--checkpoints", "sft,sft"], ["sft is named twice"]),
        (["run", "tiny", "counts", "--set", "=3"], ["NAME=VALUE"]),
        (["run", "tiny", "counts", "--set", "chance"], ["NAME=VALUE"]),
        (["run", "tiny", "counts", "--set", "luck=1"], ["luck", "chance"]),
        (["run", "tiny", "counts", "--set", "chance=0.5", "--set", "chance=0.25"], ["chance is set twice"]),
        (["run", "tiny", "counts", "--set", "chance=often"], ["a number is expected"]),
        (["run", "nowhere", "counts"], ["nowhere"]),
        (["new", "counts"], ["already"]),
        (["new", "not a name"], ["cannot be"]),
    ],
)
def test_misuse_is_one_sentence(grown: Lab, arguments: list[str], words: list[str]) -> None:
    own(grown.path.parent, "counts", COUNTS)
    assert_one_sentence(run_probes(grown.path.parent, *arguments), 2, *words)


def test_one_that_cannot_be_read_takes_no_other_down(grown: Lab) -> None:
    home = grown.path.parent
    own(home, "counts", COUNTS)
    torn = own(home, "torn", '"""Torn?"""\ndef ask(lab, checkpoints:\n')
    done = run_probes(home, "run", "tiny", "torn,counts", "--checkpoints", "grpo")
    assert done.returncode == 1
    assert "is not valid Python" in done.stderr
    assert done.stdout.startswith("counts [claims")
    torn.unlink()


def test_a_finding_that_is_none_is_told(grown: Lab) -> None:
    home = grown.path.parent
    path = own(home, "nothing", '"""Nothing?"""\ndef ask(lab, checkpoints):\n    return 3\n')
    done = run_probes(home, "run", "tiny", "nothing", "--checkpoints", "base")
    assert done.returncode == 1
    assert "ask gave back int, and a Finding is expected" in done.stderr
    path.unlink()


def test_status_as_text_names_the_claims(grown: Lab) -> None:
    home = grown.path.parent
    own(home, "counts", COUNTS)
    run_probes(home, "run", "tiny", "counts", "--checkpoints", "sft")
    assert "probe counts: It has" in run(home, "status", "tiny").stdout


def test_a_single_case_bears_no_interval_and_too_small_a_setting_is_refused() -> None:
    with pytest.raises(Misuse, match="at least two are needed"):
        nulls.mean_of([1.0], "signs")
    with pytest.raises(Misuse, match=r"n is 0: at least 8 is needed, --set n=8 or more"):
        at_least(8, draws=19, n=0)
    at_least(8, n=8)


def test_nulls_of_several_series_are_one_grey_series() -> None:
    rows = [
        {"series": name, "x": "block 0", "y": 1.0} for name in ("base", "null base", "null sft", "nullable")
    ]
    made = lines("t", "layer", "share", rows, "alt").figure
    assert [trace["name"] for trace in made["data"]] == ["base", "null", "null", "nullable"]
    assert [trace.get("showlegend", True) for trace in made["data"]] == [True, True, False, True]
    assert made["layout"]["xaxis"]["type"] == "category"
