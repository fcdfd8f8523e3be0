"""`Batch`, padded utterances with their lengths and failures; `collate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from extract.data.plan import QUADRATIC_S, cost_s
from extract.data.transport import empty
from extract.frames import ENCODER_RATE_HZ
from extract.values import Failure, Recording, Utterance


@dataclass(frozen=True)
class Batch:
    """Utterances that share one forward, and the recordings that failed.

    The training audio is one flat tensor, so that a batch of any size crosses from worker to main
    process as four tensors.
    """

    recordings: tuple[Recording, ...]  # of the B utterances
    waveforms: Tensor  # (B, time) float32, 16 kHz, zero-padded
    lengths: Tensor  # (B,) int64, samples at 16 kHz
    wav32k: Tensor  # (sum of wav_lengths,) int16, 32 kHz, one utterance after the other
    wav_lengths: Tensor  # (B,) int64, samples at 32 kHz
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.recordings)

    @property
    def padded_seconds(self) -> float:
        """Seconds of audio the encoder sees, padding included."""
        return self.waveforms.numel() / ENCODER_RATE_HZ

    def cost_s(self, quadratic_s: float = QUADRATIC_S) -> float:
        """Padded seconds plus attention's quadratic cost; `loader.batch_seconds` bounds it."""
        longest_s = self.waveforms.shape[1] / ENCODER_RATE_HZ if len(self) else 0.0
        return len(self) * float(cost_s(torch.tensor(longest_s).double().numpy(), quadratic_s))

    def wavs(self) -> tuple[Tensor, ...]:
        """Each utterance's training audio, (num_samples,) int16; views of `wav32k`."""
        return torch.split(self.wav32k, self.wav_lengths.tolist())

    def pin_memory(self) -> Batch:
        """The batch with its waveforms in page-locked memory; called by a DataLoader."""
        return replace(self, waveforms=self.waveforms.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with all its tensors on `device`; Lightning and Accelerate call it."""
        names = ("waveforms", "lengths", "wav32k", "wav_lengths")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        return replace(self, **moved)

    def rows(self, start: int, stop: int) -> Batch:
        """Utterances `start` to `stop`, cut to the longest of them, without failures."""
        ends = [0, *self.wav_lengths.cumsum(0).tolist()]
        lengths = self.lengths[start:stop]
        return Batch(
            self.recordings[start:stop],
            self.waveforms[start:stop, : int(lengths.max())],
            lengths,
            self.wav32k[ends[start] : ends[stop]],
            self.wav_lengths[start:stop],
        )

    def split(self, max_cost_s: float, quadratic_s: float = QUADRATIC_S) -> Iterator[Batch]:
        """Yields parts of the batch that cost at most `max_cost_s`, in order.

        A part of one utterance may cost more.
        """
        if len(self) <= 1 or self.cost_s(quadratic_s) <= max_cost_s:
            if len(self):
                yield self
            return
        middle = len(self) // 2
        yield from self.rows(0, middle).split(max_cost_s, quadratic_s)
        yield from self.rows(middle, len(self)).split(max_cost_s, quadratic_s)


def collate(items: Sequence[Utterance | Failure]) -> Batch:
    """The batch of `items`: utterances padded with zeros to the longest, and the failures."""
    utterances = [item for item in items if isinstance(item, Utterance)]
    lengths = [len(utterance.waveform) for utterance in utterances]
    wavs = [utterance.wav32k for utterance in utterances]
    wav_lengths = [len(wav) for wav in wavs]
    waveforms = empty((len(utterances), max(lengths, default=0)), torch.float32)
    for row, utterance, length in zip(waveforms, utterances, lengths, strict=True):
        row[:length] = utterance.waveform
        row[length:] = 0
    wav32k = empty((sum(wav_lengths),), torch.int16)
    if wavs:
        torch.cat(wavs, out=wav32k)
    return Batch(
        recordings=tuple(utterance.recording for utterance in utterances),
        waveforms=waveforms,
        lengths=torch.tensor(lengths, dtype=torch.int64),
        wav32k=wav32k,
        wav_lengths=torch.tensor(wav_lengths, dtype=torch.int64),
        failures=tuple(item for item in items if isinstance(item, Failure)),
    )
