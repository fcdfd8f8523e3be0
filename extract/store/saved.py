"""The saved utterances of a store, as its ledgers have them, in flat arrays.

A line of the ledger becomes 1 to 2 kB of Python's objects; here it takes about 150 bytes, most of
them its id and its path. A forked worker copies no page of the arrays by reading them; a spawned
one maps them (`Saved.share`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawArray
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from extract.manifest.strings import PackedStrings, Packer
from extract.store import ledger
from extract.store.layout import Kept, KeptFile, Layout
from extract.store.store import Store
from extract.values import NO_INDEX, SAVED, Recording

NONE: Final = -1  # of a whole number that a line does not give

_MOST: Final = (1 << 31) - 1  # of a count

_ROW_AS, _ROW = (
    struct.Struct("<qqddiq"),
    np.dtype(
        [
            *(("size", "<i8"), ("mtime_ns", "<i8"), ("peak", "<f8"), ("duration_s", "<f8")),
            *(("clipped_samples", "<i4"), ("first_file", "<i8")),
        ]
    ),
)
_FILE_AS, _FILE = (
    struct.Struct("<iqqq"),
    np.dtype([("name", "<i4"), ("offset", "<i8"), ("bytes", "<i8"), ("crc32", "<i8")]),
)
ID: Final = "\0"  # stands for the utterance's id in the name of a file; no id holds it


class Table:
    """An array that a worker started by spawn or forkserver maps instead of copying.

    Args:
        rows: (num_rows,), of any dtype.
    """

    def __init__(self, rows: npt.NDArray[Any]) -> None:
        self.rows = rows
        self._shared: Any = None

    def share(self) -> Table:
        """The same in shared memory: see `PackedStrings.share`."""
        memory: Any = RawArray("b", max(1, self.rows.nbytes))
        twin = Table(_rows_in(memory, self.rows.dtype, len(self.rows)))
        twin.rows[:] = self.rows
        twin._shared = memory
        return twin

    def __getstate__(self) -> tuple[Any, Any, int]:
        if self._shared is not None and get_spawning_popen() is not None:
            return (self._shared, self.rows.dtype, len(self.rows))
        return (None, self.rows, 0)

    def __setstate__(self, state: tuple[Any, Any, int]) -> None:
        self._shared, rows, length = state
        self.rows = rows if self._shared is None else _rows_in(self._shared, rows, length)


def _rows_in(memory: Any, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    """The array over a buffer of at least that length; no copy."""
    return np.frombuffer(memory, np.uint8)[: length * dtype.itemsize].view(dtype)


@dataclass(frozen=True)
class Saved:
    """Saved utterances by their row; `SavedCollector` makes one."""

    ids: PackedStrings
    paths: PackedStrings
    extras: PackedStrings | None  # None where no line has one
    names: PackedStrings  # of files, `ID` in the place of the id; that of an archive once
    table: Table
    files: Table

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def durations_s(self) -> npt.NDArray[np.float64]:
        """Seconds of each utterance, (num_rows,); NaN where its line has none."""
        return self.table.rows["duration_s"].copy()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        strings = (self.ids, self.paths, self.extras, self.names)
        arrays = self.table.rows.nbytes + self.files.rows.nbytes
        return arrays + sum(some.nbytes for some in strings if some is not None)

    def recording(self, row: int, index: int = NO_INDEX) -> Recording:
        """What the line of an utterance says of its recording."""
        size, mtime_ns, peak, duration_s, clipped, _first = self.table.rows[row].item()
        return Recording(
            index,
            self.ids[row],
            self.paths[row],
            size,
            mtime_ns,
            None if np.isnan(peak) else peak,
            None if np.isnan(duration_s) else duration_s,
            None if clipped == NONE else clipped,
            self.extras[row] or None if self.extras is not None else None,
        )

    def kept(self, row: int) -> Kept:
        """The files of an utterance, as its line names them."""
        starts, id_ = self.table.rows["first_file"], self.ids[row]
        stop = int(starts[row + 1]) if row + 1 < len(self) else len(self.files.rows)
        return Kept(id_, tuple(self._file(at, id_) for at in range(int(starts[row]), stop)))

    def _file(self, at: int, id_: str) -> KeptFile:
        name, offset, size, crc = self.files.rows[at].item()
        return self.names[name].replace(ID, id_), offset, size, None if crc == NONE else crc

    def share(self) -> Saved:
        """The same in shared memory, for workers that are not forked."""
        return replace(
            self,
            ids=self.ids.share(),
            paths=self.paths.share(),
            extras=None if self.extras is None else self.extras.share(),
            names=self.names.share(),
            table=self.table.share(),
            files=self.files.share(),
        )


class SavedCollector:
    """Collects the lines of saved utterances one by one.

    Args:
        layout: of the store.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._ids, self._names = Packer(), Packer()
        self._paths = Packer()
        self._prefix: str | None = None  # while all paths are one and the id: then none is kept
        self._extras: Packer | None = None
        self._rows, self._files = bytearray(), bytearray()
        self._number_of: dict[str, int] = {}  # of each name in `_names`

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, record: Mapping[str, Any]) -> bool:
        """Adds a line; returns whether it is one that names files of the store."""
        # An archive's line is checked as its block is read, without opening the archive twice.
        kept = Kept.of(record) if self._layout.holds_many else self._layout.kept(record)
        if kept is None or not kept.files:
            return False
        self._rows += _ROW_AS.pack(*_numbers(record), len(self._files) // _FILE.itemsize)
        self._add_path(kept.id, _text(str(record.get("path") or "")))
        self._add_extra(record.get("extra"))
        self._ids.append(kept.id)
        for name, offset, size, crc in kept.files:
            number = self._number(name.replace(kept.id, ID))
            self._files += _FILE_AS.pack(number, offset, size, NONE if crc is None else crc)
        return True

    def _add_path(self, id_: str, path: str) -> None:
        if self._prefix is None and not len(self):
            self._prefix = path.removesuffix(id_)
        if self._prefix is not None and path != self._prefix + id_:
            self._paths, self._prefix = self._ids.behind(self._prefix), None
        if self._prefix is None:
            self._paths.append(path)

    def _add_extra(self, extra: Any) -> None:
        if extra is not None and self._extras is None:
            self._extras = Packer(len(self))
        if self._extras is not None:
            text = json.dumps(extra, ensure_ascii=False, separators=(",", ":"))
            self._extras.append("" if extra is None else _text(text))

    def _number(self, name: str) -> int:
        number = self._number_of.setdefault(name, len(self._number_of))
        if number == len(self._names):
            self._names.append(name)
        return number

    def finish(self) -> Saved:
        """The collected lines. They use the collector's memory, so it can take no more."""
        ids = self._ids.finish()
        return Saved(
            ids,
            self._paths.finish() if self._prefix is None else ids.with_prefix(self._prefix),
            None if self._extras is None else self._extras.finish(),
            self._names.finish(),
            Table(np.frombuffer(self._rows, _ROW)),
            Table(np.frombuffer(self._files, _FILE)),
        )


def _numbers(record: Mapping[str, Any]) -> tuple[int, int, float, float, int]:
    """The numbers of `_ROW` but the last, as the line of a saved utterance has them."""
    size, mtime_ns = (_whole(record.get(f"source_{key}")) for key in ("size", "mtime_ns"))
    peak, duration_s = (_real(record.get(key)) for key in ("peak", "duration_s"))
    clipped = max(NONE, min(_whole(record.get("clipped_samples")), _MOST))
    return size, mtime_ns, peak, duration_s, clipped


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int) and abs(value) < 1 << 63 else NONE


def _text(text: str) -> str:
    """`text` without lone surrogates, which no run writes into a ledger."""
    return text if text.isascii() else text.encode("utf8", "backslashreplace").decode()


def _real(value: Any) -> float:
    return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class Found:
    """What the ledgers of a store say."""

    saved: Saved
    row_of: dict[str, int]  # of each saved id, in the order of the ledgers
    failed: dict[str, Mapping[str, Any]]  # the lines of all others, by their ids


def read_saved(store: Store) -> Found:
    """Reads all ledgers of a store; of an id that has two lines, the later one."""
    collector, row_of = SavedCollector(store.layout), dict[str, int]()
    failed = dict[str, Mapping[str, Any]]()
    for record in ledger.read(store.directory):
        id_, is_saved = record["id"], record["status"] == SAVED
        if is_saved and collector.add(record):
            row_of[id_] = len(collector) - 1
            failed.pop(id_, None)
        elif not is_saved:
            failed[id_] = record
            row_of.pop(id_, None)
    return Found(collector.finish(), row_of, failed)
