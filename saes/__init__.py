"""Sparse dictionaries: arrays of activations in; SAEs, crosscoders, metrics and feature indexes out.

Knows no lab and no model. `train`/`fit` make a `Dictionary`, `evaluate` scores it, `save`/`load` keep it as a
SAELens folder, `FeatureIndex` answers questions about its latents.
"""

from saes.arrays import ActivationArrays, Activations, TensorActivations
from saes.calibrate import calibrated
from saes.config import TrainConfig
from saes.dictionary import Dictionary
from saes.errors import DictionaryError
from saes.folder import load, save
from saes.index import FeatureIndex
from saes.metrics import Scores, dead_share, evaluate, fvu, l0
from saes.pca import PCA, fit_pca
from saes.sparse import Code
from saes.trainer import Step, fit, fit_together, train, train_together

__all__ = [
    "PCA",
    "ActivationArrays",
    "Activations",
    "Code",
    "Dictionary",
    "DictionaryError",
    "FeatureIndex",
    "Scores",
    "Step",
    "TensorActivations",
    "TrainConfig",
    "calibrated",
    "dead_share",
    "evaluate",
    "fit",
    "fit_pca",
    "fit_together",
    "fvu",
    "l0",
    "load",
    "save",
    "train",
    "train_together",
]
