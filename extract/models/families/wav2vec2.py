"""wav2vec 2.0, XLS-R and MMS (Baevski et al. 2020), as transformers' `Wav2Vec2Model`."""

from collections.abc import Mapping
from typing import Any

from extract.models import common
from extract.models.architecture import Architecture

MODEL_TYPES = ("wav2vec2",)
PREFIX = "wav2vec2."  # of weights in the file of a model with a head
DEFAULTS = {**common.DEFAULTS, "add_adapter": False}


def architecture(settings: Mapping[str, Any]) -> Architecture:
    """The encoder that a Wav2Vec2Config's settings describe.

    Raises:
        ValueError: a setting is not one that is computed here; names it with its value.
    """
    return common.described(common.checked(settings, DEFAULTS))
