"""One question to a language model behind any OpenAI-compatible `/chat/completions`; failures are sentences."""

from __future__ import annotations

import dataclasses
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import Failure, Misuse

TIMEOUT = 120  # seconds
TRIES, PATIENCE = 3, 1.0  # of a server that is busy; seconds before the second try, twice that before the third
BUSY = (429, 502, 503, 504)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """`url` as OpenAI's clients take it, with or without `/chat/completions` at its end."""

    url: str
    model: str
    key: str | None = None

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misuse(f"{self.url!r} is no web address: give one such as http://127.0.0.1:8000/v1")

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The answer's text, at temperature 0."""
        body = json.dumps({"model": self.model, "messages": list(messages), "temperature": 0}).encode()
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        base = self.url.rstrip("/").removesuffix("/chat/completions")
        request = urllib.request.Request(f"{base}/chat/completions", body, headers)
        for attempt in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    return self._text(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in BUSY or attempt == TRIES - 1:
                        raise self._refused(error) from error
                time.sleep(PATIENCE * 2**attempt)
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                raise Failure(
                    f"nothing answers at {self.url} ({reason}): start the server or mend the address; "
                    "what was explained before is kept"
                ) from error
        raise AssertionError("unreachable")

    def _refused(self, error: urllib.error.HTTPError) -> Failure | Misuse:
        if error.code in (401, 403):
            what = "refuses the key in OPENAI_API_KEY" if self.key else "asks for a key: set OPENAI_API_KEY"
            return Misuse(f"{self.url} {what} (status {error.code})")
        gist = " ".join(error.read(400).decode("utf-8", errors="replace").split())[:160]
        return Failure(
            f"{self.url} answers with status {error.code} ({gist or error.reason}): check the address and the "
            f"model's name {self.model!r}; what was explained before is kept"
        )

    def _text(self, raw: bytes) -> str:
        try:
            answer: Any = json.loads(raw)
            text = answer["choices"][0]["message"]["content"]
            if not isinstance(text, str) or not text.strip():
                raise TypeError("no text")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            gist = " ".join(raw[:200].decode("utf-8", errors="replace").split())[:120]
            raise Failure(
                f"{self.url} does not answer as an OpenAI-compatible endpoint (found {gist!r}): "
                "check the address; what was explained before is kept"
            ) from error
        return text.strip()
