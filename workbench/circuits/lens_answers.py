"""At which layer the answer stands: the logit difference that the model's own head reads from every layer.

    m_l = (W_U[target] − W_U[foil]) · ln_final(lens_l(x_l))    x_l the stream at the prompt's last token

lens_l is none (logit lens), the checkpoint's tuned lens, or the tuned lens of the root of its lineage; the last row
is m itself, through every lens. Through the root's lens the answer shows only as far as it stands in the root's
terms. A tuned lens may read what later layers would make of a layer: the answer can be told there before it is
worked out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from workbench.circuits.attribution import portions
from workbench.circuits.lens_kl import LOGIT_LENS
from workbench.circuits.pairs import Pairs, logit_difference
from workbench.circuits.tuned_lens import TunedLens
from workbench.errors import unknown
from workbench.intervals import bracketed, ratio_intervals
from workbench.lens import check_head, recorded_stream, trunk
from workbench.splice import tokens_per_batch

if TYPE_CHECKING:
    import polars as pl

CLEAN, MOVED = "clean prompts", "clean − corrupt"
ON = (CLEAN, MOVED)


@dataclasses.dataclass(frozen=True)
class LensAnswers:
    """m by lens; `rows` are the embedding and each block."""

    rows: tuple[str, ...]
    clean: Mapping[str, Float[np.ndarray, "pair row"]]
    corrupt: Mapping[str, Float[np.ndarray, "pair row"]]

    def m(self, lens: str, on: str = CLEAN) -> Float[np.ndarray, "pair row"]:
        """m on the clean prompts, or how much higher it is there than on the corrupt ones."""
        if on not in ON:
            raise unknown("set of prompts", on, ON)
        return self.clean[lens] if on == CLEAN else self.clean[lens] - self.corrupt[lens]

    def table(self, on: str = CLEAN) -> pl.DataFrame:
        """A row a lens and layer: the mean over pairs and its interval."""
        import polars as pl

        found = []
        for lens in self.clean:
            m = self.m(lens, on).astype(float)
            ends = ratio_intervals(m, np.ones(len(m)))
            for layer, (row, mean, (low, high)) in enumerate(zip(self.rows, m.mean(axis=0), ends, strict=True)):
                found.append((lens, layer, row, float(mean), float(low), float(high), len(m)))
        return pl.DataFrame(found, schema=["lens", "layer", "row", "m", "low", "high", "n"], orient="row")

    def stands(self, lens: str, on: str = CLEAN) -> str | None:
        """The first row from which on the interval lies above 0 to the end; None where the last does not."""
        first = None
        for row, low in reversed(self.table(on).filter(lens=lens).select("row", "low").rows()):
            if not low > 0:
                break
            first = row
        return first

    def sentence(self, called: Mapping[str, str], on: str = CLEAN) -> str:
        """From which layer on the target is told from the foil, through each lens as it is `called`. The last row
        is m itself through every lens: where that is not told, none is."""
        firsts = {lens: self.stands(lens, on) for lens in called}
        if None in firsts.values():
            end = self._told(next(iter(called)), self.rows[-1], on)
            return f"the target is not told from the foil, in the model's own answer either: m {end}"
        told = (
            f"through {called[lens]} from {'the embedding' if first == self.rows[0] else first} on, m "
            f"{self._told(lens, str(first), on)} there"
            for lens, first in firsts.items()
        )
        return f"the target is told from the foil {'; '.join(told)}"

    def _told(self, lens: str, row: str, on: str) -> str:
        m = self.table(on).filter(lens=lens, row=row)
        return bracketed(m["m"].item(), m["low"].item(), m["high"].item(), 2)


@torch.inference_mode()
def lens_answers(model: PreTrainedModel, pairs: Pairs, lenses: Mapping[str, TunedLens]) -> LensAnswers:
    """m by layer through each of `lenses` and through none."""
    layers, d = len(trunk(model).blocks), model.config.get_text_config().hidden_size
    plain = {LOGIT_LENS: TunedLens.logit_lens(layers, d)}
    checked = {name: lens.checked_for(model) for name, lens in {**plain, **lenses}.items()}
    found: dict[bool, dict[str, list[np.ndarray]]] = {
        on: {name: [] for name in checked} for on in (True, False)
    }
    for some in portions(pairs, tokens_per_batch(model)):
        moved = some.to(model.device)
        for clean in (True, False):
            for name, m in _read(model, moved, clean, checked).items():
                found[clean][name].append(m)
    rows = ("embedding", *(f"block {layer}" for layer in range(layers)))
    both = [{name: np.concatenate(parts) for name, parts in found[on].items()} for on in (True, False)]
    return LensAnswers(rows, *both)


def _read(
    model: PreTrainedModel, pairs: Pairs, clean: bool, lenses: Mapping[str, TunedLens]
) -> dict[str, Float[np.ndarray, "pair row"]]:
    parts, rows = trunk(model), torch.arange(len(pairs), device=model.device)
    with recorded_stream(model) as resid:
        out = model(input_ids=pairs.clean if clean else pairs.corrupt, use_cache=False)
    streams = [x[rows, pairs.last] for x in resid]
    check_head(model, streams[-1], out.logits[rows, pairs.last])
    found = {}
    for name, lens in lenses.items():
        logits = (parts.unembed(parts.final_norm(lens(layer, x))) for layer, x in enumerate(streams))
        m = [logit_difference(each, pairs.target, pairs.foil) for each in logits]
        found[name] = torch.stack(m, dim=1).float().cpu().numpy()
    return found
