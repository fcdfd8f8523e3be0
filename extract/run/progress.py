"""Shows the progress of a run: a bar on a terminal, elsewhere a line every 30 s."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from extract.run.clock import Clock, hint
from extract.run.tally import Tally
from extract.store.ledger import Record
from extract.values import FAILED

PLAIN_EVERY_S = 30.0  # between lines where there is no terminal
MIN_BAR, MAX_BAR = 10, 60  # columns; a bar that would be shorter gets a line of its own
GAP = "  "  # between two figures


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


class Progress:
    """Shows a bar on a terminal that can move its cursor; elsewhere prints lines, 30 s apart."""

    def __init__(self, console: Console, tally: Tally, clock: Clock) -> None:
        self.console, self.tally, self.clock = console, tally, clock
        self._shown = time.monotonic()
        self._lock = threading.Lock()  # of _shown
        self._live = Live(
            console=console, get_renderable=self._display, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Shows the bar, if the terminal can move its cursor."""
        if self.console.is_interactive:
            self._live.start()

    def stop(self) -> None:
        """Removes the bar."""
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
        """Whether to print a line now; True for only one of several threads that ask at once."""
        now = time.monotonic()
        with self._lock:
            due = now - self._shown > PLAIN_EVERY_S
            self._shown = now if due else self._shown
        return due

    def _display(self) -> Group:
        return display(self.tally, self.clock, self.console.width)
