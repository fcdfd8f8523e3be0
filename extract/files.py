"""Files that are written whole or not at all, and opened without following a symbolic link.

A run writes inside its store alone. A link in the store may lead anywhere, so nothing here writes,
reads or deletes through one: a link is replaced, or it is refused.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from extract.systems import InUseError, open_no_link, replace, unlink
from extract.text import printable

log = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview

TEMPORARY_PREFIX = ".tmp-"  # begins the name of an unfinished file

MAX_READ = 16 << 20  # bytes of a file that is read whole: metadata and notes take a few hundred

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
# O_NONBLOCK: without it, opening a FIFO waits for a writer.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)


def make_folder(path: Path) -> None:
    """Makes a folder of the store, if it is not there.

    Raises:
        ValueError: a symbolic link stands there; what is written would land elsewhere.
        OSError: it cannot be made.
    """
    if path.is_symlink():
        raise ValueError(
            f"{printable(str(path))}: a symbolic link; a run writes inside its store alone. Ways "
            "out: put a real folder there, or name another store.dir=DIR"
        )
    path.mkdir(parents=True, exist_ok=True)


def replace_whole(path: Path, parts: bytes | Iterable[bytes], *, fsync: bool = True) -> None:
    """Replaces the file at `path`; a symbolic link or an empty folder there gives way to it.

    Args:
        path: the file. Readers find the old one or the new one, never a part.
        parts: its bytes, in one piece or several.
        fsync: whether the file and its name survive a power cut once this returns.

    Raises:
        OSError: the file is as it was.
    """
    name = f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(name)
    make_way(path)
    try:
        with open(os.open(temporary, NEW_FILE, 0o666), "wb") as file:
            file.writelines([parts] if isinstance(parts, bytes) else parts)
            file.flush()
            if fsync:
                os.fsync(file.fileno())
        replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # the one that a message names
        raise
    if fsync:
        sync_folder(path.parent)


def replace_cache(path: Path, parts: bytes | Iterable[bytes]) -> None:
    """Replaces a file whose loss costs a later run only time.

    If a folder that holds something has its name, logs that and leaves it.

    Raises:
        OSError: the disk is full, read-only or gone.
    """
    try:
        replace_whole(path, parts, fsync=False)
    except (IsADirectoryError, FileExistsError, InUseError) as error:  # a folder that holds files
        log.warning("%s: %s: each run computes it again", printable(str(path)), error.strerror)


class Temporary:
    """A file under a temporary name in its target's folder, removed on exit unless published.

    Args:
        final: the target's path.
        name: the temporary one.
        root: the store. If it is gone, entering raises FileNotFoundError; missing folders below it
            are made.
        fsync: whether its bytes reach the disk before its name does.
    """

    def __init__(self, final: str, name: str, *, root: Path, fsync: bool) -> None:
        self.final, self.root, self.fsync = final, root, fsync
        self.folder = final[: final.rindex("/")]
        self.path = f"{self.folder}/{name}"

    def __enter__(self) -> Temporary:
        try:
            self.descriptor = os.open(self.path, NEW_FILE, 0o666)
        except FileNotFoundError:
            if not self.root.exists():
                raise
            os.makedirs(self.folder, exist_ok=True)  # noqa: PTH103
            self.descriptor = os.open(self.path, NEW_FILE, 0o666)
        return self

    def write(self, parts: Sequence[Buffer]) -> None:
        """Writes the whole file, given in parts."""
        self.append(parts)
        self.sync()

    def append(self, parts: Sequence[Buffer]) -> None:
        """Writes what comes next in the file, given in parts; `sync` has to follow the last."""
        left = [memoryview(part) for part in parts]
        while left:
            written = _write(self.descriptor, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]

    def sync(self) -> None:
        """Brings what was written to the disk, if the file is to survive a power cut."""
        if self.fsync:
            os.fsync(self.descriptor)

    def publish(self) -> None:
        """Gives the file its name, in the place of an older one or of a symbolic link."""
        os.close(self.descriptor)
        self.descriptor = -1
        replace(self.path, self.final)
        self.path = ""

    def __exit__(self, *_: object) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        if self.path:
            unlink(self.path)


def _write(descriptor: int, parts: list[memoryview]) -> int:
    """Writes as much as the disk takes at once; returns how many bytes."""
    writev: Callable[[int, list[memoryview]], int] | None = getattr(os, "writev", None)
    return writev(descriptor, parts) if writev else os.write(descriptor, parts[0])


def make_way(path: Path) -> None:
    """Removes a symbolic link or an empty folder where a file of ours goes: no data is lost."""
    with suppress(OSError):
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            path.rmdir()


def sync_folder(folder: Path) -> None:
    """Fsyncs a folder: names in it survive a power cut. No effect where the system cannot."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks refuse
            raise
    finally:
        os.close(descriptor)


def open_regular(path: Path | str) -> BinaryIO:
    """A regular file, opened for reading.

    Raises:
        OSError: there is none, or a link, a folder, a pipe or a device stands there.
    """
    descriptor = open_no_link(path, _READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(descriptor, "rb")


def read_whole(path: Path | str, most: int = MAX_READ) -> bytes:
    """A regular file's bytes.

    Raises:
        OSError: as `open_regular`, or it holds more than `most` bytes.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data
