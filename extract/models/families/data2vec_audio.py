"""data2vec of audio (Baevski et al. 2022), as transformers' `Data2VecAudioModel`."""

from collections.abc import Mapping
from typing import Any

from extract.models import common
from extract.models.architecture import Architecture, Positions
from extract.models.settings import Rule, require

MODEL_TYPES = ("data2vec-audio",)
PREFIX = "data2vec_audio."  # of weights in the file of a model with a head
MAX_DEPTH = 32  # a bound for hostile files; models have 5
ALWAYS = {"feat_extract_norm": "layer", "do_stable_layer_norm": False}  # not in its config
DEFAULTS = {
    **{name: default for name, default in common.DEFAULTS.items() if name not in ALWAYS},
    "num_conv_pos_embeddings": 5,  # here the number of convolutions
    "conv_pos_kernel_size": 19,
    "add_adapter": False,
}


_DEPTH = Rule(
    ("num_conv_pos_embeddings",),
    f"at most {MAX_DEPTH} convolutions",
    lambda depth: depth <= MAX_DEPTH,
)


def architecture(settings: Mapping[str, Any]) -> Architecture:
    """The encoder that a Data2VecAudioConfig's settings describe.

    Raises:
        ValueError: a setting is not one that is computed here; names it with its value.
    """
    found = common.checked(settings, DEFAULTS) | ALWAYS
    require(found, [_DEPTH])
    positions = Positions(
        kernel=found["conv_pos_kernel_size"],
        groups=found["num_conv_pos_embedding_groups"],
        depth=found["num_conv_pos_embeddings"],
        norm="layer",
    )
    return common.described(found, positions=positions)
