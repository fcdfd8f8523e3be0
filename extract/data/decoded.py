"""Decoded recordings in memory: one job of a sweep decodes them, the next ones read them.

Each is a file in a folder on a memory file system, so that workers of any job find it, however they
were started. Reading it takes a tenth to a hundredth of the time that decoding takes. A WAV that is
read as it lies is not kept: reading its samples from memory would save less than keeping them cost.
"""

from __future__ import annotations

import os
import secrets
import shutil
import struct
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from io import BufferedReader
from pathlib import Path

import numpy as np

from extract.audio.decode import Decoded
from extract.files import APPEND, TEMPORARY_PREFIX, Temporary
from extract.opener import MISSING
from extract.urls import is_url
from extract.values import AudioSettings, Entry, Recording

MAGIC = b"decoded1"
HEAD = struct.Struct("<8sqqq")  # MAGIC, rate_hz, end, num_samples; then the samples in float32
BLOCK_BYTES = 65_536  # the unit in which memory is counted
COUNTER = "used"  # file that has a byte for each block


@dataclass(frozen=True)
class DecodedCache:
    """Decoded recordings in a folder in memory. Picklable; holds nothing open.

    A recording that does not fit is not kept, and nothing that is kept is dropped: jobs of a sweep
    read all recordings in the same order, so dropping the oldest would drop what is read next.
    """

    folder: str  # of one sweep, on a memory file system
    most_bytes: int  # that all workers of all jobs keep there together
    spare_bytes: int = 0  # that stay free on the file system, for batches on their way

    def get(self, name: str) -> Decoded | None:
        """What was kept under a `name_of`, bit for bit; None if nothing was."""
        try:
            with open(Path(self.folder, name), "rb") as file:
                return _read(file)
        except OSError:
            return None

    def put(self, name: str, decoded: Decoded) -> None:
        """Keeps what was decoded, whole or not at all; never where there is no room for it."""
        samples = np.ascontiguousarray(decoded.samples)
        head = HEAD.pack(MAGIC, decoded.rate_hz, decoded.end, len(samples))
        with suppress(OSError):  # the folder is full or gone
            if self._has_room(len(head) + samples.nbytes):
                temporary = f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
                path, root = f"{self.folder}/{name}", Path(self.folder)
                with Temporary(path, temporary, root=root, fsync=False) as file:
                    file.write([head, samples.data.cast("B")])
                    file.publish()

    def _has_room(self, num_bytes: int) -> bool:
        """Whether so many bytes fit; then they are counted.

        The counter is the size of a file, which workers append to: an append is atomic and needs no
        lock that a killed worker could hold.
        """
        blocks, most = -(-num_bytes // BLOCK_BYTES), self.most_bytes // BLOCK_BYTES
        if shutil.disk_usage(self.folder).free - num_bytes < self.spare_bytes:
            return False
        counter = os.open(f"{self.folder}/{COUNTER}", APPEND, 0o600)
        try:
            if os.fstat(counter).st_size + blocks > most:
                return False
            os.write(counter, bytes(blocks))
            return os.lseek(counter, 0, os.SEEK_CUR) <= most
        finally:
            os.close(counter)


def _read(file: BufferedReader) -> Decoded | None:
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    magic, rate_hz, end, num_samples = HEAD.unpack(head)
    if magic != MAGIC or os.fstat(file.fileno()).st_size != HEAD.size + 4 * num_samples:
        return None
    samples = np.empty(num_samples, np.float32)
    file.readinto(samples.data.cast("B"))
    return Decoded(samples, rate_hz, end)


def name_of(source: str, entry: Entry, recording: Recording, settings: AudioSettings) -> str | None:
    """The name under which an entry's samples are kept: a hash of all that decides them.

    Args:
        source: of the manifest.
        entry: the recording, or a cut of one.
        recording: with its stamp, so that a changed recording has another name.
        settings: of which those count that decoding follows.

    Returns:
        None for a recording without a stamp, whose changes could not be seen.
    """
    stamp = recording.size, recording.mtime_ns
    if stamp == MISSING:
        return None
    cut = entry.offset_s, entry.duration_s
    how = settings.rate_path.name, settings.mix.name, settings.max_duration_s
    what = repr((source, entry.path, stamp, cut, how))
    return blake2b(what.encode("utf8", "backslashreplace"), digest_size=16).hexdigest()


def is_worth_keeping(decoded: Decoded, path: str) -> bool:
    """Whether reading the samples from memory costs less than reading the recording at `path`."""
    return not decoded.as_it_lies or is_url(path)
