"""What a list says, line by line, made into entries; a bad line is a failure with its number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from extract.manifest.ids import MAX_PATH_BYTES, check_id, max_part_bytes
from extract.manifest.lists import MAX_PIECE, read_lines
from extract.manifest.places import check_path
from extract.manifest.source import Output
from extract.text import count, printable, shortened
from extract.values import Entry, Failure, Reason

Row = TypeVar("Row")


class BadLine(Exception):
    """A line that names no recording: what was found and what is needed, and the path it holds."""

    def __init__(self, detail: str, path: str = "", reason: Reason = "bad_line") -> None:
        super().__init__(detail)
        self.path, self.reason = path, reason


def list_lines(path: str, needed: str, at_least: int = 1) -> Iterator[tuple[int, str]]:
    """The lines of the list at `path` that are not blank, with their numbers: `read_lines`.

    Raises:
        ValueError: it cannot be read, is in no known encoding, or has fewer than `at_least` lines:
            `needed` says what they should hold.
    """
    num = 0
    try:
        for num, numbered in enumerate(read_lines(path), 1):  # noqa: B007
            yield numbered
    except OSError as error:
        raise ValueError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    if num < at_least:
        found = count(num, "line") if num else "no lines"
        raise ValueError(f"{printable(path)}: {found}; needed: {needed}")


def listed(
    path: str,
    rows: Iterable[tuple[int, Row]],
    parse: Callable[[Row], Entry],
    output: Output,
    unit: str = "line",
) -> Iterator[Entry | Failure]:
    """An entry for each row, or the failure that its number and the file's name identify.

    Args:
        path: the list; failures have its file name.
        rows: with their numbers.
        parse: makes an entry of a row, or raises `BadLine`.
        output: which files the run will write.
        unit: what a row is called in a failure's detail.
    """
    name, part_bytes = Path(path).name, max_part_bytes(output.suffixes)
    for number, row in rows:
        try:
            entry = parse(row)
            _check(entry, part_bytes)
        except BadLine as error:
            where, detail = printable(f"{name}:{number}"), f"{unit} {number}: {error}"
            yield Failure.of_source(where, _bounded(error.path), error.reason, detail)
        else:
            yield entry


def _check(entry: Entry, part_bytes: int) -> None:
    if problem := check_id(entry.id, part_bytes):
        shown = shortened(entry.id)
        raise BadLine(f"'{shown}' cannot name a file: {problem}", entry.path, "bad_id")
    if problem := check_path(entry.path):
        raise BadLine(problem, entry.path)


def _bounded(path: str) -> str:
    """`path`, shortened if it is too long to be a file's path."""
    return path if len(path) <= MAX_PATH_BYTES else shortened(path)


def of_the_part_read(line: str) -> str:
    """Words for a message about a line of which only the beginning was read; else nothing."""
    return f" in the first {MAX_PIECE:,} characters" if len(line) == MAX_PIECE else ""
