"""UniSpeech-SAT (Chen et al. 2022), as transformers' `UniSpeechSatModel`."""

from collections.abc import Mapping
from typing import Any

from extract.models import common
from extract.models.architecture import Architecture

MODEL_TYPES = ("unispeech-sat",)
PREFIX = "unispeech_sat."  # of weights in the file of a model with a head
DEFAULTS = common.DEFAULTS


def architecture(settings: Mapping[str, Any]) -> Architecture:
    """The encoder that a UniSpeechSatConfig's settings describe.

    Raises:
        ValueError: a setting is not one that is computed here; names it with its value.
    """
    return common.described(common.checked(settings, DEFAULTS))
