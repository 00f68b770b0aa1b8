"""A latent's PNG opens, shows the tokens it fires on tinted, and writes what its font lacks by its code."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tests.tiny_lab import shared_lab
from workbench.features import FeatureTable
from workbench.latent_picture import LEFT, MARGIN, PAPER, TINT, WIDTH, _token, latent_png, latents_png, legible


def picture(name: str, latent: int) -> np.ndarray:
    data = latent_png(name, FeatureTable.of(shared_lab(), name).dashboard(latent))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_texts_are_tinted_and_bars_are_drawn():
    table = FeatureTable.of(shared_lab(), "sae-sft")
    latent = int(table.table.sort("density", descending=True)["latent"][1])
    pixels = picture("sae-sft", latent)
    assert pixels.shape[1] == WIDTH
    texts, pictures = pixels[:, : MARGIN + LEFT], pixels[:, MARGIN + LEFT :]
    peak = tuple(round(p + (t - p) * 0.6) for p, t in zip(PAPER, TINT, strict=True))
    assert (texts == peak).all(axis=2).sum() > 50  # its strongest token
    assert (pictures == TINT).all(axis=2).sum() > 2_000  # histogram and promoted tokens
    for row in (pixels[-10:], pixels[:, -10:], pixels[:, :10]):  # nothing runs over an edge
        assert (row == PAPER).all()


def test_a_crosscoder_has_the_tokens_of_every_checkpoint_and_nothing_is_clipped():
    pixels = picture("crosscoder", 5)
    assert (pixels[-10:] == PAPER).all()
    assert len(pixels) > len(picture("sae-sft", 5))


def test_a_list_is_its_latents_one_below_the_other():
    table = FeatureTable.of(shared_lab(), "sae-sft")
    sheet = np.asarray(Image.open(io.BytesIO(latents_png("sae-sft", [table.dashboard(n) for n in (5, 7)]))))
    one, other = picture("sae-sft", 5), picture("sae-sft", 7)
    assert len(sheet) == len(one) + len(other)
    assert (sheet[: len(one)] == one).all()
    assert (sheet[len(one) + 1 :] == other[1:]).all()


def test_what_the_font_lacks_is_written_by_its_code():
    assert legible("<script> a+b") == "<script> a+b"
    assert legible("中") == "<U+4E2D>"
    assert _token("␣the↵") == " the / "
    assert _token("⟨E2 80⟩") == "<E2 80>"
