"""The two folders that GPT-SoVITS trains on, written so that a file is whole or not there.

    4-cnhubert/<id>.pt   (1, hidden_size, num_frames), as torch.load(weights_only=True) reads it
    5-wav32k/<id>        int16 mono WAV at 32 kHz, whatever the extension says

Source: GPT_SoVITS/prepare_datasets/2-get-hubert-wav32k.py, which its trainer reads back.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import socket
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from extract.formats import Buffer, crc32, encode_features, encode_wav, num_bytes
from extract.frames import ENCODER_RATE_HZ, HOP_SAMPLES, RECORDING_RATE_HZ
from extract.ids import TEMPORARY_PREFIX

LAYOUT = "gpt_sovits"
FEATURES, WAVS = "4-cnhubert", "5-wav32k"

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

# One file's trouble, not the disk's: a name the file system refuses, a folder where a file goes.
_OF_ONE_FILE = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EINVAL}


class StoreUnusable(Exception):
    """The store takes no more files: full, read-only or gone. The run stops; nothing is lost."""


class WriteFailed(Exception):
    """This utterance's files cannot be written; others can."""


@dataclass(frozen=True)
class Written:
    """What one utterance's files are, to tell later whether they are still whole."""

    feature_bytes: int
    wav_bytes: int
    wav_crc32: int  # a feature file is a zip archive and carries its own


class Store:
    """A folder of features and training audio. Safe to share among threads and processes."""

    def __init__(self, directory: Path | str, *, fsync: bool = True) -> None:
        self.directory = Path(directory)
        self.fsync = fsync
        self._counter = itertools.count()
        self._owner = f"{TEMPORARY_PREFIX}{socket.gethostname()[:60]}-{os.getpid()}-"

    def create(self) -> None:
        """Makes the folders.

        Raises:
            StoreUnusable: they cannot be made or written to.
        """
        try:
            for folder in (FEATURES, WAVS):
                (self.directory / folder).mkdir(parents=True, exist_ok=True)
                probe = self.directory / folder / f"{self._owner}probe"
                probe.touch()
                probe.unlink()
        except OSError as error:
            raise StoreUnusable(self._explain(error, 0)) from None

    def paths(self, id: str) -> tuple[str, str]:  # noqa: A002 - the ledger's own word
        """Where an utterance's features and training audio are."""
        return f"{self.directory}/{FEATURES}/{id}.pt", f"{self.directory}/{WAVS}/{id}"

    def publish(self, id: str, features: Tensor, wav32k: Tensor) -> Written:  # noqa: A002
        """Writes both files of one utterance; the features' appearance is the commit.

        Args:
            id: names the files.
            features: (num_frames, hidden_size), any float dtype.
            wav32k: (num_samples,) int16 at 32 kHz.

        Raises:
            WriteFailed: these two files cannot be written.
            StoreUnusable: no file can.
        """
        feature_parts, wav_parts = encode_features(features), encode_wav(wav32k)
        written = Written(num_bytes(feature_parts), num_bytes(wav_parts), crc32(wav_parts))
        feature_path, wav_path = self.paths(id)
        try:
            with self._temporary(wav_path) as wav, self._temporary(feature_path) as feature:
                wav.write(wav_parts)
                feature.write(feature_parts)
                wav.publish()
                feature.publish()
        except OSError as error:
            if error.errno in _OF_ONE_FILE:
                raise WriteFailed(f"{id}: {error.strerror}: {error.filename}") from None
            needed = written.feature_bytes + written.wav_bytes
            raise StoreUnusable(self._explain(error, needed)) from None
        return written

    def discard(self, id: str) -> None:  # noqa: A002
        """Removes an utterance's files, if there are any."""
        for path in self.paths(id):
            try:
                os.unlink(path)  # noqa: PTH108 - a million of these: no Path objects
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in _OF_ONE_FILE | {errno.EPERM}:
                    raise StoreUnusable(self._explain(error, 0)) from None

    def intact(self, record: Mapping[str, Any], *, checksum: bool = False) -> bool:
        """Whether both files of a saved record are there and whole.

        Sizes tell a missing or torn file; `checksum` reads both to tell a changed one.
        """
        feature_path, wav_path = self.paths(record["id"])
        try:
            sizes = os.stat(feature_path).st_size, os.stat(wav_path).st_size  # noqa: PTH116
            if sizes != (record.get("feature_bytes"), record.get("wav_bytes")):
                return False
            if not checksum:
                return True
            if crc32([Path(wav_path).read_bytes()]) != record.get("wav_crc32"):
                return False
            with zipfile.ZipFile(feature_path) as archive:
                return archive.testzip() is None
        except (OSError, ValueError, zipfile.BadZipFile):
            return False

    def sweep(self) -> int:
        """Removes what killed runs left under temporary names; returns how many files.

        Only while no other process writes here.
        """
        swept = 0
        for folder in (FEATURES, WAVS):
            for root, _folders, names in os.walk(self.directory / folder):
                for name in names:
                    if name.startswith(TEMPORARY_PREFIX):
                        (Path(root) / name).unlink(missing_ok=True)
                        swept += 1
        return swept

    def free_bytes(self) -> int:
        """Room left on the store's disk."""
        return shutil.disk_usage(self.directory).free

    def _temporary(self, final: str) -> _Temporary:
        return _Temporary(self, final, f"{self._owner}{next(self._counter)}")

    def _explain(self, error: OSError, needed: int) -> str:
        where = str(self.directory)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = self.free_bytes() if self.directory.exists() else 0
            return (
                f"{where}: the disk is full: {free / 1e6:.1f} MB free, "
                f"{needed / 1e6:.1f} MB needed for the next utterance alone"
            )
        if not self.directory.exists():
            return f"{where}: the folder is gone"
        return f"{where}: {error.strerror or error}: {error.filename}"


class _Temporary:
    """A file under a temporary name in its target's folder, gone on exit unless published."""

    def __init__(self, store: Store, final: str, name: str) -> None:
        self.store, self.final = store, final
        self.folder = final[: final.rindex("/")]
        self.path = f"{self.folder}/{name}"

    def __enter__(self) -> _Temporary:
        try:
            self.descriptor = os.open(self.path, _NEW_FILE, 0o666)
        except FileNotFoundError:
            if not self.store.directory.exists():
                raise
            os.makedirs(self.folder, exist_ok=True)  # noqa: PTH103
            self.descriptor = os.open(self.path, _NEW_FILE, 0o666)
        return self

    def write(self, parts: list[Buffer]) -> None:
        left = [memoryview(part) for part in parts]
        while left:
            written = _write(self.descriptor, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]
        if self.store.fsync:
            os.fsync(self.descriptor)

    def publish(self) -> None:
        os.close(self.descriptor)
        self.descriptor = -1
        os.replace(self.path, self.final)  # noqa: PTH105
        self.path = ""

    def __exit__(self, *_: object) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        if self.path:
            os.unlink(self.path)  # noqa: PTH108


def _write(descriptor: int, parts: list[memoryview]) -> int:
    """Writes as much as the disk takes at once; returns how many bytes."""
    if hasattr(os, "writev"):
        return os.writev(descriptor, parts)
    return os.write(descriptor, parts[0])  # Windows


def bytes_per_second(hidden_size: int, itemsize: int) -> float:
    """What a second of audio takes in the store."""
    return 2 * RECORDING_RATE_HZ + hidden_size * itemsize * ENCODER_RATE_HZ / HOP_SAMPLES
