"""What a run says while it works: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from extract.store.ledger import Record
from extract.values import FAILED, SAVED, Status

if TYPE_CHECKING:  # it imports torch
    from extract.run.pipeline import Clock

MAX_NAMED = 5  # failures that the end of a run names; `extract show` lists all
PLAIN_EVERY_S = 30.0  # between lines where there is no terminal
HINT_SHARE = 0.3  # of the time: a stage that is waited for this much is worth a word
HINT_AFTER_S = 20.0  # before that the start of the workers is most of the waiting
MIN_BAR, MAX_BAR = 10, 60  # columns; a bar that would be shorter gets a line of its own
GAP = "  "  # between two figures

HINTS = {
    "data": "waiting for recordings: more loader.num_workers would help",
    "writer": "waiting for the disk: a faster store.dir, or more store.num_writers, would help",
}


class Tally:
    """Counts outcomes. The writers' threads add to it while the display's thread reads it."""

    def __init__(self, total: int, total_s: float = 0.0) -> None:
        self.total, self.total_s = total, total_s  # of this run: utterances, seconds of audio
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.failures: list[Record] = []  # the first MAX_NAMED
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
            elif record.status == FAILED and len(self.failures) < MAX_NAMED:
                self.failures.append(record)

    @property
    def done(self) -> int:
        """Utterances with an outcome."""
        with self._lock:
            return self.outcomes.total()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self.start

    @property
    def times_real_time(self) -> float:
        """Seconds of audio saved for every second spent."""
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


def progress_line(tally: Tally, clock: Clock) -> str:
    """Utterances, hours, speed, time left, failures, and where the time goes, in one line."""
    text = hint(clock)
    return (
        f"{tally.done:,}/{tally.total:,} utterances  {tally.saved_s / 3600:.2f} h saved  "
        f"{tally.times_real_time:,.1f}x real time  {tally.left} left  {tally.num(FAILED):,} failed"
        f"  [{_shares(clock)}]{text and GAP + text}"
    )


def display(tally: Tally, clock: Clock, width: int) -> Group:
    """The bar with the same figures, for a terminal: two or three lines of at most `width` columns.

    Where a line is too narrow its figures get shorter, then the last ones are left out.
    """
    done, left, failed = f"{tally.done:,}/{tally.total:,}", f"{tally.left} left", tally.num(FAILED)
    how_far = [done, left, f"{failed:,} failed"]
    first = _fitting(width, [f"{done} utterances", *how_far[1:]], how_far, how_far[:2], [done])
    hours, speed = f"{tally.saved_s / 3600:.2f} h", f"{tally.times_real_time:,.1f}x"
    most, share = max(clock.shares.items(), key=lambda item: item[1])
    how_fast = [f"{hours} saved", f"{speed} real time"]
    in_short = [hours, speed, f"{most} {share:.0%}"]
    second = _fitting(width, [*how_fast, _shares(clock)], in_short, in_short[:2], [hours])
    if failed:
        first.highlight_regex(r"[\d,]+ failed", "bold red")
    advice = [Text(hint(clock), style="yellow")] if hint(clock) else []
    return Group(_beside(ProgressBar(tally.total, tally.done), first, width), second, *advice)


def _fitting(width: int, *choices: Sequence[str]) -> Text:
    """The first choice of figures that fits into `width` columns; the last one if none does."""
    lines = [Text(GAP.join(figures), no_wrap=True, overflow="ellipsis") for figures in choices]
    return next((line for line in lines if line.cell_len <= width), lines[-1])


def _beside(bar: ProgressBar, line: Text, width: int) -> Table:
    """The bar and the line side by side; one above the other where the bar would be too short."""
    room = width - line.cell_len - len(GAP)
    side_by_side = room >= MIN_BAR
    bar.width = min(room if side_by_side else width, MAX_BAR)
    grid = Table.grid(padding=(0, len(GAP), 0, 0))
    for cells in [(bar, line)] if side_by_side else [(bar,), (line,)]:
        grid.add_row(*cells)
    return grid


def _shares(clock: Clock) -> str:
    return " ".join(f"{name} {share:.0%}" for name, share in clock.shares.items())


def hint(clock: Clock) -> str:
    """What would make the run faster, where the loop waits for recordings or for the disk."""
    shares = clock.shares
    slow = (name for name in HINTS if clock.total_s > HINT_AFTER_S and shares[name] > HINT_SHARE)
    return HINTS.get(next(slow, ""), "")


def hms(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class Progress:
    """Shows the bar on a terminal that can move its cursor, and one line now and then elsewhere."""

    def __init__(self, console: Console, tally: Tally, clock: Clock) -> None:
        self.console, self.tally, self.clock = console, tally, clock
        self._shown = time.monotonic()
        self._lock = threading.Lock()  # of _shown
        self._live = Live(
            console=console, get_renderable=self._display, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Progress:
        if self.console.is_interactive:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_interactive:
            self._live.stop()

    def add(self, record: Record) -> None:
        """Counts a record and shows it when it is time to; safe from any thread."""
        self.tally.add(record)
        if not self.console.is_interactive and self._due():
            self.console.print(
                progress_line(self.tally, self.clock), soft_wrap=True, markup=False, highlight=False
            )

    def _due(self) -> bool:
        """Whether to print a line now; of several threads that ask at once, one is told so."""
        now = time.monotonic()
        with self._lock:
            due = now - self._shown > PLAIN_EVERY_S
            self._shown = now if due else self._shown
        return due

    def _display(self) -> Group:
        return display(self.tally, self.clock, self.console.width)
