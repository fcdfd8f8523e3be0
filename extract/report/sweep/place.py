"""Where the page and the table of a sweep lie: above its stores, in place of no other file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from extract.manifest.folders import SWEEP_CSV, SWEEP_PAGE, is_of_a_sweep
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
