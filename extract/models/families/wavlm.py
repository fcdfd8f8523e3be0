"""WavLM (Chen et al. 2022), as transformers' `WavLMModel`."""

from collections.abc import Mapping
from typing import Any

from extract.models import common
from extract.models.architecture import Architecture, RelativeBias
from extract.models.settings import Rule, is_count, require

MODEL_TYPES = ("wavlm",)
PREFIX = "wavlm."  # of weights in the file of a model with a head
DEFAULTS = {
    **common.DEFAULTS,
    "num_buckets": 320,
    "max_bucket_distance": 800,
    "add_adapter": False,
}


def _are_buckets(buckets: Any, distance: Any) -> bool:
    return is_count(buckets) and is_count(distance) and 4 <= buckets < 4 * distance


_BUCKETS = Rule(
    ("num_buckets", "max_bucket_distance"),
    "4 or more, and a distance above a quarter of that",
    _are_buckets,
)


def architecture(settings: Mapping[str, Any]) -> Architecture:
    """The encoder that a WavLMConfig's settings describe.

    Raises:
        ValueError: a setting is not one that is computed here; names it with its value.
    """
    found = common.checked(settings, DEFAULTS)
    require(found, [_BUCKETS])
    bias = RelativeBias(found["num_buckets"], found["max_bucket_distance"])
    return common.described(found, relative_bias=bias)
