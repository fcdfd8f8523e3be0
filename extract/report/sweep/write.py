"""`write`: the page and the table of a sweep, `sweep.html` and `sweep.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from extract.files import replace_whole
from extract.report.sweep.numbers import measure
from extract.report.sweep.page import page_of
from extract.report.sweep.place import page_and_table
from extract.report.sweep.table import csv_of
from extract.store import ledger
from extract.text import printable


def write(stores: Sequence[Path], folder: Path) -> Path:
    """Writes the table and then the page of a sweep, each whole or not at all.

    Args:
        stores: of the jobs, in their order.
        folder: where the files go.

    Returns:
        The page.

    Raises:
        ValueError: there is no ledger in a store, or a file or a folder that no sweep made has the
            name of one of the files.
        OSError: a ledger cannot be read, or a file not be written.
    """
    for store in stores:
        if not ledger.ledger_paths(store):
            raise ValueError(f"{printable(str(store))}: no ledger here; needed the folder of a run")
    page, table = page_and_table(folder)
    sweep = measure(stores, folder)
    replace_whole(table, csv_of(sweep), fsync=False)
    replace_whole(page, page_of(sweep, folder), fsync=False)
    return page
