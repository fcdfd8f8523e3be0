"""Who works in a store: one process per shard, and one way of sharding at a time.

A process that starts holds the start-up lock until it has its shard, and settles in between what
all shards share. So of two that start together the first settles it alone, and the second finds it
settled.

The locks are the operating system's (`filelock`): they end with the process that holds them. A
file beside each says who that is, for the message to the second one.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from extract.files import explained, make_folder, make_way, read_whole, replace_whole
from extract.manifest import folders
from extract.text import printable

PRIVATE = folders.PRIVATE  # folder inside the store for locks and indices
TAKE_OVER_S = 15.0  # a killed run's workers may hold its lock for the seconds they take to end

DOOR_S = 600.0  # resharding a million lines takes seconds

_NAME = re.compile(r"lock-\d+-of-(\d+)")
_Settle = Callable[[bool], None]


class StoreBusy(ValueError):
    """Another process works in this store."""


@contextmanager
def locked(
    directory: Path, index: int = 0, count: int = 1, settle: _Settle = lambda alone: None
) -> Iterator[None]:
    """Holds shard `index` of `count` of a store.

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
        with _door(directory):
            lock = _take(directory, mine, count, settle)
    try:
        yield
    finally:
        with suppress(OSError):
            _owner_path(mine).unlink(missing_ok=True)
        lock.release()


def _take(directory: Path, mine: Path, count: int, settle: _Settle) -> Any:
    """The lock `mine`, with what all shards share settled; the start-up lock is held."""
    others = [path for path in _locks(mine.parent) if path != mine and _is_held(path)]
    for path in others:
        if not path.name.endswith(f"-of-{count}"):
            raise StoreBusy(_message(directory, path, f"shard.count={count}"))
    lock = _acquire(directory, mine)
    try:
        settle(not others)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
        replace_whole(_owner_path(mine), json.dumps(owner).encode(), fsync=False)
    except BaseException:
        lock.release()
        raise
    return lock


def _locks(folder: Path) -> list[Path]:
    """The locks of all shardings, held or not."""
    return [path for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name)]


@contextmanager
def _door(directory: Path) -> Iterator[None]:
    """What a starting process holds while it looks around and settles what all shards share."""
    path = directory / PRIVATE / "lock"
    make_way(path)  # a lock is opened, and cut, through a symbolic link
    try:
        lock = FileLock(path, timeout=DOOR_S).acquire().lock
    except Timeout:
        raise StoreBusy(
            f"{directory}: another process has been starting here for {DOOR_S:g} s; try again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _acquire(directory: Path, path: Path) -> Any:
    make_way(path)
    lock = FileLock(path)
    deadline = time.monotonic() + TAKE_OVER_S
    while True:
        try:
            return lock.acquire(timeout=0.2).lock
        except Timeout:
            if _is_alive(_owner(path)) or time.monotonic() > deadline:
                raise StoreBusy(_message(directory, path, "this run")) from None


def _is_held(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False  # none of ours
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _owner_path(lock: Path) -> Path:
    return lock.with_name(re.sub("^lock", "owner", lock.name) + ".json")


def _owner(lock: Path) -> dict[str, Any]:
    try:
        owner = json.loads(read_whole(_owner_path(lock)))
        return owner if isinstance(owner, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the owner may still run; one on another host always may."""
    if owner.get("host") != socket.gethostname():
        return bool(owner)
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return True
    return True


def _message(directory: Path, path: Path, wanted: str) -> str:
    said = {key: printable(str(value))[:60] for key, value in _owner(path).items()}
    who = f"process {said.get('pid', '?')} on {said.get('host', '?')}"
    since = f" since {said['since']}" if "since" in said else ""
    return (
        f"{directory}: {who} has been working here{since} ({path.name}); {wanted} needs the store "
        "for itself. Wait for it, stop it, or choose another store.dir"
    )
