"""Whether checkpoints can be laid side by side token by token, and if not, why not.

They can where all descend from one root, read text as the same tokens and have one shape. Where one of the three
fails, `reasons` says what has no meaning then; `workbench.unlike` compares the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from workbench.errors import Misuse
from workbench.lab import Lab
from workbench.loading import Shape
from workbench.plan import Plan
from workbench.recipe import stage_of


class Portrait(NamedTuple):
    """What decides likeness. Shape and vocabulary are None of a checkpoint that is not grown yet."""

    root: str
    shape: Shape | None = None
    vocabulary: Mapping[str, int] | None = None


def portraits(lab: Lab, names: Sequence[str]) -> dict[str, Portrait]:
    """The checkpoints' portraits; `Misuse` where one is no checkpoint of the lab."""
    plan = Plan.of(lab)
    found = {}
    for name in names:
        step = plan.step("checkpoint", stage_of(name))
        root = plan.family(name)
        if stage_of(name) == name and lab.artefact("checkpoint", name, step.id) is None:
            found[name] = Portrait(root)
        else:
            checkpoint = lab.checkpoint(name)
            found[name] = Portrait(root, checkpoint.shape, checkpoint.tokenizer().get_vocab())
    return found


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Two or more different names of checkpoints, or of snapshots; else `Misuse`."""
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise Misuse(
            f"a comparison needs two or more different checkpoints, found {', '.join(names) or 'none'}"
        )
    return tuple(names)


class Reason(NamedTuple):
    """What keeps checkpoints apart, who stands where, and what has no meaning then."""

    trait: str
    sides: tuple[str, ...]
    lost: str

    @property
    def sentence(self) -> str:
        return f"different {self.trait} ({'; '.join(self.sides)}): {self.lost}"


def reasons(of: Mapping[str, Portrait]) -> list[Reason]:
    """Why these cannot be laid side by side token by token; none where they can."""
    found = []
    tokenizers = groups(of, lambda p: p.vocabulary)
    if len(tokenizers) > 1:
        sides = [f"{_listed(names)}: {len(of[names[0]].vocabulary or ()):,} tokens" for names in tokenizers]
        lost = "KL per token, crosscoders and mean differences have no meaning across them"
        found.append(Reason("tokenizers", tuple(sides), lost))
    shapes = groups(of, lambda p: p.shape and _shape(p.shape))
    if len(shapes) > 1:
        sides = [f"{_listed(names)}: {_shape_told(of[names[0]].shape)}" for names in shapes]
        lost = "their weights cannot be subtracted, and no dictionary of this lab spans them"
        found.append(Reason("shapes", tuple(sides), lost))
    roots = groups(of, lambda p: p.root)
    if len(roots) > 1:
        sides = [f"{_listed(names)} from {of[names[0]].root}" for names in roots]
        lost = "no training is known from one to the other: no crosscoder reads both, no gains, no lives"
        found.append(Reason("roots", tuple(sides), lost))
    return found


def headline(names: Sequence[str], why: Sequence[Reason]) -> str:
    """What cannot be compared, and why, in one sentence."""
    lost = {
        "tokenizers": ("KL per token", "crosscoder"),
        "shapes": ("crosscoder", "differences of weights"),
        "roots": ("crosscoder", "gains", "lives"),
    }
    gone = dict.fromkeys(each for reason in why for each in lost[reason.trait])
    return (
        f"{_and(names)} have different {_and([reason.trait for reason in why])}: "
        f"{_and(list(gone))} {'have' if len(gone) > 1 else 'has'} no meaning between them"
    )


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def groups(of: Mapping[str, Portrait], trait: Callable[[Portrait], object]) -> list[list[str]]:
    """Names that share a trait, in the order given; those whose trait is None (not known yet) are left out."""
    found: list[tuple[object, list[str]]] = []
    for name, portrait in of.items():
        if (value := trait(portrait)) is None:
            continue
        for known, names in found:
            if known == value:
                names.append(name)
                break
        else:
            found.append((value, [name]))
    return [names for _, names in found]


def share_tokens(one: Portrait, other: Portrait) -> bool:
    """An id means the same token to both."""
    return one.vocabulary is not None and one.vocabulary == other.vocabulary


def share_shape(one: Portrait, other: Portrait) -> bool:
    """Their weights have the same names and shapes, as far as their configurations tell."""
    return one.shape is not None and other.shape is not None and _shape(one.shape) == _shape(other.shape)


def _shape(shape: Shape) -> tuple[str, int, int, int]:
    return shape.model_type, shape.n_layers, shape.d_model, shape.vocab_size


def _shape_told(shape: Shape | None) -> str:
    assert shape is not None  # `groups` leaves those without one out
    return f"{shape.model_type}, {shape.n_layers} layers of width {shape.d_model}, {shape.vocab_size:,} ids"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
