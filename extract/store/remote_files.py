"""The files of a store at a URL: objects, and what lies in the working folder until it is sent.

A file in the folder stands before the object of its name: it is newer, and not sent yet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from extract.files import Temporary
from extract.remote.objects import Objects
from extract.store.files import StoreFiles, crc32
from extract.store.layout import KeptFile
from extract.systems import unlink


class RemoteFiles(StoreFiles):
    """Reads objects by requests for ranges; knows their sizes from one listing.

    Args:
        directory: the working folder.
        objects: below the store's URL.
        fsync, part: as `StoreFiles`.
    """

    def __init__(
        self, directory: Path | str, objects: Objects, *, fsync: bool = True, part: str = "0-of-1"
    ) -> None:
        super().__init__(directory, fsync=fsync, part=part)
        self._objects = objects
        self._lock = threading.Lock()  # of what follows
        self._sizes: dict[str, int] | None = None
        self._changed, self._gone = set[str](), set[str]()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each object; lists them where nothing did."""
        if self._sizes is None:
            self.found({name: info.size for name, info in self._objects.list().items()})
        assert self._sizes is not None
        return self._sizes

    def found(self, sizes: dict[str, int]) -> None:
        """Takes what a listing says: names of objects, and their bytes."""
        with self._lock:
            self._sizes = sizes

    def change(self, name: str) -> None:
        """Notes that a file in the folder is to become an object."""
        with self._lock:
            self._changed.add(name)
            self._gone.discard(name)

    def to_send(self) -> list[str]:
        """Files that are to become objects: those that replace one first."""
        with self._lock:
            return sorted(self._changed, key=lambda name: (name not in self.sizes, name))

    def sent(self, name: str, size: int) -> None:
        """Notes that the file in the folder is an object."""
        with self._lock:
            self._changed.discard(name)
            self.sizes[name] = size

    def to_remove(self) -> list[str]:
        """Objects that are to be removed."""
        with self._lock:
            return sorted(self._gone)

    def removed(self, name: str) -> None:
        """Notes that an object is gone."""
        with self._lock:
            self._gone.discard(name)

    def names(self, folder: str) -> Iterator[str]:
        """As `StoreFiles.names`, of objects too."""
        here = set(super().names(folder))
        yield from here
        below = f"{folder}/" if folder else ""
        for name in list(self.sizes):
            if name.startswith(below) and name[len(below) :] not in here:
                yield name[len(below) :]

    def temporary(self, name: str) -> Temporary:
        """As `StoreFiles.temporary`; what is published is sent later."""
        unfinished = self._unfinished_name()
        return _Sent(self, name, unfinished)

    def remove(self, name: str) -> None:
        """Removes a file here; its object is removed later."""
        super().remove(name)
        with self._lock:
            self._changed.discard(name)
            if self.sizes.pop(name, None) is not None:
                self._gone.add(name)

    def is_whole(self, file: KeptFile, *, checksum: bool = False, part: bool = False) -> bool:
        """As `StoreFiles.is_whole`; an object's size is that of the listing."""
        name, offset, size, crc = file
        if self.is_here(name):
            return super().is_whole(file, checksum=checksum, part=part)
        found = self.sizes.get(name, -1)
        if found != offset + size and not (part and found > offset + size):
            return False
        return not checksum or crc32([self.read(file)]) == crc

    def read(self, file: KeptFile) -> bytes:
        """As `StoreFiles.read`; of an object by one request."""
        name, offset, size, _crc = file
        if self.is_here(name):
            return super().read(file)
        return self._objects.read(name, offset, offset + size)

    def peek(self, file: KeptFile) -> bytes:
        """Of a file in the folder alone."""
        return super().read(file)

    def opened(self, name: str) -> BinaryIO:
        """As `StoreFiles.opened`; of an object as much is fetched as is read."""
        if self.is_here(name):
            return super().opened(name)
        return self._objects.open(name, self.size(name))

    def size(self, name: str) -> int:
        """As `StoreFiles.size`; an object's is that of the listing."""
        if self.is_here(name) or name not in self.sizes:
            return super().size(name)
        return self.sizes[name]

    def is_sealed(self, name: str) -> bool:
        """Whether it is an object, which appears whole."""
        return not self.is_here(name)

    def exists(self, name: str) -> bool:
        """As `StoreFiles.exists`, of objects too."""
        return super().exists(name) or name in self.sizes

    def is_here(self, name: str) -> bool:
        """Whether a file of this name is in the folder."""
        return super().exists(name)

    def let_go(self, name: str) -> None:
        """Removes a file from the folder that is an object."""
        unlink(self.path(name))


class _Sent(Temporary):
    """A temporary file whose name is noted once it has it."""

    def __init__(self, files: RemoteFiles, name: str, unfinished: str) -> None:
        super().__init__(files.path(name), unfinished, root=files.directory, fsync=files.fsync)
        self._files, self._name = files, name

    def publish(self) -> None:
        """As `Temporary.publish`."""
        super().publish()
        self._files.change(self._name)


def is_archive(name: str) -> bool:
    """Whether a name below a store is of a finished file in a folder of its layout."""
    folder, slash, base = name.partition("/")
    return bool(slash) and not folder.startswith(".") and not base.startswith(".")
