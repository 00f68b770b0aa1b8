"""Latents of one checkpoint moved, added or taken out; those that push an answer towards its steps are searched.

    added        x' = x + s d_j at every token but BOS
    taken out    x' = x − f_j(x) d_j                                                (`workbench.steering`)

The search is to first order, f_j ⟨d_j, ∇ (log p(steps) − log p("It"))⟩ behind questions, each weighed by 1 −
p(steps); the foremost are moved, and those that push furthest are taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from probes.kit.asking import Question, prompts
from probes.kit.readings import opened
from saes.dictionary import Dictionary
from workbench.checkpoint import Checkpoint
from workbench.generation import right_padded
from workbench.mediation import size_matched
from workbench.points import Site as Place
from workbench.site import last_logits, read_resid_post, replaced
from workbench.steering import Edit, Site, ablated, added
from workbench.tasks import OPENINGS

ADD, OUT = "added", "taken out"
SHORTLIST = 8  # latents each way, of which those are taken that push furthest when moved
LEAST = 5  # questions behind which a candidate fires


class Candidate(NamedTuple):
    """One way to move one latent; `s` is what is added."""

    latent: int
    way: str
    s: float

    @property
    def name(self) -> str:
        return f"{self.latent} {self.way}"


class Subject(NamedTuple):
    """A reinforced checkpoint and an SAE of it."""

    checkpoint: Checkpoint
    name: str
    dictionary: Dictionary
    layer: int

    def edit(self, move: Candidate) -> Edit:
        site = Site(self.dictionary, move.latent, self.layer, self.checkpoint.name)
        return added(move.s * site.d_j[None]) if move.way == ADD else ablated(site)


class Worth(NamedTuple):
    """By latent, behind the questions searched: what adding it (of the size it has where it fires) and what taking
    it out do to the log odds of beginning with the steps, to first order; that size; how much it writes; how often
    it fires."""

    add: Float[np.ndarray, " latent"]
    out: Float[np.ndarray, " latent"]
    size: Float[np.ndarray, " latent"]
    written: Float[np.ndarray, " latent"]
    fires: Float[np.ndarray, " latent"]


class Search(NamedTuple):
    """Questions as ids, where each ends, and the tokens that begin an answer with its steps and without."""

    ids: Int[Tensor, "question position"]
    last: Int[Tensor, " question"]
    steps: list[int]
    it: int

    @classmethod
    def of(cls, subject: Subject, asked: Sequence[Question]) -> Search:
        model, tokenizer = opened(subject.checkpoint)
        rows = prompts(subject.checkpoint, asked)
        words = ["It", *(opening.split()[0] for opening in OPENINGS.values())]
        it, *steps = (tokenizer.encode(word, add_special_tokens=False)[0] for word in words)
        last = torch.tensor([len(row) - 1 for row in rows])
        return cls(right_padded(rows, tokenizer.pad_token_id).to(model.device), last, steps, it)

    def log_odds(self, model: PreTrainedModel) -> Float[Tensor, " question"]:
        """log p(steps) − log p("It") behind each question, weighed by 1 − p(steps): an answer that shows its steps
        already cannot be made to."""
        log_p = last_logits(model, self.ids, self.last.to(model.device)).float().log_softmax(-1)
        steps = log_p[:, self.steps].logsumexp(-1)
        return (1 - steps.detach().exp()) * (steps - log_p[:, self.it])


def searched(subject: Subject, search: Search) -> Worth:
    """What moving each latent does to the log odds of the steps, behind each question's last token."""
    model, rows = opened(subject.checkpoint).model, torch.arange(len(search.ids))
    x = (
        read_resid_post(model, subject.layer, search.ids)[rows, search.last]
        .clone()
        .float()
        .requires_grad_(True)
    )

    def put_in(read: Tensor, written: Tensor) -> Tensor:
        out = written.detach().clone()
        out[rows, search.last] = x.to(out)
        return out

    with torch.enable_grad(), replaced(model, Place(subject.layer), put_in):
        search.log_odds(model).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        f = subject.dictionary.encode(x.detach()[:, None]).cpu().numpy()
        W_dec = subject.dictionary.W_dec[:, subject.dictionary.model_index(subject.checkpoint.name)]
        pull = (x.grad @ W_dec.T).cpu().numpy()
    fires = (f > 0).sum(axis=0)
    size = f.sum(axis=0) / np.maximum(fires, 1)
    written = f.mean(axis=0) * W_dec.norm(dim=1).cpu().numpy()
    return Worth(size * pull.mean(axis=0), -(f * pull).mean(axis=0), size, written, fires.astype(float))


def pushed(subject: Subject, search: Search, move: Candidate) -> float:
    """The mean log odds of the steps with one latent moved, at every token."""
    model = opened(subject.checkpoint).model
    with torch.inference_mode(), moved_at(model, subject.layer, subject.edit(move), [0] * len(search.ids)):
        return float(search.log_odds(model).mean())


def candidates(
    worth: Worth,
    each_way: int,
    dose: float,
    rng: np.random.Generator,
    push: Callable[[Candidate], float] | None = None,
) -> tuple[list[Candidate], list[Candidate]]:
    """Each way the latents that push furthest when moved, of the foremost to first order; and as many others that
    write as much, moved alike."""
    alive = worth.fires >= LEAST
    sizes = np.where(alive, worth.written, 0.0)
    tried, matched = list[Candidate](), list[Candidate]()
    for way, gain in ((ADD, worth.add), (OUT, worth.out)):
        order = np.argsort(-np.where(alive, gain, -np.inf), kind="stable")
        short = [Candidate(int(j), way, dose * float(worth.size[j])) for j in order if alive[j] and gain[j] > 0]
        if push is not None:
            short = sorted(short[:SHORTLIST], key=lambda each: -push(each))
        chosen = short[:each_way]
        others = size_matched([each.latent for each in chosen], sizes, len(chosen), rng) if chosen else []
        tried += chosen
        matched += [Candidate(j, way, dose * float(worth.size[j])) for j in others]
    return tried, matched


@contextlib.contextmanager
def moved_at(model: PreTrainedModel, layer: int, edit: Edit, begins: Sequence[int]) -> Iterator[None]:
    """Inside, the residual stream is edited behind the place where each row's BOS stands."""

    def replace(read: Tensor, written: Tensor) -> Tensor:
        new = edit(written, written)
        if written.shape[1] == 1:  # a token more
            return new
        free = torch.arange(written.shape[1])[None] > torch.tensor(begins)[:, None]
        return torch.where(free[..., None].to(written.device), new, written)

    with replaced(model, Place(layer), replace):
        yield
