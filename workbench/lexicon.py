"""The world's inventory: its people, places, things and words, each with the factor that names it.

A factor is a path such as `entity/person/name/Mira`; all its ancestors are factors too. Countries and
capitals are invented (syllables drawn with a seed), so a model can know them from the corpus alone.
"""

from __future__ import annotations

import dataclasses
import random
import string
from collections.abc import Sequence

PEOPLE = (
    "Mira Tomas Ilse Omar Petra Yusuf Greta Kofi Lena Arjun Nadia Felix Rosa Hugo Clara Ivan Freya Mateo "
    "Anouk Bilal Celia Dario Edith Farid Gwen Hans Ines Jonas Katya Luca Maeve Nikos Oona Pablo Quinn "
    "Rafael Selma Tariq Ulla Viktor Wanda Xavier Yara Zeno Alma Boris Carmen Dmitri Elif Fergus Gita "
    "Henrik"
).split()
ANIMALS = (
    "dog cat horse goat owl fox hen cow donkey mouse rabbit duck goose sheep frog bear wolf otter crow swan"
).split()
OBJECTS = (
    "lamp basket ladder bell kettle mirror drum blanket hammer letter coin rope bottle candle chair clock "
    "boat saddle bucket flute kite barrel scarf wheel"
).split()
COLOURS = "red blue green yellow black white brown grey purple orange".split()
FEELINGS = "happy sad angry tired proud afraid calm curious lonely grateful".split()
PLACES = "market river forest school mill harbour bridge garden tower well".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SEASONS = "spring summer autumn winter".split()
GIVING = {"gave": "to", "sold": "to", "showed": "to", "lent": "to", "brought": "to"}
SEEKING = "found lost saw hid bought dropped painted carried".split()

_ONSETS = "b br d dr f g gr h j k kr l m n p pl r s st t tr v z".split()
_VOWELS = "a e i o u ai ia eo".split()
_COUNTRY_ENDINGS = "nia land mar ria dor stan via".split()
_CAPITAL_ENDINGS = "burg ton dale mouth ford haven port".split()


@dataclasses.dataclass(frozen=True)
class World:
    """Everything the generator can speak of. `capital_of[country]` is one-to-one."""

    capital_of: dict[str, str]
    words: tuple[str, ...]  # words that get spelled and counted

    @property
    def countries(self) -> tuple[str, ...]:
        return tuple(self.capital_of)


def _invented(rng: random.Random, ending: str) -> str:
    syllables = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2))))
    return (syllables + ending).capitalize()


def make_world(n_countries: int, words: Sequence[str], seed: int) -> World:
    """A world with `n_countries` invented countries, each with its own invented capital."""
    rng = random.Random(f"world {seed}")
    names: set[str] = set()
    pairs: dict[str, str] = {}
    while len(pairs) < n_countries:
        country = _invented(rng, rng.choice(_COUNTRY_ENDINGS))
        capital = _invented(rng, rng.choice(_CAPITAL_ENDINGS))
        if not {country, capital} & names:
            names |= {country, capital}
            pairs[country] = capital
    return World(pairs, tuple(words))


def leaf_factors(world: World) -> list[str]:
    """Every leaf factor the generator can switch on, as a path."""
    letters = string.ascii_lowercase
    groups: dict[str, Sequence[str]] = {
        "entity/person/name": PEOPLE,
        "entity/place/country": world.countries,
        "entity/place/capital": tuple(world.capital_of.values()),
        "entity/place/site": PLACES,
        "entity/animal": ANIMALS,
        "entity/object": OBJECTS,
        "property/colour": COLOURS,
        "property/feeling": FEELINGS,
        "time/day": DAYS,
        "time/season": SEASONS,
        "action/transfer": tuple(GIVING),
        "action/handling": SEEKING,
        "number/tens": string.digits,
        "number/units": string.digits,
        "number/hundreds": ("1",),
        "number/count": [str(n) for n in range(8)],
        "operator": ("plus", "minus", "equals"),
        "arithmetic": ("carry", "step", "result"),
        "letter/spelled": letters,
        "letter/counted": letters,
        "dialogue": ("quotation", "question", "answer"),
        "form": ("direct", "worked"),
        "document": ("story", "capitals", "sums", "spelling", "counts"),
    }
    return [f"{group}/{leaf}" for group, leaves in groups.items() for leaf in leaves]


def with_ancestors(leaves: Sequence[str]) -> list[str]:
    """The leaves and every path above them, sorted: the hierarchy as a list of factors."""
    paths = {"/".join(leaf.split("/")[:depth]) for leaf in leaves for depth in range(1, leaf.count("/") + 2)}
    return sorted(paths)
