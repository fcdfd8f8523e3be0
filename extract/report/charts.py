"""Charts as SVG: waveforms, histograms, lines over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from extract.report.counted import Histogram
from extract.report.markup import Content, Markup, joined, table, tag

WIDTH, HEIGHT = 320, 120  # of a chart, in units of its own
LEFT, BOTTOM = 34, 18  # of the room for labels
COLUMNS = 320  # of a waveform

Points = Sequence[tuple[float, float]]


def waveform(samples: NDArray[np.float32], label: str) -> Markup:
    """(num_samples,) as the smallest and largest sample of each column, within -1 to 1."""
    edges = np.linspace(0, len(samples), min(COLUMNS, len(samples)) + 1).astype(int)[:-1]
    high = np.clip(np.maximum.reduceat(samples, edges), -1, 1)
    low = np.clip(np.minimum.reduceat(samples, edges), -1, 1)
    x = (np.arange(len(edges)) + 0.5) * COLUMNS / len(edges)
    above = [f"{at:.1f},{30 - 28 * value:.1f}" for at, value in zip(x, high, strict=True)]
    below = [f"{at:.1f},{30.6 - 28 * value:.1f}" for at, value in zip(x, low, strict=True)]
    shape = tag("polygon", points=" ".join([*above, *below[::-1]]), class_="one")
    middle = tag("path", d=f"M0 30H{COLUMNS}", class_="grid")
    return _svg(label, [middle, shape], COLUMNS, 60, stretched=True)


def histogram(title: str, unit: str, series: Mapping[str, Histogram]) -> Markup:
    """A figure of one or two histograms with the same bins, and the same as a table."""
    first = next(iter(series.values()))
    totals = [sum(counts) for counts in zip(*(one.counts for one in series.values()), strict=True)]
    used = [place for place, total in enumerate(totals) if total]
    if not used:
        return tag("figure", tag("figcaption", title), tag("p", "Nothing to count."))
    bins = range(used[0], used[-1] + 1)
    most = max(one.counts[place] for one in series.values() for place in bins)
    step = (WIDTH - LEFT) / len(bins)
    bars = [
        _bars(one, bins, number, len(series), most) for number, one in enumerate(series.values())
    ]
    label = f"Histogram: {title}, {unit}. The table below it holds the numbers."
    drawn = _svg(label, [_ground(most), bars, _edges(first, bins, step)], WIDTH, HEIGHT)
    rows = (
        [first.labels[place], *(f"{one.counts[place]:,}" for one in series.values())]
        for place in bins
    )
    numbers = table(title, [unit, *series], rows)
    return tag(
        "figure",
        tag("figcaption", title, ", ", unit),
        _key(list(series)) if len(series) > 1 else None,
        drawn,
        tag("details", tag("summary", "Numbers: ", title), numbers),
    )


def _bars(one: Histogram, bins: range, number: int, num_series: int, most: int) -> Iterator[Markup]:
    """The bars of a series, beside those of the others."""
    step = (WIDTH - LEFT) / len(bins)
    width = step * 0.84 / num_series
    for place in bins:
        x = LEFT + (place - bins[0] + 0.08) * step + number * width
        height = one.counts[place] / most * (HEIGHT - BOTTOM - 12)
        size = {"width": f"{width:.1f}", "height": f"{height:.1f}"}
        y = f"{HEIGHT - BOTTOM - height:.1f}"
        yield tag("rect", class_=NAMES[number], x=f"{x:.1f}", y=y, **size)


def _edges(one: Histogram, bins: range, step: float) -> list[Markup]:
    """The numbers between bins, as many as there is room for."""
    if len(one.edges) != len(one.labels) - 1 or one.labels[0] == "none":
        texts = {place + 0.5: one.labels[place].partition(" ")[0] for place in bins}
    else:
        texts = {place: f"{one.edges[place - 1]:g}" for place in bins if place > 0}
    every = max(1, math.ceil(26 / step))
    return [
        _text(LEFT + (place - bins[0]) * step, HEIGHT - 5, text, "middle")
        for number, (place, text) in enumerate(texts.items())
        if number % every == 0
    ]


def lines(title: str, unit: str, series: Mapping[str, Points]) -> Markup:
    """A figure of one or several lines over seconds."""
    points = [point for one in series.values() for point in one]
    last, most = max((x for x, _y in points), default=0), max((y for _x, y in points), default=0)
    drawn = []
    for number, one in enumerate(series.values()):
        places = (
            f"{LEFT + x / (last or 1) * (WIDTH - LEFT - 6):.1f},"
            f"{HEIGHT - BOTTOM - y / (most or 1) * (HEIGHT - BOTTOM - 12):.1f}"
            for x, y in one
        )
        drawn.append(tag("polyline", points=" ".join(places), class_=f"line {NAMES[number]}"))
    ends = [
        _text(LEFT, HEIGHT - 5, "0 s", "middle"),
        _text(WIDTH - 4, HEIGHT - 5, f"{last:,.0f} s", "end"),
    ]
    said = "; ".join(
        f"{name} ends at {in_short(one[-1][1])}" for name, one in series.items() if one
    )
    label = f"{title}, {unit}, over {last:,.0f} s. {said}."
    key = _key(list(series)) if len(series) > 1 else None
    chart = _svg(label, [_ground(most), drawn, ends], WIDTH, HEIGHT)
    return tag("figure", tag("figcaption", title, ", ", unit), key, chart)


NAMES = ("one", "two", "three")  # classes of series, which the page's style colours


def _key(names: Sequence[str]) -> Markup:
    """Which colour is which."""
    parts = (
        tag("span", tag("span", class_=f"swatch {NAMES[number]}"), name)
        for number, name in enumerate(names)
    )
    return tag("p", parts, class_="key", aria_hidden="true")


def in_short(number: float) -> str:
    """A number in few characters: `0.25`, `950`, `12k`, `1.2M`."""
    for least, scale, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            return in_short(number / scale) + unit
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _ground(most: float) -> Markup:
    """The ground line, and a line at the largest value."""
    ground = f"M{LEFT} {HEIGHT - BOTTOM}H{WIDTH}M{LEFT} 12H{WIDTH}"
    return joined(
        [
            tag("path", d=ground, class_="grid"),
            _text(LEFT - 3, 16, in_short(most), "end"),
            _text(LEFT - 3, HEIGHT - BOTTOM, "0", "end"),
        ]
    )


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _svg(
    label: str, inside: Content, width: int, height: int, *, stretched: bool = False
) -> Markup:
    return tag(
        "svg",
        inside,
        viewBox=f"0 0 {width} {height}",
        preserveAspectRatio="none" if stretched else None,
        role="img",
        aria_label=label,
    )
