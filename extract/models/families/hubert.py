"""HuBERT and ContentVec (Hsu et al. 2021; Qian et al. 2022), as transformers' `HubertModel`."""

from collections.abc import Mapping
from typing import Any

from extract.models import common
from extract.models.architecture import Architecture

MODEL_TYPES = ("hubert",)
PREFIX = "hubert."  # of weights in the file of a model with a head
DEFAULTS = {**common.DEFAULTS, "feat_proj_layer_norm": True, "conv_pos_batch_norm": False}


def architecture(settings: Mapping[str, Any]) -> Architecture:
    """The encoder that a HubertConfig's settings describe.

    Raises:
        ValueError: a setting is not one that is computed here; names it with its value.
    """
    found = common.checked(settings, DEFAULTS)
    return common.described(
        found,
        projection_norm=found["feat_proj_layer_norm"],
        position_norm="batch" if found["conv_pos_batch_norm"] else "weight",
    )
