"""What a run says at its end, as a value: its table, its failures by name, a sweep's table."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extract.run.progress import Tally, hint
from extract.store.ledger import Record
from extract.text import printable, shown
from extract.values import FAILED, REJECTED, SAVED, STATUSES, Status

if TYPE_CHECKING:  # they import torch, and a sweep of nothing but mistakes shows its table without
    from extract.run.pipeline import Clock
    from extract.store.resume import Remaining

MAX_NAME, MAX_DETAIL, MAX_PATH = 60, 120, 4096  # characters that are shown of each
STATES = {0: "done", 1: "some failed", 2: "not started", 70: "crashed", 130: "interrupted"}
STATES[143] = STATES[130]
STOPPED = "store unusable"  # exit code 1 too, and perhaps nothing failed

Outcomes = Mapping[tuple[str, str], int]  # (status, reason) -> utterances
Job = tuple[Sequence[str], "Summary"]  # a sweep's: the overrides, and what became of them


@dataclass(frozen=True)
class Summary:
    """What became of a run; of one that did no work, its exit code."""

    directory: Path | None = None  # the store
    exit_code: int = 0
    outcomes: Outcomes = field(default_factory=Counter)
    earlier: Outcomes = field(default_factory=Counter)  # what earlier runs left as it is
    saved_s: float = 0.0  # seconds of audio
    earlier_s: float = 0.0
    elapsed_s: float = 0.0
    clipped: int = 0  # saved utterances with samples held at full scale
    earlier_clipped: int = 0
    retried_fp32: int = 0
    failures: tuple[Record, ...] = ()  # the first of this run
    shares: Mapping[str, float] = field(default_factory=dict)  # of the time: stage -> 0 to 1
    hint: str = ""

    @property
    def done(self) -> int:
        """Utterances with an outcome in this run."""
        return sum(self.outcomes.values())

    @property
    def times_real_time(self) -> float:
        """Seconds of audio saved for every second spent."""
        return self.saved_s / max(1e-9, self.elapsed_s)

    def num(self, status: Status) -> int:
        """Utterances of one status, of this run and of earlier ones."""
        both = (*self.outcomes.items(), *self.earlier.items())
        return sum(number for (some, _reason), number in both if some == status)

    @property
    def state(self) -> str:
        """The exit code with its meaning."""
        no_failure = self.exit_code == 1 and not self.num(FAILED)
        meaning = STOPPED if no_failure else STATES.get(self.exit_code, "")
        return f"{self.exit_code} {meaning}".strip()


def summarize(directory: Path, tally: Tally, clock: Clock, rest: Remaining) -> Summary:
    """What is known once the work is over; its exit code is not."""
    return Summary(
        directory,
        outcomes=tally.outcomes.copy(),
        earlier=rest.kept,
        saved_s=tally.saved_s,
        earlier_s=rest.kept_s,
        elapsed_s=tally.elapsed_s,
        clipped=tally.clipped,
        earlier_clipped=rest.kept_clipped,
        retried_fp32=tally.retried_fp32,
        failures=tuple(tally.failures),
        shares=clock.shares,
        hint=hint(clock),
    )


def report(console: Console, summary: Summary) -> None:
    """Prints the table, the first failures, what would help, and where the output is."""
    console.print(table(summary))
    for line in closing_lines(summary):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def table(summary: Summary) -> Table:
    """Outcomes by reason, this run's beside earlier runs'."""
    rows = _table("", "this run", "earlier")
    for status, reason in sorted({*summary.outcomes, *summary.earlier, (SAVED, "")}, key=_order):
        label = f"{status}: {reason}" if reason else status
        both = summary.outcomes, summary.earlier
        rows.add_row(label, *(f"{some.get((status, reason), 0):,}" for some in both))
    rows.add_row("hours saved", f"{summary.saved_s / 3600:.3f}", f"{summary.earlier_s / 3600:.3f}")
    if summary.done:
        rows.add_row("times real time", f"{summary.times_real_time:,.1f}", "")
    if summary.clipped or summary.earlier_clipped:
        clipped = f"{summary.clipped:,}", f"{summary.earlier_clipped:,}"
        rows.add_row("saved with samples held at full scale", *clipped)
    if summary.retried_fp32:
        rows.add_row("encoded again in fp32", f"{summary.retried_fp32:,}", "")
    if summary.done:
        for name, share in summary.shares.items():
            rows.add_row(f"time in {name}", f"{share:.0%}", "")
    return rows


def closing_lines(summary: Summary) -> list[str]:
    """Under the table: the first failures, what would help, and where the output is."""
    help_ = [summary.hint] if summary.hint and summary.done else []
    return [*_failures(summary), *help_, f"output: {_name(summary.directory)}"]


def _failures(summary: Summary) -> list[str]:
    """The first failures by name and reason, how many more there are, and how to see them all."""
    lines = [
        f"failed: {shown(record.id, MAX_NAME)}: {record.reason}{_detail(record)}"
        for record in summary.failures
    ]
    if more := summary.num(FAILED) - len(lines):
        which = f"and {more:,} more" if lines else f"{more:,} in earlier runs"
        store = _name(summary.directory, quoted=True)
        lines.append(f"failed: {which}: python -m extract show {store} --status failed")
    return lines


def _detail(record: Record) -> str:
    """`: what is wrong`, less the recording's path, which most details begin with."""
    detail = (record.detail or "").removeprefix(f"{printable(record.path)}: ")
    return detail and f": {shown(detail, MAX_DETAIL)}"


def _name(directory: Path | None, *, quoted: bool = False) -> str:
    """A folder as a terminal can show it; `quoted` as a shell takes it."""
    text = str(directory or "")
    return shown(shlex.quote(text) if quoted else text, MAX_PATH)


def sweep_table(console: Console, jobs: Sequence[Job]) -> None:
    """Prints a row for every job of a sweep: the overrides that differ, and what became of it.

    Where the stores' folders do not fit beside the figures, they follow under the table.
    """
    labels = _differing([overrides for overrides, _summary in jobs])
    wide = _jobs_table(labels, jobs, with_store=True)
    no_limit = console.options.update(max_width=10 * MAX_PATH)
    if console.measure(wide, options=no_limit).maximum <= console.width:
        console.print(wide)
        return
    console.print(_jobs_table(labels, jobs))
    for label, (_overrides, summary) in zip(labels, jobs, strict=True):
        if summary.directory:
            line = f"{label}: {_name(summary.directory)}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)


def _differing(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Each job's overrides but those that all jobs share; a single job's are all its own."""
    shared = set(jobs[0]).intersection(*jobs) if len(jobs) > 1 else set()
    return [
        shown(" ".join(one for one in overrides if one not in shared), MAX_NAME)
        for overrides in jobs
    ]


def _jobs_table(labels: Sequence[str], jobs: Sequence[Job], *, with_store: bool = False) -> Table:
    numbers = (SAVED, REJECTED, FAILED, "clipped", "hours")
    rows = _table("", *numbers, left=("exit", "store") if with_store else ("exit",))
    for label, (_overrides, summary) in zip(labels, jobs, strict=True):
        outcomes = (f"{summary.num(status):,}" for status in (SAVED, REJECTED, FAILED))
        hours = f"{(summary.saved_s + summary.earlier_s) / 3600:.3f}"
        store = [Text(_name(summary.directory))] if with_store else []
        cells = *outcomes, f"{summary.clipped + summary.earlier_clipped:,}", hours, summary.state
        rows.add_row(Text(label), *cells, *store)
    return rows


def _table(label: str, *numbers: str, left: Sequence[str] = ()) -> Table:
    """A table without lines: a column of labels, columns of numbers, columns of words."""
    made = Table(show_header=True, header_style="bold", box=None, pad_edge=False)
    made.add_column(label)
    for name in numbers:
        made.add_column(name, justify="right", no_wrap=True)
    for name in left:
        made.add_column(name, no_wrap=True)
    return made


def _order(outcome: tuple[str, str]) -> tuple[int, str]:
    return STATUSES.index(outcome[0]), outcome[1]
