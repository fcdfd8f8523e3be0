"""Locks on a store: one process works on each shard, with one way of sharding at a time.

A process that starts holds the start-up lock until it has its shard. Meanwhile it settles what all
shards share, so that a second process that starts finds it settled.

The lock of each is two files of `.extract`: `extract.store.held`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import MarkerSoftFileLock, Timeout

from extract.files import make_folder
from extract.manifest import folders
from extract.shard import LEDGER_NAME
from extract.store import held, lease, lock_kind
from extract.store.caches import look_again
from extract.store.held import Held, acquire, owner_path
from extract.store.layout import LockKind
from extract.store.lease import Fence
from extract.store.mounts import storage_of
from extract.systems import is_ending
from extract.text import printable
from extract.write_errors import explained

log = logging.getLogger(__name__)

PRIVATE = folders.PRIVATE  # folder inside the store for locks and indices
TAKE_OVER_S = 15.0  # a killed run's workers may hold its flock for the seconds they take to end
START_UP_S = 600.0  # resharding a million lines takes seconds

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

    def begin(lock: Held, alone: bool) -> None:
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
        lock = acquire(directory / PRIVATE / "lock", START_UP_S, has_flock=not why)
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
        held.LEASE_S,
    )


def _take(
    directory: Path,
    mine: Path,
    count: int,
    begin: Callable[[Held, bool], None],
    *,
    has_flock: bool,
) -> Held:
    """Takes the lock `mine` and calls `begin` with it; the caller holds the start-up lock."""
    others = _held_locks(mine, count, has_flock=has_flock)
    for path in [path for path in others if not path.name.endswith(f"-of-{count}")]:
        wanted = f"shard.count={count}"
        _acquire_from_the_dead(directory, path, wanted, has_flock=has_flock).release()
        others.remove(path)
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
        return [path for path, busy in zip(paths, pool.map(is_held, paths), strict=True) if busy]


def _is_renewed(path: Path) -> bool:
    record, starts = owner_path(path), owner_path(path.with_name("lock"))
    return lease.is_renewed(record, starts, held.LEASE_S) and not lease.is_known_dead(record)


def _is_held(path: Path, *, has_flock: bool) -> bool:
    if path.is_symlink() or not path.is_file():
        return False  # no run makes such a lock
    try:
        acquire(path, has_flock=has_flock).release()
    except Timeout:
        return True
    return False


def _acquire_shard(directory: Path, path: Path, *, has_flock: bool) -> Held:
    """Takes a shard's lock; waits for workers of a killed run to end, not for a live process."""
    try:
        return acquire(path, has_flock=has_flock)
    except Timeout:
        return _acquire_from_the_dead(directory, path, "this run", has_flock=has_flock)


def _acquire_from_the_dead(directory: Path, path: Path, wanted: str, *, has_flock: bool) -> Held:
    """Takes a lock that workers of a killed run still hold, once they have ended."""
    busy = StoreBusy(_message(directory, path, wanted, has_flock=has_flock))
    if not (lease.is_known_dead(owner_path(path)) or _is_ending(path)):
        raise busy from None
    try:
        return acquire(path, TAKE_OVER_S, has_flock=has_flock)
    except Timeout:
        raise busy from None


def _is_ending(path: Path) -> bool:
    """Whether the owner of a lock has been killed, which filelock knows once its id is free.

    That is reason enough to wait for a flock, not to take a lease over: a write may be under way.
    """
    owner, mine = (
        MarkerSoftFileLock(owner_path(one)).owner for one in (path, path.with_name("lock"))
    )
    if owner is None or mine is None or owner.hostname != mine.hostname:
        return False
    return is_ending(owner.pid)


def _message(directory: Path, path: Path, wanted: str, *, has_flock: bool) -> str:
    owner = MarkerSoftFileLock(owner_path(path)).owner
    who, since = "process ? on ?", ""
    file = printable(str(owner_path(path)))
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
