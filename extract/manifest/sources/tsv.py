"""A manifest of fairseq's, a root and paths below it: dataset=tsv dataset.path=FILE.tsv"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from extract.fields import location
from extract.manifest.listed import BadLine, list_lines, listed, of_the_part_read
from extract.manifest.paths import StrPath, canonical, existing_folder, existing_list
from extract.manifest.places import Places
from extract.manifest.source import Output, SourceOptions, read_source
from extract.text import count, printable, shortened
from extract.values import Entry, Failure

if TYPE_CHECKING:
    from extract.manifest.manifest import Manifest

NEEDED = "the root folder in the first, path<TAB>num_samples in the others"


@dataclass
class Options(SourceOptions):
    """A manifest that fairseq trains from."""

    kind: str = "tsv"
    path: str = location()  # the manifest
    root: str | None = location(None)  # where the recordings are now; null = as its first line says


def source(options: Options) -> str:
    """The manifest's canonical path; ValueError if there is no such file."""
    return canonical(existing_list(options.path))


def read(options: Options, output: Output) -> Iterator[Entry | Failure]:
    """A recording for each line but the first, or a failure: `read_tsv`."""
    path = source(options)
    lines = list_lines(path, NEEDED, at_least=2)
    root = _root(options, *next(lines)).rstrip("/") + "/"
    yield from listed(path, lines, partial(_parse, Places([root[:-1]]), root), output)


def _root(options: Options, number: int, line: str) -> str:
    """The folder where the recordings' paths start."""
    where = f"{printable(options.path)}: line 1"
    if number > 1 or "\t" in line:
        found = "blank" if number > 1 else shortened(line)
        raise ValueError(f"{where}: {found}; needed the root folder alone")
    if options.root is not None:
        return canonical(existing_folder(options.root))
    try:
        return canonical(existing_folder(Places.of_list(options.path).find(line) or line.strip()))
    except ValueError as error:
        raise ValueError(f"{where}: {error}; dataset.root=DIR names another") from error


def _parse(places: Places, root: str, line: str) -> Entry:
    fields = line.split("\t")
    if len(fields) != 2:
        found = count(len(fields), "field") + of_the_part_read(line)
        raise BadLine(f"{found}; 2 are needed: path<TAB>num_samples", fields[0])
    num_samples = fields[1].strip()
    if not (num_samples.isascii() and num_samples.isdecimal()):
        raise BadLine(f"{shortened(repr(num_samples))}; needed a number of samples", fields[0])
    path = places.find(fields[0])
    if not path:
        raise BadLine("no path before the tab", fields[0])
    return Entry(path.removeprefix(root), path)


def read_tsv(path: StrPath, root: StrPath | None = None) -> Manifest:
    """The recordings of a fairseq manifest, in its order: a root, then `path<TAB>num_samples`.

    Each goes under its path below the root. The number of samples is not used: a recording's
    length is what its file says. A line of other fields is a failure.

    Args:
        path: the manifest; any line ends, in UTF-8, UTF-16 with its mark, or GB18030.
        root: the folder where the recordings are now, in the place of the one in the first line.

    Raises:
        ValueError: no such file or root, not readable, an encoding that is none of these, nothing
            in it, or two recordings of the same path.
    """
    root = os.fspath(root) if root else None
    return read_source(Options(kind="tsv", path=os.fspath(path), root=root), Output())
