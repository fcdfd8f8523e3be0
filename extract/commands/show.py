"""`python -m extract show STORE`: what became of each utterance, from the store's ledgers."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from extract import exits
from extract.files import replace_whole
from extract.store.at_url import folder_with_ledgers
from extract.store.export import csv_parts, output_path, parquet_parts
from extract.store.ledger import ledger_paths, lines
from extract.text import count, shown
from extract.urls import redacted
from extract.values import FAILED, REJECTED, SAVED, STATUS_OF, STATUSES

BLOCK = 1_000  # rows that are held at a time and share their columns' widths
MAX_CELL = 200  # characters; `--json` shows all
MAX_WIDTH = 60  # columns that a cell is filled up to for the sake of a longer one
NO_STORE = (
    "no ledger here; needed the folder of a run, which holds ledger.jsonl and which the run's "
    "last line names"
)

# The columns of the table: a field of the ledger and its number format, "" for text.
COLUMNS = {
    "status": "",
    "reason": "",
    "duration_s": ".2f",
    "peak": ".3f",
    "clipped_samples": ",",
    "id": "",
    "detail": "",
}

Record = Mapping[str, Any]


def main(argv: Sequence[str]) -> int:
    """Prints a store's ledgers, one line an utterance, and the totals of all.

    Or gives them as JSON, CSV or Parquet. A Parquet file is whole, or not there.

    Returns:
        0: all is printed, or the output's reader has closed it; 1: a ledger cannot be
        read, or the output not be written; 2: the folder is no store, the file may not be written,
        or a package is missing; 130: Ctrl-C.
    """
    options = _parser().parse_args(argv)
    try:
        directory = folder_with_ledgers(options.store)
        if not ledger_paths(directory):
            sys.stderr.write(f"{shown(redacted(options.store), MAX_CELL)}: {NO_STORE}\n")
            return exits.USAGE.code
        _give(_records(directory), directory, options)
    except BrokenPipeError:
        _forget_output()
    except ValueError as error:
        sys.stderr.write(f"extract show: {shown(str(error), 2 * MAX_CELL)}\n")
        return exits.USAGE.code
    except OSError as error:
        _forget_output()
        sys.stderr.write(f"extract show: {shown(str(error), MAX_CELL)}\n")
        return exits.UNREADABLE.code
    except KeyboardInterrupt:
        _forget_output()
        return exits.INTERRUPTED.code
    return exits.DONE.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("extract show", description=__doc__)
    parser.add_argument("store", metavar="STORE", help="the folder of ledger.jsonl, or its URL")
    parser.add_argument("--status", choices=STATUSES, help="only utterances of this status")
    parser.add_argument(
        "--reason",
        choices=sorted(STATUS_OF),
        metavar="REASON",
        help=f"only of this reason: {', '.join(sorted(STATUS_OF))}",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="a JSON object a line: whole records and no totals"
    )
    form.add_argument(
        "--csv", action="store_true", help="all fields as CSV, which spreadsheets open safely"
    )
    form.add_argument(
        "--parquet", metavar="FILE", help="all fields, typed, into a Parquet file: needs pyarrow"
    )
    return parser


def _give(records: Iterator[Record], directory: Path, options: argparse.Namespace) -> None:
    """Prints the records, or writes them to a file, in the form that the options name.

    Raises:
        ValueError: the file may not be written, or a package is missing.
    """
    totals = _Totals()
    wanted = (record for record in totals.counting(records) if _wanted(record, options))
    if options.csv:
        _print_bytes(csv_parts(wanted))
    elif options.parquet is not None:
        path = output_path("--parquet", options.parquet, directory)
        replace_whole(path, parquet_parts(wanted))
        _print(totals.lines())
    else:
        _print(_lines(wanted, totals, options))


def _records(directory: Path) -> Iterator[Record]:
    """The ledgers' records, and those of damaged lines with an id, which the next run drops."""
    for line in chain.from_iterable(map(lines, ledger_paths(directory))):
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("id"), str):
                yield record


def _print(text: Iterable[str]) -> None:
    if sys.stdout is None:  # it was closed before the start
        return
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the locale cannot encode
    sys.stdout.writelines(f"{line}\n" for line in text)
    sys.stdout.flush()


def _print_bytes(parts: Iterable[bytes]) -> None:
    """Writes to stdout what has an encoding and line ends of its own."""
    if sys.stdout is None:
        return
    sys.stdout.flush()
    sys.stdout.buffer.writelines(parts)
    sys.stdout.buffer.flush()


def _forget_output() -> None:
    """Points stdout at the null device: else Python, as it exits, flushes its buffer and fails."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _lines(wanted: Iterator[Record], totals: _Totals, options: argparse.Namespace) -> Iterator[str]:
    """The lines to print, made one block at a time, however many records there are."""
    if options.json:
        yield from map(json.dumps, wanted)  # ASCII: a name cannot steer the terminal
        return
    yield from _table(map(_cells, wanted))
    yield from totals.lines()


def _wanted(record: Record, options: argparse.Namespace) -> bool:
    pairs = (options.status, record.get("status")), (options.reason, record.get("reason"))
    return all(wanted in (None, found) for wanted, found in pairs)


def _cells(record: Record) -> list[str]:
    shared = record.get("shared")
    said = {"detail": f"features of {shared}"} if shared and not record.get("detail") else {}
    return [_cell({**record, **said}.get(field), form) for field, form in COLUMNS.items()]


def _cell(value: object, form: str) -> str:
    """A value as text: printable and bounded, whatever a damaged ledger holds."""
    if value is None:
        return ""
    if form and isinstance(value, int | float):
        return format(value, form)
    return shown(str(value), MAX_CELL)


def _table(rows: Iterator[list[str]]) -> Iterator[str]:
    """Rows under their heads, aligned within a block; the last column is as wide as it is."""
    rows = chain([list(COLUMNS)], rows)
    while block := list(islice(rows, BLOCK)):
        widths = [max(map(cell_len, column)) for column in zip(*block, strict=True)]
        for row in block:
            yield "  ".join(map(_filled, row, widths, COLUMNS.values())).rstrip()


def _filled(cell: str, width: int, form: str) -> str:
    blanks = " " * (min(MAX_WIDTH, width) - cell_len(cell))
    return blanks + cell if form else cell + blanks


class _Totals:
    """Counts the records that pass through `counting`."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.saved_s = 0.0

    def counting(self, records: Iterable[Record]) -> Iterator[Record]:
        """The same records, each counted before it is handed on."""
        for record in records:
            status, reason = record.get("status"), record.get("reason")
            self.outcomes[_cell(status, ""), _cell(reason, "")] += 1
            duration_s = record.get("duration_s")
            if status == SAVED and isinstance(duration_s, int | float):
                self.saved_s += duration_s
            yield record

    def lines(self) -> Iterator[str]:
        """`1,000 utterances: 990 saved (1.38 h), 7 rejected (silent 7), 3 failed (missing 3)`."""
        parts = [f"{self._num(SAVED):,} saved ({self.saved_s / 3600:.2f} h)"]
        for status in (REJECTED, FAILED):
            found = sorted(item for item in self.outcomes.items() if item[0][0] == status)
            reasons = ", ".join(f"{reason} {number:,}" for (_status, reason), number in found)
            parts.append(f"{self._num(status):,} {status}" + (reasons and f" ({reasons})"))
        yield f"{count(self.outcomes.total(), 'utterance')}: {', '.join(parts)}"

    def _num(self, status: str) -> int:
        return sum(number for (some, _reason), number in self.outcomes.items() if some == status)
