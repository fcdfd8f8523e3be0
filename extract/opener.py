"""Opens recordings: `LocalFiles` by default, or the `Opener` that a source brings.

A manifest carries its opener to all who read its recordings: the dataset, the durations, resuming.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import BinaryIO, Protocol

MISSING = (-1, -1)  # the stamp of a recording that does not exist


class Opener(Protocol):
    """Opens the recordings of a manifest. Workers get a pickled copy, so it holds nothing open."""

    def open(self, path: str) -> BinaryIO:
        """The recording's bytes, seekable, in a file object that the caller closes.

        The file object needs no descriptor. Its `read(n)` must return `n` bytes unless the file
        ends, as that of `open(path, "rb")` does: put an `io.BufferedReader` around a raw stream.

        Raises:
            FileNotFoundError: there is no such recording (`missing`).
            OSError: it cannot be opened (`undecodable`); its `strerror` goes into the ledger.
        """
        ...

    def stamp(self, path: str) -> tuple[int, int]:
        """Two whole numbers that change when the recording does, found without reading it.

        If they differ from the ledger's, its line is stale. For a file they are its size in bytes
        and its modification time in nanoseconds; `MISSING` if it does not exist. Raises nothing.
        """
        ...


class NotAFileError(OSError):
    """A path leads to no regular file; `strerror` says to what: a directory, a pipe."""


class UnreachableError(OSError):
    """A recording cannot be fetched; `strerror` says why: no access, a broken connection."""


@dataclass(frozen=True)
class LocalFiles:
    """The files of this machine: a path is the operating system's."""

    def open(self, path: str) -> BinaryIO:
        """Opens a regular file. Looks at its kind first: opening a FIFO would wait for a writer."""
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116 - a million of these: no Path objects
        except ValueError as error:  # a name that no file can have
            raise OSError(errno.EINVAL, str(error), path) from error
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"
            raise NotAFileError(errno.EINVAL, kind, path)
        return open(path, "rb")

    def stamp(self, path: str) -> tuple[int, int]:
        """The file's size in bytes and its modification time in nanoseconds."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):  # missing, or a name that no file can have
            return MISSING
        return status.st_size, status.st_mtime_ns
