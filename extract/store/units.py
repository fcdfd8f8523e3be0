"""An utterance's units in its line of the ledger: their text, and a checksum of it.

The line is the commit: an utterance has units if and only if its line has them, so whatever
happens to lines (a run that is killed, shards distributed anew, `overwrite`) happens to units.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zlib_ng import zlib_ng

from extract.files import open_regular
from extract.shard import Shard, index_of
from extract.store import ledger
from extract.values import SAVED

if TYPE_CHECKING:
    from torch import Tensor

NONE = -1  # no line


def as_text(units: Tensor | None) -> str | None:
    """Units as the ledger has them: `12 7 7`."""
    return None if units is None else " ".join(map(str, units.tolist()))


def checksum(text: str | None) -> int | None:
    """The checksum that stands beside the text."""
    return None if text is None else zlib_ng.crc32(text.encode())


def of_record(record: Mapping[str, Any]) -> str | None:
    """The units in a line; None where it has none, or damaged ones."""
    text = record.get("units")
    if record.get("status") != SAVED or not isinstance(text, str):
        return None
    return text if checksum(text) == record.get("units_crc32") else None


def rows(ids: Sequence[str | None], path: Path) -> Iterator[tuple[str, str | None]]:
    """Each id with its units in the ledger at `path`, in the order of `ids`; None if it has none.

    An id may come twice. None among the ids stands for what has no line in the ledger: its row has
    the id "".

    Memory: the ids, and a number for each.
    """
    number_of = {id_: number for number, id_ in enumerate(dict.fromkeys(ids))}
    places, at = array("q", [NONE]) * len(number_of), 0
    for line in ledger.lines(path):
        record = ledger.parse(line)
        number = None if record is None else number_of.get(record["id"])
        if number is not None and record is not None and of_record(record) is not None:
            places[number] = at
        at += len(line)
    if not at:
        yield from ((id_ or "", None) for id_ in ids)
        return
    with open_regular(path) as file:
        for id_ in ids:
            place = places[number_of[id_]]
            yield id_ or "", None if place == NONE else _at(file, place)


def joined_rows(
    ids: Sequence[str | None], directory: Path, shards: Sequence[Shard]
) -> Iterator[tuple[str, str | None]]:
    """`rows` of all ledgers of a store together, in the order of `ids`.

    Each ledger is open until the last row.
    """
    parts: list[list[str]] = [[] for _ in shards]
    for named in filter(None, ids):
        parts[index_of(named, len(shards))].append(named)
    found = [
        rows(part, directory / shard.ledger_name) for part, shard in zip(parts, shards, strict=True)
    ]
    for id_ in ids:
        yield next(found[index_of(id_, len(shards))]) if id_ else ("", None)


def _at(file: Any, place: int) -> str | None:
    file.seek(place)
    record = ledger.parse(file.readline(ledger.MAX_LINE))
    return None if record is None else of_record(record)


def without(line: bytes) -> bytes:
    """A ledger's line without its units."""
    record = ledger.parse(line)
    if record is None or "units" not in record:
        return line
    return ledger.line_of({**record, "units": None, "units_crc32": None})


def with_units(line: bytes, text: str) -> bytes:
    """A ledger's line with other units."""
    record = ledger.parse(line)
    assert record is not None
    return ledger.line_of({**record, "units": text, "units_crc32": checksum(text)})


def drop(directory: Path) -> None:
    """Takes all units out of a store's ledgers. Call it only while no other process works there."""
    for path in ledger.ledger_paths(directory):
        ledger.rewrite(path, map(without, (line for line, _record in ledger.read_lines(path))))
