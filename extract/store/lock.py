"""Locks on a store: one process works on each shard, with one way of sharding at a time.

A process that starts holds the start-up lock until it has its shard. Meanwhile it settles what all
shards share, so that a second process that starts finds it settled.

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
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, LeaseCompromise, MarkerSoftFileLock, SoftFileLease, Timeout

from extract.files import APPEND, make_folder, make_way
from extract.manifest import folders
from extract.shard import LEDGER_NAME
from extract.store import lease, lock_kind
from extract.store.caches import look_again
from extract.store.layout import LockKind
from extract.store.lease import Fence
from extract.store.mounts import storage_of
from extract.systems import open_no_link
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
    directory: Path,
    index: int = 0,
    count: int = 1,
    settle: _Settle = lambda alone: None,
    kind: LockKind = LockKind.auto,
    guard: Callable[[Fence], None] = lambda fence: None,
) -> Iterator[None]:
    """Holds shard `index` of `count` of a store.

    Where the lock is a lease, a process that was suspended can lose it to another one. It then gets
    a SIGTERM, if it handles that signal, and the fence stops its writes.

    Args:
        directory: the store.
        index: this process's shard.
        count: how many there are.
        settle: called once the shard is this process's and before any other process can start;
            told whether this process is alone: only then may it change what all shards share.
        kind: of the lock.
        guard: given, before `settle`, what is to be called before each write that others rely on.

    Raises:
        StoreBusy: another live process holds it, or shards the store in another way.
        StoreUnusable: the disk takes no lock.
    """
    folder = directory / PRIVATE
    mine = folder / f"lock-{index}-of-{count}"

    def begin(lock: _Held, alone: bool) -> None:
        guard(lock.fence(directory))
        settle(alone)

    with explained(directory):
        make_folder(folder)
        with starting(directory, kind) as has_flock:
            lock = _take(directory, mine, count, begin, has_flock=has_flock)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def starting(directory: Path, kind: LockKind = LockKind.auto) -> Iterator[bool]:
    """Holds the start-up lock: meanwhile no other process can begin to work in this store.

    What the store holds is seen as it was when the block began, or newer, also where this machine
    remembers folders of a network file system.

    Yields:
        Whether flock is the lock of this store.
    """
    why = lock_kind.why_lease(directory, kind)
    try:
        lock = _acquire(directory / PRIVATE / "lock", START_UP_S, has_flock=not why)
    except Timeout:
        raise StoreBusy(
            f"{printable(str(directory))}: another process has been starting here for "
            f"{START_UP_S:g} s; try again"
        ) from None
    try:
        if lock.flock is None:
            _say_lease(directory, why)
        if not storage_of(directory).is_local:
            look_again(directory / PRIVATE)
            look_again(directory, _is_own_file)
        yield lock.flock is not None
    finally:
        lock.release()


def _is_own_file(name: str) -> bool:
    return name == folders.METADATA or bool(LEDGER_NAME.fullmatch(name))


def _say_lease(directory: Path, why: str) -> None:
    if not why:
        lock_kind.note(directory, LockKind.lease)
    log.info(
        "%s: %s, so a run renews a lease; that of one killed on another host ends after %g s",
        printable(str(directory)),
        why or lock_kind.NO_FLOCK,
        LEASE_S,
    )


def _take(
    directory: Path,
    mine: Path,
    count: int,
    begin: Callable[[_Held, bool], None],
    *,
    has_flock: bool,
) -> _Held:
    """Takes the lock `mine` and calls `begin` with it; the caller holds the start-up lock."""
    others = _held_locks(mine, count, has_flock=has_flock)
    for path in others:
        if not path.name.endswith(f"-of-{count}"):
            raise StoreBusy(_message(directory, path, f"shard.count={count}", has_flock=has_flock))
    lock = _acquire_shard(directory, mine, has_flock=has_flock)
    try:
        begin(lock, not others)
    except BaseException:
        lock.release()
        raise
    return lock


def _held_locks(mine: Path, count: int, *, has_flock: bool) -> list[Path]:
    """The locks of all shardings that another process holds.

    A lease of this sharding that was renewed lately counts as held: to be sure would take a renewal
    of each, and that this process may be alone is all that depends on it.
    """
    names = [path for path in sorted(mine.parent.iterdir()) if _NAME.fullmatch(path.name)]
    paths = [path for path in names if path != mine]

    def is_held(path: Path) -> bool:
        same = not has_flock and path.name.endswith(f"-of-{count}")
        return (same and _is_renewed(path)) or _is_held(path, has_flock=has_flock)

    with ThreadPoolExecutor(len(paths) or 1) as pool:  # each may wait for a lease to end
        return [path for path, held in zip(paths, pool.map(is_held, paths), strict=True) if held]


def _is_renewed(path: Path) -> bool:
    record, starts = _owner_path(path), _owner_path(path.with_name("lock"))
    return lease.is_renewed(record, starts, LEASE_S) and not lease.is_known_dead(record)


def _is_held(path: Path, *, has_flock: bool) -> bool:
    if path.is_symlink() or not path.is_file():
        return False  # no run makes such a lock
    try:
        _acquire(path, has_flock=has_flock).release()
    except Timeout:
        return True
    return False


def _acquire_shard(directory: Path, path: Path, *, has_flock: bool) -> _Held:
    """Takes a shard's lock; waits for workers of a killed run to end, not for a live process."""
    try:
        return _acquire(path, has_flock=has_flock)
    except Timeout:
        busy = StoreBusy(_message(directory, path, "this run", has_flock=has_flock))
    if not lease.is_known_dead(_owner_path(path)):
        raise busy from None
    try:
        return _acquire(path, TAKE_OVER_S, has_flock=has_flock)
    except Timeout:
        raise busy from None


@dataclass(frozen=True)
class _Held:
    """A lock that this process holds."""

    flock: FileLock | None  # None where a lease is the lock
    owner: MarkerSoftFileLock
    lost: threading.Event  # set once the lease is lost

    def fence(self, directory: Path) -> Fence:
        """What stops this process once the lock is lost; from the thread that took it."""
        token = self.owner.token if isinstance(self.owner, SoftFileLease) else None
        return Fence(directory, MarkerSoftFileLock(self.owner.lock_file), token, self.lost)

    def release(self) -> None:
        with suppress(OSError):
            self.owner.release()
        if self.flock is not None:
            self.flock.release()


def _acquire(path: Path, wait_s: float = 0.0, *, has_flock: bool) -> _Held:
    """Takes the lock `path`; raises Timeout if another process still holds it after `wait_s`.

    Without flock it waits longer: until the owner renews the lease, or has not for LEASE_S seconds.
    """
    for file in (path, _owner_path(path)):
        make_way(file)
    flock = _flock(path, wait_s) if has_flock else None
    if not has_flock:
        os.close(open_no_link(path, APPEND))  # by its name others know that there is such a shard
    lost = threading.Event()
    try:
        owner = _own(_owner_path(path), wait_s, lost, has_flock=flock is not None)
    except BaseException:
        if flock is not None:
            flock.release()
        raise
    with suppress(OSError, NotImplementedError):  # another user's file; Windows
        os.utime(path, follow_symlinks=False)
    return _Held(flock, owner, lost)


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


def _owner_path(lock: Path) -> Path:
    return lock.with_name(re.sub("^lock", "owner", lock.name))


def _message(directory: Path, path: Path, wanted: str, *, has_flock: bool) -> str:
    owner = MarkerSoftFileLock(_owner_path(path)).owner
    who, since = "process ? on ?", ""
    file = printable(str(_owner_path(path)))
    by_hand = "" if has_flock else f". If that process is dead, remove {file}"
    if owner is not None:
        host = owner.hostname.partition("?")[0]  # filelock adds the container's process namespace
        who = f"process {owner.pid} on {printable(host)[:60] or '?'}"
        with suppress(OSError):
            since = f" since {time.ctime(path.lstat().st_mtime)}"
    return (
        f"{printable(str(directory))}: {who} has been working here{since} ({path.name}); "
        f"{wanted} needs the store for itself. Wait for it, stop it, or choose another store.dir"
        f"{by_hand}"
    )
