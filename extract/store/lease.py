"""An owner's record as a lease, where no flock tells whether the owner is alive.

filelock renews the record, and takes it over once it has watched it unchanged for the lease's
length, on its own monotonic clock: no machine's time of day is looked at. To take over it exchanges
two names, which NFS and most file systems of FUSE cannot. There this module removes the record of a
dead owner instead, under filelock's lock for such storage (`SoftReadWriteLock`, by hard links), so
that no two processes remove it, and one of them the other's.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import (
    LeaseCompromise,
    MarkerSoftFileLock,
    SoftFileLease,
    SoftFileLockProtocolError,
    SoftReadWriteLock,
    Timeout,
)

from extract.files import open_regular, read_whole
from extract.text import printable
from extract.write_errors import StoreUnusable

MUTEX = "taking-over"  # beside the records; filelock adds `.rw`
CHECKED_S = 0.05  # a record is not read more often than that

_Stamp = tuple[bytes, int]  # a record's bytes, and the storage's time of its last renewal, in ns


@dataclass(frozen=True)
class Terms:
    """What all processes of a store agree on."""

    lease_s: float  # a record that is not renewed for so long may be taken over
    renewed_s: float  # how often its owner renews it
    lost: Callable[[LeaseCompromise], None]  # called once this process's record is lost

    @property
    def poll_s(self) -> float:
        """How often a record is looked at."""
        return self.renewed_s / 10


def take(path: Path, wait_s: float, terms: Terms) -> SoftFileLease:
    """Writes this process's record at `path`, and begins to renew it.

    Raises:
        Timeout: after `wait_s` another process still renews its record. It takes longer until a
            renewal was seen, or the record was taken over.
    """
    lease = SoftFileLease(
        path,
        lease_duration=terms.lease_s,
        heartbeat_interval=terms.renewed_s,
        on_compromise=terms.lost,
    )
    watch = _Watch(path, terms, time.monotonic() + wait_s)
    while True:
        try:
            return lease.acquire(
                timeout=wait_s + 3 * terms.lease_s,
                poll_interval=terms.poll_s,
                cancel_check=watch.is_over,
            ).lock
        except Timeout:
            if not watch.is_dead:
                raise
        _remove(path, watch.last, terms)


def is_known_dead(path: Path) -> bool:
    """Whether a record is that of a process of this host which has ended.

    filelock knows, and tells only by taking over; it is given a copy.
    """
    with suppress(OSError, Timeout), tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "owner"
        copy.write_bytes(read_whole(path))
        MarkerSoftFileLock(copy).acquire(timeout=0).lock.release()
        return True
    return False


def is_renewed(path: Path, mine: Path, lease_s: float) -> bool:
    """Whether the record at `path` was renewed within `lease_s`, by the storage's own clock.

    False, if it was or not, where the storage takes its times from machines whose clocks differ.

    Args:
        path: a record.
        mine: one that this process renews, in the same folder.
        lease_s: the lease's length.
    """
    theirs, ours = _stamp(path), _stamp(mine)
    return theirs is not None and ours is not None and abs(ours[1] - theirs[1]) < lease_s * 1e9


class Fence:
    """Stops a process whose record was taken: it is called before each write that others rely on.

    Args:
        directory: the store.
        record: where the lock's record lies.
        token: what it says while the lock is this process's; None where flock is the lock.
        lost: set if filelock finds that the record is lost, or could not be renewed.
    """

    def __init__(
        self,
        directory: Path,
        record: MarkerSoftFileLock,
        token: str | None,
        lost: threading.Event,
    ) -> None:
        self._directory, self._record, self._token, self._lost = directory, record, token, lost
        self._checked = -CHECKED_S

    @property
    def is_lease(self) -> bool:
        """Whether the lock can be lost while this process lives."""
        return self._token is not None

    def __call__(self) -> None:
        """Returns if the lock is this process's; safe to call from any thread.

        Raises:
            StoreUnusable: it is not. Another process may be at work.
        """
        now = _clock()
        if self._token is None or (now - self._checked < CHECKED_S and not self._lost.is_set()):
            return
        owner = self._record.owner  # opened anew: NFS then asks the server
        if self._lost.is_set() or owner is None or owner.token != self._token:
            self._lost.set()
            raise StoreUnusable(
                f"{printable(str(self._directory))}: this run lost its lock, so another run may be "
                "at work here; this one writes nothing more"
            )
        self._checked = now


class _Watch:
    """Another owner's record, watched on this process's monotonic clock.

    Args:
        path: of the record.
        terms: of the lease.
        ends: when to give up, if the owner is alive.
    """

    def __init__(self, path: Path, terms: Terms, ends: float) -> None:
        self._path, self._terms, self._ends = path, terms, ends
        self._first = self.last = _stamp(path)
        self._since, self.is_dead = time.monotonic(), False
        self._longest_s = self._judge()

    def is_over(self) -> bool:
        """Whether to stop waiting: the owner is dead, or was seen alive after the end."""
        now, stamp = time.monotonic(), _stamp(self._path)
        if stamp != self.last:
            self.last, self._since = stamp, now
            self._longest_s = self._judge()
        self.is_dead = stamp is not None and now - self._since >= self._longest_s
        return self.is_dead or (now >= self._ends and stamp not in (None, self._first))

    def _judge(self) -> float:
        """After how long without a change the owner is dead.

        filelock is left some polls to take over by itself. A record of a run with flock may be old
        without end; a torn one is nobody's.
        """
        owner = MarkerSoftFileLock(self._path).owner
        polls_s = 4 * self._terms.poll_s
        if is_known_dead(self._path):
            return polls_s
        renews = owner is None or owner.mode == "lease"
        return self._terms.lease_s + polls_s if renews else float("inf")


def _remove(path: Path, seen: _Stamp | None, terms: Terms) -> None:
    """Removes a dead owner's record, if it is still as it was seen.

    Raises:
        Timeout: the storage has no hard links, or another process is at it.
    """
    mutex = SoftReadWriteLock(
        path.with_name(MUTEX),
        is_singleton=False,
        heartbeat_interval=terms.renewed_s,
        stale_threshold=max(terms.lease_s, 3 * terms.renewed_s),
        poll_interval=terms.poll_s,
    )
    try:
        with mutex.write_lock(timeout=3 * terms.lease_s):
            if _stamp(path) == seen:
                MarkerSoftFileLock(path).force_break()
    except SoftFileLockProtocolError:
        raise Timeout(str(path)) from None


def _stamp(path: Path) -> _Stamp | None:
    """What a record says and when it was renewed; None if there is none.

    It is opened for that: the attributes of a file's name may be those of a minute ago.
    """
    with suppress(OSError), open_regular(path) as file:
        return file.read(1 << 12), os.fstat(file.fileno()).st_mtime_ns
    return None


def _clock() -> float:
    """Seconds that pass while the machine sleeps, too."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
