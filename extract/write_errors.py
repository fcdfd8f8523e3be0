"""Why a write below a store's folder failed: an OSError as one line for the user."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extract.text import printable

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL}


class StoreUnusable(Exception):
    """The store takes no more files: full, read-only or gone. The run stops; nothing is lost."""


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turns an OSError of the block, which writes below `directory`, into `StoreUnusable`.

    ENOMEM is raised as it is: this process lacks memory, and the store is usable.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        raise StoreUnusable(explain(directory, error)) from None


def explain(directory: Path, error: OSError, needed: int = 0) -> str:
    """Why a write below `directory` failed, in one printable line.

    Args:
        directory: the store.
        error: what the operating system said.
        needed: bytes that were to be written; 0 where that is not known.
    """
    where, file = printable(str(directory)), _file_of(error)
    if error.errno in _NO_SPACE:
        missing = (
            f"{needed / 1e6:.1f} MB needed for the next utterance alone"
            if needed
            else f"more is needed for {file}: {error.strerror}"
        )
        return f"{where}: the disk is full: {_room(directory)}, {missing}"
    if not os.path.isdir(directory):  # noqa: PTH112 (pathlib's raises without permission)
        return f"{where}: the folder is gone"
    if error.errno in _IN_THE_WAY:
        return f"{where}: {error.strerror}: {file} is in the way: move it away"
    return f"{where}: {error.strerror or error}: {file}"


def cannot_be_made(directory: Path, error: OSError) -> str:
    """Why a folder cannot be made or written to: what stands in the way, and where."""
    where = printable(str(directory))
    if error.errno in _NO_SPACE:
        return explain(directory, error)
    place = Path(error.filename or directory).absolute()
    while not os.path.lexists(place):
        place = place.parent
    found = printable(str(place))
    if not os.path.isdir(place):  # noqa: PTH112
        return f"{where}: cannot be made or written to: {found} is in the way: it is no folder"
    return f"{where}: cannot be made or written to: {error.strerror or error}: {found}"


def not_writable(directory: Path) -> str:
    """Why no store can be made or written to in `directory`, found without writing; else ""."""
    place = directory.absolute()
    while not os.path.lexists(place):
        place = place.parent
    code = 0
    if not os.path.isdir(place):  # noqa: PTH112
        code = errno.ENOTDIR
    elif not os.access(place, os.W_OK | os.X_OK):
        code = errno.EROFS if _is_read_only(place) else errno.EACCES
    return cannot_be_made(directory, OSError(code, os.strerror(code), str(place))) if code else ""


def _is_read_only(place: Path) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    return bool(os.statvfs(place).f_flag & getattr(os, "ST_RDONLY", 0))


def _file_of(error: OSError) -> str:
    return printable(os.fsdecode(error.filename)) if error.filename else "a file of the store"


def _room(directory: Path) -> str:
    try:
        free = shutil.disk_usage(directory).free
    except OSError:
        return "unknown room left"
    if hasattr(os, "statvfs"):
        disk = os.statvfs(directory)
        if disk.f_files and not disk.f_favail:
            return f"it takes no more files (no inodes left), {free / 1e6:.1f} MB free"
    return f"{free / 1e6:.1f} MB free"
