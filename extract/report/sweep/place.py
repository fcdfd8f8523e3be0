"""Where the page and the table of a sweep lie: above its stores, in place of no other file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from extract.manifest.folders import SWEEP_CSV, SWEEP_PAGE, is_of_a_sweep
from extract.store.export import cell
from extract.store.ledger import ledger_paths
from extract.systems import real_path
from extract.text import printable


def without_repeats(directories: Iterable[Path]) -> list[Path]:
    """Each folder once, in the order of its first mention."""
    found: dict[str, Path] = {}
    for directory in directories:
        found.setdefault(real_path(directory), directory)
    return list(found.values())


def grouped(directories: Iterable[Path]) -> dict[Path, list[Path]]:
    """Stores by the folder that they are in; a store alone in its folder is left out."""
    groups: dict[str, list[Path]] = {}
    for directory in without_repeats(directories):
        groups.setdefault(real_path(above(directory)), []).append(directory)
    return {above(group[0]): group for group in groups.values() if len(group) > 1}


def above(store: Path) -> Path:
    """The folder that a store is in; relative where the store's path is."""
    return store.parent if store.name not in ("", "..") else store.absolute().parent


def name_from(folder: Path, store: Path) -> str:
    """What a store is called beside a page in `folder`: its name if it lies there, or its path."""
    place = store.absolute()
    return place.name if real_path(place.parent) == real_path(folder) else str(place)


def is_current(folder: Path, stores: Sequence[Path]) -> bool:
    """Whether a folder has a page and a table of these jobs, newer than their ledgers."""
    page, table = folder / SWEEP_PAGE, folder / SWEEP_CSV
    try:
        made = min(path.stat().st_mtime_ns for path in (page, table))
        with table.open(encoding="utf-8-sig", newline="") as file:
            shown = [row.get("store") for row in csv.DictReader(file)]
        ledgers = [path for store in stores for path in ledger_paths(store)]
        newer = all(made >= path.stat().st_mtime_ns for path in ledgers)
    except (OSError, ValueError, csv.Error):
        return False
    is_ours = all(is_of_a_sweep(str(path)) for path in (page, table))
    return newer and is_ours and shown == [cell(name_from(folder, store)) for store in stores]


def page_and_table(folder: Path) -> tuple[Path, Path]:
    """The files of a sweep in a folder.

    Raises:
        ValueError: a file or a folder that no sweep made has one of these names.
    """
    for path in (folder / SWEEP_PAGE, folder / SWEEP_CSV):
        if path.is_symlink() or (path.exists() and not is_of_a_sweep(str(path))):
            raise ValueError(
                f"{printable(str(path))}: not made by a sweep, so it stays; needed another name "
                "for it, or another folder (extract report --sweep STORE STORE --output DIR)"
            )
    return folder / SWEEP_PAGE, folder / SWEEP_CSV
