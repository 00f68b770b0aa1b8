"""Whether two checkpoints beside each other are one and the same: in every weight, or only in what they predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from workbench.trace import Trace


def same_weights(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    """Every tensor of one is bit for bit that of the other."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape and torch.equal(ours[name].cpu(), theirs[name].cpu())
        for name in ours
    )


def same_logits(first: Trace, second: Trace) -> bool:
    """Both read the same ids and gave identical logits at every position."""
    return first.prompt.ids == second.prompt.ids and np.array_equal(first.logits, second.logits)
