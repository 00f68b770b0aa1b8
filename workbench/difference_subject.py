"""What a comparison's differences are taken of: the models, the texts that they read, the site; and the facets in
which the texts' tokens are told apart.

    position     1 to 8 one by one (BOS is 0), and those after
    domain       prose, world, chat, rollouts (what any of the checkpoints wrote)
    kind         of the token (`workbench.token_kinds`)
    unrelated    the first five positions of prose: text that no finetuning was about [Minder 2025]
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from workbench.activation_difference import BLOCKS, Facet
from workbench.intervals import document_blocks
from workbench.points import Site
from workbench.token_kinds import KINDS, kinds_of
from workbench.tokens import TokenSet
from workbench.vocabulary import Vocabulary

WHOLE, POSITION, DOMAIN, KIND, UNRELATED = "all", "position", "domain", "kind", "unrelated"
POSITIONS = 8  # told one by one
FIRST = 5  # positions of unrelated text, as the paper's
DOMAINS = ("prose", "world", "chat", "rollouts")
FIRST_PROSE = f"prose, first {FIRST}"


class Subject(NamedTuple):
    """What is compared: models by checkpoint, the texts that they read, the place."""

    models: Mapping[str, PreTrainedModel]
    tokens: TokenSet
    domain: np.ndarray  # [document]
    blocks: np.ndarray  # [document]
    site: Site
    vocabulary: Vocabulary

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(itertools.combinations(self.models, 2))

    @property
    def last(self) -> Site:
        """The deepest resid_post that all have."""
        depths = (model.config.get_text_config().num_hidden_layers for model in self.models.values())
        return Site(min(depths) - 1)


def subject_of(
    models: Mapping[str, PreTrainedModel], tokens: TokenSet, site: Site, tokenizer: PreTrainedTokenizerFast
) -> Subject:
    """Checkpoints at a site of theirs, on the texts of a token set."""
    domain = np.array([name.split(":")[0].replace("rollout", "rollouts") for name in tokens.domain.tolist()])
    return Subject(models, tokens, domain, document_blocks(len(domain), BLOCKS), site, Vocabulary(tokenizer))


def facets(subject: Subject) -> dict[str, Facet]:
    """The ways in which a token set's tokens are told apart."""
    tokens = subject.tokens
    ids, document = np.asarray(tokens.tokens, dtype=np.int64), np.asarray(tokens.document, dtype=np.int64)
    position = np.asarray(tokens.position, dtype=np.int64)
    places = ["", *(str(place) for place in range(1, POSITIONS + 1)), f"{POSITIONS + 1} on"]
    kinds = kinds_of(subject.vocabulary[i] for i in range(len(tokens.vocabulary)))
    unrelated = (subject.domain == "prose")[document] & (position <= FIRST)
    return {
        WHOLE: Facet((WHOLE,), np.zeros(len(tokens), np.int64)),
        POSITION: Facet.by(np.array(places), position.clip(0, POSITIONS + 1), places[1:]),
        DOMAIN: Facet.by(subject.domain, document, DOMAINS),
        KIND: Facet.by(kinds, ids, KINDS),
        UNRELATED: Facet((FIRST_PROSE,), unrelated.astype(np.int64) - 1),
    }
