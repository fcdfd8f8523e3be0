"""`python -m extract report STORE...`: makes a page, `report.html`, of what is in each store.

With `--sweep` one page, `sweep.html`, of several stores side by side, in the folder above them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from extract import exits
from extract.store.export import output_path
from extract.text import shown
from extract.urls import as_url, was_url

MAX_NAME = 200  # characters of a path in a message


def main(argv: Sequence[str]) -> int:
    """Writes the page of each store, or those of sweeps, and prints where they are.

    Returns:
        0: every page is written; 1: a ledger cannot be read, or a page not be written; 2: a folder
        is no store, or the page may not have that name; 130: Ctrl-C.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    stores = [Path(store).expanduser() for store in options.stores]
    if options.output is not None and len(stores) > 1 and not options.sweep:
        parser.error("--output FILE takes one STORE; without it each store has its own report.html")
    try:
        _require_folders(stores)
        codes = _sweeps(stores, options.output) if options.sweep else _reports(stores, options)
    except ValueError as error:
        sys.stderr.write(f"extract report: {shown(str(error), 2 * MAX_NAME)}\n")
        return exits.USAGE.code
    except KeyboardInterrupt:
        return exits.INTERRUPTED.code
    return max(codes)


def _require_folders(stores: Sequence[Path]) -> None:
    from extract.store.store import no_url

    for store in map(str, stores):
        if was_url(store):
            raise ValueError(no_url(as_url(store), "extract report"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("extract report", description=__doc__)
    parser.add_argument(
        "stores", metavar="STORE", nargs="+", help="a folder that holds ledger.jsonl"
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="one page of all stores in a folder: their settings, their numbers, their sounds",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the page, else report.html in the store; with --sweep a folder for sweep.html and "
        "sweep.csv, else the one that the stores are in",
    )
    return parser


def _reports(stores: Sequence[Path], options: argparse.Namespace) -> list[int]:
    """Writes the page of each store; the exit codes."""
    from extract.report.run import write  # NumPy and PyAV, for which `--help` does not wait

    target = None if options.output is None else output_path("--output", options.output, stores[0])
    return [_said(partial(write, store, target)) for store in stores]


def _sweeps(stores: Sequence[Path], output: str | None) -> list[int]:
    """Writes a page of the stores of each folder, or one page of all into `output`."""
    from extract.report.sweep.place import grouped, without_repeats
    from extract.report.sweep.write import write

    if output is None:
        groups = grouped(stores)
        if not groups:
            raise ValueError("--sweep: no two stores in one folder; needed more, or --output DIR")
    else:
        folder = Path(output).expanduser()
        if not (output and folder.is_dir()):
            raise ValueError(f"--output {output}: no folder; --sweep needs one that is there")
        groups = {folder: without_repeats(stores)}
    return [_said(partial(write, group, folder)) for folder, group in groups.items()]


def _said(write: Callable[[], Path]) -> int:
    """Makes a page and prints where it is; the exit code."""
    try:
        path = write()
    except OSError as error:
        sys.stderr.write(f"extract report: {shown(str(error), MAX_NAME)}\n")
        return exits.UNREADABLE.code
    sys.stdout.write(f"{shown(str(path), MAX_NAME)}\n")
    return exits.DONE.code
