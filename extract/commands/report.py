"""`python -m extract report STORE...`: makes a page, `report.html`, of what is in each store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from extract import exits
from extract.store.export import output_path
from extract.text import shown

MAX_NAME = 200  # characters of a path in a message


def main(argv: Sequence[str]) -> int:
    """Writes the page of each store, and prints where it is.

    Returns:
        0: every page is written; 1: a ledger cannot be read, or a page not be written; 2: a folder
        is no store, or the page may not have that name; 130: Ctrl-C.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    stores = [Path(store).expanduser() for store in options.stores]
    if options.output is not None and len(stores) > 1:
        parser.error("--output FILE takes one STORE; without it each store has its own report.html")
    try:
        target = (
            None if options.output is None else output_path("--output", options.output, stores[0])
        )
        codes = [_write(store, target) for store in stores]
    except ValueError as error:
        sys.stderr.write(f"extract report: {shown(str(error), 2 * MAX_NAME)}\n")
        return exits.USAGE.code
    except KeyboardInterrupt:
        return exits.INTERRUPTED.code
    return max(codes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("extract report", description=__doc__)
    parser.add_argument(
        "stores", metavar="STORE", nargs="+", help="a folder that holds ledger.jsonl"
    )
    parser.add_argument("--output", metavar="FILE", help="the page; else report.html in the store")
    return parser


def _write(store: Path, target: Path | None) -> int:
    from extract.report.run import write  # NumPy and PyAV, for which `--help` does not wait

    try:
        path = write(store, target)
    except OSError as error:
        sys.stderr.write(f"extract report: {shown(str(error), MAX_NAME)}\n")
        return exits.UNREADABLE.code
    sys.stdout.write(f"{shown(str(path), MAX_NAME)}\n")
    return exits.DONE.code
