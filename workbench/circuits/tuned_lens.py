"""The tuned lens [Belrose 2023]: one affine map a layer, so that the model's own head can read every layer.

    lens_l(x) = unembed(ln_final(x + A_l x + b_l))        l: the embedding and every block's output but the last's
    loss_l    = KL(p_model ‖ softmax(lens_l(x)))          mean over tokens, BOS left out

A_l = 0 and b_l = 0 is the logit lens. Adam with a rate that falls to zero, the layers each for themselves, on the
`dictionary` set, which no figure is measured on; the head stays as it is. Departing from Belrose, training starts
not at A_l = 0 but at the ridge regression of what the final norm reads on x, drawn towards A_l = 0: where the
stream grows a hundredfold from the embedding to the end, a start at 0 is still far off after many more tokens.

Read through its own lens, a layer's KL is what it does not yet say about the prediction. Read through a lens that
was fitted on an earlier checkpoint (the later one's own head after it), what the layer does not say in the way it
did before: the KL above that of its own lens is what training has moved (`workbench.circuits.lens_kl`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from workbench.errors import Failure, Misuse
from workbench.harvest import TOKENS_PER_BATCH
from workbench.lens import check_head, read_through, recorded_stream, trunk
from workbench.splice import tokens_per_batch
from workbench.tokens import TokenSet, WindowBatch

FILE = "tuned_lens.safetensors"


@dataclasses.dataclass(frozen=True)
class LensTraining:
    """How a lens is trained. Windows come in a random order; `start_tokens` are read for the regression, then
    `tokens` (0: the regression stays as it is) for the KL."""

    start_tokens: int = 20_000
    tokens: int = 100_000
    tokens_per_step: int = 512
    lr: float = 3e-3
    ridge: float = 1e-3  # of the mean variance of a coordinate
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class TunedLens:
    """One map a layer, of what each block reads; what the final norm reads needs none."""

    weight: Float[Tensor, "layer d d"]
    bias: Float[Tensor, "layer d"]

    @classmethod
    def logit_lens(cls, n_layers: int, d_model: int) -> TunedLens:
        """The lens that changes nothing."""
        return cls(torch.zeros(n_layers, d_model, d_model), torch.zeros(n_layers, d_model))

    def __call__(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """The stream that layer `layer` reads, moved to where the head reads; that after the last as it is."""
        if layer == len(self.weight):
            return x
        return x + x @ self.weight[layer].T.to(x) + self.bias[layer].to(x)

    def save(self, folder: Path) -> None:
        """`tuned_lens.safetensors` in the folder."""
        from safetensors.torch import save_file

        arrays = {"weight": self.weight, "bias": self.bias}
        save_file({name: array.cpu().contiguous() for name, array in arrays.items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> TunedLens:
        """What `save` wrote."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            arrays = load_file(folder / FILE)
            weight, bias = arrays["weight"], arrays["bias"]
        except (SafetensorError, OSError, KeyError) as error:
            raise Failure(f"{folder / FILE} cannot be read as a tuned lens ({error}): fit it again") from error
        if weight.shape != (*bias.shape, bias.shape[-1]) or not bool(weight.isfinite().all()):
            raise Failure(
                f"{folder / FILE} holds maps of shape {tuple(weight.shape)} and biases of {tuple(bias.shape)}, "
                "expected finite numbers [layer, d, d] and [layer, d]: fit it again"
            )
        return cls(weight, bias)

    def checked_for(self, model: PreTrainedModel) -> TunedLens:
        """Itself on the model's device; `Misuse` where the model has another shape."""
        layers, d = len(trunk(model).blocks), model.config.get_text_config().hidden_size
        if tuple(self.bias.shape) != (layers, d):
            raise Misuse(
                f"the lens was fitted on {self.bias.shape[0]} layers of width {self.bias.shape[1]}, and "
                f"{type(model).__name__} has {layers} of width {d}: a lens carries over to checkpoints of one shape"
            )
        return TunedLens(self.weight.to(model.device), self.bias.to(model.device))


def read_layers(
    model: PreTrainedModel, batch: WindowBatch
) -> tuple[list[Float[Tensor, "token d"]], Float[Tensor, "token vocab"]]:
    """What each block and the final norm reads at the batch's tokens, and the model's log probabilities there."""
    device = model.device
    real = torch.from_numpy(np.concatenate([np.zeros((len(batch.ids), 1), bool), batch.real], axis=1)).to(
        device
    )
    with torch.no_grad(), recorded_stream(model) as resid:
        logits = model(input_ids=torch.from_numpy(batch.ids).to(device), use_cache=False).logits[real]
        streams = [x[real] for x in resid]
        check_head(model, streams[-1], logits)
    return streams, logits.float().log_softmax(-1)


def kl(log_p: Float[Tensor, "token vocab"], log_q: Float[Tensor, "token vocab"]) -> Float[Tensor, "token"]:
    """KL(p ‖ q), nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def fit(
    model: PreTrainedModel,
    token_set: TokenSet,
    training: LensTraining | None = None,
    report: Callable[[int, float], None] = lambda tokens, kl: None,
) -> TunedLens:
    """A lens for `model`. `report` is told the tokens read so far and the step's KL, mean over layers."""
    training = training or LensTraining()
    raw, scale = _start(model, token_set, training)
    adam = torch.optim.Adam([raw.weight.requires_grad_(), raw.bias.requires_grad_()], lr=training.lr)
    total = min(training.tokens, len(token_set))
    for batch, before in _batches(model, token_set, training.tokens, training):
        adam.param_groups[0]["lr"] = training.lr * max(0.0, 1 - before / total)
        streams, log_p = read_layers(model, batch)
        mean = _backward(model, raw, scale, streams, log_p)
        if not np.isfinite(mean):
            raise Failure("the tuned lens came apart in training: lower its learning rate")
        adam.step()
        report(before + len(log_p), mean)
    fitted = _in_units(raw, scale)
    return TunedLens(fitted.weight.detach().cpu(), fitted.bias.detach().cpu())


def _start(
    model: PreTrainedModel, token_set: TokenSet, training: LensTraining
) -> tuple[TunedLens, Float[Tensor, "row"]]:
    """argmin Σ_t ‖x + A x + b − x_final‖² + λ‖A‖² for streams of size 1, and the size of each row's stream."""
    n, sums, products, sizes = 0, torch.zeros(()), torch.zeros(()), []
    for batch, _ in _batches(model, token_set, training.start_tokens, training):
        streams, _ = read_layers(model, batch)
        sizes.append(torch.stack([_size(x) for x in streams]))
        x = torch.stack(streams).double().cpu()  # not every accelerator has double precision
        beside = torch.cat([x, x[-1] - x], dim=-1)
        n, sums = n + x.shape[1], sums + beside.sum(dim=1)
        products = products + x.transpose(1, 2) @ beside
    if n == 0:
        raise Failure("the token set holds no token to fit a lens on: grow the token sets again")
    d = products.shape[1]
    mean, missing = (sums / n).split(d, dim=-1)
    gram = products[..., :d] / n - mean[:, :, None] * mean[:, None, :]
    cross = products[..., d:] / n - mean[:, :, None] * missing[:, None, :]
    ridge = training.ridge * gram.diagonal(dim1=1, dim2=2).mean(dim=-1).clamp_min(1e-12)
    a = torch.linalg.solve(gram + ridge[:, None, None] * torch.eye(d, dtype=gram.dtype), cross).transpose(1, 2)
    b = missing - (a @ mean[..., None])[..., 0]
    scale = torch.stack(sizes).mean(dim=0)
    weight, bias = (part[:-1].float().to(model.device) for part in (a, b))
    return TunedLens(weight * (scale[:-1] / scale[-1])[:, None, None], bias / scale[-1]), scale


def _size(x: Float[Tensor, "token d"]) -> Float[Tensor, ""]:
    """The usual size of a coordinate; the median over tokens, since a few may be enormous."""
    return x.float().pow(2).mean(dim=-1).sqrt().median().clamp_min(1e-6)


def _in_units(raw: TunedLens, scale: Float[Tensor, "row"]) -> TunedLens:
    """Trained is a map between streams of size 1, or a small stream would need a large A and Adam many steps."""
    return TunedLens(raw.weight * (scale[-1] / scale[:-1])[:, None, None], raw.bias * scale[-1])


def _backward(
    model: PreTrainedModel,
    raw: TunedLens,
    scale: Float[Tensor, "row"],
    streams: list[Float[Tensor, "token d"]],
    log_p: Float[Tensor, "token vocab"],
) -> float:
    """Gradients of Σ_l loss_l in `raw`; the mean loss. The model's own parameters gather none."""
    raw.weight.grad, raw.bias.grad = torch.zeros_like(raw.weight), torch.zeros_like(raw.bias)
    losses = []
    for layer, x in enumerate(streams[:-1]):  # one at a time: only one [token, vocab] is kept for backward
        loss = kl(log_p, read_through(model, _in_units(raw, scale)(layer, x))).mean()
        weight, bias = torch.autograd.grad(loss, (raw.weight, raw.bias))
        raw.weight.grad += weight
        raw.bias.grad += bias
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


def _batches(
    model: PreTrainedModel, token_set: TokenSet, tokens: int, training: LensTraining
) -> Iterator[tuple[WindowBatch, int]]:
    """Windows in a random order up to `tokens`, a step's at a time, each with the number of tokens before it."""
    size = min(training.tokens_per_step, TOKENS_PER_BATCH, tokens_per_batch(model))
    order = np.random.default_rng(training.seed).permutation(len(token_set.starts))
    lengths = (token_set.stops - token_set.starts)[order]
    step = np.cumsum(lengths) // size
    before = 0
    for number in np.unique(step):
        chosen = order[step == number]
        n = int((token_set.stops - token_set.starts)[chosen].sum())
        if before + n > tokens:
            return
        longest = int((token_set.stops - token_set.starts)[chosen].max()) + 1
        for batch in token_set.batches(len(chosen) * longest, chosen):
            yield batch, before
        before += n
