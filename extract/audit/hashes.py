"""Names as eight bytes each: of a million, the memory of a few megabytes."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np
from numpy.typing import NDArray


class Hashes:
    """64-bit hashes of names. Two of a million names share one in one of 40 million stores."""

    def __init__(self) -> None:
        self._values = array("Q")

    @staticmethod
    def of(name: str) -> int:
        """The hash of a name."""
        data = name.encode("utf8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")

    def add(self, name: str) -> None:
        """Adds a name."""
        self._values.append(self.of(name))

    def sorted(self) -> NDArray[np.uint64]:
        """All hashes, ascending."""
        return np.sort(np.frombuffer(self._values, np.uint64)) if self._values else _NOTHING

    def repeated(self) -> frozenset[int]:
        """The hashes that were added more than once."""
        values = self.sorted()
        return frozenset(map(int, values[1:][values[1:] == values[:-1]]))


class Known:
    """Whether a name was added to `Hashes`; eight bytes a name."""

    def __init__(self, hashes: Hashes) -> None:
        self._values = hashes.sorted()

    def __contains__(self, name: str) -> bool:
        value = np.uint64(Hashes.of(name))
        at = int(np.searchsorted(self._values, value))
        return at < len(self._values) and bool(self._values[at] == value)


_NOTHING = np.empty(0, np.uint64)
