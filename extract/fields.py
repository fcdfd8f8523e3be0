"""Fields of the options' schemas: a number with its range, a path, a value that is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"  # OmegaConf's word for a value that must be given; schemas import no OmegaConf


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts: finite, and within the bounds that are given."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            abs(number) < float("inf")
            and (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least} to {self.at_most}"
        bounds = {"more than": self.above, "at least": self.at_least, "at most": self.at_most}
        said = ", ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        return f"{said}, and finite" if self.at_most is None else said


def number(
    default: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
) -> Any:
    """A schema's field for a number, with the range that `extract.options.check` enforces."""
    return field(default=default, metadata={"range": Range(at_least, at_most, above)})


@dataclass(frozen=True)
class Check:
    """What a value must be that no type of the schema says."""

    needed: str  # in words
    fits: Callable[[Any], bool]


def checked(needed: str, fits: Callable[[Any], bool]) -> dict[str, Any]:
    """The metadata of an option that takes what `fits`: `field(default=..., metadata=...)`."""
    return {"check": Check(needed, fits)}


def location(default: Any = MISSING) -> Any:
    """A schema's field for the path of a file or folder: `~` stands for the home folder."""
    return field(default=default, metadata={"path": True})
