"""`write`: a store's page, `report.html`, from its ledgers, metadata, timings and a few recordings.

The store is only read. Ledgers are read once, a line at a time; of utterances a bounded sample is
held, and one utterance's sound and features at a time.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract import __version__, choices
from extract.audio.loudness import loudness_lufs
from extract.files import replace_whole
from extract.manifest.folders import REPORT
from extract.report import charts, sounds
from extract.report.counted import LOUDNESS_LUFS, NUM_NAMES, Counted, histogram
from extract.report.gallery import gallery
from extract.report.markup import Content, Markup, name_of, table, tag
from extract.report.page import page, section
from extract.report.speed import commands, speed
from extract.store import ledger, metadata
from extract.store.layout import LayoutOptions
from extract.store.store import Store
from extract.values import FAILED, REJECTED, SAVED, AudioSettings, Gain

NUM_OPEN = 3  # utterances of a reason that are shown without a click
MAX_SETTINGS = 60  # rows; a store's metadata may hold anything

SECTIONS = (
    ("outcome", "Outcome"),
    ("levels", "Levels and lengths"),
    ("utterances", "Utterances"),
    ("speed", "Speed and memory"),
    ("settings", "Settings"),
)


@dataclass(frozen=True)
class Found:
    """What a store is, as far as its metadata can be read."""

    directory: Path
    identity: Mapping[str, Any]
    made_with: Mapping[str, Any]
    frame_s: float  # from one frame to the next
    store: Store | None  # None where its layout is not known or not installed
    problem: str = ""


def write(directory: Path, target: Path | None = None) -> Path:
    """Writes a store's page, whole or not at all; returns where it is.

    Args:
        directory: the store.
        target: the page's file; None: `report.html` in the store.

    Raises:
        ValueError: there is no ledger.
        OSError: a ledger cannot be read, or the page not be written.
    """
    if not ledger.ledger_paths(directory):
        raise ValueError(
            f"{name_of(directory)}: no ledger here; needed the folder of a run, which its last "
            "line names"
        )
    target = target or directory / REPORT
    replace_whole(target, parts(found(directory)), fsync=False)
    return target


def found(directory: Path) -> Found:
    """What a store's metadata say; the problem where they cannot be read."""
    try:
        known = metadata.read(directory) or {}
        problem = "" if known else "There is no metadata.json here: the settings are not known."
    except metadata.Unreadable as error:
        known, problem = {}, f"The settings are not known: {error}."
    identity, made_with = _mapping(known.get("identity")), _mapping(known.get("made_with"))
    store: Store | None = None
    try:
        store = _store(directory, identity) if known else None
    except (ValueError, TypeError) as error:
        problem = f"Features cannot be read: {error}."
    return Found(directory, identity, made_with, _frame_s(known), store, problem)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _store(directory: Path, identity: Mapping[str, Any]) -> Store:
    layout = str(identity.get("layout", LayoutOptions.layout))
    options = choices.find("layouts", layout).Options(dir=str(directory), layout=layout)
    return Store(directory, options=options, features=identity.get("features") is not False)


def _frame_s(known: Mapping[str, Any]) -> float:
    """Seconds from one frame to the next; HuBERT's where the metadata do not say."""
    frames = _mapping(known.get("frames"))
    rate, hop = frames.get("sample_rate"), frames.get("hop")
    if type(rate) is int and type(hop) is int and rate > 0 and hop > 0:
        return hop / rate
    return 320 / 16_000


def parts(what: Found) -> Iterator[bytes]:
    """The page in parts, made one after the other."""
    counted = Counted(_gain(what.identity)).add_all(ledger.read(what.directory))
    title = f"Extraction report: {name_of(what.directory.resolve().name)}"
    yield from page(title, SECTIONS, _body(what, counted))


def _gain(identity: Mapping[str, Any]) -> Callable[[float], float] | None:
    """The gain of a recording with a peak (`extract.audio.prepare.scaled`); None without one."""
    maxx, alpha = identity.get("audio.maxx"), identity.get("audio.alpha")
    blends = identity.get("audio.gain", AudioSettings().gain.name) == Gain.peak_blend.name
    if not (blends and isinstance(maxx, int | float) and isinstance(alpha, int | float)):
        return None
    return functools.partial(_blended, float(maxx), float(alpha))


def _blended(maxx: float, alpha: float, peak: float) -> float:
    return maxx * alpha / peak + 1 - alpha


def _body(what: Found, counted: Counted) -> Iterator[Markup]:
    yield section("outcome", "Outcome", _outcome(what, counted))
    yield section("levels", "Levels and lengths", _levels(what, counted))
    yield tag("h2", "Utterances", id="utterances")
    yield tag(
        "p",
        f"The first, loudest, quietest and longest of the saved, one recording of each kind of "
        f"rejection that is still there, and a random sample. Shown and played are the first "
        f"{sounds.SHOWN_S:g} s of each. Features: blue is below zero, red above, of channels at "
        "even distances. Below them, frames that are alike have like colours: one colour "
        "throughout says that the model does not react to the sound.",
    )
    yield Markup('<div class="grid-of">')
    yield from gallery(what.store, counted, what.frame_s)
    yield Markup("</div>")
    yield section("speed", "Speed and memory", speed(what.directory))
    yield section("settings", "Settings", _settings(what))


def _outcome(what: Found, counted: Counted) -> Iterator[Markup]:
    if what.problem:
        yield tag("p", name_of(what.problem), class_="bad")
    numbers = {
        "utterances": f"{counted.total:,}",
        "saved": f"{counted.num(SAVED):,}",
        "rejected": f"{counted.num(REJECTED):,}",
        "failed": f"{counted.num(FAILED):,}",
        "hours saved": f"{counted.saved_s / 3600:,.2f}",
        "frames": f"{counted.num_frames:,}",
        "with clipped samples": f"{counted.num_clipped:,}",
    }
    cards = (tag("div", tag("dt", name), tag("dd", number)) for name, number in numbers.items())
    yield tag("dl", cards, class_="cards")
    reasons = [
        (name_of(reason), status, f"{number:,}")
        for (status, reason), number in sorted(counted.outcomes.items())
        if status != SAVED
    ]
    if not reasons:
        yield tag("p", "Every utterance was saved.")
        return
    yield table("Why recordings gave no features", ("reason", "status", "utterances"), reasons)
    for reason, drawn in sorted(counted.named.items()):
        yield _names(reason, drawn.items, drawn.num_seen)


def _names(reason: str, records: list[Mapping[str, Any]], num: int) -> Markup:
    """The utterances of a reason by name, or a sample of them."""
    sampled = f", {NUM_NAMES} of {num:,}, drawn at random" if num > len(records) else f": {num:,}"
    caption = f"{name_of(reason)}{sampled}"
    rows = [(name_of(one["id"]), name_of(one.get("detail") or "")) for one in records]
    names = table(caption, ("utterance", "detail"), rows)
    return tag("details", tag("summary", caption), names, open=len(records) <= NUM_OPEN)


def _levels(what: Found, counted: Counted) -> Iterator[Markup]:
    yield tag("p", "Of all saved utterances, except for loudness.")
    before, after, num = _loudness(what.store, counted)
    peaks = {"recording": counted.peaks}
    if any(counted.levels.counts):
        peaks["after gain"] = counted.levels
    charted = [
        charts.histogram("Duration", "s", {"utterances": counted.durations}),
        charts.histogram("Peak", "dB of full scale", peaks),
        charts.histogram("Gain", "dB", {"utterances": counted.gains}),
        charts.histogram("Clipped samples", "of an utterance", {"utterances": counted.clipped}),
        charts.histogram(
            f"Loudness of {num} drawn at random", "LUFS", {"recording": before, "after gain": after}
        ),
    ]
    yield tag("div", charted, class_="grid-of")


def _loudness(store: Store | None, counted: Counted) -> tuple[Any, Any, int]:
    """Histograms of the sampled utterances' loudness before and after gain, and of how many."""
    before, after, num = histogram(LOUDNESS_LUFS), histogram(LOUDNESS_LUFS), 0
    for record in counted.sample.items:
        heard = [sounds.recording(record, whole=True)]
        heard += [sounds.training_audio(store, record)] if store is not None else []
        num += any(one.samples is not None for one in heard)
        for one, into in zip(heard, (before, after), strict=False):
            lufs = None if one.samples is None else loudness_lufs(one.samples, sounds.RATE_HZ)
            if lufs is not None:
                into.add(lufs)
    return before, after, num


def _settings(what: Found) -> Iterator[Content]:
    yield from commands(what.directory)
    rows = [(name_of(key), name_of(value)) for key, value in what.identity.items()]
    if rows:
        caption = "What the numbers are made of; a setting at its default may be left out"
        yield table(caption, ("setting", "value"), rows[:MAX_SETTINGS])
    made = [(name_of(key), name_of(value)) for key, value in what.made_with.items()]
    if made:
        yield table("What made them", ("what", "version or name"), made[:MAX_SETTINGS])
    here = name_of(what.directory.resolve())
    by = f"extract {__version__} on Python {platform.python_version()}"
    yield tag("p", tag("small", f"Of {here}, by {by}."))
