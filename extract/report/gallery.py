"""A dozen utterances to look at and to listen to: which ones, and their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.report import charts, pictures, sounds
from extract.report.counted import Counted
from extract.report.markup import Markup, data_uri, joined, name_of, tag
from extract.report.sounds import SHOWN_S, Samples
from extract.store.store import Store
from extract.values import SAVED

NUM_SHOWN = 12
MEL_HOP = 160  # samples between its columns, at least
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


def gallery(store: Store | None, counted: Counted, frame_s: float) -> Iterator[Markup]:
    """The articles of the utterances that are shown, one made at a time.

    Args:
        store: whose features and training audio are read; None where neither can be.
        counted: what was chosen from.
        frame_s: seconds from one frame to the next.
    """
    for number, one in enumerate(chosen(counted)):
        yield _article(store, one, frame_s, f"u{number}")


def _article(store: Store | None, one: Chosen, frame_s: float, id_: str) -> Markup:
    record, name = one.record, name_of(one.record["id"])
    audio = sounds.Sound(None)
    if store is not None and record["status"] == SAVED:
        audio = sounds.training_audio(store, record)
    kind = "training audio"
    if audio.samples is None:
        audio, kind = sounds.recording(record, whole=False), "recording"
    features, problem = _features(store, record)
    length_s = 0.0 if features is None else len(features) * frame_s
    axis_s = min(SHOWN_S, _seconds(audio) or length_s)
    parts = [
        _numbers(record),
        *_pictures(audio, kind, name),
        *_map(features, problem, name, frame_s, axis_s),
        *_axis(axis_s),
        *_player(audio, kind, name),
    ]
    heading = tag("h3", name, " ", (tag("span", why, class_="why") for why in one.why), id=id_)
    return tag("article", heading, parts, aria_labelledby=id_)


def _seconds(audio: sounds.Sound) -> float:
    return 0.0 if audio.samples is None else len(audio.samples) / sounds.RATE_HZ


def _numbers(record: Record) -> Markup:
    """The line's numbers, and why there are no features."""
    numbers = (
        _number("{:.2f} s", record.get("duration_s")),
        _number("peak {:.3f}", record.get("peak")),
        _number("{:,} frames", record.get("num_frames")),
        _number("{:,} clipped samples", record.get("clipped_samples")),
    )
    said = ", ".join(filter(None, numbers))
    detail = name_of(record["detail"]) if record.get("detail") else ""
    return tag("p", said, "; " if said and detail else "", detail)


def _number(form: str, value: Any) -> str:
    return form.format(value) if isinstance(value, int | float) else ""


def _shown(audio: sounds.Sound) -> Samples:
    assert audio.samples is not None
    return audio.samples[: round(SHOWN_S * sounds.RATE_HZ)]


def _pictures(audio: sounds.Sound, kind: str, name: str) -> Iterator[Markup]:
    """The waveform and the mel spectrogram of the seconds that are shown."""
    if not _seconds(audio):
        yield tag("p", f"No sound: {audio.why or 'no samples'}.", class_="none")
        return
    samples = _shown(audio)
    seconds = f"{len(samples) / sounds.RATE_HZ:.2f} s"
    label = f"Waveform of {name}, {seconds} of its {kind}"
    cut = ", cut off at full scale" if np.abs(samples).max() > 1 else ""
    yield _panel(charts.waveform(samples, label + cut), f"waveform of the {kind}{cut}")
    columns = min(pictures.MAX_COLUMNS, max(1, len(samples) // MEL_HOP))
    mel = pictures.heat_map(sounds.mel_db(samples, columns))
    alt = f"Mel spectrogram of {name}: 0 to 8 kHz upwards, {seconds} to the right"
    yield _panel(_picture(mel, alt, "mel"), "mel spectrogram, to 8 kHz")


def _axis(seconds: float) -> Iterator[Markup]:
    """The ends and the middle of the time axis that the pictures share."""
    if seconds:
        places = (f"{share * seconds:.2g} s" for share in (0, 0.5))
        ticks = [*(tag("span", text) for text in places), tag("span", f"{seconds:.3g} s")]
        yield tag("small", ticks, class_="axis", aria_hidden="true")


def _player(audio: sounds.Sound, kind: str, name: str) -> Iterator[Markup]:
    """What plays the seconds that are shown."""
    if not _seconds(audio):
        return
    samples = _shown(audio)
    media_type, data = sounds.encoded(samples)
    is_whole = len(samples) < round(SHOWN_S * sounds.RATE_HZ)
    part = kind if is_whole else f"the first {SHOWN_S:g} s of the {kind}"
    address = data_uri(media_type, data)
    label = f"Play {name}: {part}"
    player = tag("audio", controls=True, preload="none", src=address, aria_label=label)
    yield tag("p", player, tag("small", f"plays: {part}"), class_="player")


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


def _map(
    features: NDArray[np.float32] | None, problem: str, name: str, frame_s: float, axis_s: float
) -> Iterator[Markup]:
    """The feature map and the strip of the frames' colours, on the time axis of the waveform."""
    if features is None:
        if problem:
            yield tag("p", f"No features: {problem}.", class_="none")
        return
    num_frames, width = features.shape
    shown = features[: max(1, round(SHOWN_S / frame_s))]
    if not np.isfinite(shown).all():
        yield tag("p", "These features hold NaN or infinity.", class_="bad")
        return
    share = min(1.0, len(shown) * frame_s / axis_s)
    alt = f"Features of {name}: {num_frames:,} frames to the right, {width:,} channels upwards"
    yield _panel(_picture(pictures.feature_map(shown), alt, "features"), "features", share)
    alt = f"Strip of {name}: frames that are alike have like colours"
    strip = _picture(pictures.similarity_strip(shown), alt, "strip")
    yield _panel(strip, "principal components of the frames", share)


def _panel(picture: Markup, label: str, share: float = 1.0) -> Markup:
    """A picture over the part of the time axis that it covers, and what it is."""
    return joined([tag("div", picture, style=f"width:{100 * share:.1f}%"), tag("small", label)])


def _picture(data: bytes, alt: str, kind: str) -> Markup:
    return tag("img", src=data_uri("image/png", data), alt=alt, class_=kind)
