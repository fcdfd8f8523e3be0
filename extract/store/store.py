"""The two folders that GPT-SoVITS trains on, written so that a file is whole or not there.

    4-cnhubert/<id>.pt   (1, hidden_size, num_frames), as torch.load(weights_only=True) reads it
    5-wav32k/<id>        int16 mono WAV at 32 kHz, whatever the extension says

Source: GPT_SoVITS/prepare_datasets/2-get-hubert-wav32k.py, which its trainer reads back.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from extract.files import (
    TEMPORARY_PREFIX,
    StoreUnusable,
    Temporary,
    cannot_be_made,
    explain,
    make_folder,
    read_whole,
)
from extract.frames import HUBERT_STACK, RECORDING_RATE_HZ, ConvStack
from extract.store.formats import crc32, encode_features, encode_wav, is_readable, num_bytes

__all__ = ["FEATURES", "LAYOUT", "WAVS", "KeptFile", "Store", "StoreUnusable", "WriteFailed"]

LAYOUT = "gpt_sovits"
FEATURES, WAVS = "4-cnhubert", "5-wav32k"

KeptFile = tuple[str, int, int, int]  # name below the store, offset, bytes, crc32 of the file

_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + r".+-\d+(?:-[0-9a-f]{8})?-(?:\d+|probe)")

# One file's trouble, not the disk's: a name the file system refuses, a folder where a file goes.
_OF_ONE_FILE = {
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EINVAL,
}


class WriteFailed(Exception):
    """This utterance's files cannot be written; others can."""


class Store:
    """A folder of features and training audio. Safe to share among threads and processes."""

    def __init__(self, directory: Path | str, *, fsync: bool = True) -> None:
        self.directory = Path(directory)
        self.fsync = fsync
        self._counter = itertools.count()
        run = f"{socket.gethostname()[:60]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._owner = f"{TEMPORARY_PREFIX}{run}-"
        self._own_folders: set[str] = set()  # known to be in the store, behind no link

    def create(self) -> None:
        """Makes the folders.

        Raises:
            StoreUnusable: they cannot be made or written to.
            ValueError: one of them is a symbolic link.
        """
        try:
            for folder in (FEATURES, WAVS):
                make_folder(self.directory / folder)
                probe = self.directory / folder / f"{self._owner}probe"
                probe.touch()
                probe.unlink()
        except OSError as error:
            raise StoreUnusable(cannot_be_made(self.directory, error)) from None

    def paths(self, id: str) -> tuple[str, str]:  # noqa: A002 - the ledger's own word
        """Where an utterance's features and training audio are."""
        feature, wav = _names(id)
        return f"{self.directory}/{feature}", f"{self.directory}/{wav}"

    def publish(self, id: str, features: Tensor, wav32k: Tensor) -> tuple[KeptFile, ...]:  # noqa: A002
        """Writes both files of one utterance; the features' appearance is the commit.

        Args:
            id: names the files.
            features: (num_frames, hidden_size), any float dtype.
            wav32k: (num_samples,) int16 at 32 kHz.

        Returns:
            What the ledger keeps of both, to tell later whether they are still whole.

        Raises:
            WriteFailed: these two files cannot be written.
            StoreUnusable: no file can.
        """
        parts = encode_features(features), encode_wav(wav32k)
        feature_path, wav_path = self.paths(id)
        self._refuse_links(id)
        try:
            with self._temporary(wav_path) as wav, self._temporary(feature_path) as feature:
                wav.write(parts[1])
                feature.write(parts[0])
                wav.publish()
                feature.publish()
        except OSError as error:
            if error.errno in _OF_ONE_FILE:
                raise WriteFailed(f"{id}: {error.strerror}: {error.filename}") from None
            raise StoreUnusable(self.explain(error, sum(map(num_bytes, parts)))) from None
        return tuple(
            (name, 0, num_bytes(some), crc32(some))
            for name, some in zip(_names(id), parts, strict=True)
        )

    def discard(self, id: str) -> None:  # noqa: A002
        """Removes an utterance's files, if there are any; nothing outside the store's folders."""
        for path in self.paths(id):
            if not self._is_own_folder(path):
                continue
            try:
                os.unlink(path)  # noqa: PTH108 - a million of these: no Path objects
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in _OF_ONE_FILE | {errno.EPERM}:
                    raise StoreUnusable(self.explain(error)) from None

    def intact(self, record: Mapping[str, Any], *, checksum: bool = False) -> bool:
        """Whether both files of a saved record are there and whole.

        Sizes tell a missing or torn file; `checksum` reads both to tell a changed one.
        """
        try:
            kept = _kept_files(record)
            return all(self._is_whole(file, checksum) for file in kept)
        except (OSError, ValueError, TypeError):
            return False

    def _is_whole(self, file: tuple[str, Any, Any, Any], checksum: bool) -> bool:
        name, _offset, size, crc = file
        path = f"{self.directory}/{name}"
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        if not self._is_own_folder(path):
            return False
        if not checksum:
            return True
        data = read_whole(path, size)
        return crc32([data]) == crc if crc is not None else is_readable(data)

    def sweep(self) -> int:
        """Removes what killed runs left under temporary names; returns how many files.

        Only in a store of ours, and only while no other process writes here.
        """
        swept = 0
        for folder in (FEATURES, WAVS):
            for root, _folders, names in os.walk(self.directory / folder):
                for name in names:
                    if _TEMPORARY.fullmatch(name):
                        (Path(root) / name).unlink(missing_ok=True)
                        swept += 1
        return swept

    def ids_of_files(self, folder: str) -> Iterator[str]:
        """The ids that have a file in `FEATURES` or in `WAVS`."""
        top, ending = f"{self.directory}/{folder}", ".pt" if folder == FEATURES else ""
        for root, _folders, names in os.walk(top):
            prefix = f"{root}/"[len(top) + 1 :]
            for name in names:
                if name.endswith(ending) and not name.startswith(TEMPORARY_PREFIX):
                    yield f"{prefix}{name}".removesuffix(ending)

    def has_files(self, id: str) -> bool:  # noqa: A002
        """Whether something stands where an utterance's features or training audio go."""
        return any(map(os.path.lexists, self.paths(id)))

    def free_bytes(self) -> int:
        """Room left on the store's disk."""
        return shutil.disk_usage(self.directory).free

    def _temporary(self, final: str) -> Temporary:
        name = f"{self._owner}{next(self._counter)}"
        return Temporary(final, name, root=self.directory, fsync=self.fsync)

    def explain(self, error: OSError, needed: int = 0) -> str:
        """What stopped a write into this store, for the user."""
        return explain(self.directory, error, needed)

    def _is_own_folder(self, path: str) -> bool:
        """Whether the folder of the file at `path` is in this store and not behind a link."""
        folder = path[: path.rindex("/")]
        if folder in self._own_folders:
            return True
        below = folder[len(str(self.directory)) :]
        own = os.path.realpath(folder) == os.path.realpath(self.directory) + below
        if own and os.path.isdir(folder):  # noqa: PTH112
            self._own_folders.add(folder)
        return own

    def _refuse_links(self, id: str) -> None:  # noqa: A002
        for path in self.paths(id):
            if not self._is_own_folder(path):
                raise WriteFailed(f"{id}: its folder is a symbolic link out of the store: {path}")


def _names(id: str) -> tuple[str, str]:  # noqa: A002
    return f"{FEATURES}/{id}.pt", f"{WAVS}/{id}"


def _kept_files(record: Mapping[str, Any]) -> list[tuple[str, Any, Any, Any]]:
    """The files of a saved record; a checksum of None where an older line holds none.

    Raises:
        ValueError, TypeError: they are not those that its id has.
    """
    names = _names(record["id"])
    if record.get("files") is None:  # a line of 0.1.0, which knew no checksum of the features
        sizes = record.get("feature_bytes"), record.get("wav_bytes")
        return [(names[0], 0, sizes[0], None), (names[1], 0, sizes[1], record.get("wav_crc32"))]
    kept = [(name, offset, size, crc) for name, offset, size, crc in record["files"]]
    if [file[:2] for file in kept] != [(name, 0) for name in names]:
        raise ValueError(f"{record['id']}: its line names other files")
    return kept


def bytes_per_second(hidden_size: int, itemsize: int, stack: ConvStack = HUBERT_STACK) -> float:
    """What a second of audio takes in the store."""
    return 2 * RECORDING_RATE_HZ + hidden_size * itemsize * stack.frame_rate
