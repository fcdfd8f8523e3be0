"""Charts as values: uPlot draws them in the page, and each has its numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extract.report.counted import Histogram
from extract.report.pages import Table

MAX_ROWS = 40  # about so many of a line's points are in its table

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """One chart.

    Args:
        title: what it shows.
        unit: of the horizontal axis of a histogram, of the vertical one of lines.
        label: what a screen reader says of the picture.
        data: for `drawChart` in `templates/page.js`; None where there is nothing to draw.
        table: the numbers.
    """

    title: str
    unit: str
    label: str
    data: Mapping[str, Any] | None
    table: Table


def histogram(title: str, unit: str, series: Mapping[str, Histogram]) -> Chart:
    """One or two histograms with the same bins, side by side."""
    first = next(iter(series.values()))
    totals = [sum(counts) for counts in zip(*(one.counts for one in series.values()), strict=True)]
    used = [place for place, total in enumerate(totals) if total]
    bins = range(used[0], used[-1] + 1) if used else range(0)
    rows = [
        [first.labels[place], *(f"{one.counts[place]:,}" for one in series.values())]
        for place in bins
    ]
    data = {
        "kind": "bars",
        "unit": unit,
        "labels": [first.labels[place] for place in bins],
        "ticks": _ticks(first, bins),
        "names": list(series),
        "values": [[one.counts[place] for place in bins] for one in series.values()],
    }
    label = f"Histogram: {title}, {unit}. The table below it holds the numbers."
    table = Table(title, [unit, *series], rows, is_sortable=False)
    return Chart(title, unit, label, data if used else None, table)


def _ticks(one: Histogram, bins: range) -> list[tuple[float, str]]:
    """Where the horizontal axis has a number: between two bins, or below a bin that has a name."""
    if one.is_named:
        return [(place - bins[0], one.labels[place]) for place in bins]
    between = range(max(1, bins[0]), min(bins[-1] + 1, len(one.edges)) + 1) if bins else range(0)
    return [(place - bins[0] - 0.5, f"{one.edges[place - 1]:g}") for place in between]


def lines(title: str, unit: str, series: Mapping[str, Points]) -> Chart:
    """One or several lines over the same seconds."""
    seconds = [x for x, _y in next(iter(series.values()), ())]
    values = [[y for _x, y in one] for one in series.values()]
    data = {
        "kind": "lines",
        "unit": unit,
        "x": seconds,
        "names": list(series),
        "values": values,
    }
    ends = "; ".join(
        f"{name} ends at {in_short(one[-1])}"
        for name, one in zip(series, values, strict=True)
        if one
    )
    label = f"{title}, {unit}, over {seconds[-1] if seconds else 0:,.0f} s. {ends}."
    rows = [
        [f"{second:,.1f}", *(in_short(one[place]) for one in values)]
        for place, second in enumerate(seconds)
    ]
    table = Table(title, ["s", *series], rows[:: max(1, len(rows) // MAX_ROWS)], is_sortable=False)
    return Chart(title, unit, label, data if seconds else None, table)


def in_short(number: float) -> str:
    """A number in few characters: `0.25`, `950`, `12k`, `1.2M`."""
    for least, scale, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            return in_short(number / scale) + unit
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
