"""A dictionary as a SAELens folder, `cfg.json` and `sae_weights.safetensors`.

One model is an ordinary JumpReLU SAE. N models are one on the concatenated activations (model 0's coordinates
first): the threshold is per latent, so `sae_lens.SAE.load_from_disk` gives the same latents with nothing
registered. A transcoder is SAELens' JumpReLU transcoder, with or without a skip. What SAELens has no field for
(names, scales, k) lies in `metadata.marble` with a digest of it and of the weights. This module never imports
sae_lens.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.transcoder import Transcoder

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SAELENS_FORMAT = "6.54.12"  # the version whose folder layout this is
TENSORS = {
    "jumprelu": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "abstopk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "matching_pursuit": ("W_dec", "b_dec"),
}
TRANSCODERS = {
    "transcoder": TENSORS["topk"],
    "skip_transcoder": (*TENSORS["topk"], "W_skip"),
    "jumprelu_transcoder": TENSORS["jumprelu"],
    "jumprelu_skip_transcoder": (*TENSORS["jumprelu"], "W_skip"),
}


def save(dictionary: Dictionary, path: Path | str, extra_metadata: dict[str, Any] | None = None) -> Path:
    """Write the two files into `path` (made if missing). The caller renames the folder into place."""
    if isinstance(dictionary, Transcoder) and dictionary.activation != "jumprelu":
        found = dictionary.activation
        raise DictionaryError(f"SAELens has no transcoder of {found!r} latents: save one with thresholds")
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    d = dictionary.to("cpu")
    tensors = {
        "W_enc": d.W_enc.flatten(0, 1),
        "b_enc": d.b_enc,
        "W_dec": d.W_dec.flatten(1),
        "b_dec": d.b_dec.flatten(),
        "threshold": d.threshold,
    }
    ours = {"names": list(d.names), "scales": d.scales.tolist(), "k": d.k, "site": d.site}
    metadata = {**(extra_metadata or {}), "sae_lens_version": SAELENS_FORMAT, "hook_name": d.site}
    architecture = d.activation
    if isinstance(d, Transcoder):
        architecture = "jumprelu_transcoder" if d.W_skip is None else "jumprelu_skip_transcoder"
        metadata["hook_name_out"] = ours["target_site"] = d.target_site
        tensors |= {} if d.W_skip is None else {"W_skip": d.W_skip}
    kept = (TENSORS | TRANSCODERS)[architecture]
    weights = dump_tensors({name: tensors[name].contiguous() for name in kept})
    config = {
        "architecture": architecture,
        **_own_settings(d),
        "d_in": d.n_models * d.d,
        "d_sae": d.n_latents,
        "dtype": str(d.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": d.activation == "matching_pursuit",
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**metadata, "marble": {**ours, "digest": _digest(weights, ours)}},
    }
    (path / WEIGHTS).write_bytes(weights)
    (path / CONFIG).write_text(json.dumps(config, indent=1))
    return path


def load(path: Path | str, device: str = "cpu") -> Dictionary:
    """Open a folder that `save` wrote, or any of SAELens on unnormalised activations with one of `ACTIVATIONS`
    (matching pursuit without a residual threshold)."""
    path = Path(path)
    config, raw = _read(path)
    if config.get("architecture") in TRANSCODERS:
        return _transcoder(path, config, raw).to(device)
    activation = config.get("architecture")
    if activation not in TENSORS or config.get("normalize_activations", "none") != "none":
        found = f"{config.get('architecture')!r}, normalize_activations {config.get('normalize_activations')!r}"
        raise DictionaryError(
            f"{path} is {found}; expected {', '.join(TENSORS)}, and 'none' "
            "(fold the scaling in, save the inference model)"
        )
    if config.get("residual_threshold"):
        raise DictionaryError(
            f"{path} stops at a residual of {config['residual_threshold']}; only 0 gives the same latents here"
        )
    tensors = _completed(config, _tensors(path, raw, TENSORS[activation]))
    ours = config.get("metadata", {}).get("marble")
    if ours is None:
        return _foreign(config, tensors).to(device)
    stated = _unaltered(path, ours, raw, ("names", "scales", "k", "site"))
    n = len(stated["names"])
    d_in, n_latents = tensors["W_enc"].shape
    return Dictionary(
        W_enc=tensors["W_enc"].view(n, d_in // n, n_latents),
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"].view(n_latents, n, d_in // n),
        b_dec=tensors["b_dec"].view(n, d_in // n),
        threshold=tensors["threshold"],
        scales=torch.tensor(stated["scales"], dtype=tensors["b_dec"].dtype),
        names=tuple(stated["names"]),
        k=stated["k"],
        site=stated["site"],
        activation=activation,
    ).to(device)


def _unaltered(path: Path, ours: dict[str, Any], raw: bytes, keys: tuple[str, ...]) -> dict[str, Any]:
    """What a folder says of itself, if its digest agrees."""
    stated = {key: ours.get(key) for key in keys}
    if _digest(raw, stated) != ours.get("digest"):
        raise DictionaryError(
            f"{path} was altered after it was written (digest differs); restore it or train it again"
        )
    return stated


def _transcoder(path: Path, config: dict[str, Any], raw: bytes) -> Transcoder:
    """A transcoder that `save` wrote, or any of SAELens on unnormalised activations."""
    if config.get("normalize_activations", "none") != "none":
        raise DictionaryError(f"{path} normalises its input; expected a folder with that folded in")
    t = _tensors(path, raw, TRANSCODERS[config["architecture"]])
    meta = config.get("metadata", {})
    stated: dict[str, Any] = {
        "names": [meta.get("model_name") or "model"], "scales": [1.0], "k": meta.get("k") or 1,
        "site": meta.get("hook_name") or "", "target_site": meta.get("hook_name_out") or "",
    }  # fmt: skip
    if (ours := meta.get("marble")) is not None:
        stated = _unaltered(path, ours, raw, tuple(stated))
    return Transcoder(
        W_enc=t["W_enc"][None],
        b_enc=t["b_enc"],
        W_dec=t["W_dec"][:, None],
        b_dec=t["b_dec"][None],
        threshold=t.get("threshold", torch.zeros_like(t["b_enc"])).clamp_min(0),
        W_skip=t.get("W_skip"),
        scales=torch.tensor(stated["scales"], dtype=t["b_dec"].dtype),
        names=tuple(stated["names"]),
        k=stated["k"],
        site=stated["site"],
        target_site=stated["target_site"],
    )


def _own_settings(d: Dictionary) -> dict[str, Any]:
    """What SAELens' configuration of the architecture holds beside what all have."""
    if isinstance(d, Transcoder):
        return {"d_out": d.d_out}
    if d.activation in ("topk", "abstopk"):
        return {"k": d.k, "rescale_acts_by_decoder_norm": False}
    if d.activation == "matching_pursuit":
        return {"max_iterations": d.k, "residual_threshold": 0.0, "stop_on_duplicate_support": True}
    return {}


def _completed(config: dict[str, Any], t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the tensors that an architecture leaves out because others give them, and where b_dec is taken from
    the input, W_enc(x − b_dec) + b_enc as W_enc x + b_enc′."""
    none = torch.zeros(len(t["W_dec"]), dtype=t["W_dec"].dtype)
    t = {"W_enc": t["W_dec"].T.contiguous(), "b_enc": none, "threshold": none} | t
    if config.get("apply_b_dec_to_input", True):
        t["b_enc"] = t["b_enc"] - t["b_dec"] @ t["W_enc"]
    return t


def is_ours(path: Path | str) -> bool:
    """Whether `save` wrote it: what is from elsewhere may not say its k."""
    return "marble" in metadata(path)


def metadata(path: Path | str) -> dict[str, Any]:
    """The metadata that was saved with a dictionary."""
    return _read(Path(path))[0].get("metadata", {})


def _foreign(config: dict[str, Any], t: dict[str, torch.Tensor]) -> Dictionary:
    """An SAE from elsewhere: one model, unit scale; latents that are told in units of their decoder's length
    are so here too."""
    W_enc, b_enc, W_dec = t["W_enc"], t["b_enc"], t["W_dec"]
    if config.get("rescale_acts_by_decoder_norm"):
        norms = W_dec.norm(dim=1).clamp_min(1e-12)
        W_enc, b_enc, W_dec = W_enc * norms, b_enc * norms, W_dec / norms[:, None]
    meta = config.get("metadata", {})
    return Dictionary(
        W_enc=W_enc[None], b_enc=b_enc, W_dec=W_dec[:, None], b_dec=t["b_dec"][None],
        threshold=t["threshold"].clamp_min(0),
        scales=torch.ones(1, dtype=b_enc.dtype), names=(meta.get("model_name") or "model",),
        k=config.get("k") or config.get("max_iterations") or meta.get("k") or 1,
        site=meta.get("hook_name") or "", activation=config["architecture"],
    )  # fmt: skip


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise DictionaryError(f"{path} holds no {name}; a dictionary folder has {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((path / CONFIG).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise DictionaryError(
            f"{path / CONFIG} is not whole JSON; restore it or train the dictionary again"
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("metadata", {}), dict):
        raise DictionaryError(
            f"{path / CONFIG} is not a SAELens configuration (expected an object with metadata)"
        )
    return config, (path / WEIGHTS).read_bytes()


def _tensors(path: Path, raw: bytes, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    try:
        tensors = load_tensors(raw)
    except (SafetensorError, ValueError, KeyError):
        raise DictionaryError(
            f"{path / WEIGHTS} is truncated or not safetensors; restore it or train again"
        ) from None
    missing = [name for name in names if name not in tensors]
    if missing:
        raise DictionaryError(f"{path / WEIGHTS} lacks {', '.join(missing)}; expected {', '.join(names)}")
    return {name: tensor.float() for name, tensor in tensors.items()}  # activations are float32 too


def _digest(weights: bytes, ours: dict[str, Any]) -> str:
    return hashlib.sha256(weights + json.dumps(ours, sort_keys=True).encode()).hexdigest()
