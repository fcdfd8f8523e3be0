"""How a recording's bytes are reached: `LocalFiles` by default, or whatever an `Opener` opens.

A manifest carries its opener to all who read its recordings: the dataset, the durations, resuming.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import BinaryIO, Protocol

MISSING = (-1, -1)  # the stamp of what is not there


class Opener(Protocol):
    """Opens the recordings of a manifest. Picklable, and holds nothing open: it goes to workers."""

    def open(self, path: str) -> BinaryIO:
        """The recording's bytes, seekable, in a file object that the caller closes.

        It needs no descriptor. As of a file opened with "rb", `read(n)` returns fewer than `n`
        bytes only at the end: put an `io.BufferedReader` around what does not.

        Raises:
            FileNotFoundError: there is none (`missing`).
            OSError: any other reason (`undecodable`); its `strerror` goes into the ledger.
        """
        ...

    def stamp(self, path: str) -> tuple[int, int]:
        """Two whole numbers, read without the content. A change makes the ledger's line stale.

        A file's bytes and its time in nanoseconds; `MISSING` where there is none. Raises nothing.
        """
        ...


class NotAFileError(OSError):
    """What stands at a path is no regular file; `strerror` says what it is."""


@dataclass(frozen=True)
class LocalFiles:
    """The files of this machine: a path is the operating system's."""

    def open(self, path: str) -> BinaryIO:
        """A regular file. It looks before it opens, since opening a FIFO waits for ever."""
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116 - a million of these: no Path objects
        except ValueError as error:  # a name that no file can have
            raise OSError(errno.EINVAL, str(error), path) from error
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"
            raise NotAFileError(errno.EINVAL, kind, path)
        return open(path, "rb")

    def stamp(self, path: str) -> tuple[int, int]:
        """The file's bytes and its time in nanoseconds."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):  # missing, or a name that no file can have
            return MISSING
        return status.st_size, status.st_mtime_ns
