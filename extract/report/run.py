"""`write`: a store's page, `report.html`, from its ledgers, metadata, timings and a few recordings.

The store is only read. Ledgers are read once, a line at a time; of utterances a bounded sample is
held, and one utterance's sound and features at a time.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from extract import __version__
from extract.audio.loudness import loudness_lufs
from extract.report import charts, pages, sounds, speed
from extract.report.charts import Chart
from extract.report.counted import LOUDNESS_LUFS, NUM_NAMES, Counted, Drawn, Histogram, histogram
from extract.report.gallery import gallery
from extract.report.pages import Table, name_of, table_of
from extract.report.place import LIVE, REFRESH, TITLE, is_foreign, page_of
from extract.store import ledger, metadata
from extract.store.existing import store_of
from extract.store.store import Store
from extract.text import shown
from extract.values import FAILED, REJECTED, SAVED, AudioSettings, Gain

MAX_SETTINGS = 60  # rows; a store's metadata may hold anything
MAX_COMMAND = 4000  # characters of it

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


def write(directory: Path, target: Path | None = None, *, live: bool = False) -> Path:
    """Writes a store's page, whole or not at all; returns where it is.

    Args:
        directory: the store.
        target: the page's file; None: `report.html` in the store.
        live: its run is at work: the page says so, and browsers load it anew every minute.

    Raises:
        ValueError: there is no ledger, or a file of another program has the page's name.
        OSError: a ledger cannot be read, or the page not be written.
    """
    if not ledger.ledger_paths(directory):
        raise ValueError(
            f"{name_of(directory)}: no ledger here; needed the folder of a run, which its last "
            "line names"
        )
    if target is None and is_foreign(page_of(directory)):
        raise ValueError(
            f"{name_of(page_of(directory))}: not made by a run, so it stays; needed another name "
            "for it, or another for the page (extract report STORE --output FILE)"
        )
    target = target or page_of(directory)
    pages.write("report.html", target, values(found(directory), live=live))
    return target


def _live() -> dict[str, str]:
    """What only a page holds that is made while its run is at work."""
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"head": Markup(LIVE + REFRESH), "made": made}


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
        store = store_of(directory, identity) if known else None
    except (ValueError, TypeError, KeyError) as error:
        problem = f"Features cannot be read: {error}."
    return Found(directory, identity, made_with, _frame_s(known), store, problem)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _frame_s(known: Mapping[str, Any]) -> float:
    """Seconds from one frame to the next; HuBERT's where the metadata do not say."""
    frames = _mapping(known.get("frames"))
    rate, hop = frames.get("sample_rate"), frames.get("hop")
    if type(rate) is int and type(hop) is int and rate > 0 and hop > 0:
        return hop / rate
    return 320 / 16_000


def values(what: Found, *, live: bool = False) -> dict[str, Any]:
    """What `report.html` shows of a store. Its utterances are made while the page is written."""
    counted = Counted(_gain(what.identity)).add_all(ledger.read(what.directory))
    return {
        "title": f"{TITLE}{name_of(what.directory.resolve().name)}",
        "live": _live() if live else None,
        "sections": SECTIONS,
        "problem": name_of(what.problem),
        **_outcome(counted),
        "histograms": _histograms(what.store, counted),
        "shown_s": f"{sounds.SHOWN_S:g}",
        "utterances": gallery(what.store, counted, what.frame_s),
        **_speed(speed.runs(what.directory)),
        "settings": _settings(what),
        "made_of": _made_of(what),
    }


def _gain(identity: Mapping[str, Any]) -> Callable[[float], float] | None:
    """The gain of a recording with a peak (`extract.audio.prepare.scaled`); None without one."""
    maxx, alpha = identity.get("audio.maxx"), identity.get("audio.alpha")
    blends = identity.get("audio.gain", AudioSettings().gain.name) == Gain.peak_blend.name
    if not (blends and isinstance(maxx, int | float) and isinstance(alpha, int | float)):
        return None
    return functools.partial(_blended, float(maxx), float(alpha))


def _blended(maxx: float, alpha: float, peak: float) -> float:
    return maxx * alpha / peak + 1 - alpha


def _outcome(counted: Counted) -> dict[str, Any]:
    """How many utterances were saved, rejected and failed, and which ones for which reason."""
    numbers = {
        "utterances": f"{counted.total:,}",
        "saved": f"{counted.num(SAVED):,}",
        "rejected": f"{counted.num(REJECTED):,}",
        "failed": f"{counted.num(FAILED):,}",
        "hours saved": f"{counted.saved_s / 3600:,.2f}",
        "frames": f"{counted.num_frames:,}",
        "with clipped samples": f"{counted.num_clipped:,}",
    }
    if counted.num_shared:
        numbers["with shared features"] = f"{counted.num_shared:,}"
    reasons = [
        (reason, status, f"{number:,}")
        for (status, reason), number in sorted(counted.outcomes.items())
        if status != SAVED
    ]
    heads = ("reason", "status", "utterances")
    table = table_of("Why recordings gave no features", heads, reasons) if reasons else None
    named = [_names(reason, drawn) for reason, drawn in sorted(counted.named.items())]
    return {"numbers": numbers, "reasons": table, "named": named}


def _names(reason: str, drawn: Drawn) -> Table:
    """The utterances of a reason by name, or a sample of them."""
    records, num = drawn.items, drawn.num_seen
    sampled = f", {NUM_NAMES} of {num:,}, drawn at random" if num > len(records) else f": {num:,}"
    rows = ((one["id"], one.get("detail") or "") for one in records)
    return table_of(f"{name_of(reason)}{sampled}", ("utterance", "detail"), rows)


def _histograms(store: Store | None, counted: Counted) -> Iterator[Chart]:
    peaks = {"recording": counted.peaks}
    if any(counted.levels.counts):
        peaks["after gain"] = counted.levels
    yield charts.histogram("Duration", "s", {"utterances": counted.durations})
    yield charts.histogram("Peak", "dB of full scale", peaks)
    yield charts.histogram("Gain", "dB", {"utterances": counted.gains})
    yield charts.histogram("Clipped samples", "of an utterance", {"utterances": counted.clipped})
    before, after, num = _loudness(store, counted)
    title = f"Loudness of {num} drawn at random"
    yield charts.histogram(title, "LUFS", {"recording": before, "after gain": after})


def _loudness(store: Store | None, counted: Counted) -> tuple[Histogram, Histogram, int]:
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


def _speed(known: Sequence[speed.Run]) -> dict[str, Any]:
    """The store's last runs, and the last long one over time."""
    last, command = speed.charted(known), speed.command(known)
    return {
        "runs": speed.table(known),
        "last_began": None if last is None else name_of(last.began["began"]),
        "time_lines": () if last is None else speed.time_lines(last),
        "command": None if command is None else shown(command, MAX_COMMAND),
    }


def _settings(what: Found) -> Iterator[Table]:
    caption = "What the numbers are made of; a setting at its default may be left out"
    for title, heads, known in (
        (caption, ("setting", "value"), what.identity),
        ("What made them", ("what", "version or name"), what.made_with),
    ):
        if known:
            yield table_of(title, heads, list(known.items())[:MAX_SETTINGS])


def _made_of(what: Found) -> str:
    here = name_of(what.directory.resolve())
    return f"Of {here}, by extract {__version__} on Python {platform.python_version()}."
