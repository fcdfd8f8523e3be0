"""Measures the encoder and the decoding for some seconds, to say how long a run will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from extract.audio.faults import AudioError, opened
from extract.audio.prepare import prepare
from extract.audio.spans import Span
from extract.data.plan import Indices, cost_s
from extract.encoder.encoder import Encoder
from extract.frames import ENCODER_RATE_HZ
from extract.manifest.manifest import Manifest
from extract.text import printable
from extract.values import AudioSettings

MEASURED_S = 4.0  # that the encoder is measured for, about; so is the decoding
BATCH_S = 2.0  # that one batch should take at most: on a slow device it gets fewer utterances
SHORTEST_S, LONGEST_S = 0.1, 30.0  # of noise
NUM_BATCHES = 5  # long ones and short ones
NUM_RECORDINGS = 12
MAX_PART_S = 10.0  # that is decoded of a recording, and at most half of it
SPREAD = 0.15  # batches and recordings that were not measured may take so much more or less

Stop = Callable[[], bool]
Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Range:
    """Seconds that something takes: from `low` to `high`."""

    low: float = 0.0
    high: float = 0.0

    def __mul__(self, factor: float) -> Range:
        return Range(self.low * factor, self.high * factor)


def _range(ratios: Sequence[float]) -> Range | None:
    """The range of what was measured, and a little more; None where nothing was."""
    return Range(min(ratios) / (1 + SPREAD), max(ratios) * (1 + SPREAD)) if ratios else None


def encoder_ratio(
    encoder: Encoder, batches: Sequence[Indices], seconds: Seconds, stop: Stop
) -> Range | None:
    """Seconds that the encoder takes for a second of `cost_s`, from batches of noise.

    Args:
        encoder: on its device.
        batches: the plan, of which a few are imitated.
        seconds: of every recording, with padding.
        stop: ends the measurement.
    """
    sample = [batches[at] for at in _spread_over(len(batches), NUM_BATCHES)]
    seconds = np.maximum(seconds, SHORTEST_S)
    if not sample:
        return None
    warm_up = seconds[sample[-1][:1]]
    _seconds_of(encoder, warm_up)  # a GPU's kernels are compiled
    ratio, ratios, end = _ratio_of_noise(encoder, warm_up), list[float](), _end()
    for batch in sample:
        lengths = _fitting(seconds[batch], ratio, encoder)
        try:
            ratio = _ratio_of_noise(encoder, lengths)
        except torch.OutOfMemoryError:  # the run goes on with smaller batches
            continue
        took_s = ratio * _cost(lengths, encoder)
        if len(lengths) == len(batch) or took_s > BATCH_S / 2:  # else it was too small
            ratios.append(ratio)
        if time.monotonic() > end or stop():
            break
    return _range(ratios or [ratio])


def _end() -> float:
    return time.monotonic() + MEASURED_S


def _fitting(lengths: Seconds, ratio: float, encoder: Encoder) -> Seconds:
    """The longest of a batch's recordings that take about `BATCH_S`; one at least."""
    longest = np.minimum(np.sort(lengths)[::-1], LONGEST_S)
    return longest[: max(1, int(BATCH_S / (ratio * _cost(longest[:1], encoder))))]


def _cost(lengths: Seconds, encoder: Encoder) -> float:
    """What a batch of recordings costs, padded to the longest."""
    quadratic_s = encoder.architecture.quadratic_s
    return len(lengths) * float(cost_s(lengths.max(keepdims=True), quadratic_s)[0])


def _ratio_of_noise(encoder: Encoder, lengths: Seconds) -> float:
    return _seconds_of(encoder, lengths) / _cost(lengths, encoder)


def _seconds_of(encoder: Encoder, lengths: Seconds) -> float:
    """Seconds that the encoder takes for a batch of noise of these `lengths` in seconds."""
    least = encoder.architecture.stack.min_samples()
    samples = [max(least, round(length * ENCODER_RATE_HZ)) for length in lengths.tolist()]
    noise = torch.randn(len(samples), max(samples), generator=torch.Generator().manual_seed(0))
    for row, length in zip(noise, samples, strict=True):
        row[length:] = 0
    start = time.perf_counter()
    encoder.encode(noise, samples)  # waits for a GPU
    return time.perf_counter() - start


def decoding_ratio(
    manifest: Manifest, seconds: Seconds, audio: AudioSettings, stop: Stop
) -> Range | None:
    """Seconds that a worker takes for a second of audio, from halves of a few recordings.

    No recording is decoded whole.

    Args:
        manifest: the recordings.
        seconds: of each; those of 0 are left out.
        audio: how they are prepared.
        stop: ends the measurement.
    """
    known = np.flatnonzero(seconds > 0)
    ratios, end = list[float](), _end()
    for at in _spread_over(len(known), NUM_RECORDINGS):
        part_s = min(MAX_PART_S, float(seconds[known[at]]) / 2)
        ratios += _ratio_of(manifest, int(known[at]), part_s, audio)
        if time.monotonic() > end or stop():
            break
    return _range(ratios)


def _ratio_of(manifest: Manifest, index: int, part_s: float, audio: AudioSettings) -> list[float]:
    entry = manifest[index]
    where = printable(entry.path)
    start = time.perf_counter()
    try:
        with opened(manifest.opener, entry.path, where) as file:
            prepare(file, where, audio, Span.of(entry.offset_s, part_s))
    except (AudioError, OSError, MemoryError):
        return []  # silent in its first half, or damaged: it says nothing of the speed
    return [(time.perf_counter() - start) / part_s]


def _spread_over(num: int, most: int) -> list[int]:
    """At most `most` of `num` indices, evenly spread, the first and the last among them."""
    return sorted({round(at) for at in np.linspace(0, num - 1, min(num, most)).tolist()})
