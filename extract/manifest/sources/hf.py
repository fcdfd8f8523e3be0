"""A data set of the library `datasets`: dataset=hf dataset.path=DIR, or its name on the hub"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from extract.fields import location
from extract.manifest.extra import extra_of
from extract.manifest.listed import BadLine, listed
from extract.manifest.paths import StrPath, canonical
from extract.manifest.places import Places, clean_path
from extract.manifest.rows import Row, Rows
from extract.manifest.source import Output, SourceOptions, read_source
from extract.text import printable, shortened
from extract.values import Entry, Failure

if TYPE_CHECKING:
    from extract.manifest.manifest import Manifest

ROW_NUMBER = "#"


@dataclass
class Options(SourceOptions):
    """A data set of the library `datasets`."""

    kind: str = "hf"
    path: str = location()  # a folder that `save_to_disk` wrote, or a name on the hub, `user/name`
    split: str | None = None  # `train`; null = the only one
    config: str | None = None  # the configuration of a data set on the hub
    column: str = "audio"  # the column of the recordings
    # The column of ids, or `#` for the rows' numbers; null = the recordings' file names, and the
    # numbers of rows whose recording has none
    id_column: str | None = None


def source(options: Options) -> str:
    """The data set's one name, with its split and column; ValueError if there is none."""
    return opener(options).name


def opener(options: Options) -> Rows:
    """The rows, which open their recordings."""
    return Rows.of(options.path, options.split, options.config, options.column)


def read(options: Options, output: Output) -> Iterator[Entry | Failure]:
    """A recording for each row, or a failure: `read_hf`."""
    rows = opener(options)
    if options.id_column not in (None, ROW_NUMBER, *rows.columns):
        there = " or ".join(map(printable, (*rows.columns, ROW_NUMBER)))
        raise ValueError(f"dataset.id_column: {shortened(str(options.id_column))}; needed {there}")
    places = Places([canonical(Path.cwd()), *([rows.path] if Path(rows.path).is_dir() else [])])
    parse = partial(_parse, rows.prefix, places, options.id_column)
    yield from listed(rows.path, rows, parse, output, unit="row")


def _parse(prefix: str, places: Places, id_column: str | None, row: Row) -> Entry:
    path = f"{prefix}{row.number}" if row.has_bytes else places.find(row.path or "")
    if not path:
        raise BadLine("neither bytes nor a path; needed a recording")
    if id_column in (None, ROW_NUMBER):
        name = "" if id_column else clean_path(row.path or "").rpartition("/")[2]
        id_ = name or f"{row.number:08}"
    else:
        found = row.values.pop(id_column, None)
        if found is None:
            raise BadLine(f"{id_column}: null; needed an id", path)
        id_ = str(found)
    return Entry(id_, path, extra=extra_of(row.values))


def read_hf(
    path: StrPath,
    split: str | None = None,
    *,
    config: str | None = None,
    column: str = "audio",
    id_column: str | None = None,
) -> Manifest:
    """The recordings of a data set of the library `datasets`, one a row, for this decoder.

    Each goes under its file's name, or the number of its row where it has none; or its id stands
    in a column. The other columns are the entry's `extra`, without those of bytes. The manifest's
    `opener` opens the rows.

    Args:
        path: a folder that `save_to_disk` wrote, or a data set's name on the hub.
        split: one of its splits; needed where it has several.
        config: of a data set on the hub.
        column: of the recordings: an `Audio`, or paths.
        id_column: the column of ids; `#` for the rows' numbers.

    Raises:
        ValueError: no such data set, split or column, or two recordings of the same id; or the
            package `datasets` is missing.
    """
    options = Options(
        kind="hf",
        path=os.fspath(path),
        split=split,
        config=config,
        column=column,
        id_column=id_column,
    )
    return read_source(options, Output())
