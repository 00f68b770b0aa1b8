"""`features`, `export`, `import-sae` as a person meets them: one document or a short list, one sentence if not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.command_line import assert_one_sentence, run, run_alone
from tests.test_imported import save_sae
from tests.tiny_lab import shared_lab


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(shared_lab().path, home / "tiny")
    return home


def test_features_prints_the_head_of_the_table(home):
    done = run_alone(home, "features", "tiny", "sae-sft", "--rows", "4", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n_latents"] == 96
    assert len(found["latents"]) == 4
    assert {"latent", "label", "label_score", "factor", "writer", "star"} <= set(found["latents"][0])
    densities = [row["density"] for row in found["latents"]]
    assert densities == sorted(densities, reverse=True)
    plain = run(home, "features", "tiny", "sae-sft", "--latents", "5,3")
    assert [line.split()[0] for line in plain.stdout.splitlines()[2:]] == ["5", "3"]


def test_an_sae_from_outside_comes_in_and_goes_out(home, tmp_path):
    source = save_sae(tmp_path / "sae", "standard")
    done = run(home, "import-sae", "tiny", "theirs", str(source), "--checkpoint", "sft", "--json")
    assert done.returncode == 0, done.stderr
    assert {"fvu", "l0", "ce_score"} <= set(json.loads(done.stdout))
    done = run_alone(home, "export", "tiny", "theirs", "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    [folder] = json.loads(done.stdout)["folders"]
    assert (Path(folder) / "source.jsonl").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["features", "tiny", "sae-stf"], ["did you mean 'sae-sft'"]),
        (["features", "tiny", "sae-sft", "--latents", "1,x"], ["'x' is no latent"]),
        (["features", "tiny", "sae-sft", "--latents", "960"], ["no latent 960"]),
        (["features", "tiny", "sae-sft", "--explain-with", "nowhere"], ["no web address"]),
        (["export", "tiny", "sae-sft", "--out", "x", "--format", "neuronpedi"], ["did you mean 'neuronpedia'"]),
        (["import-sae", "tiny", "mine", "no/such", "--checkpoint", "sft"], ["nothing at"]),
    ],
)
def test_misuse_is_one_sentence(home, arguments, words):
    assert_one_sentence(run(home, *arguments), 2, *words)


def test_an_endpoint_that_is_not_there_is_a_failure(home):
    url = "http://127.0.0.1:9/v1"
    done = run(home, "features", "tiny", "sae-sft", "--explain-with", url, "--latents", "1")
    assert_one_sentence(done, 1, "nothing answers")
