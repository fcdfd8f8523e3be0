"""Openers of recordings that are no files: bytes in memory, members of a tar.

In a module of their own, since workers that are not forked have to import them.
"""

import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from extract.manifest.cuts import CutCollector, Cuts
from extract.opener import MISSING
from extract.values import Entry


@dataclass(frozen=True)
class Memory:
    """Recordings in memory, by name."""

    contents: dict[str, bytes]

    def open(self, path: str) -> BinaryIO:
        if path not in self.contents:
            raise FileNotFoundError(2, "No such file or directory", path)
        return io.BytesIO(self.contents[path])

    def stamp(self, path: str) -> tuple[int, int]:
        return (len(self.contents[path]), 1) if path in self.contents else MISSING


class Bare:
    """The least file object that an opener may return: no descriptor, `readinto` or `tell`."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, num_bytes: int) -> bytes:
        return self._file.read(num_bytes)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def __enter__(self) -> "Bare":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@dataclass(frozen=True)
class BareMemory(Memory):
    def open(self, path: str) -> BinaryIO:
        return Bare(super().open(path).read())


class Part(io.RawIOBase):
    """Bytes `offset` to `offset + size` of a file, as a file."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._offset, self._size, self._position = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        self._file.seek(self._offset + self._position)
        left = max(0, self._size - self._position)
        content = self._file.read(min(len(buffer), left))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class TarMembers:
    """The members of a tar, each where it lies; `path` is a member's name."""

    tar: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)  # offset and size

    @classmethod
    def of(cls, tar: Path) -> "TarMembers":
        with tarfile.open(tar) as opened:
            found = {one.name: (one.offset_data, one.size) for one in opened if one.isfile()}
        return cls(str(tar), found)

    def open(self, path: str) -> BinaryIO:
        if path not in self.members:
            raise FileNotFoundError(2, "No such member", path)
        return io.BufferedReader(Part(self.tar, *self.members[path]))

    def stamp(self, path: str) -> tuple[int, int]:
        if path not in self.members:
            return MISSING
        return self.members[path][1], Path(self.tar).stat().st_mtime_ns


def pack_tar(tar: Path, files: Sequence[Path]) -> TarMembers:
    """A tar of these files, by their names."""
    with tarfile.open(tar, "w") as opened:
        for path in files:
            opened.add(path, path.name)
    return TarMembers.of(tar)


class Entries(list[Entry]):
    """Entries as a manifest has them, cuts among them."""

    extras, failures, source = None, (), ""

    def __init__(self, entries: Sequence[Entry], opener: object) -> None:
        super().__init__(entries)
        self.opener = opener

    @property
    def paths(self) -> list[str]:
        return [entry.path for entry in self]

    @property
    def cuts(self) -> Cuts:
        collected = CutCollector(0)
        for entry in self:
            collected.append(entry.offset_s, entry.duration_s)
        return collected.finish()

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self]
