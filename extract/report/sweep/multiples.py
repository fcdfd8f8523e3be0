"""Small multiples: one chart a number, over the settings that differ between jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extract.report.pages import name_of
from extract.report.sweep.members import MODEL, WEIGHTS
from extract.report.sweep.numbers import Job, Sweep

MAX_LINES = 9  # of a chart: as many as differ by colour and dashes
NUM_HEX = 12  # digits of a model's fingerprint that the page shows
FULL_SCALE = "full scale is 1"
PREFERRED = "audio.alpha"  # on the horizontal axis, where several settings could be


@dataclass(frozen=True)
class Number:
    """One of `Numbers` as the page shows it."""

    key: str
    head: str  # of its column
    title: str  # of its chart
    unit: str
    form: str = ","  # of `format`


NUMBERS = (
    Number("saved", "saved", "Saved", "utterances"),
    Number("rejected", "rejected", "Rejected", "utterances"),
    Number("failed", "failed", "Failed", "utterances"),
    Number("clipped_samples", "clipped samples", "Clipped samples", "of all saved"),
    Number(
        "utterances_with_clipped_samples", "with clipping", "With clipped samples", "utterances"
    ),
    Number("peak_after_gain_mean_fs", "mean peak", "Peak after gain, mean", FULL_SCALE, ".3f"),
    Number("peak_after_gain_max_fs", "largest peak", "Peak after gain, largest", FULL_SCALE, ".3f"),
    Number("loudness_mean_lufs", "LUFS", "Loudness, mean", "LUFS", ".1f"),
    Number("loudness_spread_lu", "spread, LU", "Loudness, standard deviation", "LU", ".2f"),
    Number("rms_dbfs", "RMS, dBFS", "RMS", "dB of full scale", ".1f"),
    Number("drift_relative_l2", "drift", "Feature drift, relative", "‖a − b‖ / ‖b‖", ".2g"),
    Number("drift_largest", "largest drift", "Feature drift, largest", "|a − b|", ".2g"),
)


@dataclass(frozen=True)
class Multiple:
    """One chart: `data` is for `drawChart` in `templates/page.js`."""

    title: str
    unit: str
    label: str  # what a screen reader says of it
    data: Mapping[str, Any]


def said(number: Number, job: Job) -> str:
    """A job's number as text; a dash where it is not known."""
    value = getattr(job.numbers, number.key)
    return "–" if value is None else format(value, number.form)


def short(key: str) -> str:
    """A setting's name without its group: `alpha`."""
    return key.rpartition(".")[2]


def label_of(job: Job, but: str | None = None) -> str:
    """A job by the settings that differ: `alpha 0.3, maxx 0.9`.

    Args:
        job: which one.
        but: a setting to leave out. Weights are left out beside the model's name.
    """
    left_out = {but, WEIGHTS if MODEL in job.settings else None}
    settings = (key for key in job.settings if key not in left_out)
    return ", ".join(f"{short(key)} {_value(job, key)}" for key in settings)


def _value(job: Job, key: str) -> str:
    value = name_of(job.settings[key])
    return value[:NUM_HEX] if key == WEIGHTS else value


def multiples(sweep: Sweep) -> tuple[list[Multiple], list[str]]:
    """The charts, and in words the numbers that are the same in all jobs."""
    places = _places(sweep)
    charts, same = [], []
    for number in NUMBERS:
        values = {getattr(job.numbers, number.key) for job in sweep.jobs}
        if len(values) > 1:
            charts.append(_multiple(sweep, number, places))
        elif values != {None}:
            same.append(f"{number.title} {said(number, sweep.jobs[0])} ({number.unit})")
    return charts, same


@dataclass(frozen=True)
class Places:
    """Where each job is in a chart.

    Args:
        setting: on the horizontal axis; `job` where no setting is a number.
        x: its values, ascending, one or several jobs at each.
        labels: of the values.
        lines: the name of each line, and the job at each of `x`, by its number.
    """

    setting: str
    x: Sequence[float]
    labels: Sequence[str]
    lines: Mapping[str, Sequence[int | None]]


def _places(sweep: Sweep) -> Places:
    setting = _on_the_axis(sweep)
    if setting is not None:
        x = sorted({job.settings[setting] for job in sweep.jobs})
        lines: dict[str, list[int | None]] = {}
        for number, job in enumerate(sweep.jobs):
            line = lines.setdefault(label_of(job, setting) or "all jobs", [None] * len(x))
            line[x.index(job.settings[setting])] = number
        if len(lines) <= MAX_LINES:
            return Places(short(setting), x, [f"{value:g}" for value in x], lines)
    numbers = range(len(sweep.jobs))
    texts = [str(number + 1) for number in numbers]
    return Places("job", numbers, texts, {"jobs as in the table": numbers})


def _on_the_axis(sweep: Sweep) -> str | None:
    """Of the settings that are numbers the one with the most values."""
    counts = {
        key: len({job.settings[key] for job in sweep.jobs})
        for key in sweep.keys
        if all(type(job.settings[key]) in (int, float) for job in sweep.jobs)
    }
    return max(counts, key=lambda key: (counts[key], key == PREFERRED), default=None)


def _multiple(sweep: Sweep, number: Number, places: Places) -> Multiple:
    values = [
        [None if job is None else getattr(sweep.jobs[job].numbers, number.key) for job in line]
        for line in places.lines.values()
    ]
    data = {
        "kind": "settings",
        "setting": places.setting,
        "x": list(places.x),
        "labels": places.labels,
        "names": list(places.lines),
        "values": values,
    }
    known = [value for line in values for value in line if value is not None]
    low, high = (format(one, number.form) for one in (min(known), max(known)))
    label = (
        f"{number.title}, {number.unit}, over {places.setting}: from {low} to {high}. "
        "The table of jobs holds the numbers."
    )
    return Multiple(number.title, number.unit, label, data)


def heads(sweep: Sweep) -> Iterator[str]:
    """The heads of the page's table."""
    yield "job"
    yield from map(name_of, sweep.keys)
    yield from (number.head for number in NUMBERS)
    yield "store"


def rows(sweep: Sweep) -> Iterator[Iterator[str]]:
    """The rows of that table, one a job."""
    return (_row(sweep, number, job) for number, job in enumerate(sweep.jobs, 1))


def _row(sweep: Sweep, number: int, job: Job) -> Iterator[str]:
    yield str(number)
    yield from (_value(job, key) for key in sweep.keys)
    yield from (said(one, job) for one in NUMBERS)
    yield job.name
