"""Finds a model's family: the module that makes an `Architecture` of its settings.

A family is a module of `extract/models/families/` or of an installed package (`extract.choices`).
Model types are the `model_type`s of transformers' `config.json`.
"""

from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor

from extract import choices
from extract.models.architecture import Architecture
from extract.models.settings import shown
from extract.models.weights import Checkpoint, find_projection


class Family(Protocol):
    """What the module of a family defines."""

    MODEL_TYPES: tuple[str, ...]
    PREFIX: str  # of the encoder's weights in a file of a model with a head

    def architecture(self, settings: Mapping[str, Any], /) -> Architecture:
        """The encoder of a config's settings; ValueError names one that cannot be computed."""
        ...


class Config(Protocol):
    """Transformers' PretrainedConfig."""

    def to_dict(self) -> dict[str, Any]:
        """Every setting, defaults included."""
        ...


class Pretrained(Protocol):
    """A model of transformers: HubertModel, or another family's class."""

    @property
    def config(self) -> Config:
        """Its settings."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Weights by transformers' names."""
        ...


Model = Checkpoint | Pretrained


def families() -> tuple[Family, ...]:
    """Every family that is installed."""
    return tuple(cast(Family, choices.find("families", name)) for name in choices.names("families"))


def find_family(model_type: object) -> Family | None:
    """The family of a model type, or None. This package's families are searched first."""
    for name in choices.names("families"):
        family = cast(Family, choices.find("families", name))
        if model_type in family.MODEL_TYPES:
            return family
    return None


def model_types() -> tuple[str, ...]:
    """The model types of all families."""
    return tuple(name for family in families() for name in family.MODEL_TYPES)


def as_checkpoint(model: Model) -> Checkpoint:
    """A model's architecture and weights; the weights are not copied.

    Raises:
        ValueError: this encoder cannot compute the model's architecture.
    """
    if isinstance(model, Checkpoint):
        return model
    settings = model.config.to_dict()
    family = find_family(settings.get("model_type"))
    if family is None:
        found, needed = shown(settings.get("model_type")), " or ".join(model_types())
        raise ValueError(f"model: model_type is {found}; this encoder computes {needed}")
    architecture, weights = family.architecture(settings), model.state_dict()
    return Checkpoint(architecture, weights, find_projection(architecture, weights))
