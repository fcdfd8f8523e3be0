"""Which ids were seen, in 8 bytes each: only one that comes twice has to be found again."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable

MERGED_AT = 1 << 16  # ids that are held as Python's numbers, which take ten times the memory


class Seen:
    """A set of ids by their hashes. It may take an id for another's: ask the files then.

    Safe to share among threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent = set[int]()
        self._sorted = array("q")

    def add(self, ids: Iterable[str]) -> None:
        """Adds ids."""
        for id_ in ids:
            with self._lock:
                self._recent.add(hash(id_))
                if len(self._recent) >= MERGED_AT:
                    self._merge()

    def __contains__(self, id: str) -> bool:  # noqa: A002 - the ledger's own word
        wanted = hash(id)
        with self._lock:
            place = bisect_left(self._sorted, wanted)
            found = self._sorted[place : place + 1]
            return wanted in self._recent or bool(found and found[0] == wanted)

    def _merge(self) -> None:
        import numpy as np  # `--help` reads layouts without it

        recent = np.fromiter(self._recent, np.int64, len(self._recent))
        merged = np.sort(np.concatenate([np.asarray(self._sorted, np.int64), recent]))
        self._sorted = array("q", merged.tobytes())
        self._recent.clear()
