"""An archive in progress: a temporary file on the disk, and the lines' part of what is in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from extract.files import Buffer
from extract.store.files import StoreFiles, num_bytes
from extract.store.layout import Kept

Blank = Callable[[int], bytes]  # bytes of a block -> the start of a blank one


class OpenArchive:
    """Grows by one utterance at a time. One thread at a time may use it.

    Args:
        name: the one that it gets when it is published, below the store.
        files: of the store.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, name: str, files: StoreFiles) -> None:
        self.name = name
        self.size = 0  # bytes
        self.kept: dict[str, Kept] = {}
        self._file = files.temporary(name).__enter__()

    def add(self, id: str, parts: Sequence[Buffer], crc: int, blank: Blank) -> None:  # noqa: A002
        """Adds an utterance's block, in place of an earlier one of this id.

        Raises:
            OSError: it cannot be written, and nothing of it is there.
        """
        self.remove(id, blank)
        try:
            self._file.append(parts)
        except BaseException:
            os.ftruncate(self._file.descriptor, self.size)
            os.lseek(self._file.descriptor, self.size, os.SEEK_SET)
            raise
        size = num_bytes(parts)
        self.kept[id] = Kept(id, ((self.name, self.size, size, crc),))
        self.size += size

    def remove(self, id: str, blank: Blank) -> None:  # noqa: A002
        """Makes an utterance's block blank, if it is here: the file has no name yet."""
        if (kept := self.kept.pop(id, None)) is None:
            return
        [(_name, offset, size, _crc)] = kept.files
        start = blank(size)
        os.lseek(self._file.descriptor, offset, os.SEEK_SET)
        self._file.append([start, bytes(size - len(start))])
        os.lseek(self._file.descriptor, self.size, os.SEEK_SET)

    def publish(self, ending: bytes) -> None:
        """Gives the archive its name.

        Raises:
            OSError: it cannot be written.
        """
        self._file.append([ending])
        self._file.sync()
        self._file.publish()

    def abandon(self) -> None:
        """Removes what has no name."""
        with suppress(OSError):
            self._file.__exit__()
