"""Checks the settings of a `config.json` before they are used.

A check never allocates or loops by a setting's value, which may be hostile.
"""

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from extract.frames import HUBERT_STACK
from extract.text import shortened

_REPR = reprlib.Repr()  # a hostile value may be nested deeply, or long
_REPR.maxlist = _REPR.maxtuple = len(HUBERT_STACK.layers)


class Rule(NamedTuple):
    """What one setting must be, or several settings together."""

    names: tuple[str, ...]
    needed: str  # in words
    fits: Callable[..., bool]  # whether the values of `names` are as needed


def require(settings: Mapping[str, Any], rules: Iterable[Rule]) -> None:
    """Raise ValueError, naming setting and value, at the first rule that is broken.

    `rules` may be a generator: what follows a rule may rely on it.
    """
    for names, needed, fits in rules:
        values = [settings.get(name) for name in names]
        if not fits(*values):
            found = " and ".join(map(shown, values))
            raise ValueError(
                f"model: {' and '.join(names)} is {found}; this encoder computes {needed}"
            )


def require_divisor(settings: Mapping[str, Any], name: str, of: str) -> None:
    """Raise ValueError where `name` does not divide the setting `of`."""
    if settings[of] % settings[name]:
        raise ValueError(
            f"model: {name} is {settings[name]}; a divisor of {of}, {settings[of]}, is needed"
        )


def shown(value: Any) -> str:
    """A value for a message: printable and shortened."""
    return shortened(value if isinstance(value, str) else _REPR.repr(value))


def is_count(value: Any) -> bool:
    """Whether `value` is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def are_counts(value: Any, number: int) -> bool:
    """Whether `value` is a list of `number` whole numbers of at least 1."""
    return isinstance(value, list | tuple) and len(value) == number and all(map(is_count, value))


def is_switch(value: Any) -> bool:
    """Whether `value` is true or false."""
    return isinstance(value, bool)


def is_small_number(value: Any) -> bool:
    """Whether `value` is a float above 0."""
    return isinstance(value, float) and math.isfinite(value) and value > 0


def is_one_of(*choices: Any) -> Callable[[Any], bool]:
    """A check that `value` is one of `choices`."""
    return lambda value: any(value is choice or value == choice for choice in choices)
