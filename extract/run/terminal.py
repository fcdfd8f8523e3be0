"""Shows a run on the terminal: what it chose, a bar or lines while it works, its table."""

from __future__ import annotations

import time

from rich.console import Console
from rich.status import Status

from extract.run.clock import Clock
from extract.run.progress import Progress
from extract.run.summary import Summary
from extract.run.tables import report, report_ending
from extract.run.tally import Tally
from extract.store.ledger import Record

EACH_LINE_S = 60.0  # between two lines where no line can be replaced


class Terminal:
    """The command line's observer. Shards are shown one after the other.

    A context manager: its bar and its spinner end with the block, also after an exception.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._status: Status | None = None
        self._progress: Progress | None = None
        self._elsewhere = False  # whether the work is that of an engine that runs shards elsewhere
        self._next_line = time.monotonic() + EACH_LINE_S

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_status()
        self._end_progress()

    def said(self, text: str) -> None:
        """Prints the line."""
        self._end_status()
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def reading(self, done: int, total: int) -> None:
        """Shows how many headers are read, until all are or something else is said."""
        if not self.console.is_interactive:
            return
        if self._status is None:
            self._status = self.console.status("reading headers")
            self._status.start()
        if done:
            self._status.update(f"reading headers: {done:,} of {total:,}")
        if done >= total:
            self._end_status()

    def progress(self, text: str) -> None:
        """Shows the text in a line that it replaces; where that cannot be, once a minute."""
        if self.console.is_interactive:
            if self._status is None:
                self._status = self.console.status(text)
                self._status.start()
            self._status.update(text)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + EACH_LINE_S
            self.said(text)
        self._elsewhere = True

    def planned(self, todo: int, seconds: float, clock: Clock) -> None:
        """Begins the bar, or its lines."""
        self._end_status()
        self._progress = Progress(self.console, Tally(todo, seconds), clock)
        self._progress.start()

    def recorded(self, record: Record) -> None:
        """Counts a record; from any thread."""
        if self._progress is not None:
            self._progress.add(record)

    def ended(self, summary: Summary) -> None:
        """Prints the table, if there was work, and what ended it.

        At once: two runs that end together in one terminal leave two tables, and no mixture.
        """
        self._end_status()
        with self.console:
            if self._end_progress() or (self._elsewhere and summary.done):
                if summary.needed_bytes is not None:
                    needed_mb = summary.needed_bytes / 1e6
                    self.said(f"about {needed_mb:,.1f} MB are needed for what is left")
                report(self.console, summary)
            report_ending(self.console, summary)

    def _end_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _end_progress(self) -> bool:
        """Removes the bar; returns whether the work had begun."""
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()
        return progress is not None
