"""Many strings in two flat arrays, so that a million of them cost their bytes and nothing more."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from ctypes import c_byte
from itertools import pairwise
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawArray
from typing import Any, overload

import numpy as np
import numpy.typing as npt

PIECE = 256  # strings that are taken out at once


class PackedStrings(Sequence[str]):
    """A read-only sequence of strings: their UTF-8 bytes end to end, and where each one ends.

    A list of Python strings grows in every forked worker: reading one writes its reference count
    and so copies its page. Here a worker reads two arrays and writes to neither. File names that
    are not UTF-8 survive the round trip (`surrogateescape`).

    Args:
        data: `(num_bytes,)` uint8, the strings' bytes one after the other.
        offsets: `(num_strings + 1,)` int64, where each string starts, and the end of the last.
        prefix: what all strings start with, kept once; `data` holds only what follows it.
    """

    def __init__(
        self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], prefix: str = ""
    ) -> None:
        self.prefix = prefix
        self._shared: tuple[Any, Any] | None = None
        self._over(data, offsets)

    def _over(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> None:
        """Takes its arrays. Of a view an item is a Python number in a third of an array's time."""
        self._data, self._offsets = data, offsets
        self._bytes, self._ends = data.data, offsets.data

    @classmethod
    def from_iterable(cls, strings: Iterable[str]) -> PackedStrings:
        """Pack `strings` one at a time; the Python strings need never exist all at once.

        Raises:
            UnicodeEncodeError: a string that neither a text nor a file name can hold (a lone
                surrogate outside U+DC80..U+DCFF).
        """
        packer = Packer()
        for string in strings:
            packer.append(string)
        return packer.finish()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PackedStrings: ...
    def __getitem__(self, index: int | slice) -> str | PackedStrings:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        ends = self._ends
        if index < 0 or index >= len(ends) - 1:
            index = range(len(ends) - 1)[index]  # raises IndexError; negatives count from the end
        raw = self._bytes[ends[index] : ends[index + 1]]
        return self.prefix + str(raw, "utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        prefix = self.prefix
        for data, ends in self._pieces():
            if data.isascii():
                text = data.decode()
                yield from [prefix + text[start:end] for start, end in pairwise(ends)]
            else:
                for start, end in pairwise(ends):
                    yield prefix + data[start:end].decode("utf-8", "surrogateescape")

    def iter_bytes(self) -> Iterator[bytes]:
        """The bytes of every string in turn, without the prefix."""
        for data, ends in self._pieces():
            yield from [data[start:end] for start, end in pairwise(ends)]

    def _pieces(self) -> Iterator[tuple[bytes, list[int]]]:
        """The bytes of `PIECE` strings, and where in them each starts, and the end of the last.

        A part of Python's own bytes costs a third of a part of the array.
        """
        for first in range(0, len(self), PIECE):
            ends = self._offsets[first : first + PIECE + 1]
            yield bytes(self._bytes[ends[0] : ends[-1]]), (ends - ends[0]).tolist()

    def take(self, indices: Iterable[int]) -> PackedStrings:
        """The strings at `indices` (negative ones count from the end), in that order, as a copy.

        Raises:
            IndexError: an index beyond the ends.
        """
        chosen = np.arange(len(self))[np.fromiter(indices, np.int64)]
        data = self._data.data
        packer = Packer()
        for start, end in zip(
            self._offsets[chosen].data, self._offsets[chosen + 1].data, strict=True
        ):
            packer.append_bytes(data[start:end])
        return packer.finish().with_prefix(self.prefix)

    def joined(self, indices: npt.NDArray[np.integer[Any]], separator: bytes) -> bytes:
        """The bytes of the strings at `indices`, none of them negative, with `separator` between.

        Raises:
            IndexError: an index beyond the end.
        """
        data, head = self._bytes, self.prefix.encode("utf-8", "surrogateescape")
        starts, ends = self._offsets[indices].tolist(), self._offsets[indices + 1].tolist()
        raws = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        return separator.join([head + raw for raw in raws] if head else raws)

    def with_prefix(self, prefix: str) -> PackedStrings:
        """The same strings behind another `prefix`; the arrays are shared, not copied."""
        twin = PackedStrings(self._data, self._offsets, prefix)
        twin._shared = self._shared
        return twin

    def share(self) -> PackedStrings:
        """The same strings in shared memory: a worker started by spawn or forkserver maps them.

        Pickled for any other purpose than to start a process, they are copied.
        The memory has no name and goes with the last process that maps it.
        """
        shared = (
            RawArray(c_byte, max(1, self._data.nbytes)),  # an empty array cannot be mapped
            RawArray(c_byte, self._offsets.nbytes),
        )
        twin = PackedStrings(*_as_arrays(*shared), self.prefix)
        twin._data[: len(self._data)] = self._data
        twin._offsets[:] = self._offsets
        twin._shared = shared
        return twin

    def shares_arrays(self, other: PackedStrings) -> bool:
        """Whether the two differ in their prefix at most, and keep their bytes once."""
        return self._data is other._data and self._offsets is other._offsets

    @property
    def nbytes(self) -> int:
        """Bytes of the two arrays."""
        return int(self._data.nbytes + self._offsets.nbytes)

    def __repr__(self) -> str:
        return f"PackedStrings({len(self):,} strings, {self.nbytes:,} bytes)"

    def __getstate__(self) -> tuple[str, bool, Any, Any]:
        if self._shared is not None and get_spawning_popen() is not None:
            return (self.prefix, True, *self._shared)
        return (self.prefix, False, self._data, self._offsets)

    def __setstate__(self, state: tuple[str, bool, Any, Any]) -> None:
        self.prefix, is_shared, data, offsets = state
        self._shared = (data, offsets) if is_shared else None
        self._over(*(_as_arrays(data, offsets) if is_shared else (data, offsets)))


class Packer:
    """Collects strings one by one for a `PackedStrings`, after `num_empty` empty ones."""

    def __init__(self, num_empty: int = 0) -> None:
        self._data = bytearray()
        self._offsets = array("q", [0]) * (1 + num_empty)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def append(self, string: str) -> None:
        """Add one string; UnicodeEncodeError where it is neither a text nor a file name."""
        self._data += string.encode("utf-8", "surrogateescape")
        self._offsets.append(len(self._data))

    def append_bytes(self, raw: bytes | memoryview) -> None:
        """Add one string by its UTF-8 bytes."""
        self._data += raw
        self._offsets.append(len(self._data))

    def behind(self, prefix: str) -> Packer:
        """A packer of the strings so far, each behind `prefix`."""
        twin, head = Packer(), prefix.encode("utf-8", "surrogateescape")
        for start, end in pairwise(self._offsets):
            twin.append_bytes(head + self._data[start:end])
        return twin

    def finish(self) -> PackedStrings:
        """The collected strings. They use the packer's memory, so it can take no more."""
        return PackedStrings(*_as_arrays(self._data, self._offsets))


def _as_arrays(data: Any, offsets: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The arrays over two buffers; no copy."""
    return np.frombuffer(data, np.uint8), np.frombuffer(offsets, np.int64)
