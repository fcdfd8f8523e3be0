"""Which kind of lock the processes of a store take: the same one, on every machine.

A process that chooses a lease, or is told which to take, leaves a note in the store, and later ones
follow it. Nothing is noted where flock is chosen by itself. Two processes that chose differently
respect each other, since each reads the other's record: the note only spares the second one a wait.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from extract.files import read_whole, replace_whole
from extract.manifest.folders import PRIVATE
from extract.store.layout import LockKind
from extract.store.mounts import storage_of

NOTE = "lock-kind"  # in the store's private folder
NO_FLOCK = "this storage has no flock"


def why_lease(directory: Path, wanted: LockKind = LockKind.auto) -> str:
    """Why a lease is to be the lock of a store; "" if flock is.

    Args:
        directory: the store; its private folder exists.
        wanted: what the options say.

    Raises:
        OSError: the choice cannot be noted.
    """
    if wanted is not LockKind.auto:
        note(directory, wanted)
        return "store.lock=lease" if wanted is LockKind.lease else ""
    noted = _noted(directory)
    if noted is LockKind.flock:
        return ""
    found = storage_of(directory).without_flock
    if found and noted is None:
        note(directory, LockKind.lease)
    return found or (f"{PRIVATE}/{NOTE} says lease" if noted is LockKind.lease else "")


def note(directory: Path, kind: LockKind) -> None:
    """Notes the kind of lock of a store, for the processes that come."""
    if _noted(directory) is not kind:
        replace_whole(_path(directory), f"{kind.name}\n".encode(), fsync=False)


def _noted(directory: Path) -> LockKind | None:
    with suppress(OSError, KeyError, UnicodeDecodeError):
        return LockKind[read_whole(_path(directory), 1 << 12).decode().strip()]
    return None


def _path(directory: Path) -> Path:
    return directory / PRIVATE / NOTE
