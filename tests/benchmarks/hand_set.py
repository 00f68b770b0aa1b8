"""Decoders whose mechanism is known because their weights were set by hand, for whoever claims to find circuits.

Each is a GPT-2 of `transformers`: learned positions, three layers of four heads, no tied unembedding. Its norms do
nothing but subtract the mean (ε and γ² are far above every variance, so (x − mean)/√(var + ε)·γ is x − mean), which
leaves the stream linear in what is written. The stream is cut into subspaces of one-hot codes:

    id    the token here                     0 … 31
    told  what a planted head moved here    32 … 63
    out   what is answered; W_U reads it    64 … 95
    place the position                      96 … 127

All that is not planted holds random weights of standard deviation `noise`: heads and MLPs that read and write
everywhere, and do next to nothing as long as `noise` is small. Layers and heads of what is planted are drawn by the
seed.

    induction   head P looks one place back and writes that token into `told`; head I, in a later layer, matches its
                own token with `told` and copies the `id` it finds there into `out` [Elhage 2021, Olsson 2022]
    lookup      head L looks from the last place to whatever token is a key and writes it into `told`; an MLP behind
                it has a neuron a key, which writes the value of its key into `out`
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from workbench.circuits.circuit import GREEDY, Scores, chosen
from workbench.circuits.circuit_model import CircuitModel
from workbench.circuits.graph import EMBED, LOGITS, Edges, Graph
from workbench.circuits.pairs import PairIds, Pairs, padded
from workbench.loading import load_model, load_tokenizer, quiet_transformers

CODES = 32  # ids, and places
N_HEADS, N_LAYERS, D_MODEL = 4, 3, 4 * CODES
ID, TOLD, OUT, PLACE = (slice(at, at + CODES) for at in range(0, D_MODEL, CODES))
BOS, WORDS = 0, range(1, CODES - 1)
ASK, KEYS, VALUES, FILLERS = 1, range(2, 10), range(10, 18), range(18, CODES)
COPY, PIECE, LENGTH = 8, 3, 10  # random tokens, how many come again; tokens of a prompt that looks a value up
NOISE = 0.05
SHARP, GAIN = 10.0, 10.0  # the score of what is looked at above all else; logits a unit of `out`
_EPSILON = 1e6


class Edge(NamedTuple):
    sender: str
    receiver: str


@dataclasses.dataclass(frozen=True)
class Planted:
    """A model, and by kind of pairs the edges that carry what those pairs differ in."""

    name: str
    model: hf.GPT2LMHeadModel
    edges: Mapping[str, tuple[Edge, ...]]
    write: Mapping[str, Callable[[random.Random], PairIds]]

    def pairs(self, kind: str, n: int, seed: int = 0) -> Pairs:
        rng = random.Random(f"{self.name} {kind} {seed}")
        return padded(f"{self.name}, {kind}", [self.write[kind](rng) for _ in range(n)], BOS)

    def true(self, kind: str, graph: Graph) -> Edges:
        """The edges of a kind of pairs as an array."""
        found = np.zeros(graph.edges.shape, dtype=bool)
        for edge in self.edges[kind]:
            found[graph.named(*edge)] = True
        return found


def linear_gpt2(
    n_layers: int, d_model: int, n_heads: int, n_ctx: int, vocab: int, d_mlp: int
) -> hf.GPT2LMHeadModel:
    """A GPT-2 with ReLU and norms that only subtract the mean; its weights are random."""
    config = hf.GPT2Config(
        vocab_size=vocab, n_positions=n_ctx, n_embd=d_model, n_layer=n_layers, n_head=n_heads, n_inner=d_mlp,
        activation_function="relu", layer_norm_epsilon=_EPSILON, tie_word_embeddings=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=BOS, eos_token_id=BOS,
    )  # fmt: skip
    model = hf.GPT2LMHeadModel._from_config(config, attn_implementation="eager").eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.constant_(module.weight, _EPSILON**0.5)
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)
    return model


def opened(model: hf.GPT2LMHeadModel) -> CircuitModel:
    """The model through a folder, as any checkpoint comes; its tokens are called t0, t1, …"""
    from transformer_lens.model_bridge import TransformerBridge

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(model.config.vocab_size)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with tempfile.TemporaryDirectory() as name, quiet_transformers():
        folder = Path(name)
        model.save_pretrained(folder)
        hf.PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token="t0", eos_token="t0", pad_token="t0"
        ).save_pretrained(folder)
        fresh, tokenizer = load_model(folder, "cpu"), load_tokenizer(folder)
        return CircuitModel(TransformerBridge.boot_transformers(name, hf_model=fresh, tokenizer=tokenizer))


def shuffled_circuit(graph: Graph, scores: Scores, n: int, rng: np.random.Generator) -> Edges:
    """A null: n edges chosen greedily, after the scores were dealt anew among the graph's edges."""
    dealt = np.zeros_like(scores)
    dealt[graph.edges] = rng.permutation(scores[graph.edges])
    return chosen(graph, dealt, n, GREEDY)


@torch.no_grad()
def _noisy(noise: float, seed: int, n_layers: int) -> hf.GPT2LMHeadModel:
    """Codes in embedding and unembedding, noise in all heads and MLPs."""
    model = linear_gpt2(n_layers, D_MODEL, N_HEADS, CODES, CODES, 2 * CODES)
    draw = torch.Generator().manual_seed(seed)
    for block in model.transformer.h:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            layer.weight.copy_(noise * torch.randn(layer.weight.shape, generator=draw))
            layer.bias.zero_()
    for table, code in ((model.transformer.wte, ID), (model.transformer.wpe, PLACE), (model.lm_head, OUT)):
        table.weight.zero_()
        table.weight[:, code] = torch.eye(CODES)
    model.lm_head.weight.mul_(GAIN)
    return model


class Head:
    """One head of a model, its matrices to be set: all zero to begin with."""

    def __init__(self, model: hf.GPT2LMHeadModel, layer: int, head: int) -> None:
        self.attention = model.transformer.h[layer].attn
        self.at = slice(head * CODES, (head + 1) * CODES)
        for matrix in (self.q, self.k, self.v, self.o):
            matrix.zero_()

    def _read(self, which: int) -> torch.Tensor:
        return self.attention.c_attn.weight[:, which * D_MODEL :][:, self.at]

    @property
    def q(self) -> torch.Tensor:
        return self._read(0)

    @property
    def k(self) -> torch.Tensor:
        return self._read(1)

    @property
    def v(self) -> torch.Tensor:
        return self._read(2)

    @property
    def o(self) -> torch.Tensor:
        return self.attention.c_proj.weight[self.at]

    def always_ask(self, dim: int, score: float) -> None:
        """A query of its own in a dimension, whatever is read; a key of 1 there has `score` more than others."""
        self.attention.c_attn.bias[self.at.start + dim] = score * CODES**0.5


@torch.no_grad()
def induction(seed: int = 0, noise: float = NOISE, n_layers: int = N_LAYERS) -> Planted:
    """The induction pair. Positions are the same in both prompts, so that no edge that carries them alone (into q
    and k of head P) has an effect, nor has an attention pattern that both prompts share."""
    model, rng = _noisy(noise, seed, n_layers), random.Random(seed)
    before, after = sorted(rng.sample(range(n_layers), 2))
    p, i = (f"a{layer}.h{rng.randrange(N_HEADS)}" for layer in (before, after))
    back, copy = (Head(model, layer, int(name[-1])) for layer, name in ((before, p), (after, i)))
    strong = SHARP * CODES**0.5
    back.q[PLACE] = strong * torch.eye(CODES).roll(-1, dims=1)  # place p asks for p − 1
    back.k[PLACE] = torch.eye(CODES)
    back.v[ID] = torch.eye(CODES)
    back.o[:, TOLD] = torch.eye(CODES)
    words = torch.eye(CODES)
    words[BOS, BOS] = words[-1, -1] = 0
    copy.q[ID] = strong * words
    copy.k[TOLD] = words
    copy.k[BOS, -1] = 1.0  # rests on BOS where nothing matches
    copy.always_ask(CODES - 1, SHARP / 2)
    copy.v[ID] = torch.eye(CODES)
    copy.o[:, OUT] = torch.eye(CODES)
    value = (Edge(EMBED, f"{i}<v>"), Edge(i, LOGITS))
    key = (Edge(EMBED, f"{p}<v>"), Edge(p, f"{i}<k>"), Edge(i, LOGITS))
    every = (*key, Edge(EMBED, f"{i}<q>"), Edge(EMBED, f"{i}<v>"))
    return Planted(
        "induction",
        model,
        {"another continuation": value, "swapped": key, "another sequence and place": every},
        {
            "another continuation": _continued,
            "swapped": _swapped,
            "another sequence and place": _other_sequence,
        },
    )


def _continued(rng: random.Random) -> PairIds:
    """As the workbench's task: the corrupt prompt had another token at this place the first time. What head P tells
    of the place that is looked for is the same in both prompts."""
    *copy, foil = rng.sample(WORDS, COPY + 1)
    k = rng.randrange(COPY // 2, COPY)
    changed = [*copy[:k], foil, *copy[k + 1 :]]
    return PairIds([BOS, *copy, *copy[:k]], [BOS, *changed, *copy[:k]], copy[k], foil)


def _swapped(rng: random.Random) -> PairIds:
    """The token that is looked for changes places with another in the first copy: what is to be looked at moves."""
    copy = rng.sample(WORDS, COPY)
    i, j = rng.sample(range(0, COPY - 1, 2), 2)
    changed = list(copy)
    changed[i], changed[j] = copy[j], copy[i]
    asked = [rng.choice([w for w in WORDS if w not in copy]), copy[i]]
    return PairIds([BOS, *copy, *asked], [BOS, *changed, *asked], copy[i + 1], copy[j + 1])


def _other_sequence(rng: random.Random) -> PairIds:
    """Two sequences that have no token in common, each with a piece of it behind. The two pieces come from
    different places: begun again at the same, both prompts would look at the same place, and what is moved from
    there would be all that is needed."""
    words = rng.sample(WORDS, 2 * COPY)
    ends = rng.sample(range(PIECE, COPY), 2)  # where in its sequence the answer stands
    first, second = ((words[at : at + COPY], words[at + end]) for at, end in zip((0, COPY), ends, strict=True))
    ids = [[BOS, *copy, *copy[end - PIECE : end]] for (copy, _), end in zip((first, second), ends, strict=True)]
    return PairIds(*ids, first[1], second[1])


@torch.no_grad()
def lookup(seed: int = 0, noise: float = NOISE, n_layers: int = N_LAYERS) -> Planted:
    """The lookup head. What makes it look is that a token is a key, so its <k> carries nothing where both prompts
    have their key at the same place."""
    model, rng = _noisy(noise, seed, n_layers), random.Random(seed)
    layer = rng.randrange(n_layers)
    mover, m = f"a{layer}.h{rng.randrange(N_HEADS)}", rng.randrange(layer, n_layers)
    head, mlp = Head(model, layer, int(mover[-1])), model.transformer.h[m].mlp
    keys = torch.tensor(list(KEYS))
    head.k[keys, 0] = 1.0
    head.always_ask(0, SHARP)
    head.v[ID] = torch.eye(CODES)
    head.o[:, TOLD] = torch.eye(CODES)
    table = torch.tensor(values_of(seed))
    for neuron, key in enumerate(KEYS):
        mlp.c_fc.weight[:, neuron] = 0
        mlp.c_fc.weight[TOLD, neuron] = 2 * torch.eye(CODES)[key]
        mlp.c_fc.bias[neuron] = -1.0  # 2 · told − 1: on for its own key, off for every other
        mlp.c_proj.weight[neuron] = 0
        mlp.c_proj.weight[neuron, OUT] = torch.eye(CODES)[table[neuron]]
    value = (Edge(EMBED, f"{mover}<v>"), Edge(mover, f"m{m}"), Edge(f"m{m}", LOGITS))
    return Planted(
        "lookup",
        model,
        {"another key": value, "another key elsewhere": (Edge(EMBED, f"{mover}<k>"), *value)},
        {
            "another key": lambda rng: _asked(rng, seed, elsewhere=False),
            "another key elsewhere": lambda rng: _asked(rng, seed, elsewhere=True),
        },
    )


def values_of(seed: int) -> list[int]:
    """The value of every key."""
    return random.Random(f"table {seed}").sample(VALUES, len(KEYS))


def _asked(rng: random.Random, seed: int, elsewhere: bool) -> PairIds:
    """Fillers, a key among them, and the token that asks for its value; the corrupt prompt has another key."""
    value = dict(zip(KEYS, values_of(seed), strict=True))
    fillers = rng.choices(FILLERS, k=LENGTH - 2)
    key, other = rng.sample(KEYS, 2)
    at = rng.sample(range(len(fillers)), 2)
    prompts = []
    for place, which in ((at[0], key), (at[1] if elsewhere else at[0], other)):
        prompts.append([BOS, *fillers[:place], which, *fillers[place + 1 :], ASK])
    return PairIds(*prompts, value[key], value[other])


PLANTED = {"induction": induction, "lookup": lookup}
