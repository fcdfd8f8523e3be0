"""Measures where a run's time goes, and advises what would shorten it."""

from __future__ import annotations

HINT_SHARE = 0.3  # of the loop's time: waiting longer for a stage is worth a hint
HINT_AFTER_S = 20.0  # before that, most of the waiting is for workers to start

HINTS = {
    "data": "waiting for recordings: more loader.num_workers would help",
    "writer": "waiting for the disk: a faster store.dir, or more store.num_writers, would help",
}


class Clock:
    """Seconds that the loop spends waiting for data, in the encoder, and waiting for writers."""

    def __init__(self) -> None:
        self.data_s = self.encoder_s = self.writer_s = 0.0

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return self.data_s + self.encoder_s + self.writer_s

    @property
    def shares(self) -> dict[str, float]:
        """Share of each, 0 to 1."""
        times = {"data": self.data_s, "encoder": self.encoder_s, "writer": self.writer_s}
        total = self.total_s
        return {name: spent / total if total else 0.0 for name, spent in times.items()}


def hint(clock: Clock) -> str:
    """Advice for a faster run; "" unless the loop waits long for recordings or for the disk."""
    shares = clock.shares
    slow = (name for name in HINTS if clock.total_s > HINT_AFTER_S and shares[name] > HINT_SHARE)
    return HINTS.get(next(slow, ""), "")
