"""Waveforms of any rate become 16 kHz. torch is imported only for torchaudio's resampler."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from extract.frames import ENCODER_RATE_HZ, RECORDING_RATE_HZ, SINGING_RATE_HZ
from extract.values import Resampler

# resampy's `kaiser_best`, as torchaudio's documentation gives it.
KAISER_BEST = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}


def num_samples_16k(
    num_samples: int, rate_hz: int = RECORDING_RATE_HZ, resampler: Resampler = Resampler.soxr
) -> int:
    """Samples left at 16 kHz of `num_samples` at `rate_hz`.

    Rounded up from a product of floats, as librosa has it, or from a quotient, as torchaudio does.
    """
    if resampler is Resampler.torchaudio:
        return -(-num_samples * ENCODER_RATE_HZ // rate_hz)
    return _num_of_librosa(num_samples, rate_hz, ENCODER_RATE_HZ)


def _num_of_librosa(num_samples: int, rate_hz: int, wanted_hz: int) -> int:
    return math.ceil(num_samples * (wanted_hz / rate_hz))


def resample_to_16k(
    samples: NDArray[np.float32],
    resampler: Resampler = Resampler.soxr,
    rate_hz: int = RECORDING_RATE_HZ,
    width: int | None = None,
) -> NDArray[np.float32]:
    """(n,) at `rate_hz` to (`num_samples_16k`,) at 16 kHz, float32, contiguous.

    `samples` itself at 16 kHz. `soxr` is soxr HQ, bit for bit `librosa.resample` with its defaults.
    `torchaudio` is its Hann window of that `width`; without one its Kaiser window with the
    parameters of `kaiser_best`. It is slower, and a different filter.
    """
    if rate_hz == ENCODER_RATE_HZ:
        return samples
    if resampler is Resampler.soxr:
        return _resample_soxr(samples, rate_hz, ENCODER_RATE_HZ)
    resampled = _resample_torchaudio(samples, rate_hz, width)
    return _of_length(resampled, num_samples_16k(len(samples), rate_hz, resampler))


def resample_to_44k(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """(n,) at `rate_hz` to 44.1 kHz, as `librosa.load(path, sr=44100)` does.

    `samples` itself at 44.1 kHz.
    """
    if rate_hz == SINGING_RATE_HZ:
        return samples
    return _resample_soxr(samples, rate_hz, SINGING_RATE_HZ)


def _resample_soxr(
    samples: NDArray[np.float32], rate_hz: int, wanted_hz: int
) -> NDArray[np.float32]:
    resampled = soxr.resample(samples, rate_hz, wanted_hz, quality="HQ")
    return _of_length(resampled, _num_of_librosa(len(samples), rate_hz, wanted_hz))


def _of_length(resampled: NDArray[np.float32], num_samples: int) -> NDArray[np.float32]:
    """(num_samples,), contiguous; cut or padded as librosa does if a resampler rounds otherwise."""
    if len(resampled) != num_samples:
        resampled = np.pad(resampled[:num_samples], (0, max(0, num_samples - len(resampled))))
    return np.ascontiguousarray(resampled)


def _resample_torchaudio(
    samples: NDArray[np.float32], rate_hz: int, width: int | None
) -> NDArray[np.float32]:
    import torch  # takes a second to import
    from torchaudio.functional import resample

    with torch.inference_mode():
        waveform = torch.from_numpy(samples)
        if width is None:
            return np.asarray(resample(waveform, rate_hz, ENCODER_RATE_HZ, **KAISER_BEST))
        return np.asarray(_of_width(rate_hz, width)(waveform))


@functools.lru_cache(maxsize=8)
def _of_width(rate_hz: int, width: int) -> Callable[[Any], Any]:
    """Torchaudio's `Resample`, whose filter is computed in float64: the function's is not."""
    from torchaudio.transforms import Resample

    made: Callable[[Any], Any] = Resample(rate_hz, ENCODER_RATE_HZ, lowpass_filter_width=width)
    return made
