"""One pass over the ledgers of a store: counts, levels, and which utterances may be sampled."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from extract.report.sweep.members import Member
from extract.values import SAVED, AudioSettings, Gain

SEED = b"sweep"  # of the ranks: the same stores give the same sample
NUM_HELD = 512  # saved utterances of each store that may be sampled
MIN_SHARE = 0.5  # of the fullest store's utterances, to have a say in what is sampled

Record = Mapping[str, Any]

_KEPT = ("id", "status", "files", "peak", "duration_s", "num_frames", "clipped_samples", "shared")


def rank(id_: str) -> int:
    """A number from 0 to 2**64 - 1 by which ids are in a random order, the same in every store."""
    data = id_.encode("utf8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8, key=SEED).digest())


class Lowest:
    """The records with the lowest ranks, at most so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[int, str, Record]] = []  # the highest rank first, negative

    def add(self, record: Record) -> None:
        """Takes a record in, and gives up the one with the highest rank where there is no room."""
        place = -rank(record["id"]), record["id"]
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, (*place, _short(record)))
        elif place > self._heap[0][:2]:
            heapq.heapreplace(self._heap, (*place, _short(record)))

    def by_id(self) -> dict[str, Record]:
        """The records by their ids, the lowest rank first."""
        return {id_: record for _rank, id_, record in sorted(self._heap, reverse=True)}


def _short(record: Record) -> Record:
    return {key: record.get(key) for key in _KEPT}


@dataclass
class Counts:
    """What the lines of a store's ledgers say. What is held does not grow with them."""

    gain: Callable[[float], float] | None  # of a recording with a peak; None: not known
    statuses: Counter[str] = field(default_factory=Counter)
    saved_s: float = 0.0
    clipped_samples: int = 0
    num_clipped: int = 0  # saved utterances with clipped samples
    num_shared: int = 0  # saved utterances whose features another job of the sweep computed
    num_peaks: int = 0
    sum_peaks: float = 0.0  # after gain
    max_peak: float = 0.0  # after gain
    held: Lowest = field(default_factory=lambda: Lowest(NUM_HELD))

    def add_all(self, records: Iterable[Record]) -> Counts:
        """Counts records; returns itself."""
        for record in records:
            self.statuses[record["status"]] += 1
            if record["status"] == SAVED:
                self._add_saved(record)
        return self

    def _add_saved(self, record: Record) -> None:
        self.saved_s += record.get("duration_s") or 0.0
        self.num_shared += record.get("shared") is not None
        clipped, peak = record.get("clipped_samples"), record.get("peak")
        if isinstance(clipped, int):
            self.clipped_samples += clipped
            self.num_clipped += clipped > 0
        if peak is not None and self.gain is not None:
            level = self.gain(peak)
            self.num_peaks += 1
            self.sum_peaks += level
            self.max_peak = max(self.max_peak, level)
        self.held.add(record)


def level_of(member: Member) -> Callable[[float], float] | None:
    """A recording's peak -> its peak after gain (`extract.audio.prepare.scaled`), full scale 1.

    None where the store does not say which gain it has.
    """
    maxx, alpha = (member.settings.get(f"audio.{name}") for name in ("maxx", "alpha"))
    gain = member.settings.get("audio.gain", AudioSettings().gain.name)
    if member.settings and gain == Gain.none.name:
        return lambda peak: peak
    if not (isinstance(maxx, int | float) and isinstance(alpha, int | float)):
        return None
    return lambda peak: maxx * alpha + (1 - alpha) * peak


def common(counts: Sequence[Counts]) -> list[str]:
    """Ids of utterances that all stores have saved, in the order of their ranks.

    A store with less than `MIN_SHARE` of the fullest one's utterances has no say: of a job that
    was killed early only the numbers are few, not those of the others.
    """
    most = max((one.statuses[SAVED] for one in counts), default=0)
    full = [one for one in counts if most and one.statuses[SAVED] >= MIN_SHARE * most]
    held = [one.held.by_id() for one in full]
    return [id_ for id_ in (held[0] if held else ()) if all(id_ in one for one in held[1:])]
