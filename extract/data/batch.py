"""`Batch`, padded utterances with their lengths and failures; `collate` and `make_loader`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from extract.data.dataset import AudioDataset
from extract.data.durations import Headers, Scanned, durations
from extract.data.plan import QUADRATIC_S, Indices, cost_s, plan_batches
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


def make_loader(
    dataset: AudioDataset,
    batch_seconds: float = 60.0,
    num_workers: int = 4,
    *,
    batches: Sequence[Iterable[int]] | None = None,
    prefetch: int = 2,
    pin_memory: bool = False,
) -> DataLoader[Utterance | Failure]:
    """A DataLoader that yields `Batch`es, each of recordings of similar length.

    For training on the fly. A worker that dies ends it with torch's error; the extractor loads
    through `extract.data.loader`, which replaces dead workers.

    Args:
        dataset: the recordings. Their headers are read during this call, a few tenths of a
            millisecond each.
        batch_seconds: most padded seconds in a batch of short recordings; see `plan_batches`.
        num_workers: processes that read headers and decode; 0 does both in this process.
        batches: indices of each batch, if you plan them yourself; then no header is read.
        prefetch: batches that each worker decodes ahead.
        pin_memory: whether batches are copied to page-locked memory.
    """
    if batches is None:
        seconds = durations(dataset.manifest, None, partial(_scan, num_workers), lambda _num: None)
        batches = plan_batches(seconds, batch_seconds)
    return DataLoader(
        dataset,
        batch_sampler=[list(map(int, batch)) for batch in batches],
        collate_fn=collate,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        pin_memory=pin_memory,
    )


def _scan(num_workers: int, items: Headers, chunks: list[Indices]) -> Iterator[Scanned]:
    """Reads headers in DataLoader workers, or in this process if there is only one chunk."""
    return iter(
        DataLoader(
            cast("Dataset[tuple[int, float | str]]", items),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            collate_fn=list,
            num_workers=min(num_workers, len(chunks)) if len(chunks) > 1 else 0,
        )
    )
