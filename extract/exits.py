"""Exit codes of the command line, each with what it means.

A sweep's table shows both; docs/faults.md explains them. Only the command line knows exit codes:
`run_shard` returns a `Summary`, and `of_run` makes an exit code of summaries.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from extract.internal import INTERNAL_ERROR
from extract.run.signals import Stop, stop_on_signals
from extract.text import printable
from extract.values import FAILED
from extract.write_errors import StoreUnusable

if TYPE_CHECKING:
    from extract.run.preflight import Preflight
    from extract.run.summary import Summary


class Exit(NamedTuple):
    """How a command ended."""

    code: int
    meaning: str

    def __str__(self) -> str:
        return f"{self.code} {self.meaning}"


DONE = Exit(0, "done")
SOME_FAILED = Exit(1, "some failed")
STORE_UNUSABLE = Exit(1, "store unusable")
NO_MEMORY = Exit(1, "out of memory")
UNREADABLE = Exit(1, "unreadable")  # `extract show`: a ledger, or its own output
USAGE = Exit(2, "not started")
CRASHED = Exit(70, "crashed")  # a fault of this program; sysexits.h calls it EX_SOFTWARE
INTERRUPTED = Exit(130, "interrupted")  # by Ctrl-C: 128 + SIGINT, as shells have it
TERMINATED = Exit(143, "interrupted")  # by the system: 128 + SIGTERM


def after_signal(name: str) -> Exit:
    """The exit after a signal, `SIGINT`, that asked a run to stop."""
    return INTERRUPTED if name == "SIGINT" else TERMINATED


def of_run(summaries: Iterable[Summary]) -> Exit:
    """The exit of a run: the worst of its shards'."""
    return max(map(_of_shard, summaries), key=lambda one: one.code, default=DONE)


def of_command(work: Callable[[Stop], Exit]) -> Exit:
    """The exit of a command that a signal may stop; what ended it early goes to stderr."""
    try:
        with stop_on_signals() as stop:
            return work(stop)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    except OSError as error:
        sys.stderr.write(f"{printable(str(error))}\n")
        return UNREADABLE
    except StoreUnusable as error:
        sys.stderr.write(f"stopped: {error}\nOnce that is mended, the same command goes on.\n")
        return STORE_UNUSABLE


def stopped(signal_name: str) -> Exit:
    """The exit of a command that goes on when it is called again, and says so."""
    sys.stderr.write("stopped; the same command goes on from here\n")
    return after_signal(signal_name)


def of_preflight(found: Preflight) -> Exit:
    """The exit of a preflight: that of a run which would end before its work, else 0."""
    if found.reasons[INTERNAL_ERROR]:
        return CRASHED
    if found.clashes or found.refusal:
        return USAGE
    return STORE_UNUSABLE if found.unusable else DONE


def _of_shard(summary: Summary) -> Exit:
    if summary.stopped:
        return STORE_UNUSABLE
    if summary.interrupted:
        return after_signal(summary.interrupted)
    if summary.num_internal:
        return CRASHED
    return SOME_FAILED if summary.num(FAILED) or summary.not_retried else DONE
