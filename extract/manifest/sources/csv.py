"""A table such as LJSpeech's id|text: dataset=csv dataset.path=FILE.csv dataset.audio_dir=DIR"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from extract.fields import location
from extract.manifest.extra import extra_of
from extract.manifest.listed import BadLine, list_lines, listed
from extract.manifest.paths import StrPath, canonical, existing_folder, existing_list
from extract.manifest.places import Places, clean_path
from extract.manifest.source import Output, SourceOptions, read_source
from extract.manifest.sources.folder import AUDIO_EXTENSIONS
from extract.text import count, printable, shortened
from extract.values import Entry, Failure

if TYPE_CHECKING:
    from extract.manifest.manifest import Manifest

_AUDIO_EXTENSIONS = frozenset(AUDIO_EXTENSIONS)


@dataclass
class Options(SourceOptions):
    """A table of recordings: one a line, its columns apart by a delimiter."""

    kind: str = "csv"
    path: str = location()  # the table
    # Where the recordings' paths start; null = the working folder, then that of the table
    audio_dir: str | None = location(None)
    delimiter: str = "|"  # what stands between columns; `tab` is a tab
    header: bool = False  # whether the first line names the columns
    # Names of the columns, `[id,text]`; null = as the header says, else `column_1`, `column_2`, ...
    columns: list[str] | None = None
    # The column of the recordings' paths or names; null = the first
    audio_column: str | None = None
    id_column: str | None = None  # the column of ids; null = the recordings' column
    extension: str = "wav"  # what a name without the extension of an audio file lacks
    quotes: bool = False  # whether "..." around a field, which may hold the delimiter, is no text


class _Table(NamedTuple):
    """How a line becomes an entry."""

    split: Callable[[str], list[str]]
    columns: Sequence[str]
    audio: int  # of the columns
    id: int
    places: Places
    ending: str  # of files whose names lack it

    def named(self, fields: list[str]) -> dict[str, str]:
        """The other columns by their names."""
        num_more = len(fields) - len(self.columns)
        more = (f"column_{len(self.columns) + number}" for number in range(1, num_more + 1))
        named = zip(chain(self.columns, more), fields, strict=False)
        used = self.audio, self.id
        return {name: field for at, (name, field) in enumerate(named) if at not in used}


def source(options: Options) -> str:
    """The table's canonical path; ValueError if there is no such file."""
    return canonical(existing_list(options.path))


def read(options: Options, output: Output) -> Iterator[Entry | Failure]:
    """A recording for each line, or a failure: `read_csv`."""
    path = source(options)
    needed = "names of columns in the first, a recording in the others"
    lines = list_lines(
        path, needed if options.header else "a recording in each", 1 + options.header
    )
    split = _splitter(options)
    head = _head(path, split, next(lines)[1]) if options.header else []
    table = _table(options, split, options.columns or head)
    yield from listed(path, lines, partial(_parse, table), output)


def _head(path: str, split: Callable[[str], list[str]], line: str) -> list[str]:
    try:
        return [name.strip() for name in split(line)]
    except BadLine as error:
        raise ValueError(f"{printable(path)}: the names of columns: {error}") from error


def _table(options: Options, split: Callable[[str], list[str]], columns: Sequence[str]) -> _Table:
    places = Places.of_list(options.path)
    if options.audio_dir:
        places = Places([canonical(existing_folder(options.audio_dir))])
    audio = _index(options, columns, "audio_column", 0)
    ending = options.extension.lstrip(".")
    return _Table(
        split,
        columns,
        audio,
        _index(options, columns, "id_column", audio),
        places,
        ending and f".{ending}",
    )


def _index(options: Options, columns: Sequence[str], option: str, default: int) -> int:
    """The position of the column that an option names."""
    name: str | None = getattr(options, option)
    if name is None:
        return default
    if name in columns:
        return columns.index(name)
    number = name.removeprefix("column_")
    if not columns and number != name and number.isdecimal() and int(number):
        return int(number) - 1
    there = " or ".join(map(shortened, columns)) or "column_1, column_2, ..."
    raise ValueError(f"dataset.{option}: {shortened(name)}; needed {there}")


def _splitter(options: Options) -> Callable[[str], list[str]]:
    delimiter = {"tab": "\t", "\\t": "\t"}.get(options.delimiter, options.delimiter)
    if not delimiter or (options.quotes and len(delimiter) > 1):
        needed = "one character, or tab" if options.quotes else "what stands between columns"
        raise ValueError(f"dataset.delimiter: {options.delimiter!r}; needed {needed}")
    return partial(_quoted, delimiter) if options.quotes else partial(_plain, delimiter)


def _plain(delimiter: str, line: str) -> list[str]:
    return line.split(delimiter)


def _quoted(delimiter: str, line: str) -> list[str]:
    try:
        [fields] = csv.reader([line], delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        raise BadLine(f"{error}; needed quotes that end in their line", line) from error
    return fields


def _parse(table: _Table, line: str) -> Entry:
    fields = table.split(line)
    if len(fields) <= max(table.audio, table.id):
        needed = f"at least {1 + max(table.audio, table.id)} are needed"
        raise BadLine(f"{count(len(fields), 'field')}; {needed}", fields[0])
    written = fields[table.audio]
    name = clean_path(written)
    known = name[name.rfind(".") :].lower() in _AUDIO_EXTENSIONS
    path = table.places.find(written, "" if known else table.ending)
    if not path:
        raise BadLine(f"no recording: {shortened(line)}; needed its path or name", written)
    id_ = name.rpartition("/")[2] if path.startswith(name) else name  # absolute, or relative
    if table.id != table.audio:
        id_ = fields[table.id].strip()
    return Entry(id_, path, extra=extra_of(table.named(fields)))


def read_csv(
    path: StrPath,
    audio_dir: StrPath | None = None,
    *,
    delimiter: str = "|",
    header: bool = False,
    columns: Sequence[str] | None = None,
    audio_column: str | None = None,
    id_column: str | None = None,
    extension: str = "wav",
    quotes: bool = False,
) -> Manifest:
    """The recordings of a table, one a line: `id|text` with a folder of WAVs, as LJSpeech has it.

    An id is the text that names the recording, of an absolute path the file's name; or it stands
    in a column of its own. The other columns are the entry's `extra`. A line without that column
    is a failure.

    Args:
        path: the table; any line ends, in UTF-8, UTF-16 with its mark, or GB18030.
        audio_dir: where the recordings' paths start; without it the working folder, then that of
            the table.
        delimiter: what stands between columns.
        header: whether the first line names the columns.
        columns: their names; else `column_1`, `column_2`, ...
        audio_column: the column of the recordings' paths or names, by its name; else the first.
        id_column: the column of ids, by its name.
        extension: what a name without the extension of an audio file lacks; "" for nothing.
        quotes: whether quotes around a field are taken off, and a delimiter in them is text.

    Raises:
        ValueError: no such file, folder or column, not readable, an encoding that is none of
            these, nothing in it, or two recordings of the same id.
    """
    options = Options(
        kind="csv",
        path=os.fspath(path),
        audio_dir=os.fspath(audio_dir) if audio_dir else None,
        delimiter=delimiter,
        header=header,
        columns=None if columns is None else list(columns),
        audio_column=audio_column,
        id_column=id_column,
        extension=extension,
        quotes=quotes,
    )
    return read_source(options, Output())
