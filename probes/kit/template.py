"""The probe that `python -m probes new NAME` writes: it runs as it is, and is there to be changed."""

from __future__ import annotations

from pathlib import Path

from probes.kit.found import own_folder, probes
from workbench.disk import plain_disk_errors
from workbench.errors import Misuse
from workbench.lab import checked_name

TEXT = '''"""Do the checkpoints expect a comma more than a full stop?

The log odds of "," over "." behind every held-out token, mean by document.
"""

import torch

from probes.kit.finding import Finding, beyond
from probes.kit.nulls import mean_figure
from probes.kit.plots import of_figures
from probes.kit.readings import held_out, one_a_document, opened

READS = ("activations",)  # what the answer depends on besides the checkpoints: their held-out tokens


def ask(lab, checkpoints, n=40):
    figures = []
    for checkpoint in checkpoints:
        model, tokenizer = opened(checkpoint)
        comma, stop = (tokenizer.encode(sign, add_special_tokens=False)[0] for sign in ",.")
        values = []
        tokens = held_out(checkpoint)
        for window in tokens.batches(1, one_a_document(tokens, n)):  # a window at a time
            with torch.inference_mode():
                log_p = model(torch.from_numpy(window.ids).to(model.device)).logits[0].log_softmax(-1)
            values.append(float((log_p[:, comma] - log_p[:, stop]).mean()))
        null = "signs at random"
        figures.append(mean_figure("log odds", values, "documents", null, checkpoint=checkpoint.address))
    told = ", ".join(f"{f.checkpoint} by {f.value:+.2f} nats" for f in beyond(figures))
    claim = f"A comma is expected otherwise than a full stop: {told}." if told else "No difference is shown."
    plot = of_figures("Comma over full stop", "nats", figures, "log odds by checkpoint with intervals")
    changes = "Other texts: prose alone has more commas than sums have."
    return Finding(claim, figures, "the sign of each document's mean drawn at random", changes, [plot])
'''


def write(name: str) -> Path:
    """The template as `$MARBLE_HOME/probes/NAME.py`; an existing file is never written over."""
    checked_name(name, "probe's name")
    if not name.isidentifier():
        raise Misuse(f"{name!r} cannot be a probe's name: use letters, digits and '_', a letter first")
    if name in {each.name for each in probes()}:
        raise Misuse(f"there is a probe {name!r} already: choose another name")
    path = own_folder() / f"{name}.py"
    with plain_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEXT, encoding="utf-8")
    return path
