"""A dozen utterances to look at and to listen to: which ones, their pictures and their sounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.report import pictures, sounds
from extract.report.counted import Counted
from extract.report.pages import data_uri, name_of
from extract.report.sounds import SHOWN_S
from extract.store.store import Store
from extract.values import SAVED

NUM_SHOWN = 12
NUM_TRIED = 5  # recordings of a reason, until one can be drawn

Record = Mapping[str, Any]


@dataclass
class Chosen:
    """A record with all for which it was chosen: `first`, `loudest`, a reason."""

    record: Record
    why: list[str] = field(default_factory=list)


def chosen(counted: Counted) -> list[Chosen]:
    """The first, the loudest, the quietest, the longest, one of each rejection, and a sample."""
    saved: dict[str, Chosen] = {}
    standing_out = {
        "first": counted.first,
        "loudest": counted.loudest,
        "quietest": counted.quietest,
        "longest": counted.longest,
    }
    for why, record in standing_out.items():
        if record is not None:
            saved.setdefault(record["id"], Chosen(record)).why.append(why)
    rejected = [Chosen(record, [f"rejected: {record['reason']}"]) for record in _rejected(counted)]
    room = max(0, NUM_SHOWN - len(saved) - len(rejected))
    others = [record for record in counted.sample.items if record["id"] not in saved]
    return [*saved.values(), *rejected, *(Chosen(record, ["sample"]) for record in others[:room])]


def _rejected(counted: Counted) -> Iterator[Record]:
    """Of each reason the first sampled record whose recording can be drawn."""
    for records in counted.rejections():
        for record in records[:NUM_TRIED]:
            if sounds.recording(record, whole=False).samples is not None:
                yield record
                break


@dataclass(frozen=True)
class Picture:
    """A picture beside a waveform, over a part of its time axis.

    Args:
        kind: `features` or `strip`.
        address: the picture itself, as a `data:` address.
        alt: what a screen reader says of it.
        label: what it is.
        share: of the time axis, 0 to 1, that it covers from the left.
    """

    kind: str
    address: str
    alt: str
    label: str
    share: float


@dataclass(frozen=True)
class Played:
    """What the page plays, and draws as a waveform and a spectrogram.

    Args:
        address: the sound itself, as a `data:` address.
        kind: `training audio` or `recording`.
        part: which part of that: `the first 12 s of the recording`.
        seconds: how long it is.
        cut: says that samples above full scale were cut off, where any were.
    """

    address: str
    kind: str
    part: str
    seconds: float
    cut: str


@dataclass(frozen=True)
class Shown:
    """An utterance as `macros.html` draws it; all texts are printable."""

    anchor: str
    name: str
    why: Sequence[str]
    numbers: str
    notes: Sequence[str]  # what could not be shown, and why
    sound: Played | None
    pictures: Sequence[Picture]
    axis_s: float  # seconds of the time axis that sound and pictures share


def gallery(store: Store | None, counted: Counted, frame_s: float) -> Iterator[Shown]:
    """The utterances that are shown, one made at a time.

    Args:
        store: whose features and training audio are read; None where neither can be.
        counted: what was chosen from.
        frame_s: seconds from one frame to the next.
    """
    for number, one in enumerate(chosen(counted)):
        yield utterance(store, one, frame_s, f"u{number}")


def utterance(store: Store | None, one: Chosen, frame_s: float, anchor: str) -> Shown:
    """One utterance of a store with its sound, its features and its numbers."""
    record, name = one.record, name_of(one.record["id"])
    sound, missing = _played(store, record)
    features, problem = _features(store, record)
    length_s = 0.0 if features is None else len(features) * frame_s
    axis_s = min(SHOWN_S, length_s) if sound is None else sound.seconds
    drawn: list[Picture] = []
    if features is not None and not np.isfinite(features[: _frames(frame_s)]).all():
        problem = "they hold NaN or infinity"
    elif features is not None:
        drawn = list(_pictures(features, name, frame_s, axis_s))
    notes = [f"No sound: {missing}."] * bool(missing)
    notes += [f"No features: {problem}."] * bool(problem)
    why = [name_of(text) for text in one.why]
    return Shown(anchor, name, why, _numbers(record), notes, sound, drawn, axis_s)


def _numbers(record: Record) -> str:
    """The line's numbers, and why there are no features."""
    numbers = (
        _number("{:.2f} s", record.get("duration_s")),
        _number("peak {:.3f}", record.get("peak")),
        _number("{:,} frames", record.get("num_frames")),
        _number("{:,} clipped samples", record.get("clipped_samples")),
    )
    said = ", ".join(filter(None, numbers))
    shared = record.get("shared")
    also = [f"features shared with {name_of(shared)}"] * bool(shared)
    also += [name_of(record["detail"])] * bool(record.get("detail"))
    return "; ".join(filter(None, (said, *also)))


def _number(form: str, value: Any) -> str:
    return form.format(value) if isinstance(value, int | float) else ""


def _played(store: Store | None, record: Record) -> tuple[Played | None, str]:
    """The seconds of an utterance that are played, or why there are none."""
    audio, kind = sounds.Sound(None), "training audio"
    if store is not None and record["status"] == SAVED:
        audio = sounds.training_audio(store, record)
    if audio.samples is None:
        audio, kind = sounds.recording(record, whole=False), "recording"
    if audio.samples is None or not len(audio.samples):
        return None, audio.why or "no samples"
    most = round(SHOWN_S * sounds.RATE_HZ)
    samples = audio.samples[:most]
    is_whole = len(samples) < most
    part = kind if is_whole else f"the first {SHOWN_S:g} s of the {kind}"
    cut = ", cut off at full scale" if np.abs(samples).max() > 1 else ""
    address = data_uri(*sounds.encoded(samples))
    return Played(address, kind, part, len(samples) / sounds.RATE_HZ, cut), ""


def _features(store: Store | None, record: Record) -> tuple[NDArray[np.float32] | None, str]:
    """(num_frames, hidden_size) of the last layer that was saved, or why there are none."""
    if record["status"] != SAVED:
        return None, ""
    if store is None:
        return None, "the store's metadata or layout cannot be read"
    try:
        kept = store.layout.kept(record)
        if kept is None:
            return None, "the ledger's line is damaged"
        values = store.layout.read(kept)[-1].float().numpy()
    except (OSError, ValueError) as error:
        return None, name_of(error)
    return (values, "") if values.size else (None, "no frames")


def _frames(frame_s: float) -> int:
    """Frames of the seconds that are shown."""
    return max(1, round(SHOWN_S / frame_s))


def _pictures(
    features: NDArray[np.float32], name: str, frame_s: float, axis_s: float
) -> Iterator[Picture]:
    """The feature map and the strip of the frames' colours, on the time axis of the waveform."""
    num_frames, width = features.shape
    shown = features[: _frames(frame_s)]
    share = min(1.0, len(shown) * frame_s / axis_s)
    address = data_uri("image/png", pictures.feature_map(shown))
    alt = f"Features of {name}: {num_frames:,} frames to the right, {width:,} channels upwards"
    yield Picture("features", address, alt, "features", share)
    address = data_uri("image/png", pictures.similarity_strip(shown))
    alt = f"Strip of {name}: frames that are alike have like colours"
    yield Picture("strip", address, alt, "principal components of the frames", share)
