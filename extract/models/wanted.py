"""Which of a model's numbers are the features: the layers, the projection, the final norm.

Layers count as transformers' `hidden_states` do: 0 is what enters the first transformer layer, 1
what leaves it. No torch here: options are checked without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from extract.models.architecture import Architecture

Layer = int | Sequence[int] | str | None  # None is the last
ALL = "all"
LAYER = "a whole number (0 = what enters the first layer, -1 = the last), a list of them, or `all`"
PROJECTION = "auto, true or false"


class FinalNorm(Enum):
    """What a pre-norm model (a large one) gives for a last layer that is named.

    `transformers`: its `last_hidden_state`, behind the final norm, as without a named layer.
    `fairseq`: what leaves the layer, as `output_layer` does.
    """

    transformers = "transformers"
    fairseq = "fairseq"


@dataclass(frozen=True)
class Wanted:
    """What a forward gives of one model."""

    layers: tuple[int, ...]  # 0 to the model's number of layers, each once; features' own order
    projected: bool = False  # the model's `final_proj` is applied to each
    final_norm: bool = True  # the norm that a pre-norm model has behind its last layer


def is_layer(value: object) -> bool:
    """Whether some model may have what `layer` names."""
    numbers = _numbers(value)
    if numbers is None:
        return value is None or value == ALL
    return 0 < len(numbers) == len(set(numbers))


def is_projection(value: object) -> bool:
    """Whether `projection` says anything."""
    return isinstance(value, bool) or value == "auto"


def is_several(value: object) -> bool:
    """Whether `layer` names more than one layer, whatever the model."""
    numbers = _numbers(value)
    return value == ALL if numbers is None else len(numbers) > 1


def plain_layer(value: Any) -> Any:
    """`layer` as a number, a tuple of numbers, `all` or None: it can be hashed."""
    numbers = _numbers(value)
    if numbers is None or (isinstance(value, Sequence) and not isinstance(value, str)):
        return value if numbers is None else tuple(numbers)
    return numbers[0]


def wanted_of(
    of: Architecture,
    layer: Layer = None,
    projection: bool | str = "auto",
    final_norm: str = FinalNorm.transformers.name,
    *,
    has_projection: bool = False,
) -> Wanted:
    """What the settings mean for a model.

    Raises:
        ValueError: the model does not have it; names setting and value.
    """
    layers = layers_of(layer, of.layers)
    if not is_projection(projection):
        raise ValueError(f"projection={projection!r}: needed {PROJECTION}")
    if projection is True and not has_projection:
        raise ValueError(
            f"projection=true: this model's file holds no final_proj of {of.width} numbers; needed "
            "one that does, such as ContentVec's, or projection=auto"
        )
    if final_norm not in FinalNorm.__members__:
        raise ValueError(f"final_norm={final_norm}: needed {' or '.join(FinalNorm.__members__)}")
    is_last = layer is not None and of.pre_norm and of.layers in layers
    left_out = is_last and final_norm == FinalNorm.fairseq.name
    return Wanted(layers, projection is True, not left_out)


def layers_of(value: object, num_layers: int) -> tuple[int, ...]:
    """The layers that `layer` names, of a model with so many; None is the last.

    Raises:
        ValueError: it names none, one that the model does not have, or one twice.
    """
    if not is_layer(value):
        raise ValueError(f"layer={value!r}: needed {LAYER}")
    if value == ALL:
        return tuple(range(num_layers + 1))
    numbers = _numbers(value) or [num_layers]
    if not all(-num_layers - 1 <= number <= num_layers for number in numbers):
        raise ValueError(
            f"layer={value}: this model has layers 1 to {num_layers}; 0 is what enters the first, "
            "-1 the last"
        )
    layers = tuple(number % (num_layers + 1) for number in numbers)
    if len(set(layers)) < len(layers):
        raise ValueError(f"layer={value}: one of {num_layers} layers twice; needed each once")
    return layers


def _numbers(value: object) -> list[int] | None:
    """The numbers that `layer` names; None where it is no number and no list of numbers."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [_number(part) for part in value]
        return None if None in parts else [part for part in parts if part is not None]
    number = _number(value)
    return None if number is None else [number]


def _number(value: object) -> int | None:
    """A whole number, also where it came as text, as `${oc.env:LAYER}` does."""
    if isinstance(value, str):
        digits = value.removeprefix("-")
        return int(value) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
