"""What a format of units is: how a shard's file holds the units of its recordings.

Each choice of `quantizer.format` is a module: one of `extract/encoder/unit_formats/`, or one that
an installed package offers as an entry point of `extract.unit_formats`. It has two names, and may
have a third:

    def file_name(shard) -> str                     of a shard's units, in the store's folder
    def text(rows, dedup) -> Iterator[str]          that file's text, in parts
    FOLLOWS_LIST = True                             its lines have no ids: they follow a list's

No torch here: options are read without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType
from typing import TYPE_CHECKING, Any

from extract import choices

if TYPE_CHECKING:
    from extract.encoder.quantizer import QuantizerOptions
    from extract.shard import Shard

# Id and units, `12 7 7`, of each recording in its list's order; None for one that has none.
Row = tuple[str, str | None]
Rows = Iterable[Row]


@dataclass(frozen=True)
class UnitFiles:
    """The files of a store's units: their format, and whether repeats of a unit are merged.

    Raises:
        ValueError: there is no such format.
    """

    format: str
    dedup: bool | None = None  # None: as the format's readers take them

    def __post_init__(self) -> None:
        self._module()

    @property
    def follows_list(self) -> bool:
        """Whether line k is of line k of the list: a recording without units has a line too."""
        return bool(getattr(self._module(), "FOLLOWS_LIST", False))

    def name(self, shard: Shard) -> str:
        """The file of a shard's units, in the store's folder."""
        return str(self._module().file_name(shard))

    def text(self, rows: Rows) -> Iterator[str]:
        """A file's text, in parts."""
        parts: Iterator[str] = self._module().text(rows, self.dedup)
        return parts

    def _module(self) -> Any:
        try:
            module: ModuleType = choices.find("unit_formats", self.format)
        except ValueError as error:
            raise ValueError(f"quantizer.format: {error}") from None
        return module


def unit_files(options: QuantizerOptions) -> UnitFiles:
    """The files that a quantizer's options ask for."""
    return UnitFiles(options.format, options.dedup)


def numbered(shard: Shard, suffix: str) -> str:
    """`units.km`, and for one of four shards `units.0-of-4.km`."""
    return f"units{suffix}" if shard.count == 1 else f"units.{shard}{suffix}"


def merged(units: str) -> tuple[list[str], list[int]]:
    """Units with repeats merged, and how often each one stood there: `7 7 3` -> [7, 3], [2, 1]."""
    runs = [(unit, sum(1 for _ in run)) for unit, run in groupby(units.split())]
    return [unit for unit, _num in runs], [num for _unit, num in runs]


def rows_with(rows: Rows, dedup: bool | None) -> Iterator[Row]:
    """The rows, their repeats merged if `dedup` is True."""
    for id_, units in rows:
        yield id_, " ".join(merged(units)[0]) if dedup and units else units
