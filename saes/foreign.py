"""SAELens dictionaries of other architectures, rewritten as ours where that is exact, refused where it is not.

    standard    ReLU(pre)                                          is JumpReLU at threshold 0
    gated       [pre_g > 0] · ReLU(pre_m), pre_m = e^r (pre_g − b_gate) + b_mag
                                                                   is pre_m where pre_m > max(b_mag − e^r b_gate, 0)

Everything `saes.folder` opens goes through unchanged. What normalises its input by something the folder does not
hold, reshapes heads, or keeps a state of its own is refused: its latents would not be the same here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from saes import folder
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.transcoder import Transcoder

REWRITTEN = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "gated": ("W_enc", "b_gate", "r_mag", "b_mag", "W_dec", "b_dec"),
}


def load_foreign(path: Path | str) -> tuple[Dictionary, str]:
    """The SAE in a SAELens folder and its architecture there; `DictionaryError` where ours cannot be the same."""
    path = Path(path)
    config, raw = folder._read(path)
    architecture = str(config.get("architecture"))
    if config.get("reshape_activations", "none") != "none":
        raise DictionaryError(
            f"{path} reshapes its activations ({config['reshape_activations']}): it reads the heads of an "
            "attention layer, and here dictionaries read the residual stream"
        )
    if architecture in REWRITTEN:
        if config.get("normalize_activations", "none") != "none":
            raise DictionaryError(
                f"{path} normalises its input ({config['normalize_activations']}): fold that into the weights "
                "(`sae.fold_activation_norm_scaling_factor`), save it again, and import that folder"
            )
        tensors = folder._tensors(path, raw, REWRITTEN[architecture])
        dictionary = folder._foreign(config | {"architecture": "jumprelu"}, _jumprelu(config, tensors))
    elif architecture in folder.TENSORS:
        dictionary = folder.load(path)
    else:
        known = ", ".join((*folder.TENSORS, *REWRITTEN))
        raise DictionaryError(
            f"{path} is {architecture!r}, whose latents cannot be written as ours exactly: import one of {known}"
        )
    if isinstance(dictionary, Transcoder) or dictionary.n_models > 1:
        raise DictionaryError(
            f"{path} reads {dictionary.n_models} models or writes elsewhere: import an SAE of one"
        )
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        if not bool(torch.isfinite(getattr(dictionary, name)).all()):
            raise DictionaryError(f"{path}: {name} holds NaN or infinite numbers; the dictionary is broken")
    return dictionary, architecture


def _jumprelu(config: dict[str, Any], t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the JumpReLU SAE with the same latents."""
    grown = t["r_mag"].exp() if "r_mag" in t else torch.ones_like(t["W_dec"][:, 0])
    W_enc, bias = t["W_enc"] * grown, t.get("b_mag", t.get("b_enc"))
    assert bias is not None  # each architecture names one
    threshold = t["b_mag"] - grown * t["b_gate"] if "b_gate" in t else torch.zeros_like(bias)
    shift = t["b_dec"] @ W_enc if config.get("apply_b_dec_to_input", True) else torch.zeros_like(bias)
    return {
        "W_enc": W_enc,
        "b_enc": bias - shift,
        "W_dec": t["W_dec"],
        "b_dec": t["b_dec"],
        "threshold": threshold.clamp_min(0),
    }


def digest(dictionary: Dictionary) -> str:
    """SHA-256 over the weights, to tell whether a source is still what it was."""
    hashed = hashlib.sha256()
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        hashed.update(getattr(dictionary, name).detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
