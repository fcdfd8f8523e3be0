"""A list with lines wav|speaker|language|text: dataset=gpt_sovits dataset.path=FILE.list"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from extract.fields import location
from extract.manifest.ids import MAX_PATH_BYTES, check_id, max_part_bytes
from extract.manifest.lists import MAX_PIECE, read_lines
from extract.manifest.paths import StrPath, canonical, existing_folder, existing_list
from extract.manifest.source import Output, SourceOptions, read_source
from extract.systems import slashed
from extract.text import count, printable, shortened
from extract.urls import file_name, is_url
from extract.values import Entry, Failure, Reason

if TYPE_CHECKING:
    from extract.manifest.manifest import Manifest

FIELDS = ("wav", "speaker", "language", "text")

_BLANKS_AND_QUOTES = " '\"\n\r\t\u202a"  # U+202A: what Windows copies in front of a path
_DRIVE = re.compile(r"[A-Za-z]:/")


@dataclass
class Options(SourceOptions):
    """A list that GPT-SoVITS trains from."""

    kind: str = "gpt_sovits"
    path: str = location()  # the list
    audio_dir: str | None = location(None)  # look for the file names here instead


class _Places(NamedTuple):
    """Where recordings are looked for."""

    folders: list[str]  # where relative paths start; the first that has the recording wins
    names_only: bool  # only the recordings' file names are looked for, whatever folder is written


def source(options: Options) -> str:
    """The list's canonical path; ValueError if there is no such list."""
    return canonical(existing_list(options.path))


def read(options: Options, output: Output) -> Iterator[Entry | Failure]:
    """A recording for each line of the list, or a failure: `read_gpt_sovits_list`."""
    path, places = source(options), _places(options)
    part_bytes = max_part_bytes(output.suffixes)
    name, num = Path(path).name, 0
    try:
        for number, line in read_lines(path):
            num += 1
            yield _parse(line, f"{name}:{number}", places, part_bytes)
    except OSError as error:
        raise ValueError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    if not num:
        raise ValueError(f"{printable(path)}: no lines; needed: wav|speaker|language|text in each")


def _places(options: Options) -> _Places:
    if options.audio_dir:
        return _Places([canonical(existing_folder(options.audio_dir))], names_only=True)
    beside_the_list = canonical(str(Path(existing_list(options.path)).parent))
    return _Places([canonical(Path.cwd()), beside_the_list], names_only=False)


def clean_path(text: str) -> str:
    """`text` without quotes and blanks around it and slashes behind it; backslashes as slashes.

    As GPT-SoVITS's `tools/my_utils.py:clean_path`, in whatever order these come.
    """
    slashes = text.replace("\\", "/")
    return slashes.lstrip(_BLANKS_AND_QUOTES).rstrip(_BLANKS_AND_QUOTES + "/")


def _parse(line: str, where: str, places: _Places, part_bytes: int) -> Entry | Failure:
    fields = line.split("|", len(FIELDS) - 1)  # the text may hold more of them
    written, cleaned = fields[0], clean_path(fields[0])
    if len(fields) < len(FIELDS):
        found = count(len(fields), "field")
        if len(line) == MAX_PIECE:
            found += f" in the first {MAX_PIECE:,} characters"
        needed = f"{len(FIELDS)} are needed: {'|'.join(FIELDS)}"
        return _failure(where, written, "bad_line", f"{found}; {needed}")
    if not cleaned:
        return _failure(where, written, "bad_line", "no path before the first |")
    path = _locate(written, cleaned, places)
    utterance_id = file_name(path)
    if problem := check_id(utterance_id, part_bytes):
        shown = shortened(utterance_id)
        return _failure(where, path, "bad_id", f"'{shown}' cannot name a file: {problem}")
    if problem := _check_path(path):
        return _failure(where, path, "bad_line", problem)
    return Entry(utterance_id, path)


def _check_path(path: str) -> str | None:
    """Why no file can have `path`; None if one can."""
    if "\0" in path:
        return "a null character in the path"
    num_bytes = len(path) if path.isascii() else len(path.encode("utf-8", "surrogateescape"))
    if num_bytes > MAX_PATH_BYTES:
        return f"a path of {num_bytes:,} bytes; at most {MAX_PATH_BYTES:,} are possible"
    return None


def _failure(where: str, path: str, reason: Reason, detail: str) -> Failure:
    line_number = where.rpartition(":")[2]
    return Failure.of_source(
        printable(where), _bounded(path), reason, f"line {line_number}: {detail}"
    )


def _bounded(path: str) -> str:
    """`path`, shortened if it is too long to be a file's path."""
    return path if len(path) <= MAX_PATH_BYTES else shortened(path)


def _locate(written: str, cleaned: str, where: _Places) -> str:
    """Where a recording is: by its path as `written` if that exists, else by the cleaned one."""
    written = slashed(written)  # on Windows a backslash is no part of a name
    if where.names_only:
        written, cleaned = written.rpartition("/")[2], cleaned.rpartition("/")[2]
    elif _DRIVE.match(cleaned) or is_url(cleaned):
        return cleaned  # a drive's path stays recognisable where there are no drives
    if cleaned == written and cleaned[0] == "/":
        return cleaned  # nothing to choose from, so no need to look
    nothing_else = cleaned == written or written[-1:] in ("", "/")
    texts = (cleaned,) if nothing_else else (written, cleaned)
    places = [t if t[0] == "/" else f"{folder}/{t}" for t in texts for folder in where.folders]
    expected = places[-len(where.folders)]
    return next(filter(os.path.lexists, places), expected)


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
