"""Computes features of single recordings in the process that asks, and writes them through."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.encoder.batches import BatchEncoder
from extract.encoder.encoder import Encoder
from extract.store.dtypes import converted
from extract.store.ledger import dtype_name
from extract.store.store import Store
from extract.training.writing import FeatureStore
from extract.values import Encoded, Failure

SLACK = 1.1  # a header's duration may be off by a little; a batch is not split for that


def batch_encoder(encoder: Encoder, batch_seconds: float = math.inf) -> BatchEncoder:
    """The encoding stage of a run; on a GPU with the same model on the CPU as its fallback."""
    fallback: Callable[[], Encoder] | None = None
    if encoder.device.type != "cpu":
        fallback = functools.cache(encoder.on_cpu)
    quadratic_s = encoder.architecture.quadratic_s
    return BatchEncoder(encoder, SLACK * batch_seconds, fallback, quadratic_s=quadratic_s)


class Computed:
    """Features of recordings, computed one at a time, as the store would give them back.

    Args:
        encoder: computes them.
        recordings: prepares the waveforms.
        store: in whose dtype and frames they are returned.
        out: where they are written through; None writes nothing.
    """

    def __init__(
        self, encoder: Encoder, recordings: AudioDataset, store: Store, out: FeatureStore | None
    ) -> None:
        self.encoder, self.recordings, self.store, self.out = encoder, recordings, store, out
        self._encode = batch_encoder(encoder)

    def __call__(self, index: int) -> Encoded | Failure:
        """The features of one recording, (layers, num_frames, hidden_size), or why it has none."""
        [item] = self._encode([collate([self.recordings[index]])])
        if self.out is not None:
            self.out.put(item)
        return item if isinstance(item, Failure) else self._as_read(item)

    def _as_read(self, item: Encoded) -> Encoded:
        dtype = self.store.dtype_of(dtype_name(item.features.values.dtype))
        item = replace(item, features=converted(item.features, dtype))
        features = replace(item.features, values=self.store.layout.as_read(item))
        return replace(item, features=features)
