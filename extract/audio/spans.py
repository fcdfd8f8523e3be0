"""A part of a recording, in samples: what an entry with `offset_s` cuts out of it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extract.frames import RECORDING_RATE_HZ

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """Samples `start` to `stop`, counted in the whole recording as it is decoded to `rate_hz`."""

    start: int = 0
    stop: int = sys.maxsize
    rate_hz: int = RECORDING_RATE_HZ
    # Offset and duration in seconds, before they were rounded to samples
    cut: tuple[float, float | None] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls, offset_s: float, duration_s: float | None, rate_hz: int = RECORDING_RATE_HZ
    ) -> Span:
        """From round(rate offset_s) to round(rate (offset_s + duration_s)), or to the end."""
        start, stop = round(offset_s * rate_hz), sys.maxsize
        if duration_s is not None:
            stop = round((offset_s + duration_s) * rate_hz)
        return cls(start, stop, rate_hz, (offset_s, duration_s))

    def at(self, rate_hz: int) -> Span:
        """The same span at another rate, rounded from the seconds that it was made of."""
        if rate_hz == self.rate_hz:
            return self
        lasts_s = None if self.is_open else self.stop_s - self.start_s
        return Span.of(*(self.cut or (self.start_s, lasts_s)), rate_hz)

    def __str__(self) -> str:
        stop = "the end" if self.is_open else f"{self.stop_s:g} s"
        return f"from {self.start_s:g} s to {stop}"

    @property
    def start_s(self) -> float:
        """`start` in seconds."""
        return self.start / self.rate_hz

    @property
    def stop_s(self) -> float:
        """`stop` in seconds; of an open span more than any recording has."""
        return self.stop / self.rate_hz

    @property
    def is_open(self) -> bool:
        """Whether the span ends with the recording."""
        return self.stop == sys.maxsize

    def limit_s(self, max_duration_s: float) -> float:
        """Seconds that a recording may last before this span of it exceeds `max_duration_s`.

        Infinity if the span itself is at most `max_duration_s` long. One sample more is allowed:
        rounding the ends may add it.
        """
        if self.stop - self.start <= max_duration_s * self.rate_hz + 1:
            return float("inf")
        return self.start_s + max_duration_s


WHOLE = Span()


def taken(parts: Generator[Samples, None, None], span: Span, begin: int = 0) -> tuple[Samples, int]:
    """The samples of `span` from a recording that comes in `parts`, and where the last part ended.

    Stops at the part that holds the span's end, and closes `parts`. The first part begins with
    sample `begin` of the recording.
    """
    kept: list[Samples] = []
    num_samples = begin
    with closing(parts):
        for part in parts:
            first, last = span.start - num_samples, span.stop - num_samples
            num_samples += len(part)
            if first < len(part):
                kept.append(part[max(0, first) : last])
            if num_samples >= span.stop:
                break
    return (np.concatenate(kept) if kept else np.empty(0, np.float32)), num_samples
