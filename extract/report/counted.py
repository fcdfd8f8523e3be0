"""One pass over a store's ledgers: counts, histograms, and a bounded sample of records.

All utterances are counted. What is held does not grow with them.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from extract.values import REJECTED, SAVED

SEED = 0  # of the samples: the same store gives the same page
NUM_NAMES = 20  # utterances that the page names for each reason
NUM_SAMPLED = 40  # saved utterances whose loudness is measured

Record = Mapping[str, Any]

# All that the page needs of a line; its units alone may take megabytes.
_KEPT = (
    "id",
    "path",
    "status",
    "reason",
    "detail",
    "peak",
    "duration_s",
    "num_frames",
    "clipped_samples",
    "source_size",
    "source_mtime_ns",
    "files",
    "shared",
)


@dataclass
class Histogram:
    """How many values are in each bin. Those outside of all bins are in the first or the last.

    Args:
        edges: between bins, ascending: one less than bins.
        labels: of the bins.
        is_named: whether the labels are names: `none`, not `below 1`.
    """

    edges: Sequence[float]
    labels: Sequence[str]
    is_named: bool = False
    counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.labels)

    def add(self, value: float) -> None:
        """Counts a value, into the bin that begins with it or below it."""
        self.counts[bisect_right(self.edges, value)] += 1


def histogram(edges: Sequence[float]) -> Histogram:
    """An empty histogram with a bin below the first edge and one from the last on."""
    between = (f"{low:g} to {high:g}" for low, high in pairwise(edges))
    return Histogram(edges, [f"below {edges[0]:g}", *between, f"{edges[-1]:g} and more"])


DURATIONS_S = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 60, 120, 300, 600)
LEVELS_DB = range(-48, 13, 3)  # of full scale
GAINS_DB = range(-12, 49, 3)
LOUDNESS_LUFS = range(-48, 1, 3)
CLIPPED = (1, 10, 100, 1_000, 10_000)
CLIPPED_LABELS = ("none", "1 to 9", "10 to 99", "100 to 999", "1,000 to 9,999", "more")


class Drawn:
    """A random sample of bounded size from a stream of unknown length (algorithm R)."""

    def __init__(self, most: int, chance: random.Random) -> None:
        self.items: list[Record] = []
        self.num_seen, self._most, self._chance = 0, most, chance

    def add(self, item: Record) -> None:
        """Takes an item into the sample, with the same probability as every other."""
        self.num_seen += 1
        if len(self.items) < self._most:
            self.items.append(_short(item))
        elif (place := self._chance.randrange(self.num_seen)) < self._most:
            self.items[place] = _short(item)


class Counted:
    """What the lines of a store's ledgers say, added up.

    Args:
        gain: of a recording with a peak; None where its level stays.
    """

    def __init__(self, gain: Callable[[float], float] | None) -> None:
        self._gain, self._chance = gain, random.Random(SEED)
        self.outcomes: Counter[tuple[str, str]] = Counter()  # (status, reason) -> utterances
        self.saved_s, self.num_frames, self.num_clipped = 0.0, 0, 0
        self.num_shared = 0  # saved by a sweep with the features of another store
        self.durations = histogram(DURATIONS_S)
        self.clipped = Histogram(CLIPPED, CLIPPED_LABELS, is_named=True)
        self.peaks, self.levels = histogram(LEVELS_DB), histogram(LEVELS_DB)
        self.gains = histogram(GAINS_DB)
        self.named: dict[str, Drawn] = {}  # of each reason
        self.sample = Drawn(NUM_SAMPLED, self._chance)  # of the saved ones
        self.first: Record | None = None  # and those that stand out, of the saved ones
        self.loudest: Record | None = None
        self.quietest: Record | None = None
        self.longest: Record | None = None

    @property
    def total(self) -> int:
        """Lines in all."""
        return self.outcomes.total()

    def num(self, status: str) -> int:
        """Utterances of one status."""
        return sum(number for (some, _reason), number in self.outcomes.items() if some == status)

    def add_all(self, records: Iterable[Record]) -> Counted:
        """Counts records; returns itself."""
        for record in records:
            reason = record.get("reason") or ""
            self.outcomes[record["status"], reason] += 1
            if record["status"] == SAVED:
                self._add_saved(record)
            else:
                self.named.setdefault(reason, Drawn(NUM_NAMES, self._chance)).add(record)
        return self

    def rejections(self) -> Iterable[Sequence[Record]]:
        """The sampled records of each reason for which recordings were rejected."""
        for _reason, drawn in sorted(self.named.items()):
            if drawn.items[0]["status"] == REJECTED:
                yield drawn.items

    def _add_saved(self, record: Record) -> None:
        duration_s, peak = record.get("duration_s"), record.get("peak")
        clipped = record.get("clipped_samples")
        self.num_frames += record.get("num_frames") or 0
        self.num_shared += bool(record.get("shared"))
        if isinstance(clipped, int):
            self.num_clipped += clipped > 0
            self.clipped.add(clipped)
        if duration_s is not None:
            self.saved_s += duration_s
            self.durations.add(duration_s)
        if peak is not None:
            self._add_level(peak)
        self.sample.add(record)
        self._compare(record, peak, duration_s)

    def _add_level(self, peak: float) -> None:
        self.peaks.add(decibels(peak))
        if self._gain is not None and peak:
            gain = self._gain(peak)
            self.gains.add(decibels(gain))
            self.levels.add(decibels(peak * gain))

    def _compare(self, record: Record, peak: float | None, duration_s: float | None) -> None:
        self.first = self.first or _short(record)
        if peak is not None:
            if self.loudest is None or peak > self.loudest["peak"]:
                self.loudest = _short(record)
            if self.quietest is None or peak < self.quietest["peak"]:
                self.quietest = _short(record)
        longest_s = -1.0 if self.longest is None else self.longest["duration_s"]
        if duration_s is not None and duration_s > longest_s:
            self.longest = _short(record)


def decibels(ratio: float) -> float:
    """An amplitude's ratio to full scale in decibels."""
    return 20 * math.log10(max(ratio, 1e-30))


def _short(record: Record) -> Record:
    return {key: record.get(key) for key in _KEPT}
