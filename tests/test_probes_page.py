"""The Probes page, and a probe that a new user writes from the guide: one file, seen and asked without more."""

from __future__ import annotations

import html
import re
import time
from pathlib import Path

import pytest

from pages.components import probe_choice
from probes.kit.running import MESSAGES
from tests.command_line import run_probes
from tests.test_pages import errors, opened, sentences
from workbench.jobs import jobs
from workbench.lab import Lab

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")


@pytest.fixture
def shown(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A grown lab that the page shows, with no probes of one's own."""
    for path in (lab.path.parent / "probes").glob("*.py"):
        path.unlink()
    monkeypatch.setenv("MARBLE_LAB", lab.name)
    return lab


def in_order(marker: str) -> str:
    """The file that the guide gives in full."""
    (code,) = re.findall(r"```python\n(" + marker + r".*?)```", GUIDE, re.DOTALL)
    return code


def test_a_new_user_writes_a_probe_from_the_guide_and_sees_it_on_the_page(shown: Lab) -> None:
    """The guide's own example, under 40 lines, put where it says; nothing else is touched."""
    text = in_order('"""Is the second half')
    assert len(text.splitlines()) < 40
    folder = shown.path.parent / "probes"
    folder.mkdir(exist_ok=True)
    (folder / "halves.py").write_text(text, encoding="utf-8")
    before = opened("probes", probe="halves")
    assert "Is the second half" in before.header[0].value
    assert any("Not asked yet" in sentence for sentence in sentences(before))
    done = run_probes(shown.path.parent, "run", shown.name, "halves")
    assert done.returncode == 0, done.stderr
    after = opened("probes", probe="halves")
    assert not errors(after)
    claim = done.stdout.splitlines()[0].partition(": ")[2]
    assert any(html.escape(claim, quote=False) in sentence for sentence in sentences(after))
    assert after.get("plotly_chart"), "figures are drawn beside their nulls"


def test_the_template_runs_as_it_is(shown: Lab) -> None:
    home = shown.path.parent
    assert run_probes(home, "new", "mine").returncode == 0
    done = run_probes(home, "run", shown.name, "mine", "--set", "n=5", "--checkpoints", "base")
    assert done.returncode == 0, done.stderr
    assert "n 5 documents" in done.stdout


def test_a_probe_is_asked_from_the_page_and_its_message_stands_there(shown: Lab) -> None:
    """A press of the button runs a job of its own; one that raises leaves a sentence, and the page stands."""
    folder = shown.path.parent / "probes"
    folder.mkdir(exist_ok=True)
    (folder / "raises.py").write_text('"""Raises?"""\n\n\ndef ask(lab, checkpoints):\n    return 1 / 0\n')
    app, before = opened("probes", probe="raises"), len(jobs(shown))
    app.button(key="ask").click().run()
    assert not app.exception
    deadline = time.monotonic() + 240
    while len(jobs(shown)) == before or not (jobs(shown)[0].log.parent / MESSAGES).exists():
        assert time.monotonic() < deadline, (shown.path / "jobs" / "last.log").read_text()
        time.sleep(0.5)
    while any(job.state == "running" for job in jobs(shown)):
        time.sleep(0.2)
    told = errors(opened("probes", probe="raises"))
    assert any("ZeroDivisionError: division by zero (line 5 of raises.py)" in sentence for sentence in told)


def test_an_answer_is_that_of_its_settings_and_a_failure_of_its_own(shown: Lab) -> None:
    """Asked with another setting, or in vain, it is not the answer that the page shows for the defaults."""
    home = shown.path.parent
    text = (
        '"""How far?"""\nfrom probes.kit.finding import Finding\nfrom probes.kit.nulls import share_figure\n\n\n'
        "def ask(lab, checkpoints, hits=9):\n"
        '    figure = share_figure("hits", hits, 10 // (hits > 0), "throws", 0.5, "a coin")\n'
        '    return Finding(f"There are {hits} hits.", [figure], "a coin", "More throws.")\n'
    )
    (home / "probes").mkdir(exist_ok=True)
    (home / "probes" / "far.py").write_text(text)
    for setting in ("hits=9", "hits=4", "hits=0"):
        run_probes(home, "run", shown.name, "far", "--set", setting, "--checkpoints", "base,sft,grpo")
    page = opened("probes", probe="far")
    told = " ".join(sentences(page))
    assert "There are 9 hits." in told
    assert "Also answered with hits=4" in told
    assert "gave no answer" not in " ".join(errors(page))
    other = opened("probes", probe="far", **{"far.hits": "0"})
    assert any("ZeroDivisionError" in sentence for sentence in errors(other))
    assert "There are 9 hits." not in " ".join(sentences(other))
    assert any(
        "a whole number is expected" in e for e in errors(opened("probes", probe="far", **{"far.hits": "x"}))
    )


def test_an_answer_whose_parts_were_grown_since_is_told_as_outdated(
    shown: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        '"""Read?"""\nfrom probes.kit.finding import Finding\nfrom probes.kit.nulls import share_figure\n\n'
        'READS = ("features",)\n\n\ndef ask(lab, checkpoints):\n'
        '    figure = share_figure("hits", 9, 10, "throws", 0.5, "a coin")\n'
        '    return Finding("Nine.", [figure], "a coin", "More throws.")\n'
    )
    (shown.path.parent / "probes").mkdir(exist_ok=True)
    (shown.path.parent / "probes" / "reads.py").write_text(text)
    assert run_probes(shown.path.parent, "run", shown.name, "reads").returncode == 0
    assert not any("Since this answer" in each for each in sentences(opened("probes", probe="reads")))
    monkeypatch.setattr(probe_choice, "grown", lambda lab, plan: {"features/another": "0"})
    page = opened("probes", probe="reads")
    assert any("Since this answer what it reads was grown" in each for each in sentences(page))
    marks = page.radio(key="probe").proto.captions
    assert marks[page.radio(key="probe").options.index("reads")].startswith(probe_choice.UNASKED)


def test_a_broken_file_is_listed_with_what_is_wrong(shown: Lab) -> None:
    folder = shown.path.parent / "probes"
    folder.mkdir(exist_ok=True)
    (folder / "torn.py").write_text('"""Torn?"""\ndef ask(lab, checkpoints:\n')
    app = opened("probes", probe="torn")
    assert any("is not valid Python" in sentence for sentence in errors(app))
    assert "torn" in app.radio(key="probe").options


def test_an_unknown_probe_in_the_address_is_told(shown: Lab) -> None:
    assert any("there is no probe" in sentence for sentence in errors(opened("probes", probe="wolrd_factors")))


def test_no_checkpoint_chosen_is_a_sentence(shown: Lab) -> None:
    app = opened("probes")
    app.multiselect(key="checkpoints").set_value([]).run()
    assert any("Choose at least one checkpoint" in sentence for sentence in sentences(app))
