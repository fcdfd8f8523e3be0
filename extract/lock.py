"""Who works in a store: one process per shard, and one way of sharding at a time.

The locks are the operating system's (`filelock`): they end with the process that holds them. A
file beside each says who that is, for the message to the second one.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PRIVATE = ".extract"  # folder inside the store for locks and indices
TAKE_OVER_S = 15.0  # a killed run's workers may hold its lock for the seconds they take to end

DOOR_S = 600.0  # resharding a million lines takes seconds


class StoreBusy(ValueError):
    """Another process works in this store."""


@contextmanager
def locked(directory: Path, index: int = 0, count: int = 1) -> Iterator[None]:
    """Holds shard `index` of `count` of a store.

    Raises:
        StoreBusy: another live process holds it, or shards the store in another way.
    """
    folder = directory / PRIVATE
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / f"lock-{index}-of-{count}"
    with _door(directory):
        for path in sorted(folder.glob("lock-*-of-*")):
            if not path.name.endswith(f"-of-{count}") and _is_held(path):
                raise StoreBusy(_message(directory, path, f"shard.count={count}"))
        lock = _acquire(directory, mine)
    try:
        _owner_path(mine).write_text(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()})
        )
        yield
    finally:
        _owner_path(mine).unlink(missing_ok=True)
        lock.release()


@contextmanager
def door(directory: Path) -> Iterator[bool]:
    """Keeps others from starting in a store; yields whether this process is alone in it.

    For a process that holds its shard and would change what all shards share.
    """
    folder = directory / PRIVATE
    with _door(directory):
        yield sum(_is_held(path) for path in folder.glob("lock-*-of-*")) <= 1


@contextmanager
def _door(directory: Path) -> Iterator[None]:
    """What a starting process holds while it looks around and settles what all shards share."""
    try:
        lock = FileLock(directory / PRIVATE / "lock", timeout=DOOR_S).acquire().lock
    except Timeout:
        raise StoreBusy(
            f"{directory}: another process has been starting here for {DOOR_S:g} s; try again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _acquire(directory: Path, path: Path) -> Any:
    lock = FileLock(path)
    deadline = time.monotonic() + TAKE_OVER_S
    while True:
        try:
            return lock.acquire(timeout=0.2).lock
        except Timeout:
            if _is_alive(_owner(path)) or time.monotonic() > deadline:
                raise StoreBusy(_message(directory, path, "this run")) from None


def _is_held(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _owner_path(lock: Path) -> Path:
    return lock.with_name(re.sub("^lock", "owner", lock.name) + ".json")


def _owner(lock: Path) -> dict[str, Any]:
    try:
        owner = json.loads(_owner_path(lock).read_text())
        return owner if isinstance(owner, dict) else {}
    except (OSError, ValueError):
        return {}


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the owner may still run; one on another host always may."""
    if owner.get("host") != socket.gethostname():
        return bool(owner)
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except (KeyError, ValueError, OSError):
        return True
    return True


def _message(directory: Path, path: Path, wanted: str) -> str:
    owner = _owner(path)
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
    since = f" since {owner['since']}" if "since" in owner else ""
    return (
        f"{directory}: {who} has been working here{since} ({path.name}); {wanted} needs the store "
        "for itself. Wait for it, stop it, or choose another store.dir"
    )
