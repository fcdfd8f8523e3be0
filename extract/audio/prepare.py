"""From a file to what the encoder hears and what the trainer reads: pure functions.

The arithmetic is GPT-SoVITS's (`2-get-hubert-wav32k.py`): one gain per recording, which blends the
recording as it is with the recording whose peak is put at `maxx`, at two scales: 32768 for the
int16 copy and 1145.14 for the encoder. Nothing here imports torch, so that workers start fast.
"""

import math
import os
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from extract.audio.decode import AudioError, channels_cancel, decode, probe_duration_s
from extract.frames import ENCODER_RATE_HZ, HUBERT_STACK, RECORDING_RATE_HZ, ConvStack
from extract.text import count, printable
from extract.values import AudioSettings, Resampler

__all__ = [
    "AudioError",
    "Prepared",
    "decode",
    "prepare",
    "probe_duration_s",
    "resample_to_16k",
    "scaled",
    "to_int16",
]

ENCODER_SCALE = 1145.14  # the reference's own; a group-norm HuBERT does not react to it
INT16_SCALE = 32768.0
SILENT_PEAK = 1e-30  # below this even 1 / peak leaves float32; 24-bit audio ends at 1e-7

# resampy's `kaiser_best`, as torchaudio's documentation gives it.
KAISER_BEST = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}
BLOCK = 16_384  # samples that are scaled at a time: 64 kB stay in the nearest cache


@dataclass(frozen=True)
class Prepared:
    """One recording, ready for the encoder and for the disk."""

    waveform: NDArray[np.float32]  # (num_samples,) 16 kHz, gain applied, contiguous
    wav32k: NDArray[np.int16]  # (num_samples_32k,) 32 kHz, gain applied
    peak: float  # of the recording as decoded, full scale 1.0
    duration_s: float
    clipped_samples: int  # of `wav32k`, held at full scale instead of wrapping around


def prepare(
    path: str | os.PathLike[str], settings: AudioSettings, stack: ConvStack = HUBERT_STACK
) -> Prepared:
    """Decode, gate, scale and resample one recording.

    `stack` are the encoder's convolutions, which say how short is too short.

    Raises:
        AudioError: `missing`, `undecodable`, `empty`, `too_long`, `too_short`,
            `non_finite_audio`, `silent` or `peak_above_gate`.
    """
    where = printable(os.fsdecode(path))
    samples = decode(path, settings.max_duration_s)
    _check_length(len(samples), settings, stack.min_samples(), where)
    peak = _peak(samples, where)
    if peak < SILENT_PEAK:
        raise AudioError("silent", _why_silent(path, where))
    _check_peak(peak, settings, where)
    loud, wav32k = np.empty_like(samples), np.empty(len(samples), np.int16)
    # The peak decides for all samples; one step of 32768 is room enough for any rounding.
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


def _check_length(num_samples_32k: int, settings: AudioSettings, least: int, where: str) -> None:
    duration_s = num_samples_32k / RECORDING_RATE_HZ
    if duration_s < settings.min_duration_s:
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


def _why_silent(path: str | os.PathLike[str], where: str) -> str:
    """What a recording without a sound is: silent itself, or only when its channels are mixed."""
    num_channels = channels_cancel(path)
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

    One factor, but summed from two products as the reference does: the same bits. Where a model
    normalises each frame, the last bit of a quiet passage beside a loud one is seen in features.
    Source: GPT-SoVITS, `2-get-hubert-wav32k.py`, `name2go`.
    """
    total = np.divide(samples, np.float32(peak), out=out)
    total *= np.float32(settings.maxx * settings.alpha * scale)
    total += samples * np.float32((1 - settings.alpha) * scale)
    return total


def to_int16(samples: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
    """Truncate toward zero as `astype` does, but saturate where the reference wraps around.

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
    """Samples left at half the rate: rounded up, as librosa has it."""
    return -(-num_samples_32k // 2)


def resample_to_16k(
    samples: NDArray[np.float32], resampler: Resampler = Resampler.soxr
) -> NDArray[np.float32]:
    """Halve the rate: (n,) at 32 kHz to (ceil(n / 2),) at 16 kHz, float32, contiguous.

    `soxr` is soxr HQ, bit for bit `librosa.resample` with its defaults. `torchaudio` is its Kaiser
    window with the parameters of `kaiser_best`; slower, and a different filter.
    """
    if resampler is Resampler.torchaudio:
        resampled = _resample_torchaudio(samples)
    else:
        resampled = soxr.resample(samples, RECORDING_RATE_HZ, ENCODER_RATE_HZ, quality="HQ")
    num_samples = num_samples_16k(len(samples))
    if len(resampled) != num_samples:  # as librosa does, should a resampler round otherwise
        resampled = np.pad(resampled[:num_samples], (0, max(0, num_samples - len(resampled))))
    return np.ascontiguousarray(resampled)


def _resample_torchaudio(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch  # a second to import: only for who asks for it
    from torchaudio.functional import resample

    with torch.inference_mode():
        resampled = resample(
            torch.from_numpy(samples), RECORDING_RATE_HZ, ENCODER_RATE_HZ, **KAISER_BEST
        )
    return np.asarray(resampled)
