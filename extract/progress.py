"""What a run says of itself: a line while it works, a table at the end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from extract.ledger import SAVED, Record
from extract.pipeline import Clock

PLAIN_EVERY_S = 30.0  # between lines where there is no terminal
HINT_SHARE = 0.3  # of the time: a stage that is waited for this much is worth a word
HINT_AFTER_S = 20.0  # before that the start of the workers is most of the waiting

HINTS = {
    "data": "waiting for recordings: more loader.num_workers would help",
    "writer": "waiting for the disk: a faster store.dir, or more store.num_writers, would help",
}


class Tally:
    """Counts outcomes; told of them from the writers' threads."""

    def __init__(self, total: int, total_s: float = 0.0) -> None:
        self.total, self.total_s = total, total_s  # of this run: utterances, seconds of audio
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.saved_s = 0.0
        self.clipped = self.retried_fp32 = 0
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

    @property
    def done(self) -> int:
        """Utterances with an outcome."""
        return self.outcomes.total()

    @property
    def times_real_time(self) -> float:
        """Seconds of audio saved for every second spent."""
        return self.saved_s / max(1e-9, time.monotonic() - self.start)

    def num(self, status: str) -> int:
        """Utterances of one status."""
        return sum(count for (some, _reason), count in self.outcomes.items() if some == status)


def progress_line(tally: Tally, clock: Clock) -> str:
    """Utterances, hours, speed, time left, and where the time goes."""
    left = "?"
    if tally.done:
        elapsed = time.monotonic() - tally.start
        by_audio = tally.total_s > 0 and tally.saved_s > 0
        done = tally.saved_s / tally.total_s if by_audio else tally.done / tally.total
        left = hms(elapsed / max(done, 1e-9) * max(0.0, 1 - done))
    shares = " ".join(f"{name} {share:.0%}" for name, share in clock.shares.items())
    return (
        f"{tally.done:,}/{tally.total:,} utterances  {tally.saved_s / 3600:.2f} h saved  "
        f"{tally.times_real_time:,.1f}x real time  {left} left  [{shares}]{_hint(clock)}"
    )


def _hint(clock: Clock) -> str:
    shares = clock.shares
    for name in ("data", "writer"):
        if clock.total_s > HINT_AFTER_S and shares[name] > HINT_SHARE:
            return f"  {HINTS[name]}"
    return ""


def hms(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class Progress:
    """Shows a changing line on a terminal, and one line now and then elsewhere."""

    def __init__(self, console: Console, tally: Tally, clock: Clock) -> None:
        self.console, self.tally, self.clock = console, tally, clock
        self._shown = time.monotonic()
        self._live = Live(
            console=console, get_renderable=self._line, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def add(self, record: Record) -> None:
        """Counts a record and shows it when it is time to."""
        self.tally.add(record)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._shown > PLAIN_EVERY_S:
            self._shown = now
            self.console.print(self._line(), soft_wrap=True)

    def _line(self) -> Text:
        return Text(progress_line(self.tally, self.clock), no_wrap=True, overflow="ellipsis")


def summary(tally: Tally, clock: Clock, kept: Counter[tuple[str, str]], kept_s: float) -> Table:
    """The table at the end: outcomes by reason, this run's beside earlier runs'."""
    table = Table(show_header=True, header_style="bold", box=None, pad_edge=False)
    for name, justify in (("", "left"), ("this run", "right"), ("earlier", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for status, reason in sorted({*tally.outcomes, *kept, (SAVED, "")}, key=_order):
        label = f"{status}: {reason}" if reason else status
        outcome = status, reason
        table.add_row(label, f"{tally.outcomes[outcome]:,}", f"{kept[outcome]:,}")
    table.add_row("hours saved", f"{tally.saved_s / 3600:.3f}", f"{kept_s / 3600:.3f}")
    if tally.done:
        table.add_row("times real time", f"{tally.times_real_time:,.1f}", "")
    if tally.clipped:
        table.add_row("saved with samples held at full scale", f"{tally.clipped:,}", "")
    if tally.retried_fp32:
        table.add_row("encoded again in fp32", f"{tally.retried_fp32:,}", "")
    if tally.done:
        for name, share in clock.shares.items():
            table.add_row(f"time in {name}", f"{share:.0%}", "")
    return table


def closing_lines(tally: Tally, clock: Clock, directory: Path) -> list[str]:
    """Under the table: what would help, and where the output is."""
    lines = [f"output: {directory}"]
    hint = _hint(clock).strip()
    return [hint, *lines] if hint and tally.done else lines


def _order(outcome: tuple[str, str]) -> tuple[int, str]:
    return ("saved", "rejected", "failed").index(outcome[0]), outcome[1]
