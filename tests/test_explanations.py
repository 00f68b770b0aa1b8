"""Explanations through a real HTTP server on this machine: what is asked, kept and scored, and what goes wrong."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import polars as pl
import pytest

import workbench.chat_endpoint as chat_endpoint
from saes.index import FeatureIndex
from tests.test_followed_factors import factor_column
from tests.tiny_lab import shared_lab
from workbench import detection
from workbench.errors import Failure, Misuse
from workbench.explanations import explain, mixture, read_explanations, score, strongest
from workbench.features import FeatureTable
from workbench.lab import Lab
from workbench.label_rules import Facts
from workbench.labels import label_halves
from workbench.latent_listing import listed, printed


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that answers by `reply(system, user)`; `statuses` are given out first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Any = lambda system, user: "digits"
        self.statuses: list[int] = []
        self.raw: bytes | None = None
        self.key: str | None = None
        self.seen: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body | {"path": self.path, "key": self.headers.get("Authorization")})
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            status = 401
        said = self.server.reply(*(message["content"] for message in body["messages"]))
        answer = {"choices": [{"message": {"role": "assistant", "content": said}}]}
        raw = json.dumps(answer).encode() if self.server.raw is None else self.server.raw
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def table(tmp_path) -> FeatureTable:
    shutil.copytree(shared_lab().path, tmp_path / "tiny")
    return FeatureTable.of(Lab(tmp_path / "tiny"), "sae-sft")


def dense(table: FeatureTable, n: int) -> list[int]:
    return table.table.sort("density", descending=True)["latent"].head(n).to_list()


def knowing(table: FeatureTable, latents: list[int]) -> Any:
    """A model that explains a latent by its number and then knows every text on which it fires."""
    second = label_halves(table.token_set, 0)[1]
    first = label_halves(table.token_set, 0)[0]
    by_texts = {strongest(table, j, first)[0]: j for j in latents}
    truth = {j: [fires for _, fires in mixture(table, j, second)] for j in latents}

    def reply(system: str, user: str) -> str:
        if "list of their numbers" in system:
            latent = int(re.match(r"Description: latent (\d+)", user).group(1))
            return f"Numbers: {[i for i, fires in enumerate(truth[latent], 1) if fires]}"
        top = re.match(r"1\. (.*)", user).group(1)
        return f"latent {by_texts[top]}"

    return reply


def test_a_model_that_knows_scores_one_and_one_that_guesses_does_not(table, server):
    latents = dense(table, 3)
    server.reply = knowing(table, latents)
    assert explain(table, latents, server.url, "good", "secret") == latents
    found = read_explanations(table)
    assert {j: found[j]["balanced"] for j in latents} == dict.fromkeys(latents, 1.0)
    assert found[latents[0]]["text"] == f"latent {latents[0]}"
    assert found[latents[0]]["n"] == 20
    assert {(r["path"], r["key"], r["model"]) for r in server.seen} == {
        ("/v1/chat/completions", "Bearer secret", "good")
    }
    assert "<<" in server.seen[0]["messages"][1]["content"]
    assert "<<" not in server.seen[1]["messages"][1]["content"]
    server.reply = lambda system, user: "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"
    explain(table, latents, server.url, "guess", None)
    assert np.mean([read_explanations(table)[j]["balanced"] for j in latents]) < 0.85
    rows = listed(table, latents, 3)
    assert "told apart" in printed(rows, 96)


def test_an_interrupted_run_goes_on_where_it_was(table, server):
    latents = dense(table, 4)
    good = knowing(table, latents)
    asked = []

    def dies(system: str, user: str) -> str:
        asked.append(user)
        return good(system, user) if len(asked) <= 4 else "no list here"

    server.reply = dies
    with pytest.raises(Failure, match="list of numbers"):
        explain(table, latents, server.url, "m", None)
    assert sorted(read_explanations(table)) == sorted(latents[:2])
    server.reply = good
    assert explain(table, latents, server.url, "m", None) == latents[2:]
    before = len(server.seen)
    assert explain(table, latents, server.url, "m", None) == []
    assert len(server.seen) == before


def test_shown_and_judged_texts_come_from_different_documents(table):
    first, second = label_halves(table.token_set, 0)
    assert not (first & second).any()
    latent = dense(table, 1)[0]
    shown = {text.replace("<<", "").replace(">>", "") for text in strongest(table, latent, first)}
    judged = mixture(table, latent, second)
    assert sum(fires for _, fires in judged) == len(judged) / 2 == 10
    assert mixture(table, latent, second) == judged
    assert shown


def test_scores_by_hand():
    fires = [True, True, False, False]
    assert score("[1, 2]", fires)._asdict() == {"balanced": 1.0, "f1": 1.0, "n": 4}
    assert score("fits: [1, 3]", fires)._asdict() == {"balanced": 0.5, "f1": 0.5, "n": 4}
    assert score("[]", fires).balanced == 0.5


def test_a_busy_server_is_asked_again(table, server, monkeypatch):
    monkeypatch.setattr(chat_endpoint, "PATIENCE", 0.01)
    latents = dense(table, 1)
    server.reply, server.statuses = knowing(table, latents), [429, 503]
    assert explain(table, latents, server.url + "/chat/completions", "m", None) == latents
    server.statuses = [503] * 3
    with pytest.raises(Failure, match="status 503"):
        explain(table, latents, server.url, "other", None)


@pytest.mark.parametrize(
    ("how", "key", "kind", "words"),
    [
        ("refused", None, Failure, "nothing answers"),
        ("401", "wrong", Misuse, "refuses the key"),
        ("401", None, Misuse, "set OPENAI_API_KEY"),
        ("404", None, Failure, "status 404"),
        ("not json", None, Failure, "OpenAI-compatible"),
        ("no choices", None, Failure, "OpenAI-compatible"),
        ("empty", None, Failure, "OpenAI-compatible"),
    ],
)
def test_what_goes_wrong_is_one_sentence(table, server, how, key, kind, words):
    url = server.url
    if how == "refused":
        url = "http://127.0.0.1:9/v1"
    server.key = "right" if how == "401" else None
    server.statuses = [404] if how == "404" else []
    server.raw = {"not json": b"<html>hello", "no choices": b'{"error": 1}', "empty": b""}.get(how)
    with pytest.raises(kind, match=words) as caught:
        explain(table, dense(table, 1), url, "m", key)
    assert "\n" not in str(caught.value)
    assert read_explanations(table) == {}


@pytest.mark.parametrize("url", ["ftp://x/v1", "localhost", "file:///etc/passwd", "http://"])
def test_what_is_no_web_address_is_misuse(table, url):
    with pytest.raises(Misuse, match="no web address"):
        explain(table, [0], url, "m", None)


def test_a_latent_that_is_not_there_is_refused_before_anything_is_asked(table, server):
    with pytest.raises(Misuse, match="no latent 96"):
        explain(table, [0, 96], server.url, "m", None)
    assert server.seen == []


def test_a_label_and_an_explanation_that_say_the_same_have_the_same_score(table, server):
    """A model that applies our rule to the texts it is given reaches the label's own score, on as many texts."""
    labelled = table.table.filter(
        pl.col("label_kind").is_in(["token", "factor"]), pl.col("label_detection") < 1
    )
    rows = labelled.head(3).to_dicts()
    assert rows
    facts, second = Facts(table.token_set), label_halves(table.token_set, 0)[1]
    for row in rows:
        drawn = detection.mixture(table.index, table.token_set, row["latent"], np.flatnonzero(second))
        if row["label_kind"] == "factor":
            on = factor_column(table.token_set, table.token_set.factor_names.index(row["label"])) > 0
        else:
            wanted = [table.token_set.vocabulary.index(t) for t in row["label"].split(", ")]
            on = np.isin(facts.token, wanted)
        spans = zip(drawn.starts, drawn.stops, strict=True)
        picked = [i for i, (start, stop) in enumerate(spans, 1) if on[start:stop].any()]
        server.reply = lambda system, user, picked=picked: str(picked) if "list of" in system else "the rule"
        explain(table, [row["latent"]], server.url, "rule", None)
        found = read_explanations(table)[row["latent"]]
        assert found["balanced"] == pytest.approx(row["label_detection"])
        assert found["n"] == row["label_detection_n"]


def test_a_mixture_says_of_each_text_whether_the_latent_fires_there(table):
    """Against dense columns, for a frequent latent, a rare one, and one that is hardly ever silent."""
    second = np.flatnonzero(label_halves(table.token_set, 0)[1])
    always = FeatureIndex.from_entries(
        np.arange(len(table.token_set) - 300), np.zeros(len(table.token_set) - 300, int),
        np.ones(len(table.token_set) - 300, np.float32), n_latents=1, n_tokens=len(table.token_set),
    )  # fmt: skip
    for index, latent in ((table.index, dense(table, 1)[0]), (table.index, dense(table, 60)[-1]), (always, 0)):
        found = detection.mixture(index, table.token_set, latent, second)
        tokens = index.entries(latent).tokens
        truth = [
            bool(((tokens >= a) & (tokens < b)).any()) for a, b in zip(found.starts, found.stops, strict=True)
        ]
        assert truth == found.fires.tolist()
        assert found.fires.any()
        for start, stop in zip(found.starts.tolist(), found.stops.tolist(), strict=True):
            assert table.token_set.window_of(start) == table.token_set.window_of(stop - 1)
