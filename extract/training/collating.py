"""`collate_features`: a batch of what a `FeatureDataset` gives."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from extract.data.transport import empty
from extract.training.batch import FeatureBatch
from extract.training.reading import StoredUtterance
from extract.values import Failure


def collate_features(items: Sequence[StoredUtterance | Failure]) -> FeatureBatch:
    """The batch of `items`: features padded with zeros to the longest, and the failures.

    It is what `stream_features` gives, on the CPU and without waveforms: `features`
    (batch, frames, dimensions), or (batch, layers, frames, dimensions), in the widest of the items'
    dtypes; `feature_lengths` in frames; `wavs` without samples unless the dataset has `audio`.
    """
    utterances = [item for item in items if isinstance(item, StoredUtterance)]
    nothing, num = torch.empty(0, dtype=torch.int16), len(utterances)
    wavs = [nothing if one.wav32k is None else one.wav32k for one in utterances]
    return FeatureBatch(
        recordings=tuple(one.recording for one in utterances),
        features=_padded([one.features for one in utterances]),
        feature_lengths=torch.tensor([one.features.shape[-2] for one in utterances]).long(),
        waveforms=torch.empty(num, 0),
        lengths=torch.zeros(num, dtype=torch.int64),
        wavs=_side_by_side(wavs),
        failures=tuple(item for item in items if isinstance(item, Failure)),
    )


def _padded(features: Sequence[Tensor]) -> Tensor:
    """(batch, ..., frames, dimensions) of (..., frames, dimensions), zeros behind each."""
    if not features:
        return torch.empty(0, 0, 0)
    dtype = functools.reduce(torch.promote_types, (one.dtype for one in features))
    *outer, _frames, width = features[0].shape
    longest = max(one.shape[-2] for one in features)
    padded = empty((len(features), *outer, longest, width), dtype)
    for row, one in zip(padded, features, strict=True):
        row[..., : one.shape[-2], :] = one
        row[..., one.shape[-2] :, :] = 0
    return padded


def _side_by_side(wavs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The same, as views of one tensor: a worker then sends one piece of shared memory."""
    if not any(map(len, wavs)):
        return tuple(wavs)
    flat = empty((sum(map(len, wavs)),), torch.int16)
    torch.cat(list(wavs), out=flat)
    return torch.split(flat, list(map(len, wavs)))
