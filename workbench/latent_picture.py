"""One latent as a PNG: what it is called, its strongest texts with the tokens it fires on, how strongly it fires,
what it promotes and suppresses. Drawn without a browser, in the font that ships inside Pillow.

That font has no more than Latin letters and a few signs. A character it lacks is written by its code, `<U+00E9>`:
an empty box would say nothing, and another letter would be a lie.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from workbench.annotations import said
from workbench.vocabulary import read

if TYPE_CHECKING:
    from workbench.dashboard import Dashboard, Example

WIDTH, MARGIN, LEFT = 1400, 40, 860  # pixels; the texts are LEFT wide, the pictures take the rest
N_TEXTS, N_TOKENS = 8, 8
PAPER, INK, MUTED, TINT = (251, 250, 247), (38, 40, 43), (108, 110, 112), (47, 102, 144)
TITLE, PLAIN, SMALL = 26, 17, 14  # sizes
FIRST_CODE = 0x20


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return found


@functools.cache
def _drawable(char: str) -> bool:
    """The font has the character: it does not draw it as it draws what no font has."""
    if char == " ":
        return True
    font = _font(PLAIN)
    return ord(char) > FIRST_CODE and bytes(font.getmask(char)) != bytes(font.getmask("\uffff"))


def legible(text: str) -> str:
    """`text` with every character that the font lacks by its code."""
    return "".join(char if _drawable(char) else f"<U+{ord(char):04X}>" for char in text)


def _token(shown: str) -> str:
    """A token as it stands in a line of text."""
    try:
        return legible(read(shown).decode("utf-8").replace("\n", " / "))
    except UnicodeDecodeError:
        return legible(shown.replace("⟨", "<").replace("⟩", ">"))


def latent_png(dictionary: str, found: Dashboard) -> bytes:
    """The picture of one latent."""
    return _written(_drawn(dictionary, found))


def latents_png(dictionary: str, found: Sequence[Dashboard]) -> bytes:
    """The pictures of some latents, at least one, one below the other."""
    parts = [_drawn(dictionary, each) for each in found]
    sheet = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), PAPER)
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        if y:
            ImageDraw.Draw(sheet).line((MARGIN, y, WIDTH - MARGIN, y), MUTED)
        y += part.height
    return _written(sheet)


def _drawn(dictionary: str, found: Dashboard) -> Image.Image:
    texts = found.examples[:N_TEXTS]
    n_heads = len(found.logits)
    height = max(230 + 110 * max(len(texts), 1), 420 + n_heads * (44 + 2 * N_TOKENS * 22))
    image = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(image)
    y = _head(draw, dictionary, found)
    bottom = _texts(draw, texts, float(found.row["max_activation"]), y)
    right = _histogram(draw, found, y)
    for name, logits in found.logits.items():
        right = _moved(draw, name, [*logits.promoted[:N_TOKENS], *logits.suppressed[:N_TOKENS]], right)
    return image.crop((0, 0, WIDTH, min(height, max(bottom, right) + MARGIN)))


def _written(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _head(draw: ImageDraw.ImageDraw, dictionary: str, found: Dashboard) -> int:
    row, own = said(found.row, found.annotations[found.latent]), found.row
    called = row["label"] or "  ".join((row["top_tokens"] or ["never fires"])[:3])
    star = "* " if found.annotations[found.latent].star else ""
    title = (
        f"{star}{dictionary}, latent {found.latent}: {legible(called.replace('␣', ' ').replace('↵', ' / '))}"
    )
    draw.text((MARGIN, MARGIN - 8), _cut(title, TITLE, WIDTH - 2 * MARGIN), INK, _font(TITLE))
    facts = [f"fires on {own['density']:.3%} of tokens", f"strongest {own['max_activation']:.3g}"]
    if row["label_score"] is not None and row["label"]:
        facts.append(f"label against activation r = {row['label_score']:.2f}")
    if own["factor"]:
        facts.append(f"best factor {own['factor']} (F1 {own['factor_f1'] or 0.0:.2f})")
    draw.text(
        (MARGIN, MARGIN + 30), _cut(legible("   ".join(facts)), PLAIN, WIDTH - 2 * MARGIN), MUTED, _font(PLAIN)
    )
    return MARGIN + 76


def _cut(text: str, size: int, width: int) -> str:
    """`text`, or as much of it as fits."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + " ...") > width:
        text = text[:-1]
    return text + " ..."


def _texts(draw: ImageDraw.ImageDraw, texts: Sequence[Example], strongest: float, y: int) -> int:
    """The texts one below the other; where the next begins."""
    if not texts:
        draw.text((MARGIN, y), "It never fired on the held-out tokens.", MUTED, _font(PLAIN))
        return y + 30
    for example in texts:
        where = f"{example.values[example.peak]:.3g}   {example.domain}, {example.kind}"
        draw.text((MARGIN, y), legible(where), MUTED, _font(SMALL))
        y = _running(draw, example, strongest, y + 20) + 14
    return y


def _running(draw: ImageDraw.ImageDraw, example: Example, strongest: float, y: int) -> int:
    """Tokens in lines of `LEFT` pixels, each tinted by its activation, the strongest underlined."""
    font, x, step = _font(PLAIN), float(MARGIN), 24
    for place, (shown, value) in enumerate(zip(example.tokens, example.values, strict=True)):
        text = _token(shown)
        length = font.getlength(text)
        if x + length > MARGIN + LEFT and x > MARGIN:
            x, y = float(MARGIN), y + step
        if value:
            share = min(1.0, abs(value) / max(abs(strongest), 1e-9)) * 0.6
            fill = tuple(round(p + (t - p) * share) for p, t in zip(PAPER, TINT, strict=True))
            draw.rectangle((x, y, x + length, y + step - 3), fill=fill)
        if place == example.peak:
            draw.line((x, y + step - 3, x + length, y + step - 3), INK, 2)
        draw.text((x, y), text, INK, font)
        x += length
    return y + step


def _histogram(draw: ImageDraw.ImageDraw, found: Dashboard, y: int) -> int:
    """Counts by activation, their height logarithmic; where the next picture begins."""
    edges, counts = found.histogram
    heights = [math.log1p(count) for count in counts]
    if not any(heights):
        return y
    x, width, tall = MARGIN + LEFT + 50, WIDTH - 2 * MARGIN - LEFT - 50, 130
    draw.text((x, y), "activation, where it fires (counts on a log scale)", MUTED, _font(SMALL))
    step, floor = width / len(counts), y + 24 + tall
    for place, size in enumerate(heights):
        if size:
            top = floor - tall * size / max(heights)
            draw.rectangle((x + place * step, top, x + (place + 1) * step - 1, floor), fill=TINT)
    draw.text((x, floor + 4), f"{edges[0]:.3g}", MUTED, _font(SMALL))
    last = f"{edges[-1]:.3g}"
    draw.text((x + width - _font(SMALL).getlength(last), floor + 4), last, MUTED, _font(SMALL))
    return floor + 40


def _moved(draw: ImageDraw.ImageDraw, name: str, pairs: Sequence[tuple[str, float]], y: int) -> int:
    """Bars of promoted and suppressed tokens through one checkpoint's head."""
    x, name_width, bar = MARGIN + LEFT + 50, 140, 170
    draw.text((x, y), legible(f"promotes and suppresses in {name}"), MUTED, _font(SMALL))
    largest = max((abs(value) for _, value in pairs), default=0.0) or 1.0
    for place, (token, value) in enumerate(pairs):
        top = y + 24 + place * 22
        draw.text((x, top), _cut(_token(token), PLAIN, name_width - 8), INK, _font(PLAIN))
        end = x + name_width + bar * abs(value) / largest
        draw.rectangle((x + name_width, top + 3, end, top + 17), fill=TINT if value > 0 else MUTED)
        draw.text((end + 6, top + 1), f"{value:.2g}", MUTED, _font(SMALL))
    return y + 24 + 22 * len(pairs) + 20
