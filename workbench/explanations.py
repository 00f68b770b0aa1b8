"""Explanations of latents by a language model, scored by how well they tell held-out texts apart.

The model reads a latent's strongest texts from one half of the documents and says in a few words what it fires on.
Then it reads a mixture from the other half, texts on which the latent fires (the token unmarked) and texts on which
it is silent, and names those that fit the explanation: `workbench.detection`, the task and the very texts on which
our own labels are scored.

Kept in the lab beside people's labels, by dictionary id; each is written as soon as it is scored, so an interrupted
run goes on where it was.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.annotations import held
from workbench.chat_endpoint import Endpoint
from workbench.detection import Detection, around, detection
from workbench.detection import mixture as drawn
from workbench.disk import plain_disk_errors, write_json
from workbench.errors import Failure
from workbench.examples import values_between
from workbench.labels import label_halves
from workbench.vocabulary import read

if TYPE_CHECKING:
    from workbench.features import FeatureTable

N_SHOWN = 10  # texts the model reads before it explains
MAX_TEXT = 300  # characters of an explanation
MARK = 0.3  # share of a text's largest activation above which a token is marked
EXPLAIN = (
    "You study one latent of a sparse dictionary of a language model. In each text, the tokens on which it fires "
    "stand in <<double brackets>>. Say in at most fifteen words what it fires on. Answer with the description "
    "alone, without a preface."
)
DETECT = (
    "A latent of a language model is described below. Some of the numbered texts contain a place on which it "
    "fires. Answer with a JSON list of their numbers alone, such as [2, 5]; with [] if there is none."
)


def explanations_path(table: FeatureTable) -> Path:
    return table.annotations.explanations_path


def read_explanations(table: FeatureTable) -> dict[int, dict[str, Any]]:
    """By latent: text, model, balanced, f1, n."""
    path = explanations_path(table)
    try:
        return {int(j): entry for j, entry in json.loads(path.read_text(encoding="utf-8"))["latents"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise Failure(
            f"{path} cannot be read ({type(error).__name__}): move it away and explain again"
        ) from error


def explain(table: FeatureTable, latents: Sequence[int], url: str, model: str, key: str | None) -> list[int]:
    """Explain and score the latents that this model has not explained yet; those that were new."""
    from tqdm import tqdm

    endpoint = Endpoint(url, model, key)
    for latent in latents:
        table.row(latent)
    known = read_explanations(table)
    todo = [j for j in dict.fromkeys(latents) if known.get(j, {}).get("model") != model]
    first, second = label_halves(table.token_set, 0)
    done = []
    for latent in tqdm(todo, unit=" latents", desc="explain", file=sys.stderr):
        shown = strongest(table, latent, first)
        judged = mixture(table, latent, second)
        if not shown or not any(fires for _, fires in judged):
            tqdm.write(
                f"latent {latent} fires too seldom to be explained and scored: left out", file=sys.stderr
            )
            continue
        said = _asked(endpoint, EXPLAIN, _numbered(shown))
        text = " ".join(said.split())[:MAX_TEXT]
        reply = _asked(endpoint, DETECT, f"Description: {text}\n\n{_numbered([t for t, _ in judged])}")
        entry = {"text": text, "model": model, **score(reply, [fires for _, fires in judged])._asdict()}
        _keep(table, latent, entry | {"changed": time.time()})
        done.append(latent)
    return done


def _asked(endpoint: Endpoint, system: str, user: str) -> str:
    return endpoint.ask([{"role": "system", "content": system}, {"role": "user", "content": user}])


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def _keep(table: FeatureTable, latent: int, entry: dict[str, Any]) -> None:
    path = explanations_path(table)
    with plain_disk_errors(table.lab.path), held(path):
        entries = read_explanations(table) | {latent: entry}
        write_json(path, {"latents": {str(j): entries[j] for j in sorted(entries)}})


def strongest(table: FeatureTable, latent: int, inside: np.ndarray) -> list[str]:
    """The latent's strongest texts among the tokens `inside`, one a window, its tokens marked."""
    tokens, values = table.index.entries(latent)
    here = inside[tokens]
    tokens, values = tokens[here], values[here]
    texts, windows = [], set()
    for token in tokens[np.argsort(-np.abs(values), kind="stable")]:
        window = table.token_set.window_of(int(token))
        if window not in windows:
            windows.add(window)
            start, stop = (int(part[0]) for part in around(table.token_set, np.array([token])))
            texts.append(_text(table, latent, start, stop, marked=True))
        if len(texts) == N_SHOWN:
            break
    return texts


def mixture(table: FeatureTable, latent: int, inside: np.ndarray) -> list[tuple[str, bool]]:
    """The texts on which descriptions of the latent are scored, and whether it fires on each."""
    found = drawn(table.index, table.token_set, latent, np.flatnonzero(inside))
    texts = [
        _text(table, latent, start, stop, marked=False)
        for start, stop in zip(found.starts.tolist(), found.stops.tolist(), strict=True)
    ]
    return list(zip(texts, found.fires.tolist(), strict=True))


def score(reply: str, fires: Sequence[bool]) -> Detection:
    """How well the numbers (from 1) in a reply's first list tell the texts apart; `Failure` if it has none."""
    found = re.search(r"\[[\d,\s]*\]", reply)
    if found is None:
        raise Failure(
            f"the model does not answer with a list of numbers (found {' '.join(reply.split())[:80]!r}): "
            "try another --model; what was explained before is kept"
        )
    named = {int(number) for number in re.findall(r"\d+", found.group())}
    picked = np.array([number in named for number in range(1, len(fires) + 1)], bool)
    return detection(picked, np.asarray(fires, bool))


def _text(table: FeatureTable, latent: int, start: int, stop: int, marked: bool) -> str:
    """The text of some rows in one line; with `marked`, the tokens on which the latent fires in brackets."""
    values = np.abs(values_between(table.index, latent, start, stop))
    on = values > MARK * values.max() if marked and values.max() > 0 else np.zeros(stop - start, bool)
    pieces: list[bytes] = []
    for place, id_ in enumerate(table.token_set.tokens[start:stop]):
        data = read(table.token_set.vocabulary[id_])
        opens = on[place] and not (place and on[place - 1])
        closes = on[place] and not (place + 1 < len(on) and on[place + 1])
        pieces.append((b"<<" if opens else b"") + data + (b">>" if closes else b""))
    return " ".join(b"".join(pieces).decode("utf-8", errors="replace").split())
