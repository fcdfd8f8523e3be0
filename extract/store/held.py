"""One lock, as a process takes and holds it: by flock, or as a lease.

A lock is two files of `.extract`. `lock-0-of-1` is locked by the kernel (flock) until the process
and its workers end; its time says since when. `owner-0-of-1` is filelock's record of the owner:
host, process id, and the start of that process, so that a later process with the same id is not
taken for the owner. filelock's record holds no time that a message could show.

Where flock is missing, or does not reach all machines that see the store, the record itself is the
lock, as a lease that its owner renews every RENEWED_S seconds: `extract.store.lease`. Another
process takes it over at once if the owner was of this host and is dead, else after LEASE_S seconds
without a renewal. FileLock's own fallback is off: of NO_FLOCK it handles ENOSYS only.
"""

from __future__ import annotations

import _thread
import errno
import logging
import os
import re
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, LeaseCompromise, MarkerSoftFileLock, SoftFileLease

from extract.files import APPEND, make_way
from extract.store import lease
from extract.store.lease import Fence
from extract.systems import open_no_link
from extract.text import printable

log = logging.getLogger(__name__)

LEASE_S, RENEWED_S = 60.0, 5.0  # all processes of a store must agree on the first: keep it

NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


@dataclass(frozen=True)
class Held:
    """A lock that this process holds."""

    flock: FileLock | None  # None where a lease is the lock
    owner: MarkerSoftFileLock
    lost: threading.Event  # set once the lease is lost

    def fence(self, directory: Path) -> Fence:
        """What stops this process once the lock is lost; from the thread that took it."""
        token = self.owner.token if isinstance(self.owner, SoftFileLease) else None
        return Fence(directory, MarkerSoftFileLock(self.owner.lock_file), token, self.lost)

    def release(self) -> None:
        """Lets other processes take it."""
        with suppress(OSError):
            self.owner.release()
        if self.flock is not None:
            self.flock.release()


def acquire(path: Path, wait_s: float = 0.0, *, has_flock: bool) -> Held:
    """Takes the lock `path`; raises Timeout if another process still holds it after `wait_s`.

    Without flock it waits longer: until the owner renews the lease, or has not for LEASE_S seconds.
    """
    for file in (path, owner_path(path)):
        make_way(file)
    flock = _flock(path, wait_s) if has_flock else None
    if not has_flock:
        os.close(open_no_link(path, APPEND))  # by its name others know that there is such a shard
    lost = threading.Event()
    try:
        owner = _own(owner_path(path), wait_s, lost, has_flock=flock is not None)
    except BaseException:
        if flock is not None:
            flock.release()
        raise
    with suppress(OSError, NotImplementedError):  # another user's file; Windows
        os.utime(path, follow_symlinks=False)
    return Held(flock, owner, lost)


def _flock(path: Path, wait_s: float) -> FileLock | None:
    """The kernel's lock on `path`; None where the storage has none."""
    try:
        return FileLock(path, fallback_to_soft=False).acquire(timeout=wait_s).lock
    except OSError as error:
        if error.errno in NO_FLOCK:
            return None
        raise


def _own(
    path: Path, wait_s: float, lost: threading.Event, *, has_flock: bool
) -> MarkerSoftFileLock:
    """Writes this process's owner record at `path`, on the terms of `_acquire`."""
    record = MarkerSoftFileLock(path)
    found = record.owner
    if has_flock and (found is None or found.mode == "exclusive"):
        record.force_break()  # its owner no longer holds the flock: this process does
        return record.acquire(timeout=0).lock
    return lease.take(path, wait_s, lease.Terms(LEASE_S, RENEWED_S, partial(_stop, lost)))


def _stop(lost: threading.Event, loss: LeaseCompromise) -> None:
    """Ends the run whose lease was lost: another process may work on its shard."""
    lost.set()
    log.error(
        "%s: lost (%s), so another run may have begun here; this one stops",
        printable(loss.lock_file),
        loss.reason,
    )
    _thread.interrupt_main(signal.SIGTERM)  # does nothing where Python does not handle it


def owner_path(lock: Path) -> Path:
    """The record of the owner of the lock `lock`."""
    return lock.with_name(re.sub("^lock", "owner", lock.name))
