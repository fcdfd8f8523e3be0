"""Who else works in a store at a URL, by the lock objects there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from extract.manifest.folders import PRIVATE
from extract.remote import leases
from extract.remote.leases import is_alive, owner_of
from extract.remote.objects import Info, Objects
from extract.shard import Shard
from extract.store.lock import StoreBusy
from extract.text import printable

_LOCK = re.compile(rf"{PRIVATE}/lock-((?:0|[1-9]\d*)-of-([1-9]\d*))")


def lock_name(shard: Shard) -> str:
    """The lock object of a shard."""
    return f"{PRIVATE}/lock-{shard}"


class Others:
    """The lock objects of a listing.

    Args:
        objects: where they are.
        there: the listing, made while this process held the start-up lock there.
        origin: of this process's working folder.
        start_up: the name of the start-up lock, which says what time it is at the server.
        is_alone_here: whether no other process works in that folder.
    """

    def __init__(
        self,
        objects: Objects,
        there: Mapping[str, Info],
        origin: str,
        start_up: str,
        *,
        is_alone_here: bool,
    ) -> None:
        self._objects, self._there = objects, there
        self._origin, self._is_alone_here = origin, is_alone_here
        self._now_s = there[start_up].time_s if start_up in there else None

    def require_sharding(self, shard: Shard) -> None:
        """Refuses a shard while others are at work on parts of another number of parts.

        Removes lock objects of those that died.

        Raises:
            StoreBusy: names one of them.
        """
        for name, _part, count in self._locks():
            if count != shard.count:
                owner = owner_of(self._objects, name)
                if self._is_dead(name, owner) or not is_alive(self._objects, name, owner):
                    self._objects.remove([name])
                else:
                    raise StoreBusy(self.message(owner, f"shard.count={shard.count}"))

    def at_work(self, shard: Shard) -> dict[str, bool]:
        """Other parts on which processes work, and whether in this working folder.

        One that died within the last LEASE_S seconds may be among them.
        """
        found = {}
        for name, part, count in self._locks():
            if count == shard.count and part != str(shard):
                owner = owner_of(self._objects, name)
                if self._is_dead(name, owner):
                    self._objects.remove([name])
                else:
                    found[part] = owner.get("origin") == self._origin
        return found

    def message(self, owner: Mapping[str, Any], wanted: str) -> str:
        """That a process works here, and what can be done."""
        who = printable(f"process {owner.get('pid', '?')} on {owner.get('host', '?')}")[:100]
        return (
            f"{self._objects.shown}: {who} works here; {wanted} needs it for itself. Wait for it, "
            f"stop it, or choose another store.dir. If it was killed, try again in "
            f"{leases.LEASE_S:g} s"
        )

    def _locks(self) -> list[tuple[str, str, int]]:
        found = map(_LOCK.fullmatch, sorted(self._there))
        return [(some[0], some[1], int(some[2])) for some in found if some]

    def _is_dead(self, name: str, owner: Mapping[str, Any]) -> bool:
        """Whether an owner is dead without doubt: by the folder's locks, or the server's clock."""
        if not owner or (self._is_alone_here and owner.get("origin") == self._origin):
            return True
        time_s = self._there[name].time_s
        if time_s is None or self._now_s is None:
            return False
        return self._now_s - time_s > leases.LEASE_S
