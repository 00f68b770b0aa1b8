"""Steering by one latent and taking it away, in a running model; and what either does, dose by dose.

    add:     x' = x + s d_j                 at every position but BOS
    ablate:  x' = x − f_j(x) d_j = x̂(x) − f_j(x) d_j + (x − x̂(x))      the error term is kept

x is what stands at the dictionary's own site (the residual stream, an MLP's input or output), d_j the latent's
decoder in the dictionary's own (unnormalised) units, s a strength in units of the latent's activation. A transcoder
reads the MLP's input x and writes its output y: y' = y + s d_j, and y' = y − f_j(x) d_j. BOS is left alone: no
dictionary was trained on it. The control is a random direction of equal norm: s ‖d_j‖ u, and f_j(x) ‖d_j‖ u when
ablating.

Dose and response: for each strength the summed probability of the tokens the latent promotes most, after the
prompt, and the loss (nats per token) on held-out windows. All strengths of a direction run as one batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes.dictionary import Dictionary
from saes.transcoder import Transcoder
from workbench import points
from workbench.errors import Misuse
from workbench.points import MLP_OUT, RESID_POST
from workbench.prompt import Prompt, begins_with_bos, read_prompt
from workbench.sampling import Continuation, Sampling, continuations
from workbench.site import decoder_layers, replaced
from workbench.splice import log_probabilities, next_token_nats, tokens_per_batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from workbench.tokens import TokenSet

N_PROMOTED = 5  # tokens whose probability is summed
N_RANDOM = 3  # random directions of the control
DOSES = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)  # times the latent's strongest activation
LOSS_TOKENS = 384  # held-out tokens of each dose
OWN, RANDOM = "latent", "random"

# From what the latent reads and what stands where it writes, both `[row position d]` without BOS, to what takes the
# latter's place. But for a transcoder's the two are the same.
Edit = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Site:
    """One latent at the place in a model where its dictionary reads, `point` of `layer`; `reads` is which of the
    dictionary's checkpoints' decoder is used."""

    dictionary: Dictionary
    latent: int
    layer: int
    reads: str
    point: str = RESID_POST
    minus: str = ""  # of a difference dictionary: the checkpoint that is taken off

    def __post_init__(self) -> None:
        if not 0 <= self.latent < self.dictionary.n_latents:
            raise Misuse(f"there is no latent {self.latent}: they are 0 to {self.dictionary.n_latents - 1}")

    @property
    def writes_at(self) -> points.Site:
        """Where its decoder points: of a transcoder the MLP's output, else where it reads."""
        return points.Site(self.layer, MLP_OUT if isinstance(self.dictionary, Transcoder) else self.point)

    @property
    def d_j(self) -> Float[Tensor, "d"]:
        return self.dictionary.W_dec[self.latent, self.dictionary.model_index(self.reads)]

    def activation(self, x: Float[Tensor, "*where d"]) -> Float[Tensor, "*where"]:
        """f_j(x). Only an SAE has it at one checkpoint: a crosscoder's latent reads all of its own at once."""
        made = self.dictionary
        if self.minus:
            raise Misuse(
                f"a difference dictionary's latent reads what {self.reads} has more than {self.minus}, so it "
                "cannot be taken out of one of them alone: choose an SAE, or add instead"
            )
        if made.n_models > 1:
            raise Misuse(
                f"a crosscoder's latent reads {', '.join(made.names)} at once, so it cannot be taken out of "
                "one of them alone: choose an SAE, or add instead"
            )
        flat = x.reshape(-1, x.shape[-1]).float()
        if made.activation == "jumprelu":  # one column is enough where latents do not compete
            pre = flat @ made.W_enc[0, :, self.latent] + made.b_enc[self.latent]
            return torch.where(pre > made.threshold[self.latent], pre, 0.0).view(x.shape[:-1])
        return made.encode(flat[:, None])[:, self.latent].view(x.shape[:-1])

    def check(self, model: PreTrainedModel) -> None:
        """The model has the layer and the width that the dictionary reads."""
        d, layers = model.config.get_text_config().hidden_size, len(decoder_layers(model))
        if not d == self.dictionary.d == self.dictionary.d_out or not 0 <= self.layer < layers:
            raise Misuse(
                f"the dictionary reads {self.dictionary.d} dimensions of {self.point} in layer {self.layer}; this "
                f"checkpoint has {d} dimensions and layers 0 to {layers - 1}: choose one that it was made for"
            )


class Dose(NamedTuple):
    """Rows of `promoted` and `loss` are directions: the latent's own first, then the random ones."""

    strengths: Float[np.ndarray, "strength"]
    promoted: Float[np.ndarray, "direction strength"]
    loss: Float[np.ndarray, "direction strength"]


def random_directions(like: Float[Tensor, "d"], n: int, seed: int = 0) -> Float[Tensor, "n d"]:
    """Directions drawn uniformly from the sphere, as long as `like`."""
    drawn = torch.randn(n, len(like), generator=torch.Generator().manual_seed(seed)).to(like)
    return drawn / drawn.norm(dim=1, keepdim=True) * like.norm()


def added(vectors: Float[Tensor, "row d"]) -> Edit:
    """Adds a vector to every row of the batch: one for all, or one each."""
    return lambda read, written: written + vectors.to(written)[:, None]


def ablated(site: Site, direction: Float[Tensor, "d"] | None = None) -> Edit:
    """Takes f_j(x) times a direction away: the latent's own, unless another is given."""
    along = site.d_j if direction is None else direction
    return lambda read, written: written - site.activation(read)[..., None].to(written) * along.to(written)


@contextlib.contextmanager
def edited(model: PreTrainedModel, site: Site, edit: Edit | None, bos: bool) -> Iterator[None]:
    """Inside, what stands at the site is edited, the first position of the first pass left alone if it is BOS.

    The passes after the first are one more token each, as when writing with a cache. With None nothing is
    hooked.
    """
    if edit is None:
        yield
        return
    site.check(model)
    skip, where = 1 if bos else 0, site.writes_at

    def replace(read: Tensor, written: Tensor) -> Tensor:
        nonlocal skip
        kept, skip = skip, 0
        own = written if where.point == site.point else read
        return torch.cat([written[:, :kept], edit(own[:, kept:], written[:, kept:])], dim=1)

    with replaced(model, where, replace):
        yield


def next_logits(
    model: PreTrainedModel, site: Site, edit: Edit | None, ids: Int[Tensor, "row position"], bos: bool
) -> Float[Tensor, "row position vocab"]:
    """The model's logits on `ids` under an edit."""
    with torch.inference_mode(), edited(model, site, edit, bos):
        return model(input_ids=ids.to(model.device), use_cache=False).logits.float()


def prompt_of(tokenizer: PreTrainedTokenizerFast, text: str, n_ctx: int, chat: bool, room: int) -> Prompt:
    """What a person typed as ids, cut at the front so that `room` more tokens fit; empty is `Misuse`."""
    if not text.strip():
        raise Misuse("the prompt is empty: write at least one word to steer what follows it")
    return read_prompt(tokenizer, text, max(2, n_ctx - room), chat=chat)


def continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: Prompt,
    site: Site,
    edit: Edit | None,
    sampling: Sampling,
    length: int,
    seed: int = 0,
    n: int = 1,
) -> list[Continuation]:
    """Texts written under an edit; with the same seed and no edit, what the model writes by itself."""
    with edited(model, site, edit, begins_with_bos(tokenizer)):
        return continuations(model, tokenizer, prompt, sampling, n=n, max_new_tokens=length, seed=seed)


def promoted_probability(
    model: PreTrainedModel,
    site: Site,
    edit: Edit | None,
    ids: Sequence[int],
    n_rows: int,
    promoted: Sequence[int],
    bos: bool,
) -> Float[np.ndarray, "row"]:
    """Summed probability of `promoted` after the prompt, in each of `n_rows` rows of a batch."""
    batch = torch.tensor([list(ids)]).repeat(n_rows, 1)
    after = next_logits(model, site, edit, batch, bos)[:, -1].double().softmax(-1)
    return after[:, list(promoted)].sum(-1).cpu().numpy()


def heldout_loss(
    model: PreTrainedModel, site: Site, edits: Sequence[Edit | None], token_set: TokenSet, seed: int = 0
) -> Float[np.ndarray, "edit"]:
    """Nats per token on a few held-out windows under each edit, the same windows for all."""
    windows = token_set.sample_windows(LOSS_TOKENS, seed)
    nats, n_tokens = np.zeros(len(edits)), 0
    for batch in token_set.batches(tokens_per_batch(model), windows):
        n_tokens += int(batch.real.sum())
        for i, edit in enumerate(edits):
            with edited(model, site, edit, bos=True):  # every window begins with BOS
                nats[i] += float(next_token_nats(log_probabilities(model, batch), batch).sum())
    return nats / n_tokens


def directions(site: Site, seed: int = 0) -> Float[Tensor, "direction d"]:
    """The latent's decoder and the random directions of the control, all of one norm."""
    return torch.cat([site.d_j[None], random_directions(site.d_j, N_RANDOM, seed)])


def dose_response(
    model: PreTrainedModel,
    site: Site,
    prompt: Prompt,
    promoted: Sequence[int],
    token_set: TokenSet,
    unit: float,
    bos: bool,
    seed: int = 0,
) -> Dose:
    """Both responses to every dose, `unit` (the latent's strongest activation) times `DOSES`."""
    strengths = np.array(DOSES) * unit
    scale = torch.tensor(strengths, dtype=site.d_j.dtype)
    probabilities, losses = [], []
    for direction in directions(site, seed):
        vectors = scale[:, None] * direction
        edit = added(vectors)
        probabilities.append(promoted_probability(model, site, edit, prompt.ids, len(scale), promoted, bos))
        edits = [added(vector[None]) for vector in vectors]
        losses.append(heldout_loss(model, site, edits, token_set, seed))
    return Dose(strengths, np.stack(probabilities), np.stack(losses))


class Effect(NamedTuple):
    """What an ablation does: summed probability of the promoted tokens, and held-out loss."""

    name: str
    promoted: float
    loss: float


def ablation_effects(
    model: PreTrainedModel,
    site: Site,
    prompt: Prompt,
    promoted: Sequence[int],
    token_set: TokenSet,
    bos: bool,
    seed: int = 0,
) -> list[Effect]:
    """As it is; without the latent; and with as much of each random direction taken away."""
    names = ["as it is", "without the latent"]
    names += [f"as much of a random direction ({i})" for i in range(1, N_RANDOM + 1)]
    edits = [None, *(ablated(site, direction) for direction in directions(site, seed))]
    losses = heldout_loss(model, site, edits, token_set, seed)
    chances = [promoted_probability(model, site, e, prompt.ids, 1, promoted, bos)[0] for e in edits]
    return [Effect(n, float(p), float(loss)) for n, p, loss in zip(names, chances, losses, strict=True)]


def unit_of(max_activation: float, alive: Float[np.ndarray, "latent"]) -> float:
    """What a strength counts in: the latent's strongest activation; of one that never fires, the median of
    those that do."""
    if max_activation > 0:
        return max_activation
    return float(np.median(alive)) if len(alive) else 1.0
