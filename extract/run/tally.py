"""Counts a run's outcomes and hours, and estimates the time left."""

from __future__ import annotations

import threading
import time
from collections import Counter

from extract.run.trainers import LeftOut
from extract.store.ledger import Record
from extract.values import FAILED, SAVED, Status

MAX_NAMED = 5  # failures that the end of a run names; `extract show` lists all


class Tally:
    """Counts outcomes. The writers' threads add to it while the display's thread reads it."""

    def __init__(self, total: int, total_s: float = 0.0, left_out: LeftOut | None = None) -> None:
        self.total, self.total_s = total, total_s  # of this run: utterances, seconds of audio
        self.left_out = left_out or LeftOut()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.failures: list[Record] = []  # the first MAX_NAMED
        self.saved_s = 0.0
        self.clipped = self.retried_fp32 = self.shared = 0
        self.start = time.monotonic()
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        """Counts one record."""
        with self._lock:
            self.outcomes[record.status, record.reason or ""] += 1
            if record.status == SAVED:
                self.saved_s += record.duration_s or 0.0
                self.clipped += bool(record.clipped_samples)
                self.retried_fp32 += bool(record.retried_fp32)
                self.shared += bool(record.shared)
                self.left_out.add(vars(record))
            elif record.status == FAILED and len(self.failures) < MAX_NAMED:
                self.failures.append(record)

    @property
    def done(self) -> int:
        """Utterances with an outcome."""
        with self._lock:
            return self.outcomes.total()

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Utterances of each status and reason until now."""
        with self._lock:
            return dict(self.outcomes)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self.start

    @property
    def times_real_time(self) -> float:
        """Seconds of audio saved per second of the run."""
        return self.saved_s / max(1e-9, self.elapsed_s)

    @property
    def left(self) -> str:
        """The time left as h:mm:ss; `?` before the first outcome."""
        done = self.done
        if not done:
            return "?"
        by_audio = self.total_s > 0 and self.saved_s > 0
        share = self.saved_s / self.total_s if by_audio else done / self.total
        return hms(self.elapsed_s / max(share, 1e-9) * max(0.0, 1 - share))

    def num(self, status: Status) -> int:
        """Utterances of one status."""
        with self._lock:
            return sum(count for (some, _reason), count in self.outcomes.items() if some == status)


def hms(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
