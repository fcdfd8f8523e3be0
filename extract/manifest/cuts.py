"""The part of its file that each entry of a manifest is: an offset and a duration."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from ctypes import c_double
from math import inf, isnan, nan
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np
import numpy.typing as npt


class Cuts:
    """Offset and duration, in seconds, of each entry; the duration is None up to the file's end.

    Flat arrays as in `PackedStrings`: reading them copies no page in a forked worker.

    Args:
        offsets_s: `(num_entries,)` float64.
        durations_s: `(num_entries,)` float64; NaN stands for None.
    """

    def __init__(
        self, offsets_s: npt.NDArray[np.float64], durations_s: npt.NDArray[np.float64]
    ) -> None:
        self.offsets_s = offsets_s
        self.durations_s = durations_s
        self._shared: tuple[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self.offsets_s)

    def __getitem__(self, index: int) -> tuple[float, float | None]:
        duration_s = float(self.durations_s[index])
        return float(self.offsets_s[index]), None if isnan(duration_s) else duration_s

    def __iter__(self) -> Iterator[tuple[float, float | None]]:
        return map(self.__getitem__, range(len(self)))

    def take(self, indices: npt.NDArray[np.int64]) -> Cuts:
        """The cuts of the entries at `indices`, in that order, as a copy."""
        return Cuts(self.offsets_s[indices], self.durations_s[indices])

    def share(self) -> Cuts:
        """The same in shared memory, for workers that are not forked: see `PackedStrings.share`."""
        shared = RawArray(c_double, len(self) or 1), RawArray(c_double, len(self) or 1)
        twin = Cuts(*_as_arrays(shared, len(self)))
        twin.offsets_s[:] = self.offsets_s
        twin.durations_s[:] = self.durations_s
        twin._shared = shared
        return twin

    def __getstate__(self) -> tuple[int, Any, Any]:
        if self._shared is not None and get_spawning_popen() is not None:
            return (len(self), *self._shared)
        return (-1, self.offsets_s, self.durations_s)

    def __setstate__(self, state: tuple[int, Any, Any]) -> None:
        length, *arrays = state
        self._shared = (arrays[0], arrays[1]) if length >= 0 else None
        self.offsets_s, self.durations_s = arrays if length < 0 else _as_arrays(arrays, length)


class CutCollector:
    """Collects the cuts of entries one by one, after `num_whole` entries that are whole."""

    def __init__(self, num_whole: int) -> None:
        self._offsets_s = array("d", [0.0]) * num_whole
        self._durations_s = array("d", [nan]) * num_whole

    def append(self, offset_s: float, duration_s: float | None) -> None:
        """Add the cut of the next entry; 0 and None if the entry is whole."""
        self._offsets_s.append(offset_s)
        self._durations_s.append(nan if duration_s is None else duration_s)

    def finish(self) -> Cuts:
        """The collected cuts. They use the collector's memory, so it can take no more."""
        return Cuts(*_as_arrays((self._offsets_s, self._durations_s), len(self._offsets_s)))


def _as_arrays(buffers: Sequence[Any], length: int) -> list[npt.NDArray[np.float64]]:
    """The arrays over buffers of at least `length` numbers; no copy."""
    return [np.frombuffer(buffer, np.float64)[:length] for buffer in buffers]


def check_cut(offset_s: float, duration_s: float | None) -> str | None:
    """What is wrong with a cut; None if it may be part of a recording."""
    if 0 <= offset_s < inf and (duration_s is None or 0 < duration_s < inf):
        return None
    needed = "needed a start of at least 0 s and a duration above 0 s"
    return f"a cut{describe_cut(offset_s, duration_s)}; {needed}"


def describe_cut(offset_s: float, duration_s: float | None) -> str:
    """A cut in words, to stand behind a path: ` from 1.5 s for 2 s`."""
    length = "" if duration_s is None else f" for {duration_s:.10g} s"
    return f" from {offset_s:.10g} s{length}"


def name_of_cut(name: str, offset_s: float, duration_s: float | None) -> str:
    """A name for a cut that its list gives none: `a.wav-1500-3500`, with its ends in milliseconds.

    Args:
        name: of the recording's file.
        offset_s: where the cut begins.
        duration_s: None, for a cut up to the recording's end, gives `a.wav-1500-end`.
    """
    end = "end" if duration_s is None else round((offset_s + duration_s) * 1000)
    return f"{name}-{round(offset_s * 1000)}-{end}"
