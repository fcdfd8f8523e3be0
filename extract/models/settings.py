"""Settings of a `config.json`, checked before anything is made of them.

A check looks at no more than the values: nothing is allocated or repeated as often as they say.
"""

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from extract.frames import HUBERT_STACK
from extract.text import shortened

_REPR = reprlib.Repr()  # a hostile value may be deep or long
_REPR.maxlist = _REPR.maxtuple = len(HUBERT_STACK.layers)


class Rule(NamedTuple):
    """What one setting must be, or several that go together."""

    names: tuple[str, ...]
    needed: str  # in words
    fits: Callable[..., bool]  # of the values


def require(settings: Mapping[str, Any], rules: Iterable[Rule]) -> None:
    """Raise ValueError, naming setting and value, at the first rule that is not kept.

    `rules` may be a generator that relies on the rules before.
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
    """A value in a message: printable, not long."""
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
