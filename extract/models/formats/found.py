"""What a model's files say, before anything is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Found:
    """A model's settings and tensors, as transformers has them, whatever file they came from.

    The tensors may be a view of the file and of any dtype; the settings are not checked yet.
    """

    settings: Mapping[str, Any]  # as in a `config.json`, with `model_type`
    weights: Mapping[str, Tensor]  # by transformers' names; a family's prefix may stand before them
    input_norm: bool | None  # whether waveforms were of zero mean and unit variance; None: not said
    said_by: str = "config.json"  # what the settings come from, in a message
