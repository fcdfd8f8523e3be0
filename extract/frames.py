"""Sample and frame arithmetic of the encoder: integers only, nothing imported.

Every HuBERT, wav2vec 2.0 and ContentVec model shares one convolutional stack (Hsu et al. 2021,
table 1): seven strided convolutions without padding that turn 16 kHz samples into 50 Hz frames.
"""

from math import prod

RECORDING_RATE_HZ = 32_000  # what `5-wav32k` holds and the gain is applied at
ENCODER_RATE_HZ = 16_000  # what the encoder was trained on

CONV_LAYERS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))  # (kernel, stride)
HOP_SAMPLES = prod(stride for _, stride in CONV_LAYERS)  # 320: samples from one frame to the next


def num_frames(num_samples: int) -> int:
    """Frames the encoder emits for `num_samples` at 16 kHz; 0 below one window (400 samples)."""
    for kernel, stride in CONV_LAYERS:
        num_samples = max(0, (num_samples - kernel) // stride + 1)
    return num_samples


def min_samples(num_frames: int = 1) -> int:
    """Fewest 16 kHz samples that give `num_frames`; 400 (25 ms) for one."""
    for kernel, stride in reversed(CONV_LAYERS):
        num_frames = (num_frames - 1) * stride + kernel
    return num_frames
