"""The dictionaries that a checkpoint is read through: an SAE a site, or a transcoder for every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saes.config import BATCHTOPK
from workbench.dictionary_folder import open_dictionary
from workbench.dictionary_requests import known_checkpoint, request_transcoders
from workbench.errors import Misuse, unknown
from workbench.lab import Lab
from workbench.plan import Plan
from workbench.points import MLP_IN, Site
from workbench.recipe import SAE, TRANSCODER, DictionaryConfig, read_recipe

if TYPE_CHECKING:
    from saes.transcoder import Transcoder

LABELS = ("own_label", "label")
_Settings = tuple[int, int, str, bool, int]


def site_sae_names(lab: Lab, checkpoint: str, names: Sequence[str] = ()) -> dict[Site, str]:
    """SAEs of a checkpoint by site, in the order of sites: those named, or at every site the first of the recipe
    that is grown; where none is grown yet, the first of each site."""
    n_layers, plan = known_checkpoint(lab, checkpoint).n_layers, Plan.of(lab)
    known = {
        each.name: Site(_layer(each, n_layers), each.point)
        for each in plan.recipe.dictionaries
        if each.kind == SAE and each.checkpoints == (checkpoint,) and each.point != MLP_IN
    }
    for name in names:
        if name not in known:
            raise unknown(f"SAE of {checkpoint}", name, known)
    if not known:
        raise Misuse(
            f"lab {lab.name!r} has no SAE of {checkpoint!r}: run `sae {lab.name} --checkpoint {checkpoint}` for "
            "one of the middle layer, with `--site` for one elsewhere"
        )
    grown = [name for name in known if lab.artefact("dictionary", name, plan.step("dictionary", name).id)]
    found: dict[Site, str] = {}
    for name in names or grown or known:
        if names and (before := found.get(known[name])) is not None:
            raise Misuse(
                f"--dictionaries names {before!r} and {name!r}, which both read {known[name].name}: name one for "
                "each site"
            )
        found.setdefault(known[name], name)
    return dict(sorted(found.items(), key=lambda item: item[0].order))


def request_layer_transcoders(
    lab: Lab, checkpoint: str, width: int = 2_048, k: int = 16, arch: str = BATCHTOPK, skip: bool = False
) -> list[str]:
    """Enter a transcoder of each layer's MLP in the recipe unless an equal one is there; their names by layer."""
    n_layers = known_checkpoint(lab, checkpoint).n_layers
    wanted = DictionaryConfig("", (checkpoint,), width, k, arch, skip=skip)
    middle = {
        each.layer
        for each in _transcoders(lab, checkpoint)
        if _settings(each) == _settings(wanted) and _layer(each, n_layers) == (n_layers - 1) // 2
    }
    layers: list[int | None] = list(range(n_layers))
    if middle == {None}:  # the one of the middle was asked for without a number
        layers[(n_layers - 1) // 2] = None
    return request_transcoders(lab, checkpoint, layers, width, k, arch, None, skip)


def layer_transcoder_names(lab: Lab, checkpoint: str) -> list[str]:
    """Names by layer of transcoders with equal settings, of the first settings that every layer has one of."""
    n_layers = known_checkpoint(lab, checkpoint).n_layers
    found: dict[_Settings, dict[int, str]] = {}
    for each in _transcoders(lab, checkpoint):
        found.setdefault(_settings(each), {}).setdefault(_layer(each, n_layers), each.name)
    whole = next((by_layer for by_layer in found.values() if len(by_layer) == n_layers), None)
    if whole is None:
        have = max(found.values(), key=len, default={})
        missing = ",".join(str(layer) for layer in range(n_layers) if layer not in have)
        raise Misuse(
            f"an attribution graph of {checkpoint!r} needs a transcoder of every layer, and layers {missing} have "
            f"none: run `transcoder {lab.name} --checkpoint {checkpoint} --layer {missing}`"
        )
    return [whole[layer] for layer in range(n_layers)]


def wanted_layer_transcoders(lab: Lab, checkpoint: str) -> list[str]:
    """`layer_transcoder_names`; where no settings have one of every layer, the usual ones are entered."""
    known_checkpoint(lab, checkpoint)  # near names are offered for unknown ones
    try:
        return layer_transcoder_names(lab, checkpoint)
    except Misuse:
        return request_layer_transcoders(lab, checkpoint)


def open_layer_transcoders(lab: Lab, names: list[str]) -> list[Transcoder]:
    """The transcoders of these names."""
    from saes.transcoder import Transcoder

    opened = [open_dictionary(lab.find("dictionary", name).path, name) for name in names]
    for name, each in zip(names, opened, strict=True):
        if not isinstance(each, Transcoder):
            raise Misuse(f"dictionary {name!r} is no transcoder: name one for every layer")
    return [each for each in opened if isinstance(each, Transcoder)]


def latent_labels(lab: Lab, names: list[str]) -> dict[tuple[int, int], str]:
    """Labels by (layer, latent) of transcoders named by layer, of those whose feature table is there; a person's
    own goes before one that was made."""
    from workbench.features import FeatureTable

    plan, found = Plan.of(lab), dict[tuple[int, int], str]()
    for layer, name in enumerate(names):
        step = plan.step("features", name)
        if lab.artefact(step.kind, step.name, step.id) is not None:
            for latent, own, made in FeatureTable.of(lab, name).rows.select("latent", *LABELS).iter_rows():
                if own or made:
                    found[layer, latent] = own or made
    return found


def _transcoders(lab: Lab, checkpoint: str) -> list[DictionaryConfig]:
    known = read_recipe(lab.path / "recipe.toml").dictionaries
    return [each for each in known if each.kind == TRANSCODER and each.checkpoints == (checkpoint,)]


def _settings(config: DictionaryConfig) -> _Settings:
    return config.d_sae, config.k, config.arch, config.skip, config.seed


def _layer(config: DictionaryConfig, n_layers: int) -> int:
    return (n_layers - 1) // 2 if config.layer is None else config.layer
