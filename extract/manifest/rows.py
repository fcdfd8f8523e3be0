"""Rows of a data set of the library `datasets`, and what opens the recordings in them.

Recordings are taken as they are stored and decoded as every other one is: `datasets` decodes none.
It is an optional package, imported when a data set is first looked at.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from extract.extras import missing
from extract.manifest.paths import canonical
from extract.opener import MISSING, LocalFiles
from extract.text import printable, shortened

BATCH_ROWS = 1000  # looked at together; the recordings' bytes are not read
LOCAL = LocalFiles()
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # in folders that `save_to_disk` wrote


class Row(NamedTuple):
    """One row, without its recording's bytes."""

    number: int
    has_bytes: bool
    path: str | None  # that the recording had, or has where the data set holds no bytes of it
    values: dict[str, Any]  # the other columns


@dataclass
class Rows:
    """The recordings of a data set, and their opener, which reads rows once one is asked for.

    The path of a recording is `NAME/ROW`, or that of its file where the data set has no bytes of
    it. Pickled, it holds nothing open.
    """

    path: str  # of the folder, canonical; or the name on the hub
    split: str | None  # None where the folder is a split itself
    config: str | None
    column: str

    @classmethod
    def of(cls, path: str, split: str | None, config: str | None, column: str) -> Rows:
        """The rows of a folder or of a data set on the hub, with the path canonical.

        Raises:
            ValueError: there is no such data set or split, or `datasets` is not installed.
        """
        _library()
        if os.path.isdir(path):  # noqa: PTH112 - a name on the hub may be no path
            path = canonical(path)
        if Path(path, _SPLITS).is_file():
            there = sorted(state.parent.name for state in Path(path).glob(f"*/{_STATE}"))
            path, split = f"{path}/{_chosen(path, there, split)}", None
        elif not Path(path, _STATE).is_file():
            split = split or _chosen(path, _split_names(path, config), None)
        elif split is not None:
            raise ValueError(f"{printable(path)}: one split alone; needed no dataset.split")
        return cls(path, split, config, column)

    @property
    def name(self) -> str:
        """The one name of these recordings."""
        named = "/".join(filter(None, (self.path, self.config, self.split)))
        return f"{named}#{self.column}"

    @property
    def prefix(self) -> str:
        """What stands before a row's number in a recording's path."""
        return f"{self.name}/"

    @property
    def columns(self) -> list[str]:
        """The names of the data set's columns."""
        return list(self._rows.column_names)

    @cached_property
    def _rows(self) -> Any:
        """The `datasets.Dataset`, memory-mapped, whose items are tables of Arrow."""
        found = _loaded(self.path, self.config, self.split)
        if self.column not in found.column_names:
            there = " or ".join(map(printable, found.column_names))
            raise ValueError(
                f"dataset.column: {shortened(self.column)}; {printable(self.path)} has {there}"
            )
        return found.with_format("arrow")

    @cached_property
    def _stamp(self) -> tuple[int, int]:
        """Bytes of the data set's files, and when the last of them was written."""
        stamps = [LOCAL.stamp(file["filename"]) for file in self._rows.cache_files]
        return sum(size for size, _time in stamps), max((time for _size, time in stamps), default=0)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number, without reading its recording."""
        kinds = self._rows.features.arrow_schema
        names = [one.name for one in kinds if one.name != self.column and not _has_bytes(one.type)]
        rows = self._rows.select_columns([self.column, *names])
        for start in range(0, len(rows), BATCH_ROWS):
            table = rows[start : start + BATCH_ROWS]
            has_bytes, paths = _recordings(table.column(self.column), self.column)
            columns = has_bytes, paths, table.select(names).to_pylist()
            for number, row in enumerate(zip(*columns, strict=True), start):
                yield number, Row(number, *row)

    def open(self, path: str) -> BinaryIO:
        """The recording's bytes, in memory: those of its row, or of its file."""
        row = self._row_of(path)
        if row is None:
            return LOCAL.open(path)
        try:
            cell = self._rows[row].column(self.column)[0]["bytes"]
        except (LookupError, ValueError) as error:  # the data set changed
            raise FileNotFoundError(2, "no such row", path) from error
        return io.BytesIO(cell.as_buffer() or b"")

    def stamp(self, path: str) -> tuple[int, int]:
        """The data set's for a row: writing it anew changes that of every row."""
        if self._row_of(path) is None:
            return LOCAL.stamp(path)
        try:
            return self._stamp
        except ValueError:  # the data set is gone
            return MISSING

    def _row_of(self, path: str) -> int | None:
        """The row of a recording; None of one in a file of its own."""
        number = path.removeprefix(self.prefix)
        return int(number) if number != path and number.isdecimal() else None


def _recordings(column: Any, name: str) -> tuple[list[bool], list[str | None]]:
    """Of each row, whether it holds its recording's bytes, and the recording's path."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [False] * len(column), column.to_pylist()
    if not pa.types.is_struct(kind) or {"bytes", "path"} - {one.name for one in kind}:
        raise ValueError(
            f"dataset.column: {name} holds {kind}; needed recordings (Audio), or paths"
        )
    has_bytes = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
    return has_bytes, pc.struct_field(column, "path").to_pylist()


def _has_bytes(kind: Any) -> bool:
    """Whether a column's type, or one within it, is that of bytes: of images, other recordings."""
    import pyarrow as pa

    if kind.num_fields:
        return any(_has_bytes(kind.field(index).type) for index in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _library() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError(f"dataset=hf: {missing(error.name)}") from error
    return datasets


def _loaded(path: str, config: str | None, split: str | None) -> Any:
    """A data set, memory-mapped: of a folder that `save_to_disk` wrote, else by its name."""
    with _explained(path) as datasets:
        if Path(path, _STATE).is_file():
            return datasets.load_from_disk(path)
        return datasets.load_dataset(path, config, split=split)


def _split_names(path: str, config: str | None) -> list[str]:
    with _explained(path) as datasets:
        return list(datasets.get_dataset_split_names(path, config))


@contextmanager
def _explained(path: str) -> Iterator[Any]:
    """Yields the library; whatever it raises becomes a ValueError that names the data set."""
    datasets = _library()
    try:
        yield datasets
    except Exception as error:  # its own, those of Arrow, of the hub, of the network
        said = shortened(str(error) or type(error).__name__)
        raise ValueError(f"{printable(path)}: no data set that can be read: {said}") from error


def _chosen(path: str, there: list[str], split: str | None) -> str:
    """The split that is asked for, or the only one."""
    if split is None and len(there) == 1:
        return there[0]
    if split is None or split not in there:
        found = f"{printable(path)}: dataset.split={split or 'null'}"
        raise ValueError(f"{found}; needed {' or '.join(map(printable, there)) or 'a split'}")
    return split
