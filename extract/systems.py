"""What Windows and macOS do otherwise than Linux, with files, their names and processes."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

StrPath = str | os.PathLike[str]

# Signals that ask a run to stop. Slurm sends one before it preempts a job or a time limit ends it:
# SIGTERM, or that of `sbatch --signal`, which submitit sets to SIGUSR2. Windows has the first two.
ASKING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")

_NO_FOLLOW, _BINARY = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_BINARY", 0)

PAUSES_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)  # a virus scanner reads a new file in less
_DENIED_OR_SHARED = (5, 32)  # ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION: winerror.h


_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PF_EXITING = 4  # linux/sched.h


def end_with_parent(parent: int) -> None:
    """Makes Linux kill this process when its parent dies. No effect elsewhere.

    Args:
        parent: its process id; if that is not the parent any more, it died, and this process ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)


def is_ending(pid: int) -> bool:
    """Whether a process of this machine runs no more, though its id is still taken.

    It gives back its memory, or its parent has not yet asked how it ended. Known on Linux only.
    """
    with suppress(OSError, IndexError, ValueError):
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2]
        return bool(int(after_name.split()[6]) & _PF_EXITING)
    return False


class InUseError(PermissionError):
    """Another program has a file open: Windows neither replaces nor removes it."""


def slashed(path: str) -> str:
    """`path` with "/" between folders, as ids and a store's names have it. Windows takes both."""
    return path if os.sep == "/" else path.replace(os.sep, "/")


def real_path(path: StrPath) -> str:
    """`os.path.realpath` with "/" between folders."""
    return slashed(os.path.realpath(path))


def open_no_link(path: StrPath, flags: int, mode: int = 0o666) -> int:
    """`os.open` of bytes, never through a symbolic link at the path's end.

    Raises:
        OSError: as `os.open`, or a link stands there.
    """
    if not _NO_FOLLOW and os.path.islink(path):  # noqa: PTH114 - no Path objects for a million
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    return os.open(path, flags | _NO_FOLLOW | _BINARY, mode)


def replace(source: StrPath, target: StrPath) -> None:
    """`os.replace`; where another program has the target open, tries again for 1.3 s.

    Raises:
        InUseError: it is still open.
        OSError: as `os.replace`.
    """
    _patiently(partial(os.replace, source, target), target)


def unlink(path: StrPath) -> None:
    """`os.unlink`, as patient as `replace`."""
    _patiently(partial(os.unlink, path), path)


def _patiently(call: Callable[[], None], path: StrPath) -> None:
    for pause_s in (*PAUSES_S, None):
        try:
            call()
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _DENIED_OR_SHARED:
                raise
            if os.path.isdir(path):  # noqa: PTH112
                folder = errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path)
                raise IsADirectoryError(*folder) from error
            if pause_s is None:
                said = "another program has it open"
                raise InUseError(errno.EACCES, said, os.fspath(path)) from error
        time.sleep(pause_s)


def folds_case(folder: StrPath) -> bool:
    """Whether `A` and `a` are one file in `folder`, or in the nearest folder above that exists.

    A file system is asked, since any can be mounted anywhere: by a name that is there, or else by
    an empty file that is removed again. Where neither can be done, Windows and macOS do.
    """
    place = Path(real_path(folder))
    while not place.is_dir() and place != place.parent:
        place = place.parent
    with suppress(OSError):
        with os.scandir(place) as items:
            for item in items:
                if item.name != item.name.swapcase():
                    return _has_other_case(place / item.name)
        with tempfile.NamedTemporaryFile(prefix=".tmp-case-", dir=place) as file:
            return _has_other_case(Path(file.name))
    return sys.platform in ("win32", "darwin")


def _has_other_case(path: Path) -> bool:
    """Whether a file is found by its name in the other case too."""
    try:
        other = path.with_name(path.name.swapcase()).lstat()
    except OSError:
        return False
    return os.path.samestat(path.lstat(), other)
