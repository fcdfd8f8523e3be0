"""A store's timings: its runs in a table, the last one over time, and its command."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from extract.report import charts
from extract.report.charts import Chart
from extract.report.pages import Table, table_of
from extract.store import timings

MAX_RUNS = 20  # in the table
MOST = 1e15  # no run notes a larger number
MIN_LINES = 4  # of a run that is charted: some ten seconds
MAX_POINTS = 300  # of a line
WAITING = {"data_s": "recordings", "encoder_s": "encoder", "writer_s": "disk"}

Line = Mapping[str, Any]


@dataclass
class Run:
    """One shard's run: how it began, and what was noted of it since."""

    began: Line
    lines: list[Line] = field(default_factory=list)

    def last(self, key: str) -> float:
        """The last value of a number; 0 where none was noted."""
        return _number(self.lines[-1], key) if self.lines else 0.0


def runs(directory: Path) -> list[Run]:
    """A store's last runs, the latest last."""
    found: deque[Run] = deque(maxlen=MAX_RUNS)
    for line in timings.read(directory):
        if "began" in line:
            found.append(Run(line))
        elif found and "s" in line:
            found[-1].lines.append(line)
    return sorted(found, key=lambda run: str(run.began["began"]))


def _number(line: Line, key: str) -> float:
    value = line.get(key)
    return float(value) if isinstance(value, int | float) and 0 <= value < MOST else 0.0


def table(known: Sequence[Run]) -> Table | None:
    """The table of the runs, the latest first; None without any."""
    heads = (
        "began",
        "shard",
        "device",
        "utterances",
        "hours",
        "seconds",
        "times real time",
        "time in",
    )
    return table_of("The last runs", heads, map(_row, reversed(known))) if known else None


def charted(known: Sequence[Run]) -> Run | None:
    """The last run that was long enough for a chart."""
    return next((run for run in reversed(known) if len(run.lines) >= MIN_LINES), None)


def time_lines(run: Run) -> Iterator[Chart]:
    """A run's speed, what its loop waited for, and its memory, over its seconds."""
    yield charts.lines("Speed", "times real time", {"speed": _rate(run, "saved_s", 1.0)})
    waited = {name: _rate(run, key, 100.0) for key, name in WAITING.items()}
    yield charts.lines("Where time goes", "%", waited)
    yield charts.lines("Memory", "MB", _memory(run))


def _row(run: Run) -> Iterator[str]:
    began, seconds = run.began, run.last("s")
    total = sum(run.last(key) for key in WAITING) or 1.0
    yield from (str(began.get(key, "")) for key in ("began", "shard", "device"))
    yield f"{run.last('done'):,.0f}"
    yield f"{run.last('saved_s') / 3600:,.3f}"
    yield f"{seconds:,.1f}"
    yield f"{run.last('saved_s') / max(seconds, 1e-3):,.1f}"
    yield ", ".join(f"{name} {run.last(key) / total:.0%}" for key, name in WAITING.items())


def _rate(run: Run, key: str, scale: float) -> list[tuple[float, float]]:
    """How fast a number grew from one line to the next, over the seconds of the run."""
    lines = _thinned(run.lines)
    points = []
    for before, after in pairwise(lines):
        passed = _number(after, "s") - _number(before, "s")
        if passed > 0:
            grown = max(0.0, _number(after, key) - _number(before, key))
            points.append((_number(after, "s"), scale * grown / passed))
    return points


def _memory(run: Run) -> dict[str, list[tuple[float, float]]]:
    lines = _thinned(run.lines)
    found = {
        name: [(_number(line, "s"), _number(line, f"{name}_mb")) for line in lines]
        for name in ("host", "device")
    }
    return {name: points for name, points in found.items() if any(mb for _s, mb in points)}


def _thinned(lines: list[Line]) -> list[Line]:
    """At most `MAX_POINTS` lines, the first and the last among them."""
    if len(lines) <= MAX_POINTS:
        return lines
    return [lines[round(n * (len(lines) - 1) / (MAX_POINTS - 1))] for n in range(MAX_POINTS)]


def command(known: Sequence[Run]) -> str | None:
    """The command of the last run, as it noted it; None if none did."""
    noted = (run.began.get("command") for run in reversed(known))
    return next((text for text in noted if isinstance(text, str)), None)
