"""Finds recordings that would write the same file, before any work."""

from __future__ import annotations

import os
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extract.manifest.cuts import Cuts, describe_cut
from extract.manifest.ids import MAX_SHOWN
from extract.manifest.strings import PackedStrings
from extract.text import count, printable


class Clash(NamedTuple):
    """Two recordings that would write the same file."""

    ids: tuple[str, str]
    paths: tuple[str, str]
    second: int  # index of the second one in its manifest

    def __str__(self) -> str:
        names = self.ids[0] if self.ids[0] == self.ids[1] else " and ".join(self.ids)
        return printable(f"{names}: {self.paths[0]} and {self.paths[1]}")


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
    hashes = np.fromiter(map(hash, names.iter_bytes()), np.int64, len(ids))
    repeats, clashes = _same_id(ids, names, paths, cuts, hashes)
    endings = [_folded(suffix) if folds_case else suffix for suffix in suffixes]
    return repeats, clashes + _file_as_folder(ids, names, paths, hashes, endings)


def _folded(text: str) -> str:
    """The same for names that differ in case or in how an accent is written.

    Alike for a few more than NTFS or APFS takes for one: refusing those loses no recording.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _same_id(
    ids: PackedStrings,
    names: PackedStrings,
    paths: PackedStrings,
    cuts: Cuts | None,
    hashes: npt.NDArray[np.int64],
) -> tuple[list[int], list[Clash]]:
    repeats: list[int] = []
    clashes: list[Clash] = []
    earlier: dict[str, int] = {}
    for index in _indices_of_repeated(hashes):
        first = earlier.setdefault(names[index], index)
        if first == index:
            continue
        pair = (paths[first], paths[index])
        same_cut = cuts is None or cuts[first] == cuts[index]
        if same_cut and _is_same_file(*pair):
            repeats.append(index)
        else:
            if cuts is not None:
                pair = (
                    pair[0] + describe_cut(*cuts[first]),
                    pair[1] + describe_cut(*cuts[index]),
                )
            clashes.append(Clash((ids[first], ids[index]), pair, index))
    return repeats, clashes


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


def _file_as_folder(
    ids: PackedStrings,
    names: PackedStrings,
    paths: PackedStrings,
    hashes: npt.NDArray[np.int64],
    suffixes: Sequence[str],
) -> list[Clash]:
    """Ids one of whose files ("a" or "a.pt") is a folder for another id ("a/b", "a.pt/b")."""
    encoded = tuple(suffix.encode() for suffix in suffixes)
    folder_hashes = array("q", (hash(folder) for _, folder in _folders(names, encoded)))
    suspects = np.flatnonzero(np.isin(hashes, np.unique(np.asarray(folder_hashes, np.int64))))
    files = {names[index].encode(): index for index in suspects.tolist()}
    clashes = {}
    for index, folder in _folders(names, encoded) if files else ():
        if (other := files.get(folder)) is not None:
            pair = (ids[other], ids[index]), (paths[other], paths[index])
            clashes[other] = Clash(*pair, index)
    return list(clashes.values())


def _folders(ids: PackedStrings, suffixes: tuple[bytes, ...]) -> Iterator[tuple[int, bytes]]:
    """Index and id of each id that would have a file where another one needs a folder.

    A folder is given once for a run of neighbours in it.
    """
    previous = b""
    for index, raw in enumerate(ids.iter_bytes()):
        parent = raw.rpartition(b"/")[0]
        if parent == previous:
            continue
        previous = folder = parent
        while folder:
            for suffix in suffixes:
                if folder.endswith(suffix):
                    yield index, folder[: len(folder) - len(suffix)]
            folder = folder.rpartition(b"/")[0]
