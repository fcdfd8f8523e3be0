"""`FeatureDataset`: features of a store, and computed ones where it has none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.data.durations import durations
from extract.encoder.encoder import Encoder
from extract.manifest.manifest import Manifest
from extract.manifest.strings import PackedStrings
from extract.shard import Shard
from extract.store.existing import existing_store, store_of
from extract.store.layout import Kept, LayoutOptions
from extract.store.ledger import Record
from extract.store.metadata import read as read_metadata
from extract.store.resume import ResumePolicy, would_remain
from extract.store.saved import Saved, SavedCollector, Table, read_saved
from extract.store.store import Store
from extract.text import count, printable
from extract.training.computing import Computed, batch_encoder
from extract.training.identity import identity_for, require_same, store_for
from extract.training.scanning import scan_headers
from extract.training.writing import FeatureStore
from extract.values import SAVED, Failure, Recording

MAX_NOTED = 16_384  # lines of this process's that are held until the ledgers are read again
MAX_SHOWN = 5  # ids that a message names


@dataclass(frozen=True)
class StoredUtterance:
    """One recording with its features, read from a store or computed as it would hold them."""

    recording: Recording
    # (num_frames, hidden_size), or (layers, num_frames, hidden_size) of a store of several layers;
    # in the dtype that is saved
    features: Tensor
    wav32k: Tensor | None = None  # (num_samples,) int16, 32 kHz; None unless it was asked for


class FeatureDataset(Dataset[StoredUtterance | Failure]):
    """The features of a store, as a map-style dataset for torch's DataLoader.

    Items come in the order of the ledgers, or of `recordings`. Any number of processes may read at
    once; a worker that is not forked maps the index, of some 150 bytes an utterance, instead of
    copying it. No file stays open.

    With `fallback` there is an item for each of `recordings`. What the store lacks, as a run of the
    command would find, is computed when it is asked for, one by one, and written through with
    `write`; `fill` computes all of it, in batches. A recording that cannot be used is a `Failure`,
    with a line in the ledger if `write`. Only the process that made the dataset computes. A worker
    of a DataLoader raises instead: a forked one cannot use CUDA, each spawned one would hold a copy
    of the weights, and one process writes a ledger.

    Attributes:
        failed: how many recordings the store has no features of, by their reason. Without
            `fallback` they are no items.

    Args:
        store: its folder.
        fallback: computes what the store lacks; the store has to hold what it would compute.
        write: writes what is computed into the store, which is made if it is not there. This
            process holds the lock of its `shard` from now until all is written, or `close`.
        recordings: which recordings, in this order: a dataset of them (with `fallback`), a
            manifest, or ids. None: all that the store has.
        audio: whether items have the training audio.
        mmap: whether files are mapped into memory, copied on write, and not read at once; "auto"
            maps NumPy's files. In these frame follows frame, so that a crop reads its own frames
            alone; torch's files lie channel by channel. A mapped file stays open as long as its
            features are in use.
        checksum: whether each item's files are read twice, to compare their checksums.
        layout: of a store that is not there yet: `FeatureStore`.
        shard: the part of the recordings that this process writes: `Shard(rank, world_size)`.

    Raises:
        ValueError: it is no store with features; the fallback's features would be others, shown
            side by side; another process writes the shard; or the store has no line of a recording
            and there is no fallback.
        StoreUnusable: with `write`, the disk takes no files.
    """

    def __init__(
        self,
        store: Path | str,
        fallback: Encoder | None = None,
        write: bool = False,
        *,
        recordings: AudioDataset | Manifest | Sequence[str] | None = None,
        audio: bool = False,
        mmap: bool | Literal["auto"] = "auto",
        checksum: bool = False,
        layout: str | LayoutOptions | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.directory = Path(store).expanduser()
        self.audio, self.mmap, self.checksum = audio, mmap, checksum
        self.failed: Counter[str] = Counter()
        self._process = os.getpid()
        self._computed: Computed | None = None
        self._written: dict[str, Record] = {}  # since the ledgers were read
        self._failures: dict[int, Failure] = {}
        if fallback is None:
            self._read_only(recordings, write)
        elif isinstance(recordings, AudioDataset):
            self._with_fallback(fallback, write, recordings, layout, shard or Shard())
        else:
            raise ValueError("fallback: needed recordings=AudioDataset(...), which it encodes")
