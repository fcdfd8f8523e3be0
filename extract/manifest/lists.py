"""Reads the lines of a list in UTF-8, UTF-16 or GB18030, whichever fits."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Iterator
from typing import TextIO

from extract.text import printable

log = logging.getLogger(__name__)

MAX_PIECE = 1 << 16  # characters read at once: a file without line ends is never held whole
_UNDECODABLE = "\udcff"  # no valid text contains it


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)  # the handler is for reading only
    return _UNDECODABLE, error.end


codecs.register_error("extract.mark", _mark_undecodable)


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of the list at `path` that are not blank, with their numbers, from 1.

    A line of more than `MAX_PIECE` characters comes as its first `MAX_PIECE`.

    Args:
        path: the list; any line ends, in UTF-8, UTF-16 with its mark, or GB18030.

    Raises:
        ValueError: an encoding that is none of these; names the line.
        OSError: it cannot be read.
    """
    before = 0
    with open(path, encoding=_encoding(path)) as file:
        for number, piece in _pieces(file):
            text = piece.rstrip("\n").lstrip("\ufeff")  # the mark, where the codec leaves it in
            is_blank = not text or text.isspace()
            if number != before and (not is_blank or len(piece) == MAX_PIECE):
                yield number, text
            before = number


def _pieces(file: TextIO) -> Iterator[tuple[int, str]]:
    """The lines of `file` with their numbers; one of more than `MAX_PIECE` comes in pieces."""
    number = 1
    while piece := file.readline(MAX_PIECE):
        yield number, piece
        number += piece.endswith("\n")


def _encoding(path: str) -> str:
    """The encoding that all of the text at `path` is in; ValueError naming a line if none fits."""
    with open(path, "rb") as file:
        has_utf16_mark = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    misfits = []
    for encoding in ("utf-16",) if has_utf16_mark else ("utf-8-sig", "gb18030"):
        fits = _fits(path, encoding)
        first_bad, num_bad, num_foreign = (0, 0, 0) if fits else _survey(path, encoding)
        if not num_bad:
            if encoding == "gb18030":
                log.info("%s: not UTF-8, read as GB18030", printable(path))
            return encoding
        misfits.append(f"line {first_bad} is not {encoding.removesuffix('-sig').upper()}")
        if 2 * num_bad < num_foreign:
            break  # mostly this encoding: another one could only misread the good lines
    raise ValueError(f"{printable(path)}: {' and '.join(misfits)}; save the list as UTF-8")


def _fits(path: str, encoding: str) -> bool:
    """Whether all of the text at `path` is in `encoding`; a fifth of the time of `_survey`."""
    try:
        with open(path, encoding=encoding) as file:
            while file.read(MAX_PIECE):
                pass
    except UnicodeError:
        return False
    return True


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
