"""Dictionaries from outside the lab: any SAELens folder, or a release of SAELens' registry (`release:sae_id`).

`request` opens the source in full and enters it in the recipe; `build` opens it again, checks that it is still the
same, and scores it on the lab's held-out tokens as a dictionary of our own.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import Failure, Misuse, unknown
from workbench.grow import Build
from workbench.lab import Lab, checked_name
from workbench.plan import plan
from workbench.points import Site, parse_site
from workbench.recipe import DictionaryConfig, read_recipe, write_recipe

if TYPE_CHECKING:
    from saes.dictionary import Dictionary

_RESID_PRE = re.compile(r"blocks\.(\d+)\.hook_resid_pre")


def request(lab: Lab, name: str, source: str, checkpoint: str, written: str | None = None) -> str:
    """Enter the dictionary at `source` in the recipe as `name`, to read `checkpoint`; `grow` imports it then.

    The site is the one the source names, unless another is `written` (as `workbench.points.parse_site` reads it).
    """
    from saes.foreign import digest

    checked_name(name, "dictionary name")
    with lab.writing("import-sae"):
        recipe = read_recipe(lab.path / "recipe.toml")
        if name in {d.name for d in recipe.dictionaries}:
            raise Misuse(f"there is a dictionary {name!r} in lab {lab.name!r} already: choose another name")
        if checkpoint not in recipe.checkpoint_names:
            raise unknown("checkpoint", checkpoint, recipe.checkpoint_names)
        opened, arch = open_source(source)
        shape = lab.checkpoint(checkpoint)
        if opened.d != shape.d_model:
            raise Misuse(
                f"{source} reads activations of width {opened.d} but {checkpoint!r} has d_model "
                f"{shape.d_model}: it was made for another model"
            )
        site = _site(opened.site, source, shape.n_layers, written)
        kept = None if site.layer == shape.default_layer else site.layer
        where = source if _is_release(source) else str(Path(source).expanduser().resolve())
        config = DictionaryConfig(
            name, (checkpoint,), opened.n_latents, opened.k, arch, kept, steps=0,  # k of thresholds: see `build`
            point=site.point, source=where, source_sha256=digest(opened),
        )  # fmt: skip
        recipe = dataclasses.replace(recipe, dictionaries=(*recipe.dictionaries, config))
        plan(recipe)
        write_recipe(lab.path / "recipe.toml", recipe)
    return name


def _site(named: str, source: str, n_layers: int, written: str | None) -> Site:
    """The site that the source reads, or another that a person wrote; the stream before layer L is that after
    L - 1."""
    if written is not None:
        return parse_site(written, n_layers)
    if not named:
        raise Misuse(f"{source} does not say what it reads: give its site with --site")
    if (before := _RESID_PRE.fullmatch(named)) is None:
        return parse_site(named, n_layers)
    if before[1] == "0":
        raise Misuse(f"{source} reads {named}, the embeddings: a lab's dictionaries read a layer's resid_post")
    return parse_site(str(int(before[1]) - 1), n_layers)


def _is_release(source: str) -> bool:
    return ":" in source and not Path(source).expanduser().exists()


def open_source(source: str) -> tuple[Dictionary, str]:
    """The dictionary at a folder or `release:sae_id`, and its architecture; what cannot be opened is `Misuse`."""
    from saes.errors import DictionaryError
    from saes.foreign import load_foreign

    try:
        if not _is_release(source):
            path = Path(source).expanduser()
            if not path.is_dir():
                raise Misuse(f"there is nothing at {source!r}: give a SAELens folder, or release:sae_id")
            return load_foreign(path)
        with tempfile.TemporaryDirectory() as folder:
            return load_foreign(_fetched(source, Path(folder)))
    except DictionaryError as error:
        raise Misuse(str(error)) from error


def _fetched(source: str, folder: Path) -> Path:
    """A release's SAE, saved in SAELens' own folder format."""
    with warnings.catch_warnings():  # it imports a module of TransformerLens by its old name
        warnings.simplefilter("ignore")
        from sae_lens import SAE
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
    release, _, sae_id = source.partition(":")
    known = get_pretrained_saes_directory()
    if release not in known and "/" not in release:
        raise unknown("release in SAELens' registry", release, _near(release, known))
    if release in known and sae_id not in known[release].saes_map:
        raise unknown(f"SAE in release {release!r}", sae_id, list(known[release].saes_map)[:12])
    try:
        found = SAE.from_pretrained_with_cfg_and_sparsity(release, sae_id)[0]
    except Exception as error:  # the hub's client and SAELens' loaders raise whatever they stumble on
        gist = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise Failure(
            f"{source} could not be fetched ({type(error).__name__}: {gist}): download it where there is a "
            "network, save it with `sae.save_model(FOLDER)`, and import that folder"
        ) from error
    found.save_model(str(folder))
    return folder


def _near(release: str, known: Mapping[str, Any]) -> list[str]:
    """A dozen of the registry's names, those like the one asked for first: all of them fill a screen."""
    import difflib

    return (difflib.get_close_matches(release, known, n=8, cutoff=0.3) or sorted(known))[:12]


def build(build: Build) -> Mapping[str, Any]:
    """Builder of an imported `dictionary/<name>`."""
    from saes.arrays import ActivationArrays
    from saes.calibrate import with_measured_k
    from saes.foreign import digest
    from workbench.dictionaries import save_and_score, stored_sources
    from workbench.dictionary_folder import dictionary_sentences

    config = DictionaryConfig(**{**build.config, "checkpoints": tuple(build.config["checkpoints"])})
    try:
        opened, _ = open_source(config.source)
    except Misuse as error:
        raise Failure(f"dictionary {config.name!r}: {error}") from error
    if digest(opened) != config.source_sha256:
        raise Failure(
            f"the weights at {config.source} have changed since {config.name!r} was imported: put them back, or "
            "import the new ones under another name"
        )
    sources = stored_sources(build, config, config.point)
    with dictionary_sentences(config.name):
        own = dataclasses.replace(opened, names=config.checkpoints, site=str(sources[0].figures["site"]))
        own = with_measured_k(own, ActivationArrays([s.path / "heldout.npy" for s in sources]))
        return {**save_and_score(build, config, own, sources, []), "source": config.source}
