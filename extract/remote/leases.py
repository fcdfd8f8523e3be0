"""Locks of an object store, which has no locks: an object that its owner renews.

The object is made by a conditional request, so of several processes one has it. Its owner rewrites
it every RENEWED_S seconds. Who wants it watches it: one that stays the same for LEASE_S seconds has
lost its owner, and is removed. No clock is compared with another machine's. An owner that could not
renew for LEASE_S seconds counts its lease as lost, and writes no more (`require`).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from extract.remote.objects import Objects

LEASE_S, RENEWED_S = 60.0, 15.0  # all processes must agree on the first
POLLED_S = 1.0

_NOBODY: Mapping[str, Any] = {}


class Held(Exception):
    """Another process holds the lease; `owner` is what its object says."""

    def __init__(self, owner: Mapping[str, Any]) -> None:
        super().__init__(f"process {owner.get('pid', '?')} on {owner.get('host', '?')}")
        self.owner = owner


class Lease:
    """One lock object, held from `take` to `release`. A thread of its own renews it.

    Args:
        objects: where it is.
        name: of the object.
        origin: names the folder through which this process works. Another owner with the same
            origin is dead, as far as the caller's lock on that folder says so.
    """

    is_lost = False  # whether another process has it

    def __init__(self, objects: Objects, name: str, origin: str) -> None:
        self._objects, self.name = objects, name
        self._said = {
            "owner": secrets.token_hex(8),
            "origin": origin,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self._times, self._renewed_s = 0, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {name}", daemon=True)

    def take(self, is_dead: Callable[[Mapping[str, Any]], bool], wait_s: float) -> None:
        """Takes the lease; waits `wait_s` seconds for an owner that is alive.

        Args:
            is_dead: of what another owner says, whether it is known to be dead.
            wait_s: 0 takes it as soon as it is known whether its owner is alive.

        Raises:
            Held: it is.
            OSError: the object store cannot be reached.
        """
        start, ends = time.monotonic(), time.monotonic() + wait_s
        while not self._objects.create(self.name, self._data()):
            owner = owner_of(self._objects, self.name)
            if is_dead(owner) or not is_alive(self._objects, self.name, owner):
                self._remove_of(owner)
            elif time.monotonic() >= ends:
                raise Held(owner)
            start = time.monotonic()
        self._renewed_s = start
        self._thread.start()

    def require(self) -> None:
        """Raises OSError if the lease was lost, or may have been: it was not renewed for long."""
        if self.is_lost or time.monotonic() - self._renewed_s > LEASE_S:
            raise OSError(
                errno.ESTALE,
                "the lease was not renewed in time, so another run may work here",
                f"{self._objects.shown}/{self.name}",
            )

    def release(self) -> None:
        """Removes the object, unless another process has taken it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            with suppress(OSError):
                self._remove_of(self._said)

    def _remove_of(self, owner: Mapping[str, Any]) -> None:
        """Removes the object if it is still this owner's."""
        if owner_of(self._objects, self.name).get("owner") == owner.get("owner"):
            self._objects.remove([self.name])

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_S):
            start = time.monotonic()
            with suppress(OSError):  # tried again; `require` counts the seconds
                if owner_of(self._objects, self.name).get("owner") != self._said["owner"]:
                    self.is_lost = True
                    return
                self._objects.write(self.name, self._data())
                self._renewed_s = start

    def _data(self) -> bytes:
        self._times += 1
        return json.dumps({**self._said, "renewed": self._times}).encode()


def owner_of(objects: Objects, name: str) -> Mapping[str, Any]:
    """What a lock object says; nothing where there is none, or a damaged one.

    Raises:
        OSError: the object store cannot be reached.
    """
    try:
        found = json.loads(objects.read(name))
    except (FileNotFoundError, ValueError):
        return _NOBODY
    return found if isinstance(found, dict) else _NOBODY


def is_alive(objects: Objects, name: str, seen: Mapping[str, Any]) -> bool:
    """Whether the owner of a lock object renews it; waits for that, at most LEASE_S seconds."""
    ends = time.monotonic() + LEASE_S
    while time.monotonic() < ends:
        time.sleep(min(POLLED_S, LEASE_S / 10))
        now = owner_of(objects, name)
        if not now:
            return False
        if now != seen:
            return True
    return False
