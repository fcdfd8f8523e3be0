"""`RandomCrops`: pieces of utterances, of so many frames and the audio that belongs to them.

Frame t of an encoder is computed from the samples of its receptive field: for HuBERT's
convolutions samples 320 t to 320 t + 400 at 16 kHz (20 ms apart, 25 ms long). Its piece of the
audio is one hop: samples 640 t to 640 (t + 1) at 32 kHz, which are 320 t to 320 (t + 1) at 16 kHz.
So the middle of what a frame is computed from lies 40 samples, 2.5 ms, behind the middle of its
piece, and the last 80 samples of the field are the first of the next frame's piece: a click there
shows in both. The last frame's piece ends before the audio does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from extract.data.augment import drawn
from extract.frames import HUBERT_STACK, RECORDING_RATE_HZ, ConvStack
from extract.training.stream import INT16_SCALE, FeatureBatch
from extract.values import Recording


@dataclass(frozen=True)
class Crops:
    """A piece of each utterance of a batch, with its audio: B pieces of N frames."""

    recordings: tuple[Recording, ...]
    # (B, N, D), or (B, L, N, D) of several layers; zeros past the end of an utterance of fewer
    features: Tensor
    audio: Tensor  # (B, N * samples of a hop) float32, 32 kHz, full scale 1, on the same device
    lengths: Tensor  # (B,) int64, frames: N unless the utterance is shorter; on the same device
    starts: tuple[int, ...]  # the frame of the utterance where each piece begins

    def __len__(self) -> int:
        return len(self.recordings)


class RandomCrops:
    """Takes a piece at random out of each utterance: `crops(batch, epoch)`.

    Where it begins is a function of (seed, epoch, id), whatever the batch.

    Args:
        num_frames: of a piece, N.
        seed: of the training run.
        stack: the encoder's convolutions, `encoder.architecture.stack`; their hop is a frame's.
        pad_samples: zeros that the settings put before a waveform, the first of
            `AudioSettings.pad_samples`, in samples at 16 kHz. Frames begin so much earlier.

    Raises:
        ValueError: a piece has no frame.
    """

    def __init__(
        self,
        num_frames: int,
        seed: int = 0,
        stack: ConvStack = HUBERT_STACK,
        pad_samples: int = 0,
    ) -> None:
        if num_frames < 1:
            raise ValueError(f"num_frames={num_frames}; a crop needs at least one")
        self.num_frames, self.seed = num_frames, seed
        self.rate = RECORDING_RATE_HZ // stack.sample_rate  # samples at 32 kHz for one of the stack
        self.hop = stack.hop * self.rate  # samples at 32 kHz
        self.pad_samples = pad_samples

    def start(self, id: str, num_frames: int, epoch: int) -> int:  # noqa: A002
        """The first frame of a piece of an utterance of `num_frames`; 0 if that is no longer."""
        return drawn("crop", self.seed, epoch, id) % (max(0, num_frames - self.num_frames) + 1)

    def audio(self, wav32k: Tensor, start: int) -> Tensor:
        """(num_samples,) at 32 kHz -> (num_frames * hop,), the audio of frames from `start` on.

        Zeros where the audio does not reach.
        """
        first = start * self.hop - self.pad_samples * self.rate
        stop = first + self.num_frames * self.hop
        piece = wav32k[max(0, first) : max(0, stop)]
        before = min(max(0, -first), stop - first)
        return torch.nn.functional.pad(piece, (before, stop - first - before - len(piece)))

    def features(self, features: Tensor, start: int) -> Tensor:
        """(..., frames, D) -> (..., num_frames, D) from frame `start` on, zeros past the end."""
        piece = features[..., start : start + self.num_frames, :]
        return torch.nn.functional.pad(piece, (0, 0, 0, self.num_frames - piece.shape[-2]))

    def __call__(self, batch: FeatureBatch, epoch: int) -> Crops:
        """A piece of each utterance of the batch; of none if the batch has none."""
        device, frames = batch.features.device, batch.feature_lengths.tolist()
        starts = tuple(self._starts(batch, frames, epoch))
        rows = zip(batch.features, starts, strict=True)
        pieces = [self.features(features, start) for features, start in rows]
        audio = [self.audio(*pair) for pair in zip(batch.wavs, starts, strict=True)]
        shape = *batch.features.shape[1:-2], self.num_frames, batch.features.shape[-1]
        nothing = torch.empty(0, self.num_frames * self.hop, dtype=torch.int16)
        return Crops(
            batch.recordings,
            torch.stack(pieces) if pieces else batch.features.new_empty(0, *shape),
            (torch.stack(audio) if audio else nothing).to(device).float() / INT16_SCALE,
            batch.feature_lengths.clamp(max=self.num_frames),
            starts,
        )

    def _starts(self, batch: FeatureBatch, frames: list[int], epoch: int) -> Iterator[int]:
        for recording, num_frames in zip(batch.recordings, frames, strict=True):
            yield self.start(recording.id, num_frames, epoch)
