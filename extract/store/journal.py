"""Units that are made of a store's saved features, until all are there and go into the ledger.

    {"quantizer": "..."}                                 the first line
    {"of": ..., "units": "12 7 7", "units_crc32": ...}   for each line of the ledger without units,
                                                         in its order; `of` is the line's CRC-32

A killed run leaves a journal that the next one takes up, as far as it fits the ledger. Its loss
costs only time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zlib_ng import zlib_ng

from extract.files import make_way
from extract.store import units
from extract.store.ledger import MAX_LINE
from extract.systems import open_no_link, unlink

Line = tuple[bytes, dict[str, Any]]  # of the ledger, and its record


class Journal:
    """The journal of one shard, open for reading and appending. A context manager.

    Args:
        path: the file; never one behind a symbolic link.
        quantizer: fingerprint; a journal of another one is begun anew.
    """

    def __init__(self, path: Path, quantizer: str) -> None:
        make_way(path)
        self._path = path
        self._file = os.fdopen(open_no_link(path, os.O_RDWR | os.O_CREAT), "r+b")
        self._head = _line({"quantizer": quantizer})
        self.num_made = self.num_without = 0  # entries with units and without

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def after(self, lines: Iterator[Line]) -> Iterator[Line]:
        """Those of the ledger's `lines` that have no entry yet; drops entries of other lines."""
        if self._file.readline(MAX_LINE) != self._head:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(self._head)
        for line, record in lines:
            at = self._file.tell()
            entry = _parsed(self._file.readline(MAX_LINE))
            if entry is None or entry.get("of") != zlib_ng.crc32(line):
                self._file.seek(at)
                self._file.truncate()
                yield line, record
                break
            self._count(entry["units"])
        yield from lines

    def append(self, line: bytes, text: str | None) -> None:
        """Adds the entry of a ledger's line: its units, or None if they cannot be made."""
        entry = {"of": zlib_ng.crc32(line), "units": text, "units_crc32": units.checksum(text)}
        self._file.write(_line(entry))
        self._count(text)

    def flush(self) -> None:
        """Hands what was appended to the system, so that it outlives this process."""
        self._file.flush()

    def texts(self) -> Iterator[str | None]:
        """The units of every entry, in order."""
        self._file.flush()
        self._file.seek(len(self._head))
        while entry := _parsed(self._file.readline(MAX_LINE)):
            yield entry["units"]

    def remove(self) -> None:
        """Removes the file."""
        self._file.close()
        unlink(self._path)

    def _count(self, text: str | None) -> None:
        self.num_made += text is not None
        self.num_without += text is None


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """An entry; None where the line is torn or damaged."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("units", 0), str | None):
        return None
    return entry if units.checksum(entry["units"]) == entry.get("units_crc32") else None
