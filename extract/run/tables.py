"""Prints a run's end: outcomes in a table, failures by name, how it ended; and a sweep's table."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extract.run.summary import Summary
from extract.run.trainers import Row
from extract.store.ledger import Record
from extract.text import count, printable, shown
from extract.values import FAILED, REJECTED, SAVED, STATUSES

MAX_NAME, MAX_DETAIL, MAX_PATH = 60, 120, 4096  # characters that are shown of each
MAX_LEFT_OUT_NAME = 20  # of which three stand in one line
HEAD_OF_LEFT_OUT = "saved, but GPT-SoVITS's trainer leaves out, without saying so:"
HOW_TO_GO_ON = "the same command goes on from here"

# A sweep's: the overrides, what became of each of its shards, and its exit code with its meaning.
Job = tuple[Sequence[str], Sequence[Summary], str]


def report(console: Console, summary: Summary) -> None:
    """Prints the table, the first failures, what would help, and where the output is."""
    console.print(table(summary))
    for line in closing_lines(summary):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def report_ending(console: Console, summary: Summary) -> None:
    """Prints what ended the work early, or how many faults of this program it met, and a remedy."""
    if summary.stopped:
        message = f"stopped: {summary.stopped}"
        console.print(message, style="bold red", soft_wrap=True, markup=False)
        console.print(f"Once that is mended, {HOW_TO_GO_ON}.")
    for line in _ending(summary):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _ending(summary: Summary) -> list[str]:
    if summary.interrupted and summary.left is not None:
        left = count(summary.left, "recording")
        return [f"interrupted with {left} left; {HOW_TO_GO_ON}"]
    if summary.num_internal:
        faults = f"{count(summary.num_internal, 'fault')} of this program"
        what_now = "the same command tries those recordings again"
        return [f"{faults} (internal_error in the ledger); {what_now}"]
    return []


def table(summary: Summary) -> Table:
    """Outcomes by reason, this run's beside earlier runs'."""
    rows = _table(summary.part, "this run", "earlier")
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
    if summary.shared or summary.earlier_shared:
        shared = f"{summary.shared:,}", f"{summary.earlier_shared:,}"
        rows.add_row("saved with features of an earlier job", *shared)
    if summary.retried_fp32:
        rows.add_row("encoded again in fp32", f"{summary.retried_fp32:,}", "")
    if summary.done:
        for name, share in summary.shares.items():
            rows.add_row(f"time in {name}", f"{share:.0%}", "")
    return rows


def closing_lines(summary: Summary) -> list[str]:
    """Under the table: what a trainer leaves out, what would help, the output, the failures.

    The failures come last: for whoever sees only the end.
    """
    help_ = [summary.hint] if summary.hint and summary.done else []
    output = f"output: {_name(summary.place)}"
    return [*_left_out(summary.left_out), *help_, output, *_failures(summary)]


def _left_out(rows: Sequence[Row]) -> list[str]:
    """What a trainer leaves out: a line for each reason, of at most 80 columns for short names."""
    lines = [HEAD_OF_LEFT_OUT] if rows else []
    for row in rows:
        names = ", ".join(shown(name, MAX_LEFT_OUT_NAME) for name in row.names)
        more = f", and {row.number - len(row.names):,} more" if row.number > len(row.names) else ""
        lines.append(f"  {row.reason:<16}  {row.number:>7,}  {names}{more}")
    return lines


def _failures(summary: Summary) -> list[str]:
    """The first failures by name and reason, how many more there are, and how to see them all."""
    lines = [
        f"failed: {shown(record.id, MAX_NAME)}: {record.reason}{_detail(record)}"
        for record in summary.failures
    ]
    if more := summary.num(FAILED) - len(lines):
        which = f"and {more:,} more" if lines else f"{more:,} in earlier runs"
        store = _name(summary.place, quoted=True)
        lines.append(f"failed: {which}: python -m extract show {store} --status failed")
    return lines


def _detail(record: Record) -> str:
    """`: DETAIL`, without the recording's path, with which most details begin."""
    detail = (record.detail or "").removeprefix(f"{printable(record.path)}: ")
    return detail and f": {shown(detail, MAX_DETAIL)}"


def _name(text: str, *, quoted: bool = False) -> str:
    """A folder or URL as a terminal can show it; `quoted` as a shell takes it."""
    return shown(shlex.quote(text) if quoted else text, MAX_PATH)


def sweep_table(console: Console, jobs: Sequence[Job]) -> None:
    """Prints a row for every job of a sweep: the overrides that differ, and what became of it.

    Where the stores' folders do not fit beside the figures, they follow under the table.
    """
    labels = _differing([overrides for overrides, _summaries, _state in jobs])
    wide = _jobs_table(labels, jobs, with_store=True)
    no_limit = console.options.update(max_width=10 * MAX_PATH)
    if console.measure(wide, options=no_limit).maximum <= console.width:
        console.print(wide)
        return
    console.print(_jobs_table(labels, jobs))
    stores = [_store(summaries) for _overrides, summaries, _state in jobs]
    if len(stores) > 1 and len({*stores} - {""}) == 1:  # the parts of one job
        labels, stores = ["output"], [max(stores)]
    for label, store in zip(labels, stores, strict=True):
        if store:
            console.print(f"{label}: {store}", soft_wrap=True, markup=False, highlight=False)


def sweep_logs(console: Console, jobs: Sequence[Job], logs: Sequence[str]) -> None:
    """Prints the folder of the logs of jobs in other processes, and the log of each one not done.

    Args:
        console: where to.
        jobs: as `sweep_table` has them.
        logs: a job's file with what its process said; "" for a job of this process.
    """
    folders = [os.path.dirname(os.path.dirname(log)) for log in logs if log]  # noqa: PTH120
    lines = [f"logs: {_shorter(folders[0])}"] if folders else []
    labels = _differing([overrides for overrides, _summaries, _state in jobs])
    for label, (_overrides, _summaries, state), log in zip(labels, jobs, logs, strict=True):
        if log and not state.startswith("0 "):
            lines.append(f"{label}: {state}: {_shorter(log)}")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _shorter(path: str) -> str:
    """A path as a terminal can show it, from the working folder on if it is below that."""
    here = f"{Path.cwd()}{os.sep}"
    return _name(path.removeprefix(here))


def _differing(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Each job's overrides without those that all jobs share; all of them if there is one job."""
    shared = set(jobs[0]).intersection(*jobs) if len(jobs) > 1 else set()
    return [
        shown(" ".join(one for one in overrides if one not in shared), MAX_NAME)
        for overrides in jobs
    ]


def _jobs_table(labels: Sequence[str], jobs: Sequence[Job], *, with_store: bool = False) -> Table:
    shared = [sum(one.shared + one.earlier_shared for one in job[1]) for job in jobs]
    some = ("shared",) if any(shared) else ()
    numbers = (SAVED, *some, REJECTED, FAILED, "clipped", "hours")
    rows = _table("", *numbers, left=("exit", "store") if with_store else ("exit",))
    for label, (_overrides, summaries, state), num in zip(labels, jobs, shared, strict=True):
        store = [Text(_store(summaries))] if with_store else []
        saved, *figures = _figures(summaries)
        also = [f"{num:,}"] if some else []
        rows.add_row(Text(label), saved, *also, *figures, state, *store)
    return rows


def _figures(summaries: Sequence[Summary]) -> list[str]:
    """Saved, rejected, failed, clipped and hours of a job's shards together."""
    counts = [sum(one.num(status) for one in summaries) for status in (SAVED, REJECTED, FAILED)]
    clipped = sum(one.clipped + one.earlier_clipped for one in summaries)
    hours = sum(one.saved_s + one.earlier_s for one in summaries) / 3600
    return [*(f"{number:,}" for number in (*counts, clipped)), f"{hours:.3f}"]


def _store(summaries: Sequence[Summary]) -> str:
    """The folder that a job's shards share; empty for a job that began none."""
    return _name(summaries[0].place) if summaries else ""


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
