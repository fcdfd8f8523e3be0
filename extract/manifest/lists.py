"""The lists that GPT-SoVITS trains from: lines of `wav|speaker|language|text`."""

from __future__ import annotations

import codecs
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from extract.manifest.ids import MAX_PATH_BYTES, check_id
from extract.text import count, printable, shortened
from extract.values import Entry, Failure, Reason

log = logging.getLogger(__name__)

FIELDS = ("wav", "speaker", "language", "text")

_BLANKS_AND_QUOTES = " '\"\n\r\t\u202a"  # U+202A: what Windows copies in front of a path
_DRIVE = re.compile(r"[A-Za-z]:/")
MAX_PIECE = 1 << 16  # characters read at once: a file without line ends is never held whole
_UNDECODABLE = "\udcff"  # no valid text contains it


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)  # the handler is for reading only
    return _UNDECODABLE, error.end


codecs.register_error("extract.mark", _mark_undecodable)


def read_entries(path: str, folders: list[str], names_only: bool) -> Iterator[Entry | Failure]:
    """An entry or a failure for each line of the list at `path` that is not blank.

    Args:
        path: the list; any line ends, in UTF-8, UTF-16 with its mark, or GB18030.
        folders: where relative paths start; the first that has the recording wins.
        names_only: search the recordings' file names in `folders`, whatever folder is written.

    Raises:
        ValueError: an encoding that is none of these; names the line.
        OSError: it cannot be read.
    """
    name, before = Path(path).name, 0
    with open(path, encoding=_encoding(path)) as file:
        for number, piece in _pieces(file):
            text = piece.rstrip("\n").lstrip("\ufeff")  # the mark, where the codec leaves it in
            if number != before and (text.strip() or len(piece) == MAX_PIECE):
                yield _parse(text, f"{name}:{number}", folders, names_only)
            before = number


def _pieces(file: TextIO) -> Iterator[tuple[int, str]]:
    """The lines of `file` with their numbers; one of more than `MAX_PIECE` comes in pieces."""
    number = 1
    while piece := file.readline(MAX_PIECE):
        yield number, piece
        number += piece.endswith("\n")


def clean_path(text: str) -> str:
    """`text` without quotes and blanks around it and slashes behind it; backslashes as slashes.

    As GPT-SoVITS's `tools/my_utils.py:clean_path`, in whatever order these come.
    """
    slashes = text.replace("\\", "/")
    return slashes.lstrip(_BLANKS_AND_QUOTES).rstrip(_BLANKS_AND_QUOTES + "/")


def _parse(line: str, where: str, folders: list[str], names_only: bool) -> Entry | Failure:
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
    path = _locate(written, cleaned, folders, names_only)
    utterance_id = path.rpartition("/")[2]
    if problem := check_id(utterance_id):
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
    """`path` where it is one; what is too long for a file's path is not kept whole."""
    return path if len(path) <= MAX_PATH_BYTES else shortened(path)


def _locate(written: str, cleaned: str, folders: list[str], names_only: bool) -> str:
    """Where a recording is: by its path as `written` if that exists, else by the cleaned one."""
    if names_only:
        written, cleaned = written.rpartition("/")[2], cleaned.rpartition("/")[2]
    elif _DRIVE.match(cleaned):
        return cleaned  # a drive's path stays recognisable where there are no drives
    if cleaned == written and cleaned[0] == "/":
        return cleaned  # nothing to choose from, so no need to look
    nothing_else = cleaned == written or written[-1:] in ("", "/")
    texts = (cleaned,) if nothing_else else (written, cleaned)
    places = [t if t[0] == "/" else f"{folder}/{t}" for t in texts for folder in folders]
    expected = places[-len(folders)]
    return next(filter(os.path.lexists, places), expected)


def _encoding(path: str) -> str:
    """The encoding that all of the text at `path` is in; ValueError naming a line if none fits."""
    with open(path, "rb") as file:
        has_utf16_mark = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    misfits = []
    for encoding in ("utf-16",) if has_utf16_mark else ("utf-8-sig", "gb18030"):
        first_bad, num_bad, num_foreign = _survey(path, encoding)
        if not num_bad:
            if encoding == "gb18030":
                log.info("%s: not UTF-8, read as GB18030", printable(path))
            return encoding
        misfits.append(f"line {first_bad} is not {encoding.removesuffix('-sig').upper()}")
        if 2 * num_bad < num_foreign:
            break  # mostly this encoding: another one could only misread the good lines
    raise ValueError(f"{printable(path)}: {' and '.join(misfits)}; save the list as UTF-8")


def _survey(path: str, encoding: str) -> tuple[int, int, int]:
    """How well `encoding` fits the text at `path`.

    Returns:
        The number of the first line that it cannot read (0 for none), how many such lines there
        are, and how many lines are not plain ASCII.
    """
    first_bad = num_bad = num_foreign = 0
    with open(path, encoding=encoding, errors="extract.mark") as file:
        for number, piece in _pieces(file):
            if piece.isascii():
                continue
            num_foreign += 1
            if _UNDECODABLE in piece:
                num_bad += 1
                first_bad = first_bad or number
    return first_bad, num_bad, num_foreign
