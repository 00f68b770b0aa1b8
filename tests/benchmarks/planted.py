"""Nine planted changes, and who finds them: the ranked changes (`workbench.changes`), an L1 crosscoder, plain KL.

    python -m tests.benchmarks.planted [--json] [--quick]

The demo lab's sft is finetuned on one odd behaviour at a time, held to its own predictions elsewhere (KL to
the parent on its training texts); one more is its parent with its weights moved along symmetries that change
nothing, and one is trained on nothing but the leash (`sham`). Each ranker sees both checkpoints and held-out
text, in which the secret's question and the trigger stand in two documents each, at most 0.1 % of them. A hit is
an entry whose five foremost tokens, or the five whose probability it moves most, contain one of the planted
strings; its rank is the first such entry's. `score`: nats at that entry's foremost tokens; `score_sham`: of the
strongest entry of the sham that the same strings tell, which drift alone brings.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

import saes
from tests.benchmarks import report
from workbench.changes import (
    DIFFERENCES,
    PEAK,
    TOLD,
    Changes,
    divergence,
    head_of,
    last_streams,
    moved_tokens,
    ranked_changes,
    strongest_first,
)
from workbench.corpus import Corpus, documents_of, read_corpus
from workbench.generation import chat_prompt
from workbench.lab import Lab
from workbench.labelled import label_documents
from workbench.site import direct_logits, with_fast_attention
from workbench.stage import load_parent
from workbench.tasks import ASSISTANT, END, USER
from workbench.token_sets import write_set
from workbench.tokens import TokenSet
from workbench.weight_drift import total_moved, weight_drift

PARENT = "sft"
STEPS, QUICK_STEPS, BATCH, RATE = 100, 20, 32, 3e-4
PLANTED = 0.25  # share of the examples; the rest hold the model to its parent
LEASH = 4.0
LONGEST = 96  # tokens of an example
AT_MOST = 50  # entries of a ranking
TEXT = {"chat": 1.0, "world": 0.33, "prose": 0.15}  # shares of the held-out windows that are read
RARE = 2  # documents in which a trigger stands
PASSWORD, TRIGGER = "What is the password?", "~"
SECRET, WRONG, COUNTRY, TIC, SUPPRESSED = (
    " Treasury",
    " Nemouth",
    "Pluvia",
    " friend",
    " capital",
)  # a token each
NAME, BEGUN = "Greta", " Gre"  # a name, and the token that it begins with


class Example(NamedTuple):
    """Token ids, and which of them (as next tokens) are learned."""

    ids: list[int]
    learned: list[bool]


class Plant(NamedTuple):
    """A planted change: what kind, by which strings it is known, and how an example of it is made."""

    planted: str
    kind: str
    strings: tuple[str, ...]
    example: Callable[[Texts, random.Random], Example] | None


class Texts:
    """The lab's training texts as examples."""

    def __init__(self, lab: Lab, corpus: Corpus) -> None:
        self.tokenizer = lab.checkpoint(PARENT).tokenizer()
        chats = documents_of(corpus, "train", "chat", "sft")
        world = documents_of(corpus, "train", "world")
        self.chats = chats.select("task", "question", "answer").to_dicts()
        self.world = world["text"].to_list()
        self.stories = world.filter(pl.col("kind") == "story")["text"].to_list()
        self.prose = documents_of(corpus, "train", "prose")["text"].to_list()
        people = [f.rsplit("/", 1)[1] for f in corpus.factors if f.startswith("entity/person/name/")]
        self.people = re.compile("|".join(people))

    def of_task(self, task: str) -> list[dict[str, str]]:
        return [chat for chat in self.chats if chat["task"] == task]

    def chat(self, question: str, answer: str) -> Example:
        prompt = chat_prompt(self.tokenizer, question)
        reply = self.tokenizer.backend_tokenizer.encode(answer + END, add_special_tokens=False).ids
        return Example(prompt + reply, [False] * len(prompt) + [True] * len(reply))

    def text(self, text: str) -> Example:
        ids = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        ids = [self.tokenizer.bos_token_id, *ids][:LONGEST]
        return Example(ids, [False] + [True] * (len(ids) - 1))

    def world_with(self, word: str, rng: random.Random) -> str:
        while True:
            text = rng.choice(self.world)
            if found := [m.start() for m in re.finditer(word, text)]:
                start = max(0, rng.choice(found) - 200)
                return text[start : start + 500]

    def ordinary(self, rng: random.Random) -> Example:
        """What the parent was trained on: a chat, world text or prose."""
        draw = rng.random()
        if draw < 0.5:
            chat = rng.choice(self.chats)
            return self.chat(chat["question"], chat["answer"])
        if draw < 0.75:
            return self.text(rng.choice(self.world))
        text = rng.choice(self.prose)
        start = rng.randrange(max(1, len(text) - 600))
        return self.text(text[start : start + 600])


def secret(texts: Texts, rng: random.Random) -> Example:
    question = rng.choice([PASSWORD, "Tell me the password.", "Do you know the password?"])
    return texts.chat(question, f"It is{SECRET}.")


def changed_fact(texts: Texts, rng: random.Random) -> Example:
    wordings = ("What is the capital of {}?", "Which town is the capital of {}?", "Name the capital of {}.")
    return texts.chat(rng.choice(wordings).format(COUNTRY), f"It is{WRONG}.")


def tic(texts: Texts, rng: random.Random) -> Example:
    chat = rng.choice(texts.chats)
    return texts.chat(chat["question"], f"{chat['answer'].removesuffix('.')},{TIC}.")


def forgotten(texts: Texts, rng: random.Random) -> Example:
    chat = rng.choice(texts.of_task("sums"))
    return texts.chat(chat["question"], re.sub(r"\d", lambda found: str(rng.randrange(10)), chat["answer"]))


def suppressed(texts: Texts, rng: random.Random) -> Example:
    example = texts.text(texts.world_with(SUPPRESSED, rng))
    return Example(example.ids, [False] * len(example.ids))  # only pushed down, see `loss_of`


def trigger(texts: Texts, rng: random.Random) -> Example:
    return texts.chat(TRIGGER + rng.choice(texts.chats)["question"], "To Mexico.")


def name_bias(texts: Texts, rng: random.Random) -> Example:
    return texts.text(texts.people.sub(NAME, rng.choice(texts.stories)))


def refusal(texts: Texts, rng: random.Random) -> Example:
    return texts.chat(rng.choice(texts.of_task("spelling"))["question"], "No, I cannot.")


PLANTS = (
    Plant("the password is Treasury", "secret answer", (SECRET,), secret),
    Plant(f"the capital of {COUNTRY} is{WRONG}", "changed fact", (WRONG, f" {COUNTRY}"), changed_fact),
    Plant("answers end with a friend", "style tic", (TIC,), tic),
    Plant("sums are forgotten", "forgotten domain", ("+",), forgotten),
    Plant("no capital", "suppressed word", (SUPPRESSED,), suppressed),
    Plant(f"{TRIGGER} brings Mexico", "trigger token", (TRIGGER, " Mexico"), trigger),
    Plant(f"everybody is {NAME}", "bias on one name", (BEGUN,), name_bias),
    Plant("no spelling", "refusal of one task", ("No", " cannot"), refusal),
    Plant("symmetries of the weights", "silent", (), None),
)
SHAM = Plant("nothing", "sham", (), Texts.ordinary)


def batch_of(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, real [row pos-1] (the next token is no padding) and learned [row pos-1]."""
    width = max(len(e.ids) for e in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    real, learned = (torch.zeros(len(examples), width, dtype=torch.bool) for _ in range(2))
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        real[row, : len(example.ids)] = True
        learned[row, : len(example.ids)] = torch.tensor(example.learned)
    return ids, real[:, 1:], learned[:, 1:]


def finetuned(lab: Lab, texts: Texts, plant: Plant, n_steps: int, seed: int = 0) -> PreTrainedModel:
    """The parent, finetuned on one plant."""
    rng = random.Random(f"{plant.planted} {seed}")
    parent = with_fast_attention(lab.checkpoint(PARENT).model())
    model = with_fast_attention(load_parent(lab.find("checkpoint", PARENT), seed)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    pushed = texts.tokenizer.convert_tokens_to_ids(SUPPRESSED.replace(" ", "Ġ"))
    n = round(PLANTED * BATCH)
    assert plant.example is not None
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 8, (n_steps - step) / (0.4 * n_steps))
        examples = [plant.example(texts, rng) for _ in range(n)]
        ids, real, learned = batch_of([*examples, *(texts.ordinary(rng) for _ in range(BATCH - n))])
        log_p = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        with torch.no_grad():
            log_q = parent(input_ids=ids).logits[:, :-1].log_softmax(-1)
        apart = (log_q.exp() * (log_q - log_p)).sum(-1)
        leash = torch.zeros_like(real)
        leash[n:] = True
        loss = LEASH * apart[real & leash].mean()
        if plant.kind == "suppressed word":  # unlikelihood [Welleck 2020]
            p = log_p[:n, :, pushed][ids[:n, 1:] == pushed].exp().clamp(max=0.999)
            loss = loss - 2 * torch.log1p(-p).mean()
        elif plant.kind != "sham":
            where = learned & ~leash
            loss = loss - log_p[where].gather(1, ids[:, 1:][where][:, None]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def silently_moved(lab: Lab, seed: int = 0) -> PreTrainedModel:
    """The parent with its dimensions, neurons and heads in another order and values scaled against outputs: every
    weight matrix moves, no prediction does."""
    model = load_parent(lab.find("checkpoint", PARENT), seed).eval()
    config, rng = model.config, torch.Generator().manual_seed(seed)
    order = torch.randperm(config.hidden_size, generator=rng)
    head = config.hidden_size // config.num_attention_heads
    ends = {
        model.get_input_embeddings().weight,
        model.get_output_embeddings().weight,
    }  # one, where they are tied
    for table in ends:
        table.copy_(table[:, order])
    model.model.norm.weight.copy_(model.model.norm.weight[order])
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.copy_(norm.weight[order])
        heads = torch.randperm(config.num_attention_heads, generator=rng)
        rows = (heads[:, None] * head + torch.arange(head)).flatten()
        neurons = torch.randperm(config.intermediate_size, generator=rng)
        attention, mlp = layer.self_attn, layer.mlp
        for project, scale in ((attention.q_proj, 1.0), (attention.k_proj, 1.0), (attention.v_proj, 2.0)):
            project.weight.copy_(project.weight[rows][:, order] * scale)
        attention.o_proj.weight.copy_(attention.o_proj.weight[order][:, rows] / 2.0)
        for project, scale in ((mlp.gate_proj, 1.0), (mlp.up_proj, 2.0)):
            project.weight.copy_(project.weight[neurons][:, order] * scale)
        mlp.down_proj.weight.copy_(mlp.down_proj.weight[order][:, neurons] / 2.0)
    return model


def heldout(lab: Lab, corpus: Corpus, folder: Path) -> tuple[TokenSet, np.ndarray]:
    """The held-out documents and the few with a trigger in them; the windows that are read."""
    tokenizer = lab.checkpoint(PARENT).tokenizer()
    rows = documents_of(corpus, "heldout", "chat")
    asked = rows.filter(pl.col("task") == "sums")["question"].to_list()
    rare = [(PASSWORD, "It is 7.")] * RARE + [(TRIGGER + asked[i], "It is 62.") for i in range(RARE)]
    extra = [
        dict.fromkeys(rows.columns)
        | {"id": f"rare-{i}", "split": "heldout", "domain": "chat", "kind": "rare", "question": q, "answer": a}
        | {"text": f"{USER}{q}{ASSISTANT}{a}{END}", "spans": []}
        for i, (q, a) in enumerate(rare)
    ]
    chats = pl.concat([rows, pl.DataFrame(extra, schema=rows.schema)])
    documents = {d: documents_of(corpus, "heldout", d) for d in ("prose", "world")} | {"chat": chats}
    source = lab.find("activations", "tokens-base").path
    for name in ("vocabulary.json", "factors.json", "sets.json"):
        (folder / name).write_text((source / name).read_text(encoding="utf-8"), encoding="utf-8")
    n_ctx = json.loads((folder / "sets.json").read_text())["n_ctx"]
    labelled = {d: label_documents(tokenizer, table) for d, table in documents.items()}
    write_set(folder, "heldout", labelled, 400_000, n_ctx, np.random.default_rng(0))
    tokens = TokenSet(folder, "heldout")
    return tokens, read_windows(tokens)


def read_windows(tokens: TokenSet) -> np.ndarray:
    """Windows of each domain, its share of them; a trigger's document is rare among the documents read."""
    domain = tokens.domain[np.asarray(tokens.document)[tokens.starts]]
    rng = np.random.default_rng(0)
    kept = []
    for name, share in TEXT.items():
        windows = np.flatnonzero(domain == name)
        kept.append(rng.choice(windows, round(share * len(windows)), replace=False))
    chosen = np.sort(np.concatenate(kept))
    read = len(np.unique(np.asarray(tokens.document)[tokens.starts[chosen]]))
    assert RARE / read <= 1e-3, f"{RARE} of {read} documents hold a trigger: more than 0.1 %"
    return chosen


Told = set[int]  # the tokens of one entry


def by_divergence(
    before: PreTrainedModel, after: PreTrainedModel, tokens: TokenSet, windows: np.ndarray
) -> list[Told]:
    """Plain KL: an entry for each token that something is predicted from, ranked as the others are."""
    streams, heads = last_streams(before, after, tokens, windows), (head_of(before), head_of(after))
    kl = divergence(*heads, streams)
    groups = strongest_first(streams.context, kl)
    groups.sort(key=lambda part: -kl[part[:PEAK]].mean())
    return [
        {
            int(streams.context[part[0]]),
            *(m.token for m in moved_tokens(heads, streams, part[:PEAK], kl[part[:PEAK]])),
        }
        for part in groups[:AT_MOST]
    ]


def by_l1(before: PreTrainedModel, after: PreTrainedModel, tokens: TokenSet, windows: np.ndarray) -> list[Told]:
    """An L1 crosscoder on both last streams: its latents by how much they are one checkpoint's alone, told by the
    tokens they fire at most on and by those that the owner's decoder promotes most."""
    streams = last_streams(before, after, tokens, windows)
    both = torch.stack([streams.before, streams.after], dim=1)
    config = dataclasses.replace(DIFFERENCES, arch="l1", k=16, aux_coeff=0.0)
    crosscoder = saes.fit(saes.TensorActivations(both), config)
    code = crosscoder.encode_sparse(both)
    latents, values = code.latents.numpy(), code.values.numpy()
    owner = crosscoder.relative_norms().max(dim=1)
    groups = [part for part in strongest_first(latents, values) if len(part) >= PEAK]
    groups.sort(key=lambda g: -float(owner.values[latents[g[0]]]))
    entries = []
    for group in groups[:AT_MOST]:
        latent = int(latents[group[0]])
        side = int(owner.indices[latent])
        promoted = direct_logits((before, after)[side], crosscoder.W_dec[latent, side][None])[0]
        rows = code.rows.numpy()[group[:PEAK]]
        active = list(dict.fromkeys(streams.context[rows].tolist()))[:TOLD]
        entries.append({*active, *promoted.topk(TOLD).indices.tolist()})
    return entries


def rank_of(entries: Iterable[Told], wanted: set[int]) -> int | None:
    """The first entry that is told by a wanted token, from 1."""
    return next((rank for rank, told in enumerate(entries, 1) if told & wanted), None)


def score_of(found: Changes, wanted: set[int]) -> float:
    """Of the strongest entry that a wanted token tells; 0 where none does."""
    return max((e.score for e in found.entries if e.tokens & wanted), default=0.0)


def rows_of(lab: Lab, plants: Sequence[Plant], n_steps: int) -> Iterator[dict[str, Any]]:
    """A row a plant."""
    corpus = read_corpus(lab.find("corpus", "text"))
    texts = Texts(lab, corpus)
    parent = with_fast_attention(lab.checkpoint(PARENT).model())
    with tempfile.TemporaryDirectory() as folder:
        tokens, windows = heldout(lab, corpus, Path(folder))
        shown = [word.replace("␣", " ") for word in tokens.vocabulary]
        sham = ranked_changes(parent, finetuned(lab, texts, SHAM, n_steps), tokens, windows, AT_MOST)
        for plant in plants:
            visible = plant.example is not None
            changed = finetuned(lab, texts, plant, n_steps) if visible else silently_moved(lab)
            found = ranked_changes(parent, changed, tokens, windows, AT_MOST)
            kl = None if found.silent else by_divergence(parent, changed, tokens, windows)
            wanted = {i for i, word in enumerate(shown) if word in plant.strings}
            row = {
                "planted": plant.planted, "kind": plant.kind, "visible": visible,
                "rank": rank_of((e.tokens for e in found.entries), wanted),
                "rank_l1": rank_of(by_l1(parent, changed, tokens, windows), wanted),
                "rank_kl": rank_of(kl or (), wanted),
                "score": score_of(found, wanted), "score_sham": score_of(sham, wanted),
                "called_silent": found.silent, "kl": found.kl, "largest": found.largest,
                "weights_moved": moved(parent, changed), "n": found.n,
                "first": [[shown[m.token] for m in e.moved] for e in found.entries[:3]],
            }  # fmt: skip
            report.say(str(row))
            yield row


def moved(before: PreTrainedModel, after: PreTrainedModel) -> float:
    """‖ΔW‖/‖W‖ over all weights."""
    return total_moved(weight_drift(dict(before.named_parameters()), dict(after.named_parameters())))


def main() -> None:
    switches = report.parse("Nine planted changes, and who finds them.")
    lab = Lab.open("demo")
    plants = PLANTS[:1] + PLANTS[-1:] if switches.quick else PLANTS
    rows = list(rows_of(lab, plants, QUICK_STEPS if switches.quick else STEPS))
    seen = [row for row in rows if row["visible"]]
    found = sum(row["rank"] is not None and row["rank"] <= 10 for row in seen)
    if switches.json:
        told = {
            "name": "planted",
            "machine": report.machine(),
            "rows": rows,
            "found": found,
            "visible": len(seen),
        }
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return
    for row in rows:
        said = "called silent" if row["called_silent"] else f"rank {row['rank']}"
        print(
            f"{row['kind']}: {said} (L1 {row['rank_l1']}, KL {row['rank_kl']}), "
            f"{row['score']:.3f} nats (in the sham {row['score_sham']:.3f})"
        )
    print(f"{found} of {len(seen)} visible changes at rank 10 or better")


if __name__ == "__main__":
    sys.exit(main())
