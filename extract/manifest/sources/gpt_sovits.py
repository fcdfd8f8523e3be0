"""A list with lines wav|speaker|language|text: dataset=gpt_sovits dataset.path=FILE.list"""

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
from extract.text import count
from extract.urls import file_name
from extract.values import Entry, Failure

if TYPE_CHECKING:
    from extract.manifest.manifest import Manifest

FIELDS = ("wav", "speaker", "language", "text")


@dataclass
class Options(SourceOptions):
    """A list that GPT-SoVITS trains from."""

    kind: str = "gpt_sovits"
    path: str = location()  # the list
    audio_dir: str | None = location(None)  # look for the file names here instead


def source(options: Options) -> str:
    """The list's canonical path; ValueError if there is no such list."""
    return canonical(existing_list(options.path))


def read(options: Options, output: Output) -> Iterator[Entry | Failure]:
    """A recording for each line of the list, or a failure: `read_gpt_sovits_list`."""
    path, places = source(options), _places(options)
    lines = list_lines(path, "wav|speaker|language|text in each")
    yield from listed(path, lines, partial(_parse, places), output)


def _places(options: Options) -> Places:
    if options.audio_dir:
        return Places([canonical(existing_folder(options.audio_dir))], names_only=True)
    return Places.of_list(options.path)


def _parse(places: Places, line: str) -> Entry:
    fields = line.split("|", len(FIELDS) - 1)  # the text may hold more of them
    if len(fields) < len(FIELDS):
        found = count(len(fields), "field") + of_the_part_read(line)
        needed = f"{len(FIELDS)} are needed: {'|'.join(FIELDS)}"
        raise BadLine(f"{found}; {needed}", fields[0])
    path = places.find(fields[0])
    if not path:
        raise BadLine("no path before the first |", fields[0])
    return Entry(file_name(path), path)


def read_gpt_sovits_list(path: StrPath, audio_dir: StrPath | None = None) -> Manifest:
    """The recordings of a GPT-SoVITS list, one a line: `wav|speaker|language|text`.

    Each goes under its file name with the extension. Its path is searched as it is written, then
    cleaned of quotes, blanks and backslashes as GPT-SoVITS's `clean_path` does; a relative one
    from the working folder, then from the list's own. A line of too few fields is a failure.

    Args:
        path: the list; any line ends, in UTF-8, UTF-16 with its mark, or GB18030.
        audio_dir: where the recordings are now; only their file names are taken from the list.

    Raises:
        ValueError: no such list or folder, not readable, an encoding that is none of these,
            nothing in it, or two recordings of the same file name.
    """
    audio_dir = os.fspath(audio_dir) if audio_dir else None
    options = Options(kind="gpt_sovits", path=os.fspath(path), audio_dir=audio_dir)
    return read_source(options, Output())
