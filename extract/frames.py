"""Sample and frame arithmetic of the encoder: integers only, nothing but the standard library.

An encoder begins with strided convolutions without padding, which turn 16 kHz samples into frames.
Most HuBERT, wav2vec 2.0 and ContentVec models share one such stack (Hsu et al. 2021, table 1).
"""

from dataclasses import dataclass
from math import prod

RECORDING_RATE_HZ = 32_000  # what `5-wav32k` holds and the gain is applied at
SINGING_RATE_HZ = 44_100  # what so-vits-svc and DDSP-SVC load recordings at
ENCODER_RATE_HZ = 16_000  # what waveforms are resampled to


@dataclass(frozen=True)
class ConvStack:
    """Strided convolutions without padding: which samples make which frame."""

    layers: tuple[tuple[int, int], ...]  # (kernel, stride), the first convolution first
    sample_rate: int = ENCODER_RATE_HZ

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return prod(stride for _, stride in self.layers)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    def num_frames(self, num_samples: int) -> int:
        """Frames of `num_samples`; 0 below `min_samples()`."""
        for kernel, stride in self.layers:
            num_samples = max(0, (num_samples - kernel) // stride + 1)
        return num_samples

    def min_samples(self, num_frames: int = 1) -> int:
        """Fewest samples that give `num_frames`."""
        for kernel, stride in reversed(self.layers):
            num_frames = (num_frames - 1) * stride + kernel
        return num_frames


# 50 frames a second, each of 400 samples (25 ms).
HUBERT_STACK = ConvStack(((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)))


def num_frames(num_samples: int) -> int:
    """Frames that HuBERT emits for `num_samples` at 16 kHz; 0 below one window (400 samples)."""
    return HUBERT_STACK.num_frames(num_samples)
