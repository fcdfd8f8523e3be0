"""The files below a store's folder: each whole or not there, none written or read through a link.

Every layout is built of these. A layout says which files there are and what is in them.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from zlib_ng import zlib_ng  # its CRC is 15 times as fast as zlib's

from extract.files import (
    TEMPORARY_PREFIX,
    Buffer,
    Temporary,
    make_folder,
    open_regular,
    sync_folder,
)
from extract.manifest.folders import PRIVATE
from extract.store.layout import KeptFile
from extract.store.linked import Linked
from extract.store.reused import SameFile
from extract.systems import InUseError, real_path, slashed, unlink
from extract.write_errors import StoreUnusable, cannot_be_made, explain

_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + r".+-\d+(?:-[0-9a-f]{8})?-(?:\d+|probe)")

# errno values that concern one file only (its name, a folder in its place): others can be written.
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


class StoreFiles:
    """Writes, checks and removes files below a store's folder, each named by its path from there.

    Safe to share among threads, and among processes with a store in common.

    Args:
        directory: the store.
        fsync: whether a file's bytes reach the disk before its name does.
        part: which shard writes, for names of files that are one shard's: `0-of-4`.
    """

    def __init__(self, directory: Path | str, *, fsync: bool = True, part: str = "0-of-1") -> None:
        self.directory = Path(directory)
        self._prefix = f"{self.directory}/"
        self.fsync, self.part = fsync, part
        self.run_id = f"{socket.gethostname()[:60]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._counter = itertools.count()
        self._own_folders: set[str] = set()  # known to be in the store, behind no link
        self._lasting_folders = {""}  # below the store, whose names survive a power cut

    def make_folders(self, names: Sequence[str]) -> None:
        """Makes folders of the store, and tries whether a file can be made in each.

        Args:
            names: below the store; "" is the store's own folder.

        Raises:
            StoreUnusable: they cannot be made or written to.
            ValueError: one of them is a symbolic link.
        """
        try:
            for name in names:
                if name:
                    make_folder(self.directory / name)
                else:  # the user names it: it may be a link
                    self.directory.mkdir(parents=True, exist_ok=True)
                probe = self.directory / name / f"{TEMPORARY_PREFIX}{self.run_id}-probe"
                probe.touch()
                probe.unlink()
                # The metadata, which are written next, fsync the store's own folder.
                self._lasting_folders.add(name)
        except OSError as error:
            raise StoreUnusable(cannot_be_made(self.directory, error)) from None

    def write_all(
        self,
        id: str,  # noqa: A002 - the ledger's own word
        contents: Mapping[str, list[Buffer] | SameFile],
    ) -> list[KeptFile]:
        """Writes all files of one utterance; they appear in order once the last is on the disk.

        The last one's appearance is the commit.

        Args:
            id: the utterance.
            contents: each file's bytes, in parts, by its name below the store; or a file of another
                store, to be linked or copied.

        Returns:
            What the ledger keeps of each, in the same order.

        Raises:
            WriteFailed: these files cannot be written.
            StoreUnusable: no file can.
            NotReusable: a file of another store is gone or damaged.
        """
        for name in reversed(list(contents)):
            if not self._is_own_folder(self.path(name)):
                where = f"its folder is a symbolic link out of the store: {self.path(name)}"
                raise WriteFailed(f"{id}: {where}")
        try:
            with ExitStack() as stack:
                files = [stack.enter_context(self._begun(*one)) for one in contents.items()]
                for file, parts in zip(files, contents.values(), strict=True):
                    file.write([] if isinstance(parts, SameFile) else parts)
                for file in files:
                    file.publish()
            for name in contents:
                self._make_last(name.rpartition("/")[0])
        except OSError as error:
            if error.errno in _OF_ONE_FILE or isinstance(error, InUseError):
                raise WriteFailed(f"{id}: {error.strerror}: {error.filename}") from None
            needed = sum(_size_and_crc(parts)[0] for parts in contents.values())
            raise StoreUnusable(self.explain(error, needed)) from None
        return [(name, 0, *_size_and_crc(parts)) for name, parts in contents.items()]

    def _make_last(self, folder: str) -> None:
        """Brings a folder's name, and those of the folders above it, to the disk, once a process.

        Also where another thread or process made the folder: its fsync may come after our line.
        """
        if self.fsync and folder not in self._lasting_folders:
            above = folder.rpartition("/")[0]
            self._make_last(above)
            sync_folder(self.directory / above)
            self._lasting_folders.add(folder)

    def _begun(self, name: str, content: list[Buffer] | SameFile) -> Temporary:
        if not isinstance(content, SameFile):
            return self.temporary(name)
        path, fsync = self.path(name), self.fsync
        return Linked(content, path, self._unfinished_name(), root=self.directory, fsync=fsync)

    def temporary(self, name: str) -> Temporary:
        """A file that gets its name when it is published: for files that hold many utterances.

        Its methods raise OSError; `extract.write_errors.explained` makes `StoreUnusable` of that.
        """
        unfinished = self._unfinished_name()
        return Temporary(self.path(name), unfinished, root=self.directory, fsync=self.fsync)

    def _unfinished_name(self) -> str:
        return f"{TEMPORARY_PREFIX}{self.run_id}-{next(self._counter)}"

    def remove(self, name: str) -> None:
        """Removes a file if it exists; none that a symbolic link of a folder leads to.

        Raises:
            StoreUnusable: the file system refuses.
        """
        path = self.path(name)
        if not self._is_own_folder(path):
            return
        try:
            unlink(path)
        except (FileNotFoundError, InUseError):
            pass
        except OSError as error:
            if error.errno not in _OF_ONE_FILE | {errno.EPERM}:
                raise StoreUnusable(self.explain(error)) from None

    def is_whole(self, file: KeptFile, *, checksum: bool = False, part: bool = False) -> bool:
        """Whether a file exists with the length that the ledger holds.

        Args:
            file: what the ledger says of it.
            checksum: also read it and compare its CRC-32.
            part: `file` is a part of an archive, and more may follow it.

        Raises:
            OSError, ValueError: it cannot be examined.
        """
        name, offset, size, crc = file
        path = self.path(name)
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            return False
        if path[: path.rindex("/")] not in self._own_folders and not self._is_own_folder(path):
            return False
        end = offset + size
        if status.st_size != end and not (part and status.st_size > end):
            return False
        return not checksum or crc32([self.read(file)]) == crc

    def read(self, file: KeptFile) -> bytes:
        """The bytes of `file`; fewer if it was truncated.

        Raises:
            OSError: there is none, or it is behind a symbolic link.
        """
        name, offset, size, _crc = file
        with open_regular(self.existing(name)) as opened:
            opened.seek(offset)
            return opened.read(size)

    def peek(self, file: KeptFile) -> bytes:
        """As `read`, where that takes no request to a server.

        Raises:
            OSError: as `read`, or it would take one.
        """
        return self.read(file)

    def opened(self, name: str) -> BinaryIO:
        """A file, open for reading.

        Raises:
            OSError: no regular file of the store is there.
        """
        return open_regular(self.existing(name))

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            OSError: as `opened`.
        """
        with self.opened(name) as file:
            return file.seek(0, os.SEEK_END)

    def is_sealed(self, name: str) -> bool:
        """Whether a file of the right size cannot be a part of one: so it is with objects."""
        return False

    def existing(self, name: str) -> str:
        """The path of a regular file of the store.

        Raises:
            OSError: there is none, or it is behind a symbolic link.
        """
        path = self.path(name)
        if not stat.S_ISREG(os.lstat(path).st_mode) or not self._is_own_folder(path):
            raise OSError(errno.EINVAL, "Not a regular file of the store", path)
        return path

    def exists(self, name: str) -> bool:
        """Whether anything has this name, be it a broken link."""
        return os.path.lexists(self.path(name))

    def names(self, folder: str) -> Iterator[str]:
        """The finished files in a folder and below, by their paths relative to that folder."""
        for prefix, names in self._walk(folder):
            for name in names:
                if not name.startswith(TEMPORARY_PREFIX):
                    yield prefix + name

    def sweep(self, folders: Sequence[str]) -> int:
        """Removes unfinished files that killed runs left; returns how many.

        Call it only in a store that this program made, and while no other process writes there.
        """
        swept = 0
        for folder in folders:
            for prefix, names in self._walk(folder):
                for name in filter(_TEMPORARY.fullmatch, names):
                    (self.directory / folder / prefix / name).unlink(missing_ok=True)
                    swept += 1
        return swept

    def _walk(self, folder: str) -> Iterator[tuple[str, list[str]]]:
        """Each folder below `folder`, from there and with a slash at its end, and its files' names.

        Below the store's own folder ("") without the private one and without other stores, whose
        unfinished files may be those of a run at work.
        """
        top = str(self.directory / folder)
        for root, folders, names in os.walk(top):
            yield slashed(f"{root}/"[len(top) + 1 :]), names
            if not folder:
                folders[:] = [one for one in folders if not _is_apart(f"{root}/{one}")]

    def path(self, name: str) -> str:
        """The path of a file of the store."""
        return self._prefix + name

    def explain(self, error: OSError, needed: int = 0) -> str:
        """Why a write into this store failed, in one line for the user."""
        return explain(self.directory, error, needed)

    def _is_own_folder(self, path: str) -> bool:
        """Whether the folder of the file at `path` is in this store and not behind a link."""
        folder = path[: path.rindex("/")]
        if folder in self._own_folders:
            return True
        below = folder[len(str(self.directory)) :]
        own = real_path(folder) == real_path(self.directory) + below
        if own and os.path.isdir(folder):  # noqa: PTH112
            self._own_folders.add(folder)
        return own


def _is_apart(folder: str) -> bool:
    """Whether a folder below a store holds none of its layout's files."""
    return folder.endswith(f"/{PRIVATE}") or os.path.lexists(f"{folder}/{PRIVATE}")


def num_bytes(parts: Sequence[Buffer]) -> int:
    """Length of a file given in parts."""
    return sum(map(len, parts))


def _size_and_crc(content: list[Buffer] | SameFile) -> tuple[int, int]:
    if isinstance(content, SameFile):
        return content.size, content.crc32
    return num_bytes(content), crc32(content)


def crc32(parts: Sequence[Buffer]) -> int:
    """CRC-32 of a file given in parts."""
    return functools.reduce(lambda crc, part: zlib_ng.crc32(part, crc), parts, 0)
