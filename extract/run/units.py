"""Units of a store: made of saved features where a line has none, and written to a shard's file."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extract.encoder.quantizer import Quantizer
from extract.encoder.unit_format import UnitFiles
from extract.files import read_whole, replace_whole
from extract.shard import Shard
from extract.store import ledger, units
from extract.store.journal import Journal, Line
from extract.store.lock import PRIVATE
from extract.store.store import Store
from extract.systems import unlink
from extract.text import count, printable
from extract.values import SAVED
from extract.write_errors import explained

log = logging.getLogger(__name__)

BLOCK_FRAMES = 20_000  # of features that are read before their units are looked for: 60 MB
_NOTE = re.compile(r"(units|quantizing)-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Filled:
    """What became of the lines that had no units."""

    made: int = 0
    unreadable: int = 0  # their features are gone or damaged
    stopped: bool = False  # before all were looked at


@dataclass(frozen=True)
class ShardUnits:
    """The units of one shard of a store. Its methods need the shard's lock.

    They raise StoreUnusable where the disk takes no more.
    """

    store: Store
    shard: Shard
    quantizer: Quantizer
    files: UnitFiles
    device: torch.device
    layer: int = 0  # place of the layer that units are made of, among the store's
    num_layers: int = 1  # of the store

    @property
    def ledger(self) -> Path:
        """The shard's ledger."""
        return self.store.directory / self.shard.ledger_name

    @property
    def file(self) -> Path:
        """The shard's file of units."""
        return self.store.directory / self.files.name(self.shard)

    def begin(self, *, alone: bool) -> None:
        """Removes the shard's file if a run wrote it: it is written again at the end.

        If no other process works in the store (`alone`), also removes the files of other shardings:
        each id would be in two files. A file of another format goes too: the units that it holds
        may change.
        """
        with explained(self.store.directory):
            for note in sorted((self.store.directory / PRIVATE).iterdir()):
                found = _NOTE.fullmatch(note.name)
                shard = Shard(int(found[2]), int(found[3])) if found else self.shard
                is_written = note == self._private("units")
                if is_written or (alone and shard.count != self.shard.count):
                    self._forget(note, shard)

    def _forget(self, note: Path, shard: Shard) -> None:
        """Removes a shard's note, and first the file of units that it stands for."""
        if note.name.startswith("units"):
            name = self._format_in(note).name(shard)
            (self.store.directory / name).unlink(missing_ok=True)
        unlink(note)

    def _format_in(self, note: Path) -> UnitFiles:
        """The format of the file that a note stands for, which an earlier command chose."""
        with suppress(OSError, ValueError):
            return UnitFiles(read_whole(note).decode())
        return self.files

    @property
    def is_lacking(self) -> bool:
        """Whether features are saved that have no units."""
        return next(self._lacking(), None) is not None

    def fill(self, stop: Callable[[], bool] = lambda: False) -> Filled:
        """Makes units of the saved features of lines that have none.

        They go into a journal, and all at once into the ledger at the end. The next call goes on
        with the journal of one that was stopped or killed. Features that are damaged or gone give
        none, and their lines stay as they are.
        """
        with explained(self.store.directory):
            num = sum(1 for _ in self._lacking())
            if not num:
                return Filled()
            log.info("%s saved without units: made of the features", count(num, "utterance"))
            with Journal(self._private("quantizing"), self.quantizer.fingerprint) as journal:
                stopped = self._write(journal, stop)
                if not stopped:
                    self.store.fence()
                    ledger.rewrite(self.ledger, self._merged(journal.texts()))
                    journal.remove()
                return Filled(journal.num_made, journal.num_without, stopped)

    def write(self, ids: Sequence[str | None]) -> None:
        """Writes the shard's file, whole or not at all: what of `ids` is saved, in their order."""
        self.store.fence()
        text = self.files.text(units.rows(ids, self.ledger))
        with explained(self.store.directory):
            replace_whole(self._private("units"), self.files.format.encode(), fsync=False)
            replace_whole(self.file, as_bytes(text), fsync=self.store.fsync)

    def _private(self, name: str) -> Path:
        return self.store.directory / PRIVATE / f"{name}-{self.shard}"

    def _lacking(self) -> Iterator[Line]:
        """Lines of saved features that have no units."""
        return (pair for pair in ledger.read_lines(self.ledger) if _lacks(pair[1]))

    def _write(self, journal: Journal, stop: Callable[[], bool]) -> bool:
        """Adds what the journal lacks; returns whether it was stopped before it had all."""
        left = journal.after(self._lacking())
        for block in _blocks((line, self._read(record)) for line, record in left):
            for line, text in self._made(block):
                journal.append(line, text)
            journal.flush()
            if stop():
                return True
        return False

    def _read(self, record: Mapping[str, Any]) -> Tensor | None:
        """Saved features (T, D); None where they are not what the line says."""
        layout = self.store.layout
        try:
            kept = layout.kept(record)
            if kept is None or not layout.intact(kept, checksum=True):
                return None
            values = layout.read(kept)
        except (OSError, ValueError) as error:
            log.warning("%s: %s", printable(record["id"]), error)
            return None
        needed = self.num_layers, record.get("num_frames"), self.quantizer.assign.width
        return values[self.layer] if values.shape == needed else None

    def _made(self, block: Sequence[tuple[bytes, Tensor | None]]) -> Iterator[tuple[bytes, Any]]:
        """Each line with the text of its units, or None."""
        there = [values for _line, values in block if values is not None]
        sizes = [len(values) for values in there]
        nothing = torch.empty(self.quantizer.assign.width, 0)
        packed = torch.cat([nothing, *(values.mT.float() for values in there)], dim=1)
        found = self.quantizer.assign(packed.to(self.device), sizes)
        parts = iter(torch.split(found, [*map(self.quantizer.assign.num_units, sizes)]))
        for line, values in block:
            yield line, None if values is None else units.as_text(next(parts))

    def _merged(self, texts: Iterator[str | None]) -> Iterator[bytes]:
        """The ledger's lines; those that lacked units with their text from the journal."""
        for line, record in ledger.read_lines(self.ledger):
            text = next(texts) if _lacks(record) else None
            yield line if text is None else units.with_units(line, text)


def _lacks(record: Mapping[str, Any]) -> bool:
    return record["status"] == SAVED and units.of_record(record) is None


def _blocks(
    pairs: Iterable[tuple[bytes, Tensor | None]],
) -> Iterator[list[tuple[bytes, Tensor | None]]]:
    """The pairs in lists of about `BLOCK_FRAMES` frames."""
    block: list[tuple[bytes, Tensor | None]] = []
    num_frames = 0
    for line, values in pairs:
        block.append((line, values))
        num_frames += 1 if values is None else len(values)
        if num_frames >= BLOCK_FRAMES:
            yield block
            block, num_frames = [], 0
    if block:
        yield block


def as_bytes(text: Iterable[str]) -> Iterator[bytes]:
    """The parts of a file of units as they are written; ids may hold bytes of no encoding."""
    return (part.encode("utf8", "surrogateescape") for part in text)
