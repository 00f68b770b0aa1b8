"""How figures are written for people. Formatting only: what they mean is worked out in `workbench`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

NONE = "none"  # the choice of no checkpoint
_METRICS = {
    "bits_per_byte": "bits per byte",
    "unigram_bits_per_byte": "unigram",
    "bigram_bits_per_byte": "bigram",
    "trigram_bits_per_byte": "trigram",
    "well_formed": "well formed",
    "kl_from_parent": "KL from parent",
    "prose_loss": "loss on prose",
    "letter_counts": "letter counts",
}


def metric(name: str) -> str:
    """A metric's name as words."""
    return _METRICS.get(name, name.replace("_", " ").replace("/", " · "))


def number(value: float | int | None) -> str:
    """Three significant digits, thousands and millions short: 1234567 -> '1.23 M'."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value != value:
        return "not a number"
    size = abs(value)
    for bound, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if size >= bound:
            scaled = value / {" G": 1e9, " M": 1e6, " k": 1e3}[unit]
            return f"{scaled:.3g}{unit}"
    if isinstance(value, int) or size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.3g}" if size < 0.001 and value else f"{value:.3f}".rstrip("0").rstrip(".") or "0"


def minus(text: str) -> str:
    """Figures below 0 with a real minus sign, as axes have it: 'm -0.5 [-1, 2]' -> 'm −0.5 [−1, 2]'."""
    return re.sub(r"(?<![^\s\[(])-(?=\d)", "−", text)


def share(value: float | None) -> str:
    """A share as per cent; a rare one keeps two digits, since most latents fire on less than a token in a hundred
    and none of those that fire fires on 0 %."""
    if value is None:
        return "–"
    if 0 < value < 0.001:
        return f"{100 * value:.2g}%"
    return f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"


def size(n_bytes: int) -> str:
    """Bytes in decimal units."""
    for bound, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= bound:
            return f"{n_bytes / bound:.3g} {unit}"
    return f"{n_bytes} bytes"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 75 -> '1 min 15 s'."""
    if seconds is None:
        return "time not known yet"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def interval(value: Mapping[str, Any]) -> str:
    """A mean with its 95 % interval: '0.93 (0.91–0.95)'."""
    return f"{value['mean']:.2f} ({value['low']:.2f}–{value['high']:.2f})"


def token(text: str) -> str:
    """A token with its white space made visible, for charts and tables."""
    shown = text.replace("\n", "↵").replace("\t", "⇥")
    if shown.startswith(" "):
        shown = "␣" + shown[1:]
    return shown if shown else "∅"


def probability(log_p: float) -> str:
    """A probability given as its natural logarithm."""
    return number(math.exp(log_p))


def decimals(p: float) -> str:
    """A probability in a column of them: three decimals, so that they stand below one another."""
    return "<0.001" if 0 < p < 0.001 else f"{p:.3f}"


def named(address: str) -> str:
    """A checkpoint's address as words: `sft@128` -> 'sft, step 128'."""
    if address == NONE:
        return "nothing"
    name, at, step = address.partition("@")
    return f"{name}, step {int(step):,}" if at else name


def label(row: Mapping[str, Any]) -> str:
    """What a latent is called by: its label if it has one, else its strongest tokens."""
    tokens = row.get("top_tokens") or [row.get("top_token") or "never fires"]
    return str(row["label"]) if row.get("label") else "  ".join(tokens[:3])


def kind(name: str) -> str:
    """A latent's kind as words: 'exclusive:sft' -> 'only in sft'."""
    what, _, checkpoint = name.partition(":")
    return {"exclusive": f"only in {checkpoint}", "absent": f"missing in {checkpoint}"}.get(what, what)


def seconds(value: float) -> str:
    """A short time: 0.00123 -> '1.23 ms'."""
    for bound, factor, unit in ((1.0, 1.0, "s"), (1e-3, 1e3, "ms")):
        if value >= bound:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"
