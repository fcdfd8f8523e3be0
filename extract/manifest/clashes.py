"""Finds recordings that would write the same file, before any work."""

from __future__ import annotations

import os
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extract.manifest.cuts import Cuts, describe_cut
from extract.manifest.ids import MAX_SHOWN
from extract.manifest.strings import PackedStrings
from extract.text import count, printable


class Clash(NamedTuple):
    """Two recordings that would write the same file."""

    later: int  # index of the one that comes later in the source
    ids: tuple[str, str]  # in the source's order
    paths: tuple[str, str]  # with their cuts, if they are any

    def __str__(self) -> str:
        """Both ids and paths; a file comes before what needs a folder in its place."""
        pairs = sorted(zip(self.ids, self.paths, strict=True), key=lambda pair: pair[0].count("/"))
        (one, path), (other, other_path) = pairs
        names = one if one == other else f"{one} and {other}"
        return printable(f"{names}: {path} and {other_path}")


def clash_message(source: str, clashes: Sequence[Clash]) -> str:
    """The message about `clashes`: the first ten of them, how many more there are, the remedy."""
    pairs = count(len(clashes), "pair")
    lines = [f"{source}: recordings that would write the same file, {pairs}:"]
    lines += (f"  {clash}" for clash in clashes[:MAX_SHOWN])
    if len(clashes) > MAX_SHOWN:
        lines.append(f"  and {len(clashes) - MAX_SHOWN} more")
    return "\n".join(
        [*lines, "Each needs a name of its own: rename or leave out one of each pair."]
    )


def find_clashes(
    ids: PackedStrings,
    paths: PackedStrings,
    cuts: Cuts | None,
    suffixes: Sequence[str],
    folds_case: bool = False,
) -> tuple[list[int], list[Clash]]:
    """Indices of entries that repeat an earlier one, and the pairs that would write the same file.

    In the source's order: each entry is taken unless one that was taken has its file. An entry that
    is not taken is the later one of one pair, so all others can live side by side.

    Works on 8-byte hashes, so that a million ids need a few arrays. Where hashes are equal, the ids
    themselves are compared.

    Args:
        ids: of the entries.
        paths: of their files.
        cuts: of the entries; None where none is a cut.
        suffixes: what the store's layout adds to an id.
        folds_case: whether `A` and `a` are one file in the store.
    """
    names = PackedStrings.from_iterable(map(_folded, ids)) if folds_case else ids
    endings = [_folded(suffix) if folds_case else suffix for suffix in suffixes]
    hashes = np.fromiter(map(hash, names.iter_bytes()), np.int64, len(ids))
    repeats: list[int] = []
    clashes: list[Clash] = []
    taken = _Taken(endings)
    suspects = {*_indices_of_repeated(hashes), *_around_folders(names, hashes, endings)}
    for index in sorted(suspects):
        name = names[index]
        first = taken.holder_of(name)
        if first is None:
            taken.add(name, index)
            continue
        same_cut = cuts is None or cuts[first] == cuts[index]
        if names[first] == name and same_cut and _is_same_file(paths[first], paths[index]):
            repeats.append(index)
        else:
            where = (_located(paths, cuts, first), _located(paths, cuts, index))
            clashes.append(Clash(index, (ids[first], ids[index]), where))
    return repeats, clashes


class _Taken:
    """Names that are taken, each by the index of its entry.

    Args:
        suffixes: what the layout adds to a name to name files.
    """

    def __init__(self, suffixes: Sequence[str]) -> None:
        self._suffixes = suffixes
        self._names: dict[str, int] = {}
        self._folders: dict[str, int] = {}  # that the files of these names are in

    def add(self, name: str, index: int) -> None:
        """Takes a name."""
        self._names[name] = index
        for folder in _parents(name):
            self._folders.setdefault(folder, index)

    def holder_of(self, name: str) -> int | None:
        """The entry that has a file of this name, or one where this name needs a folder."""
        if name in self._names:
            return self._names[name]
        for suffix in self._suffixes:
            if name + suffix in self._folders:
                return self._folders[name + suffix]
        for folder in _parents(name):
            for suffix in self._suffixes:
                if folder.endswith(suffix) and folder.removesuffix(suffix) in self._names:
                    return self._names[folder.removesuffix(suffix)]
        return None


def _parents(name: str) -> Iterator[str]:
    """The folders that a name is in: `a/b` and `a` for `a/b/c`."""
    while name := name.rpartition("/")[0]:
        yield name


def _located(paths: PackedStrings, cuts: Cuts | None, index: int) -> str:
    return paths[index] + ("" if cuts is None else describe_cut(*cuts[index]))


def _folded(text: str) -> str:
    """The same for names that differ in case or in how an accent is written.

    Alike for a few more than NTFS or APFS takes for one: refusing those loses no recording.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _is_same_file(one: str, other: str) -> bool:
    """Whether two paths lead to one file, links and all; equal paths that lead nowhere do."""
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _indices_of_repeated(hashes: npt.NDArray[np.int64]) -> list[int]:
    """Indices of the values that occur more than once, ascending."""
    order = np.argsort(hashes, kind="stable")
    equals_next = hashes[order[1:]] == hashes[order[:-1]]
    repeated = np.zeros(len(hashes), bool)
    repeated[order[1:][equals_next]] = True
    repeated[order[:-1][equals_next]] = True
    return np.flatnonzero(repeated).tolist()


def _around_folders(
    names: PackedStrings, hashes: npt.NDArray[np.int64], suffixes: Sequence[str]
) -> Iterator[int]:
    """Entries one of whose files ("a" or "a.pt") is a folder for another one, and those in it."""
    encoded = tuple(suffix.encode() for suffix in suffixes)
    sought = (hash(name) for _, parent in _runs(names) for name in _as_files(parent, encoded))
    sought_hashes = np.unique(np.asarray(array("q", sought), np.int64))
    suspects = np.flatnonzero(np.isin(hashes, sought_hashes)).tolist()
    files = {names[index].encode() for index in suspects}
    yield from suspects
    for indices, parent in _runs(names) if files else ():
        if not files.isdisjoint(_as_files(parent, encoded)):
            yield from indices


def _runs(names: PackedStrings) -> Iterator[tuple[range, bytes]]:
    """Neighbours that are in one folder: their indices, and the folder."""
    start = 0
    parents = (raw.rpartition(b"/")[0] for raw in names.iter_bytes())
    for parent, run in groupby(parents):
        end = start + sum(1 for _ in run)
        yield range(start, end), parent
        start = end


def _as_files(folder: bytes, suffixes: tuple[bytes, ...]) -> Iterator[bytes]:
    """Names one of whose files would be `folder`, or a folder above it."""
    while folder:
        for suffix in suffixes:
            if folder.endswith(suffix):
                yield folder[: len(folder) - len(suffix)]
        folder = folder.rpartition(b"/")[0]
