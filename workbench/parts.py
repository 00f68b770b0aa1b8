"""What a comparison is taken apart into: one evaluation a part, and what each part stands on."""

from __future__ import annotations

from collections.abc import Mapping

# Groups of parents, in the order in which their ids are hashed.
PARTS: Mapping[str, tuple[str, ...]] = {
    "drift": ("tokens", "checkpoints"),
    "scaling": ("dictionary", "tokens", "activations"),
    "samples": ("tokens", "checkpoints", "features", "corpus"),
    "differences": ("tokens", "checkpoints", "activations"),
    "lives": ("tokens", "checkpoints", "dictionary", "activations"),
    "changes": ("tokens", "checkpoints"),
    "gains": ("dictionary", "tokens", "activations", "checkpoints", "corpus"),
    "patching": ("dictionary", "tokens", "checkpoints", "scaling"),
    "probe_transfer": ("tokens", "activations"),
    "matching": ("tokens", "checkpoints", "saes"),  # where each checkpoint has an SAE of its own
}

# Of a comparison through an L1 crosscoder, which stands beside another for contrast.
CONTRASTED = {"scaling": PARTS["scaling"]}


def part_name(part: str, comparison: str) -> str:
    """What one of the `PARTS` of a comparison is called among the lab's evaluations."""
    return f"{part}-{comparison}"
