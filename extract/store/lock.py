"""Locks on a store: one process works on each shard, with one way of sharding at a time.

A process that starts holds the start-up lock until it has its shard. Meanwhile it settles what all
shards share, so that a second process that starts finds it settled.

A lock is two files of `.extract`. `lock-0-of-1` is locked by the kernel (flock) until the process
and its workers end; its time says since when. `owner-0-of-1` is filelock's record of the owner:
host, process id, and the start of that process, so that a later process with the same id is not
taken for the owner. filelock's record holds no time that a message could show.

Some network file systems have no flock. There the record itself is the lock, as a lease that its
owner renews every RENEWED_S seconds. Another process takes it over at once if the owner was of this
host and is dead, else after LEASE_S seconds without a renewal. FileLock's own fallback is off: of
NO_FLOCK it handles ENOSYS only, and the lock of an owner that died on another host would stay.
"""

from __future__ import annotations

import _thread
import errno
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, LeaseCompromise, MarkerSoftFileLock, SoftFileLease, Timeout

from extract.files import make_folder, make_way
from extract.manifest import folders
from extract.text import printable
from extract.write_errors import explained

log = logging.getLogger(__name__)

PRIVATE = folders.PRIVATE  # folder inside the store for locks and indices
TAKE_OVER_S = 15.0  # a killed run's workers may hold its flock for the seconds they take to end
START_UP_S = 600.0  # resharding a million lines takes seconds
LEASE_S, RENEWED_S = 60.0, 5.0  # all processes of a store must agree on the first: keep it

NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

_NAME = re.compile(r"lock-\d+-of-(\d+)")
_Settle = Callable[[bool], None]


class StoreBusy(ValueError):
    """Another process works in this store."""


@contextmanager
def locked(
    directory: Path, index: int = 0, count: int = 1, settle: _Settle = lambda alone: None
) -> Iterator[None]:
    """Holds shard `index` of `count` of a store.

    Where the lock is a lease, a process that was suspended can lose it to another one. It then gets
    a SIGTERM, if it handles that signal.

    Args:
        directory: the store.
        index: this process's shard.
        count: how many there are.
        settle: called once the shard is this process's and before any other process can start;
            told whether this process is alone: only then may it change what all shards share.

    Raises:
        StoreBusy: another live process holds it, or shards the store in another way.
        StoreUnusable: the disk takes no lock.
    """
    folder = directory / PRIVATE
    mine = folder / f"lock-{index}-of-{count}"
    with explained(directory):
        make_folder(folder)
        with starting(directory):
            lock = _take(directory, mine, count, settle)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def starting(directory: Path) -> Iterator[None]:
    """Holds the start-up lock: meanwhile no other process can begin to work in this store."""
    try:
        lock = _acquire(directory / PRIVATE / "lock", START_UP_S)
    except Timeout:
        raise StoreBusy(
            f"{directory}: another process has been starting here for {START_UP_S:g} s; try again"
        ) from None
    if lock.flock is None:
        log.info(
            "%s: this storage has no flock, so a run renews a lease; that of one killed on another "
            "host ends after %g s",
            printable(str(directory)),
            LEASE_S,
        )
    try:
        yield
    finally:
        lock.release()


def _take(directory: Path, mine: Path, count: int, settle: _Settle) -> _Held:
    """Takes the lock `mine` and calls `settle`; the caller holds the start-up lock."""
    others = [path for path in _held_locks(mine.parent) if path != mine]
    for path in others:
        if not path.name.endswith(f"-of-{count}"):
            raise StoreBusy(_message(directory, path, f"shard.count={count}"))
    lock = _acquire_shard(directory, mine)
    try:
        settle(not others)
    except BaseException:
        lock.release()
        raise
    return lock


def _held_locks(folder: Path) -> list[Path]:
    """The locks of all shardings that a process holds."""
    paths = [path for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name)]
    with ThreadPoolExecutor(len(paths) or 1) as pool:  # each may wait for a lease to end
        return [path for path, held in zip(paths, pool.map(_is_held, paths), strict=True) if held]


def _is_held(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False  # no run makes such a lock
    try:
        _acquire(path).release()
    except Timeout:
        return True
    return False


def _acquire_shard(directory: Path, path: Path) -> _Held:
    """Takes a shard's lock; waits for workers of a killed run to end, not for a live process."""
    try:
        return _acquire(path)
    except Timeout:
        busy = StoreBusy(_message(directory, path, "this run"))
    try:
        MarkerSoftFileLock(_owner_path(path), timeout=0).acquire().lock.release()
        return _acquire(path, TAKE_OVER_S)  # the owner is dead: its record could be taken over
    except Timeout:
        raise busy from None


@dataclass(frozen=True)
class _Held:
    """A lock that this process holds."""

    flock: FileLock | None  # None where the storage has none
    owner: MarkerSoftFileLock

    def release(self) -> None:
        with suppress(OSError):
            self.owner.release()
        if self.flock is not None:
            self.flock.release()


def _acquire(path: Path, wait_s: float = 0.0) -> _Held:
    """Takes the lock `path`; raises Timeout if another process still holds it after `wait_s`.

    Without flock it waits longer: until the owner renews the lease, or has not for LEASE_S seconds.
    """
    for file in (path, _owner_path(path)):
        make_way(file)
    flock = _flock(path, wait_s)
    try:
        owner = _own(_owner_path(path), wait_s, has_flock=flock is not None)
    except BaseException:
        if flock is not None:
            flock.release()
        raise
    with suppress(OSError, NotImplementedError):  # another user's file; Windows
        os.utime(path, follow_symlinks=False)
    return _Held(flock, owner)


def _flock(path: Path, wait_s: float) -> FileLock | None:
    """The kernel's lock on `path`; None where the storage has none."""
    try:
        return FileLock(path, fallback_to_soft=False).acquire(timeout=wait_s).lock
    except OSError as error:
        if error.errno in NO_FLOCK:
            return None
        raise


def _own(path: Path, wait_s: float, *, has_flock: bool) -> MarkerSoftFileLock:
    """Writes this process's owner record at `path`, on the terms of `_acquire`."""
    record = MarkerSoftFileLock(path)
    found = record.owner
    if has_flock and (found is None or found.mode == "exclusive"):
        record.force_break()  # its owner no longer holds the flock: this process does
        return record.acquire(timeout=0).lock
    lease = SoftFileLease(
        path, lease_duration=LEASE_S, heartbeat_interval=RENEWED_S, on_compromise=_stop
    )
    before, ends = _time(path), time.monotonic() + wait_s
    return lease.acquire(
        timeout=wait_s + 2 * LEASE_S,
        poll_interval=RENEWED_S / 10,
        cancel_check=lambda: time.monotonic() >= ends and _time(path) not in (None, before),
    ).lock


def _time(path: Path) -> int | None:
    """When a lease was renewed last, in ns of the file system's clock; None if there is none."""
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return None


def _stop(loss: LeaseCompromise) -> None:
    """Ends the run whose lease was lost: another process may work on its shard."""
    log.error(
        "%s: lost (%s), so another run may have begun here; this one stops",
        printable(loss.lock_file),
        loss.reason,
    )
    _thread.interrupt_main(signal.SIGTERM)  # does nothing where Python does not handle it


def _owner_path(lock: Path) -> Path:
    return lock.with_name(re.sub("^lock", "owner", lock.name))


def _message(directory: Path, path: Path, wanted: str) -> str:
    owner = MarkerSoftFileLock(_owner_path(path)).owner
    who, since = "process ? on ?", ""
    if owner is not None:
        host = owner.hostname.partition("?")[0]  # filelock adds the container's process namespace
        who = f"process {owner.pid} on {printable(host)[:60] or '?'}"
        with suppress(OSError):
            since = f" since {time.ctime(path.lstat().st_mtime)}"
    return (
        f"{directory}: {who} has been working here{since} ({path.name}); {wanted} needs the store "
        "for itself. Wait for it, stop it, or choose another store.dir"
    )
