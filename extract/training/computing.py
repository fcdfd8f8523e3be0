"""Computes features of single recordings, as a store would give them back."""

from __future__ import annotations

from dataclasses import replace

from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.encoder.batches import batch_encoder
from extract.encoder.encoder import Encoder
from extract.store.dtypes import converted
from extract.store.ledger import dtype_name
from extract.store.store import Store
from extract.values import Encoded, Failure


class Computed:
    """Features of recordings, computed one at a time.

    Args:
        encoder: computes them.
        recordings: prepares the waveforms.
        store: in whose dtype and frames `as_read` has them.
    """

    def __init__(self, encoder: Encoder, recordings: AudioDataset, store: Store) -> None:
        self.recordings, self.store = recordings, store
        self._encode = batch_encoder(encoder)

    def __call__(self, index: int) -> Encoded | Failure:
        """The features of one recording, (layers, num_frames, hidden_size), or why it has none."""
        [item] = self._encode([collate([self.recordings[index]])])
        return item

    def as_read(self, item: Encoded) -> Encoded:
        """The features as the store would give them back."""
        dtype = self.store.dtype_of(dtype_name(item.features.values.dtype))
        item = replace(item, features=converted(item.features, dtype))
        features = replace(item.features, values=self.store.layout.as_read(item))
        return replace(item, features=features)
