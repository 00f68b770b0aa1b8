"""Probes about directions, elicitation, calibration, attention to BOS, crowding and precision."""

import importlib

import numpy as np
import pytest
import torch

from probes import attention_sinks, calibration, introspection, precision_cut, superposition_layers, tone_direction
from probes.kit.finding import Finding
from probes.kit.nulls import predicted, shuffled
from probes.kit.pushes import log_p_at, log_p_behind, prompts, pushed
from probes.kit.readings import opened
from probes.kit.running import LackingError
from saes.factors import FactorTable, Halves, halved
from tests.tiny_lab import shared_lab
from workbench.errors import Misuse
from workbench.hand_set import tiny_decoder

SMALL = {
    "tone_direction": {"n_random": 3},
    "introspection": {"n_tokens": 1_500, "n_random": 4},
    "already_in_base": {"n": 3, "n_random": 3},
    "calibration": {"n_tokens": 300, "n_answers": 4},
    "attention_sinks": {"n": 12},
    "superposition_layers": {"n_tokens": 3_000, "n_neurons": 8},
    "precision_cut": {"n": 8},
}
