"""The result of one shard's run, as a value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from extract.run.clock import Clock, hint
from extract.run.tally import MAX_NAMED, Tally
from extract.run.trainers import MAX_NAMED as MAX_LEFT_OUT
from extract.run.trainers import Row
from extract.store.ledger import Record
from extract.text import printable
from extract.urls import is_url, redacted
from extract.values import Status

if TYPE_CHECKING:  # it imports torch, and a sweep of nothing but mistakes shows its table without
    from extract.store.resume import Remaining

Outcomes = Mapping[tuple[str, str], int]  # (status, reason) -> utterances


@dataclass(frozen=True)
class Summary:
    """The result of one shard's run. Picklable: an engine may bring it from another process.

    The last fields say how it ended. At most one of `interrupted` and `stopped` is set.
    """

    directory: Path  # the store; of one at a URL no folder, so that nothing is made there
    outcomes: Outcomes = field(default_factory=Counter)
    earlier: Outcomes = field(default_factory=Counter)  # what earlier runs left as it is
    saved_s: float = 0.0  # seconds of audio
    earlier_s: float = 0.0
    elapsed_s: float = 0.0
    clipped: int = 0  # saved utterances with samples held at full scale
    earlier_clipped: int = 0
    retried_fp32: int = 0
    shared: int = 0  # saved with features that an earlier job of the sweep had
    earlier_shared: int = 0
    failures: tuple[Record, ...] = ()  # the first ones of this run
    shares: Mapping[str, float] = field(default_factory=dict)  # of the time: stage -> 0 to 1
    hint: str = ""  # what would make the run faster
    left_out: tuple[Row, ...] = ()  # saved, by this run or before, and left out by the trainer
    part: str = ""  # which part of the job: `part 0 of 2`

    interrupted: str = ""  # the name of the signal that ended the work early
    left: int | None = 0  # recordings without an outcome; None: the shard was not begun
    stopped: str = ""  # why the store could not be used
    needed_bytes: float | None = None  # if `stopped`: what the remaining audio will take
    num_internal: int = 0  # recordings that met a fault of this program
    url: str = ""  # of a store that is at one, without secrets
    not_retried: int = 0  # failures of earlier runs, in all ledgers of the store, left as they are

    @property
    def place(self) -> str:
        """The store's folder or URL, for a message."""
        return self.url or str(self.directory)

    @property
    def done(self) -> int:
        """Utterances with an outcome in this run."""
        return sum(self.outcomes.values())

    @property
    def times_real_time(self) -> float:
        """Seconds of audio saved per second of the run."""
        return self.saved_s / max(1e-9, self.elapsed_s)

    def num(self, status: Status) -> int:
        """Utterances of one status, of this run and of earlier ones."""
        both = (*self.outcomes.items(), *self.earlier.items())
        return sum(number for (some, _reason), number in both if some == status)


def not_begun(store_dir: str, *, interrupted: str = "", stopped: str = "") -> Summary:
    """The summary of a shard that has counted nothing, of the store that `store.dir` names."""
    url = printable(redacted(store_dir)) if is_url(store_dir) else ""
    return Summary(
        Path(url or store_dir), interrupted=interrupted, stopped=stopped, left=None, url=url
    )


def summarize(
    directory: Path,
    tally: Tally,
    clock: Clock,
    rest: Remaining,
    part: str = "",
    url: str = "",
) -> Summary:
    """A summary of what the loop has counted so far; the caller adds how the loop ended."""
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
        shared=tally.shared,
        earlier_shared=int(rest.shared.sum()),
        failures=tuple(tally.failures),
        shares=clock.shares,
        hint=hint(clock),
        left_out=tally.left_out.rows(),
        part=part,
        url=url,
    )


_COUNTS = ("clipped", "earlier_clipped", "retried_fp32", "num_internal")
_SECONDS = ("saved_s", "earlier_s")


def merged(summaries: Sequence[Summary], elapsed_s: float) -> Summary:
    """One summary of shards that were at work at the same time, for `elapsed_s` seconds.

    Shares of the time and the hint are left out, since they are of different processes.
    """
    left = [one.left for one in summaries]
    needed = [one.needed_bytes for one in summaries if one.needed_bytes is not None]
    return Summary(
        summaries[0].directory,
        outcomes=sum((Counter(one.outcomes) for one in summaries), Counter()),
        earlier=sum((Counter(one.earlier) for one in summaries), Counter()),
        elapsed_s=elapsed_s,
        failures=tuple(record for one in summaries for record in one.failures)[:MAX_NAMED],
        url=summaries[0].url,
        left_out=_rows(row for one in summaries for row in one.left_out),
        interrupted=next((one.interrupted for one in summaries if one.interrupted), ""),
        left=None if None in left else sum(one or 0 for one in left),
        stopped=next((one.stopped for one in summaries if one.stopped), ""),
        needed_bytes=sum(needed) if needed else None,
        # Each has counted those of all ledgers, as they were when it ended
        not_retried=max(one.not_retried for one in summaries),
        **{name: sum(getattr(one, name) for one in summaries) for name in (*_COUNTS, *_SECONDS)},
    )


def _rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    """A row for each reason."""
    found: dict[str, Row] = {}
    for row in rows:
        before = found.get(row.reason, Row(row.reason, 0, ()))
        names = (*before.names, *row.names)[:MAX_LEFT_OUT]
        found[row.reason] = Row(row.reason, before.number + row.number, names)
    return tuple(found[reason] for reason in sorted(found))
