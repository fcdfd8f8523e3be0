"""Prints a preflight: a table of two columns for a terminal or a pipe, or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extract.run.preflight import Preflight, Time
from extract.run.room import size
from extract.run.speed import Range
from extract.run.tally import hms
from extract.text import count, printable, shown
from extract.values import FAILED, OF_A_SOURCE, REJECTED, STATUS_OF

MAX_KINDS = 6  # rates, codecs or reasons that a row names
MAX_CLASHES, MAX_FAILURES = 1000, 10  # that are named below the table
MAX_NAME, MAX_DETAIL = 60, 120  # characters
MAX_PATH = 4096
BAD_LINES = "bad lines, names"
NOT_IN_HEADERS = "Not in headers: peaks above the gate, silence, NaN, damage further on."


def report(console: Console, found: Preflight) -> None:
    """Prints the table, and below it what does not fit into it."""
    console.print(table(found))
    for line in _below(found):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def table(found: Preflight) -> Table:
    """The table: a column of labels and one of text, which wraps."""
    made = Table(show_header=False, box=None, pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for label, text in _rows(found):
        made.add_row(label, Text(text))
    return made


def _rows(found: Preflight) -> Iterator[tuple[str, str]]:
    yield "recordings", f"{found.recordings:,}: {found.todo:,} to do{_finished(found)}"
    yield "hours", f"{found.seconds / 3600:.3f}: {found.todo_s / 3600:.3f} to save"
    if found.recordings:
        yield "rates", _kinds({f"{rate:,} Hz": n for rate, n in found.rates.items()}) or "unknown"
        yield "channels", _kinds(found.channels) or "unknown"
        yield "formats", _kinds(found.codecs) or "unknown"
    for label, reasons in _by_kind(found).items():
        if reasons or label != BAD_LINES:
            yield label, _kinds(reasons) or "none"
    if found.clashes:
        yield "clashes", count(len(found.clashes), "pair")
    if found.dropped:
        yield "trainer drops", _kinds(found.dropped)
    yield "disk", f"{found.room}{_at_most(found)}"
    yield "batches", _batches(found)
    if found.time is not None:
        yield "time", f"{_span(found.time.total)}, without writing{_shared(found)}"
        parts = {"encoder": found.time.encoder, "decoding": found.time.decoding}
        yield "", ", ".join(f"{name} {_span(one)}" for name, one in parts.items())


def _finished(found: Preflight) -> str:
    parts = [
        f"{number:,} {f'{status}: {reason}' if reason else status}"
        for (status, reason), number in sorted(found.finished.items())
    ]
    return f"; finished already: {', '.join(parts)}" if parts else ""


def _by_kind(found: Preflight) -> dict[str, dict[str, int]]:
    """Reasons under the table's labels."""
    labels: dict[str, dict[str, int]] = {REJECTED: {}, FAILED: {}, BAD_LINES: {}}
    for reason, number in found.reasons.items():
        labels[BAD_LINES if reason in OF_A_SOURCE else _STATUS_OF[reason]][reason] = number
    return labels


_STATUS_OF: Mapping[str, str] = dict[str, str](STATUS_OF.items())  # takes any str


def _kinds(counts: Mapping[Any, int]) -> str:
    """`16,000 Hz 20, 44,100 Hz 4`, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    parts = [f"{kind}: {number:,}" for kind, number in ordered[:MAX_KINDS]]
    if more := ordered[MAX_KINDS:]:
        parts.append(f"{len(more)} more: {sum(number for _kind, number in more):,}")
    return "; ".join(parts)


def _at_most(found: Preflight) -> str:
    room = found.room
    if not room.needed:
        return ""
    between = f"; {size(room.at_least)} to {size(room.at_most)} in all"
    enough = "too little" if room.free < room.at_least else "perhaps too little"
    return between + (f": {enough}" if room.free < room.at_most else "")


def _batches(found: Preflight) -> str:
    if not found.num_batches:
        return "none"
    text = f"{found.num_batches:,} of up to {found.batch_seconds:g} padded s"
    return f"{text}, {found.padding:.1%} padding"


def _span(seconds: Range) -> str:
    if seconds.high < 10:
        return f"{seconds.low:.1f} to {seconds.high:.1f} s"
    return f"{hms(seconds.low)} to {hms(seconds.high)}"


def _shared(found: Preflight) -> str:
    if found.num_shards == 1 or found.time is None:
        return ""
    each = found.time.total * (1 / found.num_shards)
    return f"; {_span(each)} for each of {found.num_shards:,} shards"


def _below(found: Preflight) -> Iterator[str]:
    """What was not read, what is named, and why the run would not start."""
    if found.recordings:
        yield NOT_IN_HEADERS
    for failure in found.failures[:MAX_FAILURES]:
        detail = failure.detail.removeprefix(f"{printable(failure.recording.path)}: ")
        name = shown(failure.recording.id, MAX_NAME)
        yield f"{failure.reason}: {name}: {shown(detail, MAX_DETAIL)}"
    if len(found.failures) > MAX_FAILURES:
        yield "more of them, with what is needed: preflight=json"
    for clash in found.clashes[:MAX_CLASHES]:
        yield f"clash: {clash}"
    if more := len(found.clashes) - MAX_CLASHES:
        yield from [f"and {more:,} more clashes: preflight=json"] * (more > 0)
    yield f"store: {shown(found.store, MAX_PATH)}"
    yield from (f"not to be started: {reason}" for reason in why_not(found))


def why_not(found: Preflight) -> list[str]:
    """Why the run would not start, or not end."""
    clashes = "recordings would write the same file: each needs a name of its own"
    return [
        *([clashes] if found.clashes else []),
        *filter(None, [found.refusal, found.unusable]),
    ]


def as_json(found: Preflight) -> str:
    """All of a preflight as one JSON object, in ASCII."""
    finished = sorted(found.finished.items())
    named = [(one.recording, one.reason, one.detail) for one in found.failures]
    data = vars(found) | {
        "finished": [[*outcome, number] for outcome, number in finished],
        "failures": [
            {"id": recording.id, "path": recording.path, "reason": reason, "detail": detail}
            for recording, reason, detail in named
        ],
        "clashes": [{"ids": clash.ids, "paths": clash.paths} for clash in found.clashes],
        "room": vars(found.room),
        "time": found.time and _time(found.time),
    }
    return json.dumps(data, indent=2)


def _time(found: Time) -> dict[str, Any]:
    parts = {"total": found.total, "encoder": found.encoder, "decoding": found.decoding}
    return {name: vars(part) for name, part in parts.items()}
