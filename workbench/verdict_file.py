"""Writing a verdict sheet where a person asked for it."""

from __future__ import annotations

import json
from pathlib import Path

from workbench.disk import plain_disk_errors
from workbench.verdict_html import document
from workbench.verdict_sheet import Sheet


def write_sheet(sheet: Sheet, folder: Path) -> list[Path]:
    """`<comparison>.html`, which needs nothing else, and `<comparison>.json`; each is whole or not there."""
    texts = {"html": document(sheet), "json": json.dumps(sheet.as_json(), indent=1, ensure_ascii=False) + "\n"}
    written = []
    with plain_disk_errors(folder.absolute()):
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in texts.items():
            path = folder / f"{sheet.comparison}.{ending}"
            temporary = path.with_suffix(f".{ending}.partial")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
            written.append(path)
    return written
