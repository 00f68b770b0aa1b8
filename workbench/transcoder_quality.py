"""What a transcoder is judged beside: controls that write an MLP's output, most of them from its input.

    pca          as many principal components of the output as it has latents on; it reads the output itself
    neurons      as many of the MLP's own neurons, those that write most
    linear       the best linear map from input to output (ridge regression): what needs no latents at all
    linear-k     the best linear map of rank k
    random       as many latents in random directions in and out, L0 and scale fitted
    untrained    the same training on the MLP of the model before its first step, scored there

There is no Gaussian control: input and output of equal covariance hang together linearly, and `linear` shows
exactly how well that can be read.
"""

from __future__ import annotations

from collections.abc import Mapping

from saes.arrays import Activations
from saes.controls import pca_dictionary
from saes.pca import fit_pca
from saes.transcoder_controls import largest_neurons, linear_maps, random_transcoder
from workbench import quality
from workbench.checkpoint import Checkpoint
from workbench.device import best_device
from workbench.dictionaries import train_settings
from workbench.grow import Build
from workbench.judging import RANDOM_SEED, Made, Source, divided, other_seeds, trained
from workbench.mlp_neurons import MlpNeurons
from workbench.points import Site
from workbench.quality_scores import Subject
from workbench.recipe import DictionaryConfig
from workbench.tokens import TokenSet
from workbench.untrained import untrained_activations, untrained_address

MOST_NEURONS = 8_192  # as a dictionary they take a matrix of their number squared
NO_GAUSSIAN = (
    "input and output of equal covariance hang together linearly, and `linear` shows how well that is read"
)


def transcoder_controls(
    build: Build,
    config: DictionaryConfig,
    real: Source,
    written: Source,
    sets: Mapping[str, TokenSet],
    layer: int,
    k: int,
) -> Made:
    """Everything that stands beside the transcoder; `real` is what it reads, `written` what it is to write."""
    names, settings, missing = config.checkpoints, train_settings(config), {quality.GAUSSIAN: NO_GAUSSIAN}
    heldout, targets = real.heldout, written.heldout
    pca = fit_pca(written.training, min(k, written.d_model))
    full, low = linear_maps(real.training, written.training, (written.d_model, k), names)
    spread = random_transcoder(
        real.training,
        written.training,
        config.d_sae,
        min(k, config.d_sae),
        names,
        RANDOM_SEED,
        real.calibration,
    )
    subjects = [
        Subject(quality.PCA, pca_dictionary(pca, names), targets, True, reads_stored=True),
        Subject(quality.LINEAR, full, heldout, True, targets),
        Subject(quality.LINEAR_K, low, heldout, True, targets),
        Subject(quality.RANDOM, spread, heldout, True, targets),
    ]
    own = _neurons(build, names[0], layer, real, written, k)
    if isinstance(own, str):
        missing[quality.NEURONS] = own
    else:
        subjects.insert(1, own)
    seeds = other_seeds(settings)
    for seed, made in zip(seeds, trained(build, "seeds", seeds, real, names, written), strict=True):
        subjects.append(Subject(f"{quality.SEED}{seed.seed}", made, heldout, False, targets))
    address = untrained_address(build, names[0])
    if address is None:
        missing[quality.UNTRAINED] = f"{names[0]} has no snapshot of step 0"
    else:
        before, after = (
            divided(_of_untrained(build, address, Site(layer, point), sets), sets)
            for point in (config.point, config.target)
        )
        (made,) = trained(build, quality.UNTRAINED, [settings], before, names, after)
        subjects.append(Subject(quality.UNTRAINED, made, before.heldout, False, after.heldout))
    device = best_device()
    placed = [s._replace(dictionary=s.dictionary.to(device)) for s in subjects]
    return Made(placed, pca.mean.numpy(), missing)


def _neurons(build: Build, checkpoint: str, layer: int, real: Source, written: Source, k: int) -> Subject | str:
    """The MLP's own neurons, or why they are no control."""
    hidden = MlpNeurons(Checkpoint.of(build.lab, checkpoint).model(best_device()), layer, real.training)
    if not hidden.write(written.training):
        return "what the MLP writes is not one matrix times its neurons"
    if (n := hidden.W_out.shape[1]) > MOST_NEURONS:
        return f"the MLP has {n:,} neurons, more than the {MOST_NEURONS:,} that are ranked at every token"
    made = largest_neurons(hidden, written.training, hidden.W_out, k, (checkpoint,))
    stored = hidden.of(real.heldout)
    return Subject(quality.NEURONS, made, stored, True, written.heldout, reads_stored=True)


def _of_untrained(
    build: Build, address: str, site: Site, sets: Mapping[str, TokenSet]
) -> Mapping[str, Activations]:
    """What stands at the site of the model before its first step."""
    place = build.draft.path / "resume" / f"activations-{site.point}"
    return untrained_activations(build, address, site, sets, place)
