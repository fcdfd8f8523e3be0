"""Kaldi's archives: `feats.scp` and `utt2num_frames`, as espnet and kaldiio read them.

    feats.scp        <key> <absolute path of an ark>:<offset of its matrix>, sorted by key
    utt2num_frames   <key> <frames>
    arks/*.ark       matrices (num_frames, hidden_size) in float32, of several MB each; at most
                     `store.ark_mb`, but for an utterance that is larger

A key is the utterance's id. Kaldi's keys have no white space: it stands there as in a URL, `%20`
for a blank (`extract.store.keys`). The two lists are replaced at the end of a run, each whole.
"""

from __future__ import annotations

import heapq
import itertools
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from extract.fields import number
from extract.files import TEMPORARY_PREFIX, Buffer, open_regular, replace_whole
from extract.store.archives import Archives
from extract.store.blocks import Block
from extract.store.files import StoreFiles
from extract.store.keys import escaping, id_of, key_of
from extract.store.layout import Kept, Layout, LayoutOptions, Records, TrainingAudio

if TYPE_CHECKING:
    from torch import Tensor

    from extract.values import Encoded

FOLDER = "arks"
SCP, NUM_FRAMES = "feats.scp", "utt2num_frames"

Line = tuple[bytes, bytes]  # a key, and what follows it

_ESCAPING = escaping(r"\s")
_MATRIX = b"\0BFM "  # binary, a matrix of float32
_SIZES = struct.Struct("<bibi")  # of rows and columns, each after the number of its bytes
_HEADER = len(_MATRIX) + _SIZES.size
_MOST_KEY = 1 << 14  # bytes
_NO_ID = b"\\"  # of which keys of blank blocks are made: no id has one
_OURS = re.compile(rb"/(%b/[^/]+\.ark):\d+\s*\Z" % FOLDER.encode())
_UNFINISHED = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}(?:{SCP}|{NUM_FRAMES})-\d+-[0-9a-f]{{8}}")


@dataclass
class Options(LayoutOptions):
    """Kaldi's archives: `feats.scp`, `utt2num_frames` and arks of float32 matrices."""

    layout: str = "kaldi"
    audio: TrainingAudio = TrainingAudio.none
    ark_mb: float = number(256.0, above=0)  # megabytes of an ark; a killed run loses less than one


def layout(options: Options, directory: Path, files: StoreFiles) -> Layout:
    """The layout of one store."""
    return Kaldi(directory, files, options.ark_mb)


class Ark:
    """The format of an ark: `<key> `, then a binary matrix."""

    suffix = ".ark"
    ending = b""
    renames = True

    def block(self, item: Encoded) -> list[Buffer]:
        """A key and its matrix: `Format.block`."""
        import numpy as np

        values = item.features.values[0]
        matrix = np.ascontiguousarray(values.numpy(), "<f4")
        head = (
            key(item.recording.id) + b" " + _MATRIX + _SIZES.pack(4, len(matrix), 4, len(matrix.T))
        )
        return [head, matrix.data.cast("B")]

    def start(self, id: str) -> bytes:  # noqa: A002 - the ledger's own word
        """The key, and what every matrix begins with: `Format.start`."""
        return key(id) + b" " + _MATRIX

    def features(self, block: bytes) -> Tensor:
        """The matrix, (1, num_frames, hidden_size): `Format.features`."""
        import numpy as np
        import torch

        at = block.index(b" ") + 1
        rows, columns = _sizes(block[at : at + _HEADER]) or (0, -1)
        matrix = np.frombuffer(block[at + _HEADER :], "<f4")
        if columns < 0 or matrix.size != rows * columns:
            raise ValueError("no matrix of float32")
        return torch.from_numpy(matrix.reshape(1, rows, columns).astype(np.float32))

    def scan(self, file: BinaryIO) -> Iterator[Block]:
        """Keys and matrices: `Format.scan`."""
        end, at = file.seek(0, os.SEEK_END), 0
        while at < end:
            file.seek(at)
            name, blank, head = file.read(_MOST_KEY).partition(b" ")
            sizes = _sizes(head[:_HEADER])
            if not blank or sizes is None:
                return
            size = len(name) + 1 + _HEADER + 4 * sizes[0] * sizes[1]
            if at + size > end:
                return
            id_ = None if not name.strip(_NO_ID) else id_of(name.decode("utf8", "replace"))
            yield Block(id_, at, size)
            at += size

    def blank(self, size: int) -> bytes:
        """The start of a matrix of zeros whose key is no id's: `Format.blank`."""
        length = (size - _HEADER - 1) % 4 or 4
        columns = (size - _HEADER - 1 - length) // 4
        return _NO_ID * length + b" " + _MATRIX + _SIZES.pack(4, 1, 4, max(0, columns))


def key(id: str) -> bytes:  # noqa: A002
    """An utterance's key in arks and lists."""
    return key_of(id, _ESCAPING).encode()


def _sizes(header: bytes) -> tuple[int, int] | None:
    """Rows and columns of a matrix; None if it is none of float32."""
    if len(header) < _HEADER or not header.startswith(_MATRIX):
        return None
    of_rows, rows, of_columns, columns = _SIZES.unpack_from(header, len(_MATRIX))
    possible = (of_rows, of_columns) == (4, 4) and rows >= 0 and columns >= 0
    return (rows, columns) if possible else None


def _split(row: bytes) -> tuple[bytes, int, int, int]:
    """Key, number of the ark, offset of the matrix, frames."""
    name, archive, start, frames = row.split(b" ")
    return name, int(archive), int(start), int(frames)


class Kaldi(Archives):
    """Arks, and the two lists by which they are read."""

    suffixes = (".ark",)  # no file has an id's name: so no two ids clash
    folders = (FOLDER,)
    dtypes = ("float32",)
    keeps_audio = False

    def __init__(self, directory: Path, files: StoreFiles, ark_mb: float) -> None:
        super().__init__(Ark(), files, ark_mb)
        self._directory = directory

    def write_index(self, records: Records) -> None:
        """Replaces both lists; lines of another program's arks stay: `Archives.write_index`."""
        self._write_lists(records, self._archives.runs.unfinished(of_all=True))

    def _write_lists(self, records: Records, runs: Set[str] | None) -> None:
        """Replaces both lists.

        Args:
            records: the lines of all ledgers.
            runs: those whose arks are ours though no line names them; None: all arks here are.
        """
        archives = dict[str, int]()
        rows = list[bytes]()  # some 80 bytes each: there may be millions
        for record in records():
            kept, name = Kept.of(record), key(record["id"])
            for archive, offset, _size, _crc in kept.files if kept else ():
                number = archives.setdefault(archive, len(archives))
                start, frames = offset + len(name) + 1, record.get("num_frames") or 0
                rows.append(b"%b %d %d %d" % (name, number, start, frames))
        rows.sort()
        strangers = dict(
            line for line in self._list(SCP) if self._is_foreign(line[1], archives.keys(), runs)
        )
        for row in rows if strangers else ():
            strangers.pop(_split(row)[0], None)
        folder = os.fsencode(self._directory.absolute())
        paths = [b"%b/%b" % (folder, archive.encode()) for archive in archives]
        counts = ((name, b"%d" % frames) for name, _archive, _start, frames in map(_split, rows))
        counted = ((name, rest) for name, rest in self._list(NUM_FRAMES) if name in strangers)
        self._write(NUM_FRAMES, counts, sorted(counted))
        places = ((name, b"%b:%d" % (paths[at], start)) for name, at, start, _ in map(_split, rows))
        self._write(SCP, places, sorted(strangers.items()))

    def discard_all(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Takes the arks out of the lists first: `Layout.discard_all`."""
        self._write_lists(tuple, None)
        super().discard_all(records)

    def ids_of_files(self) -> Iterator[str]:
        """Also those of another program's lines in `feats.scp`: `Layout.ids_of_files`."""
        yield from super().ids_of_files()
        for name, rest in self._list(SCP):
            if not _OURS.search(rest):  # else it is in an ark here
                yield id_of(name.decode("utf8", "replace"))

    def sweep(self) -> int:
        """Also lists that were not finished: `Layout.sweep`."""
        unfinished = [
            path for path in self._directory.iterdir() if _UNFINISHED.fullmatch(path.name)
        ]
        for path in unfinished:
            path.unlink(missing_ok=True)
        return len(unfinished) + super().sweep()

    def bytes_per_second(self, width: int, itemsize: int, frame_rate: float) -> float:
        """Bytes of the matrices: `Layout.bytes_per_second`."""
        return frame_rate * width * 4

    def _write(self, name: str, *lines: Iterable[Line]) -> None:
        """Replaces a list by lines in their order; without any removes it."""
        merged, path = heapq.merge(*lines), self._directory / name
        first = next(merged, None)
        if first is not None:
            parts = (b"%b %b\n" % line for line in itertools.chain([first], merged))
            replace_whole(path, parts, fsync=self._files.fsync)
        elif path.is_file() or path.is_symlink():
            path.unlink()

    def _is_foreign(self, rest: bytes, named: Set[str], runs: Set[str] | None) -> bool:
        """Whether a line of `feats.scp` names an ark of another program's, here or elsewhere."""
        ark = _OURS.search(rest)
        if ark is None or runs is None:
            return ark is None
        name = os.fsdecode(ark[1])
        is_ours = name in named or self._archives.run_of(name) in runs
        return not is_ours and self._archives.size_of(name) >= 0

    def _list(self, name: str) -> Iterator[Line]:
        """Each line's key, and what follows it."""
        try:
            with open_regular(self._directory / name) as file:
                for line in file:
                    some, blank, rest = line.partition(b" ")
                    if blank:
                        yield some, rest.rstrip(b"\r\n")
        except OSError:
            return
