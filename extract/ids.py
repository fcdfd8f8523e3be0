"""Entries and faults; what may be an id, and which ids would write the same file.

An id names an utterance's files: the store writes `<id>` and `<id>.pt` below its folders, with "/"
between folders. So an id must stay below the folder it is put in, and no two may meet there.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extract.strings import PackedStrings

TEMPORARY_PREFIX = ".tmp-"  # what the store calls a file that is not finished
SUFFIXES = ("", ".pt")  # what the store adds to an id
MAX_NAME_BYTES = 255  # ext4, xfs, NTFS and APFS allow that much for one part of a path
MAX_PART_BYTES = MAX_NAME_BYTES - max(map(len, SUFFIXES))
MAX_SHOWN = 10
MAX_SHOWN_CHARACTERS = 200
MAX_PATH_BYTES = 4095  # Linux opens no longer one
MAX_ID_BYTES = 4000  # Linux allows 4096 for a path; the store's own folder needs some

_UNUSUAL = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]|(?:\A|/)(?:[./]|\Z)")
_UNSAFE_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")


@dataclass(frozen=True)
class Entry:
    """One recording: `id` names its files in the store, "/" between folders; `path` is its own."""

    id: str
    path: str


@dataclass(frozen=True)
class Fault:
    """What a source names but nothing can be made of.

    `reason` is `bad_line`, `bad_id` or `unreadable_folder`. `id` is printable and stands for this
    fault alone in its manifest; it names no file. `detail` is one printable line for the user.
    """

    id: str
    path: str
    reason: str
    detail: str


def check_id(text: str) -> str | None:
    """What is wrong with `text` as an id; None if it can name files below any folder."""
    most_bytes = len(text) if text.isascii() else 4 * len(text)
    if most_bytes <= MAX_PART_BYTES and not _UNUSUAL.search(text):
        return None  # nearly every id, at a third of the time
    if unsafe := _UNSAFE_CHARACTER.search(text):
        return f"the character {unsafe[0]!a} is not safe in a file's name"
    if text.startswith("/"):
        return "an absolute path"
    if (num_bytes := len(text.encode())) > MAX_ID_BYTES:
        return f"{num_bytes} bytes; at most {MAX_ID_BYTES} are possible"
    return next(filter(None, map(_check_name, text.split("/"))), None)


def _check_name(name: str) -> str | None:
    if name in ("", ".", ".."):
        return f"the part '{name}' names no file"
    if name.startswith(TEMPORARY_PREFIX):
        return f"names that start with {TEMPORARY_PREFIX!r} are kept for unfinished files"
    if (num_bytes := len(name.encode())) > MAX_PART_BYTES:
        return f"a part of {num_bytes} bytes; at most {MAX_PART_BYTES} are possible"
    return None


def printable(text: str) -> str:
    """`text` with whatever cannot be printed or encoded escaped; different texts stay different."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else ascii(c)[1:-1] for c in text)


def shortened(text: str) -> str:
    """`text` printable and of a length that a message can hold; says how much is left out."""
    more = len(text) - MAX_SHOWN_CHARACTERS
    shown = printable(text[:MAX_SHOWN_CHARACTERS])
    return f"{shown}... and {more:,} characters more" if more > 0 else shown


class Clash(NamedTuple):
    """Two recordings that would write the same file."""

    ids: tuple[str, str]
    paths: tuple[str, str]

    def __str__(self) -> str:
        names = self.ids[0] if self.ids[0] == self.ids[1] else " and ".join(self.ids)
        return printable(f"{names}: {self.paths[0]} and {self.paths[1]}")


def clash_message(source: str, clashes: Sequence[Clash]) -> str:
    """What to tell the user about `clashes`: the first ten of them, how many more, the remedy."""
    pairs = "1 pair" if len(clashes) == 1 else f"{len(clashes)} pairs"
    lines = [f"{source}: recordings that would write the same file, {pairs}:"]
    lines += (f"  {clash}" for clash in clashes[:MAX_SHOWN])
    if len(clashes) > MAX_SHOWN:
        lines.append(f"  and {len(clashes) - MAX_SHOWN} more")
    return "\n".join(
        [*lines, "Each needs a name of its own: rename or leave out one of each pair."]
    )


def find_clashes(ids: PackedStrings, paths: PackedStrings) -> tuple[list[int], list[Clash]]:
    """Indices of entries that repeat an earlier one, and the pairs that would write the same file.

    Works on 8-byte hashes, so that a million ids need a few arrays; equal hashes are then compared
    for what they stand for.
    """
    hashes = np.fromiter(map(hash, ids.iter_bytes()), np.int64, len(ids))
    repeats, clashes = _same_id(ids, paths, hashes)
    return repeats, clashes + _file_as_folder(ids, paths, hashes)


def _same_id(
    ids: PackedStrings, paths: PackedStrings, hashes: npt.NDArray[np.int64]
) -> tuple[list[int], list[Clash]]:
    repeats: list[int] = []
    clashes: list[Clash] = []
    earlier: dict[str, int] = {}
    for index in _indices_of_repeated(hashes):
        first = earlier.setdefault(ids[index], index)
        if first == index:
            continue
        pair = (paths[first], paths[index])
        if pair[0] == pair[1] or os.path.realpath(pair[0]) == os.path.realpath(pair[1]):
            repeats.append(index)
        else:
            clashes.append(Clash((ids[index], ids[index]), pair))
    return repeats, clashes


def _indices_of_repeated(hashes: npt.NDArray[np.int64]) -> list[int]:
    """Where the values are that occur more than once, ascending."""
    order = np.argsort(hashes, kind="stable")
    equals_next = hashes[order[1:]] == hashes[order[:-1]]
    repeated = np.zeros(len(hashes), bool)
    repeated[order[1:][equals_next]] = True
    repeated[order[:-1][equals_next]] = True
    return np.flatnonzero(repeated).tolist()


def _file_as_folder(
    ids: PackedStrings, paths: PackedStrings, hashes: npt.NDArray[np.int64]
) -> list[Clash]:
    """Ids one of whose files ("a" or "a.pt") is a folder for another id ("a/b", "a.pt/b")."""
    folder_hashes = array("q", (hash(folder) for _, folder in _folders(ids)))
    suspects = np.flatnonzero(np.isin(hashes, np.unique(np.asarray(folder_hashes, np.int64))))
    files = {ids[index].encode(): index for index in suspects.tolist()}
    clashes = {}
    for index, folder in _folders(ids) if files else ():
        if (other := files.get(folder)) is not None:
            clashes[other] = Clash((ids[other], ids[index]), (paths[other], paths[index]))
    return list(clashes.values())


def _folders(ids: PackedStrings) -> Iterator[tuple[int, bytes]]:
    """Index and id of each id that would have a file where another one needs a folder.

    A folder is given once for a run of neighbours in it.
    """
    suffixes = tuple(suffix.encode() for suffix in SUFFIXES)
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
