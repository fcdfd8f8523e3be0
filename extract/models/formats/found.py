"""`Found`: a model's settings and tensors as its files state them, not yet checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Found:
    """A model's settings and tensors by transformers' names, from any file format.

    Tensors may be mapped to the file and have any dtype. Settings are not checked yet.
    """

    settings: Mapping[str, Any]  # as in a `config.json`, with `model_type`
    weights: Mapping[str, Tensor]  # by transformers' names; a family's prefix may stand before them
    input_norm: bool | None  # whether waveforms had zero mean and unit variance; None: not stated
    said_by: str = "config.json"  # where the settings come from, for messages
