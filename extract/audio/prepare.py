"""Prepares a recording: the encoder's waveform at 16 kHz and the training audio at 32 kHz.

By default the arithmetic is GPT-SoVITS's (`2-get-hubert-wav32k.py`): one gain per recording, which
blends the recording as it is with the recording whose peak is put at `maxx`, at two scales: 32768
for the int16 copy and 1145.14 for the encoder. Nothing here imports torch, so that workers start
fast.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from extract.audio.decode import Decoded, decode
from extract.audio.faults import AudioError
from extract.audio.rates import num_samples_16k, resample_to_16k, resample_to_44k
from extract.audio.silence import channels_cancel
from extract.audio.spans import WHOLE, Span
from extract.frames import HUBERT_STACK, SINGING_RATE_HZ, ConvStack
from extract.text import count
from extract.values import AudioSettings, Gain, RatePath

__all__ = [
    "Prepared",
    "prepare",
    "prepare_decoded",
    "resample_to_16k",
    "scaled",
    "to_int16",
]

INT16_SCALE = 32768.0
SILENT_PEAK = 1e-30  # below this even 1 / peak leaves float32; 24-bit audio ends at 1e-7
NORM_EPS = 1e-7  # transformers', `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`
BLOCK = 16_384  # samples that are scaled at a time: 64 kB stay in the nearest cache

# Decoded samples (num_samples,) float32 and their rate in Hz -> samples at the same rate.
Augment = Callable[[NDArray[np.float32], int], NDArray[np.float32]]


@dataclass(frozen=True)
class Prepared:
    """One recording, ready for the encoder and for the disk."""

    waveform: NDArray[np.float32]  # (num_samples,) 16 kHz, gain applied, contiguous
    # (num_samples_32k,) 32 kHz, gain applied; empty where no training audio is wanted
    wav32k: NDArray[np.int16]
    peak: float  # of the samples as decoded, full scale 1.0
    duration_s: float
    clipped_samples: int  # samples of `wav32k` held at full scale instead of wrapping around


class Wanted(TypedDict, total=False):
    """What is made of a recording's samples; a key that is left out has the default."""

    # Bring the encoder's input to zero mean and unit variance, before zeros are put around it; no
    unit_variance: bool
    training_audio: bool  # make the copy at 32 kHz, if the settings decode to that rate; yes
    encoder_input: bool  # make the waveform at 16 kHz, else it is empty; yes


def prepare(
    file: BinaryIO,
    where: str,
    settings: AudioSettings,
    span: Span = WHOLE,
    stack: ConvStack = HUBERT_STACK,
    *,
    keep: Callable[[Decoded], None] = lambda decoded: None,
    augment: Augment | None = None,
    **wanted: Unpack[Wanted],
) -> Prepared:
    """Decode, gate, scale and resample one recording, or a span of it.

    Gates, peak and gain are those of the span.

    Args:
        file: the recording, open; see `extract.audio.decode.decode`.
        where: its name in errors.
        settings: the gates, the gain and the way to 16 kHz.
        span: the samples to prepare.
        stack: the encoder's convolutions, which say how short is too short.
        keep: given what was decoded, for `prepare_decoded`; not called before an AudioError.
        augment: changes the decoded samples, of which it may return more or fewer. Gates, peak and
            gain are those of what it returns.
        wanted: what to make of the samples: see `Wanted`.

    Raises:
        AudioError: `undecodable`, `empty`, `too_long`, `too_short`, `non_finite_audio`, `silent`
            or `peak_above_gate`.
    """
    decoded = _decoded(file, where, settings, span)
    try:
        prepared = prepare_decoded(decoded, where, settings, span, stack, augment=augment, **wanted)
    except AudioError as error:
        if error.reason == "silent" and augment is None:  # else it is not the file's doing
            raise AudioError("silent", _why_silent(file, where, span)) from None
        raise
    keep(decoded)
    return prepared


def prepare_decoded(
    decoded: Decoded,
    where: str,
    settings: AudioSettings,
    span: Span = WHOLE,
    stack: ConvStack = HUBERT_STACK,
    *,
    unit_variance: bool = False,
    training_audio: bool = True,
    encoder_input: bool = True,
    augment: Augment | None = None,
) -> Prepared:
    """`prepare` from samples that its `keep` was given: the same bits.

    `settings` may differ from those that `decoded` was made with in all but `rate_path`, `mix` and
    `max_duration_s`.

    Raises:
        AudioError: `too_short`, `non_finite_audio`, `silent` or `peak_above_gate`.
    """
    if augment is not None:
        where += " (augmented)"
        decoded = _augmented(decoded, augment, where, settings.max_duration_s)
    rounding = 0 if span.is_open else 1
    _check_length(decoded, settings, stack.min_samples(), where, rounding)
    peak = _peak(decoded.samples, where)
    if settings.gain is Gain.peak_blend and peak < SILENT_PEAK:  # it divides by the peak
        raise AudioError("silent", f"{where}: only zeros; a recording is needed")
    _check_peak(peak, settings, where)
    wants_copy = training_audio and settings.has_training_audio
    loud, wav32k, clipped_samples = _levelled(decoded.samples, peak, settings, wants_copy)
    if not encoder_input:
        return Prepared(loud[:0].copy(), wav32k, peak, decoded.duration_s, clipped_samples)
    waveform = resample_to_16k(loud, settings.resampler, decoded.rate_hz, settings.resampler_width)
    if unit_variance:
        waveform = normalized(waveform, settings.norm_eps)
    return Prepared(padded(waveform, settings), wav32k, peak, decoded.duration_s, clipped_samples)


def _decoded(file: BinaryIO, where: str, settings: AudioSettings, span: Span) -> Decoded:
    """The samples at the rate from which the settings go on to 16 kHz."""
    path, mix = settings.rate_path, settings.mix
    decoded = decode(file, where, settings.max_duration_s, span, rate_path=path, mix=mix)
    if path is not RatePath.via_44k:
        return decoded
    samples = resample_to_44k(decoded.samples, decoded.rate_hz)
    return replace(decoded, samples=samples, rate_hz=SINGING_RATE_HZ)


def _augmented(decoded: Decoded, augment: Augment, where: str, max_duration_s: float) -> Decoded:
    """What `augment` makes of the samples; it may have lengthened them past the longest wanted."""
    augmented = replace(decoded, samples=augment(decoded.samples, decoded.rate_hz))
    if augmented.duration_s > max(max_duration_s, decoded.duration_s):
        raise AudioError(
            "too_long",
            f"{where}: {augmented.duration_s:.1f} s; at most {max_duration_s:g} s "
            "(max_duration_s) are wanted",
        )
    return augmented


def _levelled(
    samples: NDArray[np.float32], peak: float, settings: AudioSettings, wants_copy: bool
) -> tuple[NDArray[np.float32], NDArray[np.int16], int]:
    """The encoder's input, the training audio, and how many samples of that are clipped.

    (num_samples,) each, at the rate as decoded; the training audio may be empty.
    """
    loud = np.empty_like(samples)
    wav32k = np.empty(len(samples) if wants_copy else 0, np.int16)
    # The peak decides for all samples; one step of 32768 is room enough for any rounding.
    loudest = scaled(np.array([peak], np.float32), peak, settings, INT16_SCALE)
    may_clip = np.abs(loudest).max() >= 32767
    buffer = np.empty(min(BLOCK, len(samples)), np.float32)
    clipped_samples = 0
    for start in range(0, len(samples), BLOCK):
        block = slice(start, start + BLOCK)
        recorded = samples[block]
        scaled(recorded, peak, settings, settings.scale, out=loud[block])
        if wants_copy:
            trained = scaled(recorded, peak, settings, INT16_SCALE, out=buffer[: len(recorded)])
            wav32k[block], clipped = to_int16(trained) if may_clip else (trained, 0)
            clipped_samples += clipped
    return loud, wav32k, clipped_samples


def normalized(waveform: NDArray[np.float32], eps: float = NORM_EPS) -> NDArray[np.float32]:
    """(num_samples,) at zero mean and unit variance, as the models that want it were trained.

    Source: transformers, `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`: the same bits. With
    an `eps` of 1e-5 fairseq's `layer_norm`.
    """
    total: NDArray[np.float32] = (waveform - waveform.mean()) / np.sqrt(waveform.var() + eps)
    return total


def num_padded(num_samples: int, settings: AudioSettings) -> int:
    """Samples at 16 kHz with the zeros that `padded` puts around `num_samples`."""
    return max(num_samples + sum(settings.pad_samples), settings.min_samples)


def padded(waveform: NDArray[np.float32], settings: AudioSettings) -> NDArray[np.float32]:
    """(num_samples,) with `pad_samples` of zeros around it, and zeros behind up to `min_samples`.

    `waveform` itself where there is nothing to put.
    """
    before = settings.pad_samples[0]
    after = num_padded(len(waveform), settings) - len(waveform) - before
    return np.pad(waveform, (before, after)) if before or after else waveform


def _check_length(
    decoded: Decoded, settings: AudioSettings, least: int, where: str, rounding: int
) -> None:
    """AudioError if there are too few samples, of which `rounding` may have been lost to that."""
    if decoded.duration_s + rounding / decoded.rate_hz < settings.min_duration_s:
        raise AudioError(
            "too_short",
            f"{where}: {decoded.duration_s:.3f} s; at least {settings.min_duration_s:g} s "
            "(min_duration_s) are wanted",
        )
    num_samples = num_samples_16k(len(decoded.samples), decoded.rate_hz, settings.resampler)
    if num_padded(num_samples, settings) < least:
        raise AudioError(
            "too_short",
            f"{where}: {count(num_samples, 'sample')}; the encoder needs at least {least}",
        )


def _peak(samples: NDArray[np.float32], where: str) -> float:
    peak = max(float(samples.max()), -float(samples.min()))  # NaN and infinity come through
    if not math.isfinite(peak):
        raise AudioError("non_finite_audio", f"{where}: NaN or infinity; finite samples are needed")
    return peak


def _check_peak(peak: float, settings: AudioSettings, where: str) -> None:
    if settings.max_peak is not None and peak > settings.max_peak:
        raise AudioError(
            "peak_above_gate",
            f"{where}: peak {peak:.3f}; at most {settings.max_peak:g} (max_peak) is wanted",
        )


def _why_silent(file: BinaryIO, where: str, span: Span) -> str:
    """The detail of `silent`: the channels are silent, or they cancel in the mix to mono."""
    num_channels = channels_cancel(file, span)
    if num_channels:
        return (
            f"{where}: sound in its {num_channels} channels, but none in their mix to mono, where "
            "they cancel; a single channel is needed (ffmpeg -i IN -af 'pan=mono|c0=c0' OUT)"
        )
    return f"{where}: only zeros; a recording is needed"


def gain(peak: float, settings: AudioSettings) -> float:
    """What `scaled` multiplies a recording of this peak by, for each unit of its scale."""
    return settings.maxx * settings.alpha / peak + 1 - settings.alpha


def scaled(
    samples: NDArray[np.float32],
    peak: float,
    settings: AudioSettings,
    scale: float,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """(num_samples,) times scale * (maxx * alpha / peak + 1 - alpha), float32, in `out` if given.

    Without a gain times the scale alone. One factor, but summed from two products as the reference
    does: the same bits. Where a model normalises each frame, the last bit of a quiet passage beside
    a loud one is seen in features.
    Source: GPT-SoVITS, `2-get-hubert-wav32k.py`, `name2go`.
    """
    if settings.gain is Gain.none:
        return np.multiply(samples, np.float32(scale), out=out)
    total = np.divide(samples, np.float32(peak), out=out)
    total *= np.float32(settings.maxx * settings.alpha * scale)
    total += samples * np.float32((1 - settings.alpha) * scale)
    return total


def to_int16(samples: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
    """Truncate toward zero as `astype` does, but saturate where GPT-SoVITS wraps around.

    Args:
        samples: (num_samples,) float32, full scale 32768; at least one.

    Returns:
        (num_samples,) int16, and how many samples are held at full scale.
    """
    if samples.max() < 32768 and samples.min() > -32769:
        return samples.astype(np.int16), 0
    clipped_samples = np.count_nonzero((samples >= 32768) | (samples <= -32769))
    return np.clip(samples, -32768, 32767).astype(np.int16), int(clipped_samples)
