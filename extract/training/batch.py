"""`FeatureBatch`: utterances with their features and audio, of a batch and its outcomes.

Shapes: B utterances, L layers, T frames of the longest, D numbers of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from extract.data.batch import Batch
from extract.encoder.encoder import Encoder
from extract.values import Encoded, Failure, Recording

INT16_SCALE = 32768.0  # full scale of the training audio


@dataclass(frozen=True)
class FeatureBatch:
    """Utterances with their features and their audio, and the recordings that gave none.

    Features are ordinary tensors that require no gradient: a model may be trained on them.
    """

    recordings: tuple[Recording, ...]  # of the B utterances
    # (B, T, D) on the encoder's device, zero-padded; of an encoder of several layers (B, L, T, D).
    # In the encoder's dtype; float32 where an utterance does not fit that, or the device
    features: Tensor
    feature_lengths: Tensor  # (B,) int64, frames, on the same device
    waveforms: Tensor  # (B, time) float32, 16 kHz, zero-padded: what was encoded; on the CPU
    lengths: Tensor  # (B,) int64, samples at 16 kHz; on the CPU
    # The training audio, (num_samples,) int16 at 32 kHz of each, on the CPU; without samples where
    # the settings want none
    wavs: tuple[Tensor, ...]
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.recordings)

    def audio(self) -> tuple[Tensor, Tensor]:
        """The training audio (B, samples) float32, full scale 1, zero-padded, and lengths (B,).

        At 32 kHz, on the features' device.
        """
        device = self.features.device
        lengths = torch.tensor([len(wav) for wav in self.wavs], dtype=torch.int64, device=device)
        padded = torch.zeros(len(self), max(map(len, self.wavs), default=0), device=device)
        for row, wav in zip(padded, self.wavs, strict=True):
            row[: len(wav)] = wav.to(device)
        return padded / INT16_SCALE, lengths

    def pin_memory(self) -> FeatureBatch:
        """The batch with its features in page-locked memory; called by a DataLoader."""
        return replace(self, features=self.features.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> FeatureBatch:
        """The batch with its features on `device`; Lightning and Accelerate call it."""
        names = ("features", "feature_lengths")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        return replace(self, **moved)


def assembled(
    batch: Batch, outcomes: Sequence[Encoded | Failure], encoder: Encoder
) -> FeatureBatch:
    """One batch of the utterances that have features, and all failures."""
    encoded = [outcome for outcome in outcomes if isinstance(outcome, Encoded)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    lengths, waveforms = batch.lengths, batch.waveforms
    if failed:
        kept = [row for row, outcome in enumerate(outcomes) if isinstance(outcome, Encoded)]
        lengths = lengths[kept]
        waveforms = waveforms[kept, : int(lengths.max()) if kept else 0]
    values = [one.features.values for one in encoded]
    frames = [one.shape[1] for one in values]
    return FeatureBatch(
        tuple(one.recording for one in encoded),
        _padded(values, encoder),
        torch.tensor(frames, dtype=torch.int64, device=encoder.device),
        waveforms,
        lengths,
        tuple(one.wav32k for one in encoded),
        (*batch.failures, *failed),
    )


def _padded(values: Sequence[Tensor], encoder: Encoder) -> Tensor:
    """(L, T, D) of each utterance -> (B, T, D) zero-padded, or (B, L, T, D) of several layers."""
    fits = all(one.dtype == encoder.dtype for one in values)
    num_layers, longest = (
        len(encoder.wanted.layers),
        max((one.shape[1] for one in values), default=0),
    )
    padded = torch.zeros(
        (len(values), num_layers, longest, encoder.hidden_size),
        dtype=encoder.dtype if fits else torch.float32,
        device=encoder.device,
    )
    for row, one in zip(padded, values, strict=True):
        row[:, : one.shape[1]] = one
    return padded[:, 0] if num_layers == 1 else padded
