"""The ledger as a table for spreadsheets and data frames: CSV and Parquet, one row an utterance.

The columns are the fields of `Record`, with their types. Rows come one at a time, or a block at a
time for Parquet, however many there are. No torch and no NumPy; pyarrow for Parquet alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from extract.extras import missing
from extract.manifest.folders import METADATA
from extract.shard import LEDGER_NAME
from extract.store.layout import is_kept_file
from extract.store.ledger import Record
from extract.systems import real_path
from extract.text import escaped

BLOCK = 10_000  # rows of a Parquet row group, which are held at a time
BOM = "\ufeff"  # by which Excel knows UTF-8
MAX_INT = 2**63 - 1

# What begins a formula in a spreadsheet (OWASP, "CSV Injection"), also in full width. A cell that
# begins with one, or with an apostrophe, gets an apostrophe in front.
_GUARDED = tuple("=+-@'＝＋－＠")

Line = Mapping[str, Any]


def output_path(option: str, name: str, store: Path) -> Path:
    """The path of a file that `option` names, to be written beside a store or anywhere.

    Raises:
        ValueError: it is a folder, or a file of the store's own.
    """
    path = Path(name).expanduser().absolute()
    if not name or path.is_dir():
        raise ValueError(f"{option} {name or '(nothing)'}: a folder; needed the name of a file")
    own = LEDGER_NAME.fullmatch(path.name) or path.name == METADATA
    if own and real_path(path.parent) == real_path(store):
        raise ValueError(f"{option} {name}: the store keeps its own file there; needed another")
    return path


def _plain_type(hint: Any) -> type:
    """The type of a column: of `str | None` and of literals str; list for the files."""
    is_union = get_origin(hint) in (Union, UnionType)
    [kind] = [one for one in get_args(hint) if one is not NoneType] if is_union else [hint]
    plain: type = {Literal: str, tuple: list}.get(get_origin(kind), kind)
    return plain


COLUMNS: Mapping[str, type] = {
    field.name: _plain_type(get_type_hints(Record)[field.name]) for field in fields(Record)
}


def typed(line: Line) -> dict[str, Any]:
    """A row: each column's value in its type; None where a damaged line holds something else."""
    return {name: _as(kind, line.get(name)) for name, kind in COLUMNS.items()}


def _as(kind: type, value: Any) -> Any:
    if kind is str:
        return value if isinstance(value, str | None) else _json(value)  # of `extra`
    if kind is list:
        is_list = isinstance(value, list) and all(map(is_kept_file, value))
        return [tuple(file) for file in value] if is_list else None
    if kind is float and type(value) is int:
        return float(value) if abs(value) <= MAX_INT else None
    if type(value) is not kind or (isinstance(value, int) and abs(value) > MAX_INT):
        return None
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def csv_parts(lines: Iterable[Line]) -> Iterator[bytes]:
    """A CSV file in parts, one a row: UTF-8 with its mark, CRLF (RFC 4180), heads first.

    Unprintable characters are escaped, so that a row is a line and cannot steer a terminal; a text
    that a spreadsheet would take for a formula begins with an apostrophe. Empty cells are None.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    buffer.write(BOM)
    writer.writerow(COLUMNS)
    for line in lines:
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(map(cell, typed(line).values()))
    yield buffer.getvalue().encode()


def cell(value: Any) -> Any:
    """A value as a cell of a CSV file holds it: see `csv_parts`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        value = _json(value)
    if not isinstance(value, str):
        return value
    text = escaped(value)
    return f"'{text}" if text.startswith(_GUARDED) else text


def parquet_parts(lines: Iterable[Line]) -> Iterator[bytes]:
    """A Parquet file in parts, a row group at a time. Texts are whole, but surrogates escaped.

    `files` is a list of structures: name, offset, bytes, crc32.

    Raises:
        ValueError: pyarrow is missing; names the command that installs it.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError(missing(error.name)) from error
    return _parquet_parts(pyarrow, parquet, lines)


def _parquet_parts(pyarrow: Any, parquet: Any, lines: Iterable[Line]) -> Iterator[bytes]:
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    types[bool] = pyarrow.bool_()
    numbers = [(name, pyarrow.int64()) for name in ("offset", "bytes", "crc32")]
    types[list] = pyarrow.list_(pyarrow.struct([("name", pyarrow.string()), *numbers]))
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    sink, rows = _Sink(), map(_storable, lines)
    with parquet.ParquetWriter(pyarrow.PythonFile(sink, mode="w"), schema) as writer:
        while block := list(islice(rows, BLOCK)):
            columns = [[row[name] for row in block] for name in COLUMNS]
            arrays = map(pyarrow.array, columns, schema.types)
            writer.write_batch(pyarrow.record_batch(list(arrays), schema=schema), BLOCK)
            yield sink.taken()
    yield sink.taken()


def _storable(line: Line) -> dict[str, Any]:
    row = typed(line)
    row = {name: _unicode(one) if isinstance(one, str) else one for name, one in row.items()}
    keys = ("name", "offset", "bytes", "crc32")
    files = row["files"]
    if files is not None:
        files = [dict(zip(keys, (_unicode(name), *rest), strict=True)) for name, *rest in files]
        fits = all(abs(file[key]) <= MAX_INT for file in files for key in keys[1:])
        row["files"] = files if fits else None
    return row


def _unicode(text: str) -> str:
    """`text` with lone surrogates, which stand for bytes that are no UTF-8, escaped."""
    return text.encode("utf8", "backslashreplace").decode()


class _Sink:
    """A file object that keeps what is written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._buffer = bytearray()

    def write(self, data: Any) -> int:
        self._buffer += data
        return len(memoryview(data))

    def taken(self) -> bytes:
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do: the last part is still to be taken."""
