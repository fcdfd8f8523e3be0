"""`.extract/timings.jsonl`: a run's speed, waiting and memory over time, for its report.

A run appends a line as it begins, with what it is, then one every few seconds. Losing the file
costs a report its time lines and nothing else: what cannot be written is left out, and no run ends
by it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from extract.files import APPEND, open_regular, read_whole, replace_whole
from extract.shard import Shard
from extract.store.lock import PRIVATE
from extract.systems import open_no_link

MAX_BYTES = 1 << 20  # of a file; a run that finds a larger one keeps the newer half
MAX_LINE = 1 << 14  # of a line; that of a run's beginning has its command

Line = Mapping[str, Any]


class Timings:
    """The lines of one shard. Safe to share among threads: each line is one call of the system.

    Args:
        directory: the store.
        shard: the part whose file it is.
    """

    def __init__(self, directory: Path, shard: Shard) -> None:
        self.path = directory / PRIVATE / shard.ledger_name.replace("ledger", "timings")
        self._has_begun = False

    def begin(self, line: Line) -> None:
        """Replaces the file by its lines, or the newer ones of a large file, and this one.

        Replaced, not appended to: the file may have a second name, in a copy of hard links.
        """
        with suppress(OSError):
            replace_whole(self.path, self._newer() + _bytes(line), fsync=False)
            self._has_begun = True

    def _newer(self) -> bytes:
        try:
            whole = read_whole(self.path)
        except OSError:
            return b""
        if len(whole) <= MAX_BYTES:
            return whole if whole.endswith(b"\n") else whole[: whole.rfind(b"\n") + 1]
        newer = whole[-MAX_BYTES // 2 : whole.rfind(b"\n") + 1]
        return newer[newer.find(b"\n") + 1 :]

    def add(self, line: Line) -> None:
        """Adds a line, if the run's beginning is there."""
        if not self._has_begun:
            return
        with suppress(OSError):
            descriptor = open_no_link(self.path, APPEND, 0o644)
            try:
                os.write(descriptor, _bytes(line))
            finally:
                os.close(descriptor)


def _bytes(line: Line) -> bytes:
    """A line; one that is too long for `read` is empty."""
    data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
    return data if len(data) <= MAX_LINE else b"{}\n"


def read(directory: Path) -> Iterator[dict[str, Any]]:
    """Every line of a store's shards that is whole, in the order of each shard's runs."""
    for path in sorted((directory / PRIVATE).glob("timings*.jsonl")):
        with suppress(OSError), open_regular(path) as file:
            for line in iter(lambda: file.readline(MAX_LINE), b""):
                with suppress(ValueError, RecursionError):
                    found = json.loads(line)
                    if isinstance(found, dict):
                        yield found
