"""Prepares a recording: the encoder's waveform at 16 kHz and the training audio at 32 kHz.

The arithmetic is GPT-SoVITS's (`2-get-hubert-wav32k.py`). Each recording has one gain, a blend of
1 and of the gain that brings its peak to `maxx`. It is applied at two scales: 32768 for the int16
training audio and 1145.14 for the encoder. Nothing here imports torch, so that workers start fast.
"""

import math
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soxr
from numpy.typing import NDArray

from extract.audio.decode import channels_cancel, decode
from extract.audio.faults import AudioError
from extract.audio.spans import WHOLE, Span
from extract.frames import ENCODER_RATE_HZ, HUBERT_STACK, RECORDING_RATE_HZ, ConvStack
from extract.text import count
from extract.values import AudioSettings, Resampler

__all__ = [
    "Prepared",
    "prepare",
    "resample_to_16k",
    "scaled",
    "to_int16",
]

ENCODER_SCALE = 1145.14  # GPT-SoVITS's; a model whose first norm is a group norm ignores it
INT16_SCALE = 32768.0
SILENT_PEAK = 1e-30  # 1 / peak must stay within float32; the least step of 24 bits is 1e-7

# resampy's `kaiser_best`, as torchaudio's documentation gives it.
KAISER_BEST = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}
BLOCK = 16_384  # samples scaled at a time: 64 kB stay in the L1 or L2 cache


@dataclass(frozen=True)
class Prepared:
    """One recording, ready for the encoder and for the disk."""

    waveform: NDArray[np.float32]  # (num_samples,) 16 kHz, gain applied, contiguous
    wav32k: NDArray[np.int16]  # (num_samples_32k,) 32 kHz, gain applied
    peak: float  # of the samples as decoded, full scale 1.0
    duration_s: float
    clipped_samples: int  # samples of `wav32k` held at full scale instead of wrapping around


def prepare(
    file: BinaryIO,
    where: str,
    settings: AudioSettings,
    span: Span = WHOLE,
    stack: ConvStack = HUBERT_STACK,
) -> Prepared:
    """Decode, gate, scale and resample one recording, or a span of it.

    Gates, peak and gain are those of the span.

    Args:
        file: the recording, open; see `extract.audio.decode.decode`.
        where: its name in errors.
        settings: the gates and the gain.
        span: the samples to prepare.
        stack: the encoder's convolutions; a span that gives no frame is `too_short`.

    Raises:
        AudioError: `undecodable`, `empty`, `too_long`, `too_short`, `non_finite_audio`, `silent`
            or `peak_above_gate`.
    """
    samples = decode(file, where, settings.max_duration_s, span)
    rounding = 0 if span.is_open else 1
    _check_length(len(samples), settings, stack.min_samples(), where, rounding)
    peak = _peak(samples, where)
    if peak < SILENT_PEAK:
        raise AudioError("silent", _why_silent(file, where, span))
    _check_peak(peak, settings, where)
    loud, wav32k = np.empty_like(samples), np.empty(len(samples), np.int16)
    # If the loudest sample stays below 32767, none can clip: rounding adds less than one step.
    loudest = scaled(np.array([peak], np.float32), peak, settings, INT16_SCALE)
    may_clip = np.abs(loudest).max() >= 32767
    buffer = np.empty(min(BLOCK, len(samples)), np.float32)
    clipped_samples = 0
    for start in range(0, len(samples), BLOCK):
        block = slice(start, start + BLOCK)
        recorded = samples[block]
        scaled(recorded, peak, settings, ENCODER_SCALE, out=loud[block])
        trained = scaled(recorded, peak, settings, INT16_SCALE, out=buffer[: len(recorded)])
        wav32k[block], clipped = to_int16(trained) if may_clip else (trained, 0)
        clipped_samples += clipped
    waveform = resample_to_16k(loud, settings.resampler)
    duration_s = len(samples) / RECORDING_RATE_HZ
    return Prepared(waveform, wav32k, peak, duration_s, clipped_samples)


def _check_length(
    num_samples_32k: int, settings: AudioSettings, least: int, where: str, rounding: int
) -> None:
    """Raise `too_short` for too few samples; rounding a cut's ends may have lost `rounding`."""
    duration_s = num_samples_32k / RECORDING_RATE_HZ
    if duration_s + rounding / RECORDING_RATE_HZ < settings.min_duration_s:
        raise AudioError(
            "too_short",
            f"{where}: {duration_s:.3f} s; at least {settings.min_duration_s:g} s "
            "(min_duration_s) are wanted",
        )
    num_samples = num_samples_16k(num_samples_32k)
    if num_samples < least:
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
    if peak > settings.max_peak:
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


def scaled(
    samples: NDArray[np.float32],
    peak: float,
    settings: AudioSettings,
    scale: float,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """(num_samples,) times scale * (maxx * alpha / peak + 1 - alpha), float32, in `out` if given.

    Sums two products as GPT-SoVITS does, so that the bits agree; one factor would round otherwise.
    A model that normalises each frame shows the last bit of a quiet passage in its features.
    Source: GPT-SoVITS, `2-get-hubert-wav32k.py`, `name2go`.
    """
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


def num_samples_16k(num_samples_32k: int) -> int:
    """Samples at half the rate: rounded up, as librosa does."""
    return -(-num_samples_32k // 2)


def resample_to_16k(
    samples: NDArray[np.float32], resampler: Resampler = Resampler.soxr
) -> NDArray[np.float32]:
    """Halve the rate: (n,) at 32 kHz to (ceil(n / 2),) at 16 kHz, float32, contiguous.

    `soxr` is soxr HQ: bit for bit `librosa.resample` with its defaults. `torchaudio` is its Kaiser
    window with the parameters of resampy's `kaiser_best`: a different filter, and slower.
    """
    if resampler is Resampler.torchaudio:
        resampled = _resample_torchaudio(samples)
    else:
        resampled = soxr.resample(samples, RECORDING_RATE_HZ, ENCODER_RATE_HZ, quality="HQ")
    num_samples = num_samples_16k(len(samples))
    if len(resampled) != num_samples:  # a resampler that rounds down; librosa pads as well
        resampled = np.pad(resampled[:num_samples], (0, max(0, num_samples - len(resampled))))
    return np.ascontiguousarray(resampled)


def _resample_torchaudio(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch  # takes a second; workers that use soxr do without
    from torchaudio.functional import resample

    with torch.inference_mode():
        resampled = resample(
            torch.from_numpy(samples), RECORDING_RATE_HZ, ENCODER_RATE_HZ, **KAISER_BEST
        )
    return np.asarray(resampled)
