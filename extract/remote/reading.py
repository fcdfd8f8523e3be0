"""A recording at a URL as a file, of which as much is fetched as is read."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from extract.opener import NotAFileError, UnreachableError
from extract.remote.places import Place, faults_of, locate
from extract.urls import redacted

# What is read first: the header of a recording, or all of a short one. Each further part that
# follows the last one is larger, so that a long recording takes few requests.
FIRST_BYTES = 1 << 18
GROWTH = 4
MOST_BYTES = 1 << 23
KEPT_PARTS = 3  # beside the first

Fetch = Callable[[int, int], bytes]


def open_url(url: str, expected: int | None = None) -> BinaryIO:
    """The bytes at `url`, seekable.

    One request where all fits into the first part. A server that takes no ranges sends everything
    at the first request, and it is kept in memory.

    Args:
        url: what fsspec reads.
        expected: how many bytes the recording was said to have; asked again where fewer come.

    Raises:
        FileNotFoundError: there is no such recording.
        OSError: it cannot be fetched; so do the file's own methods.
    """
    with faults_of(url):
        place, path = locate(url)

        def fetch(start: int, stop: int) -> bytes:
            with faults_of(url), place.lock:
                return bytes(place.filesystem.cat_file(path, start=start, end=stop))

        head = _head(place, path, fetch, url)
        if len(head) != FIRST_BYTES and expected in (None, len(head)):
            return io.BytesIO(head)
        size = _info(place, path)["size"]
        if size is None and len(head) == FIRST_BYTES:
            return io.BytesIO(_whole(place, path))
        if size in (None, len(head)):
            return io.BytesIO(head)
        if len(head) != min(size, FIRST_BYTES):
            raise _unequal(len(head), size, url)
        return io.BufferedReader(_Parts(fetch, head, size, url), 1 << 16)


def _head(place: Place, path: str, fetch: Fetch, url: str) -> bytes:
    """The first part, or everything from a server that takes no ranges."""
    try:
        return fetch(0, FIRST_BYTES)
    except UnreachableError:  # S3 has no range of an empty file
        info = _info(place, path)
        if info["type"] == "directory":
            raise NotAFileError(errno.EINVAL, "a directory", redacted(url)) from None
        if info["size"] == 0:
            return b""
        raise


def _info(place: Place, path: str) -> dict[str, Any]:
    with place.lock:
        info: dict[str, Any] = place.filesystem.info(path)
    return info


def _whole(place: Place, path: str) -> bytes:
    """Everything, of a file whose size is not known before."""
    with place.lock:
        return bytes(place.filesystem.cat_file(path))


def _unequal(found: int, stated: int, url: str) -> UnreachableError:
    said = f"{found:,} bytes came of {stated:,}"
    return UnreachableError(errno.EIO, said, redacted(url))


class _Parts(io.RawIOBase):
    """A file of which parts are fetched and a few are kept.

    After an error each further read raises it again: FFmpeg tries several times.
    """

    def __init__(self, fetch: Fetch, head: bytes, size: int, url: str) -> None:
        self._fetch, self._head, self._size, self._url = fetch, head, size, url
        self._parts: list[tuple[int, bytes]] = []  # where each begins; the oldest first
        self._position, self._behind, self._length = 0, len(head), len(head)
        self._error: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), redacted(self._url))
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size:
            return 0
        start, part = self._part()
        first = self._position - start
        content = part[first : first + len(buffer)]
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _part(self) -> tuple[int, bytes]:
        """The part that holds the byte at `_position`, and where it begins."""
        for start, part in [(0, self._head), *self._parts]:
            if start <= self._position < start + len(part):
                return start, part
        if self._error:
            raise self._error
        try:
            self._parts.append(self._fetched())
        except OSError as error:
            self._error = error
            raise
        del self._parts[:-KEPT_PARTS]
        return self._parts[-1]

    def _fetched(self) -> tuple[int, bytes]:
        if self._position == self._behind:
            start, self._length = self._position, min(self._length * GROWTH, MOST_BYTES)
        else:  # near the end, where many formats have a table, the end comes at once
            start, self._length = min(self._position, self._size - FIRST_BYTES), FIRST_BYTES
        stop = min(start + self._length, self._size)
        # One byte more at the end: a server may have more than it stated.
        part = self._fetch(start, stop + (stop == self._size))
        if len(part) != stop - start:
            raise _unequal(len(part), stop - start, self._url)
        self._behind = stop
        return start, part
