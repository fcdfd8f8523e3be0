"""`FeatureDataset`: features of a store, and computed ones where it has none."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.data.durations import durations
from extract.encoder.batches import batch_encoder
from extract.encoder.encoder import Encoder
from extract.manifest.manifest import Manifest
from extract.shard import Shard
from extract.store.at_url import folder_with_ledgers
from extract.store.layout import Kept, LayoutOptions
from extract.store.ledger import Record
from extract.store.store import no_url
from extract.text import printable
from extract.training.computing import Computed
from extract.training.identity import identity_for, require_same, store_for
from extract.training.index import NOWHERE, index_of_recordings, index_of_store
from extract.training.loader import scan_headers
from extract.training.reading import Mapped, Reader, StoredUtterance, store_to_read
from extract.training.writing import FeatureStore
from extract.urls import is_url
from extract.values import SAVED, Encoded, Failure, Recording

MAX_NOTED = 16_384  # lines of this process's that are held until the ledgers are read again


class FeatureDataset(Dataset[StoredUtterance | Failure]):
    """The features of a store, as a map-style dataset for torch's DataLoader.

    Items come in the order of the ledgers, or of `recordings`. Any number of processes may read at
    once. The index takes some 150 bytes an utterance; `shared()` is for workers that are not
    forked, each of which copies it otherwise. No file stays open.

    With `fallback` there is an item for each of `recordings`. What the store lacks, as a run of the
    command would find, is computed when it is asked for, one by one, and written through with
    `write`; `fill` computes all of it, in batches. A recording that cannot be used is a `Failure`,
    with a line in the ledger if `write`; one that failed earlier is tried again by `fill` alone.

    Only the process that made the dataset computes. In a DataLoader's worker an item that the store
    lacks is a ValueError: a forked worker cannot use CUDA, each spawned one would hold a copy of
    the weights, and one process writes a ledger.

    Args:
        store: its folder; or the URL of a store of tars (`store=webdataset`), whose ledgers are
            copied into a temporary folder as they are now. Its items take one request each.
        fallback: computes what the store lacks. The store has to hold what it would compute.
        write: writes what is computed into the store, which is made if it is not there. This
            process holds the lock of its `shard` until all is written, or until `close`.
        recordings: which ones, in this order: a dataset (with `fallback`), a manifest, or ids.
            None: all that the store has features of.
        audio: whether items have the training audio.
        mmap: whether files are mapped into memory, copied on write, and not read at once. "auto"
            maps NumPy's files of a megabyte and more: frame follows frame there, so that a crop
            reads its own frames alone. torch's files lie channel by channel. A mapped file stays
            open as long as its features are in use.
        checksum: whether the files of each item are first read to compare their checksums.
        layout: of a store that is not there yet: see `FeatureStore`.
        shard: the part of the recordings that this process writes: `Shard(rank, world_size)`.

    Raises:
        ValueError: there is no store of features; the fallback's features would be others, shown
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
        mmap: Mapped = "auto",
        checksum: bool = False,
        layout: str | LayoutOptions | None = None,
        shard: Shard | None = None,
    ) -> None:
        url = str(store) if is_url(str(store)) else ""
        if url and fallback is not None:
            raise ValueError(no_url(url, "fallback=Encoder(...)"))
        self.directory = folder_with_ledgers(str(store))
        self._recordings, self._layout, self._shard = recordings, layout, shard or Shard()
        self._fallback, self._write = fallback, write
        self._process, self._seconds = os.getpid(), np.empty(0)
        self._out: FeatureStore | None = None
        self._computed: Computed | None = None
        self._written: dict[str, Record] = {}  # by this process, since the ledgers were read
        reader = partial(Reader, audio=audio, mapped=mmap, checksum=checksum)
        if fallback is None:
            if write:
                raise ValueError("write=True: needed fallback=Encoder(...), which computes")
            self._read = reader(*store_to_read(self.directory, url))
        else:
            self._read = reader(*self._store_to_compare(fallback, audio))
        self._open()

    def _store_to_compare(self, encoder: Encoder, audio: bool) -> tuple[Any, Any]:
        """The store and its identity, which is that of the fallback."""
        if not isinstance(self._recordings, AudioDataset):
            raise ValueError("fallback: needed recordings=AudioDataset(...), which it encodes")
        store = store_for(self.directory, encoder, self._recordings, self._layout, self._shard)
        require_same(store, encoder, self._recordings)
        if audio and not store.keeps_audio:
            raise ValueError(
                f"{printable(str(self.directory))}: audio=True: needed a store that keeps training "
                "audio, and recordings that come with it"
            )
        return store, identity_for(store, encoder, self._recordings)

    def _open(self) -> None:
        """Opens the store to be written, if anything is to be, and reads its ledgers."""
        if self._fallback is not None and self._write:
            self._out = self._writing(num_writers=0)
            if not self._out.todo.any():
                self.close()
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise
        if self._fallback is not None:
            assert isinstance(self._recordings, AudioDataset)
            store = self._read.opened()
            self._computed = Computed(self._fallback, self._recordings, store)

    def _writing(self, num_writers: int | None, *, retry_failed: bool = False) -> FeatureStore:
        assert self._fallback is not None
        assert isinstance(self._recordings, AudioDataset)
        return FeatureStore(
            self.directory,
            self._fallback,
            self._recordings,
            layout=self._layout,
            shard=self._shard,
            retry_failed=retry_failed,
            num_writers=num_writers,
            done=self._note,
        )

    def _note(self, record: Record) -> None:
        if record.status == SAVED:
            self._written[record.id] = record

    @property
    def failed(self) -> Counter[str]:
        """How many recordings the store has no features of, by reason; as of the last `refresh`.

        Without a fallback they are no items.
        """
        return self._index.failed

    @property
    def durations_s(self) -> NDArray[np.float64]:
        """Seconds of each item, (len(self),), for a `LengthBatchSampler`.

        With a fallback they are those of the recordings' headers, a few tenths of a millisecond
        each at the first call, and 0 where there is none to be read: the same on every rank,
        whatever the store has by then. Else they are the ledgers'.
        """
        if len(self._seconds) != len(self):
            if self._fallback is not None and isinstance(self._recordings, AudioDataset):
                scan, manifest = partial(scan_headers, 0), self._recordings.manifest
                self._seconds = durations(manifest, None, scan, lambda _num: None)
            else:
                self._seconds = self._index.saved.durations_s[self._index.rows.rows]
        return self._seconds

    def shared(self) -> FeatureDataset:
        """The same with its index in shared memory, which workers that are not forked map.

        It reads alone: what this one computes and writes later is not seen there.
        """
        twin = copy.copy(self)
        vars(twin).update(self.__getstate__(), _index=self._index.share())
        return twin

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> StoredUtterance | Failure:
        """The item at `index`.

        Raises:
            IndexError: there is none.
            OSError: a file of the store is not there; names it.
            ValueError: a file was cut or is damaged; names it and says what was found. Or the store
                lacks the item, and this is not the process that computes.
            StoreUnusable: the disk takes no more.
        """
        at = range(len(self))[index]
        row, failure = self._index.row(at), self._index.failures.get(at)
        if row != NOWHERE:
            return self._read(self._index.saved.recording(row, at), self._index.saved.kept(row))
        if failure is not None:
            return failure
        if (record := self._written.get(self._index.id(at))) is not None:
            assert record.files is not None
            return self._read(_recording_of(record, at), Kept(record.id, record.files))
        return self._compute(at)

    def _compute(self, index: int) -> StoredUtterance | Failure:
        if self._computed is None or os.getpid() != self._process:
            raise ValueError(
                f"{printable(str(self.directory))}: lacks {printable(self._index.id(index))}, and "
                "only the process that made the dataset computes. Ways out: fill() before a "
                "DataLoader's workers start (with write=True), or num_workers=0"
            )
        item = self._computed(index)
        if self._out is not None:
            self._write_through(item)
        if isinstance(item, Failure):
            self._index.failures[index] = item  # not computed again
            return item
        item = self._computed.as_read(item)
        audio = item.wav32k if self._read.audio else None
        values = item.features.values
        return StoredUtterance(item.recording, values[0] if len(values) == 1 else values, audio)

    def _write_through(self, item: Encoded | Failure) -> None:
        assert self._out is not None
        self._out.put(item)
        if not self._out.todo.any():
            self.close()
        if len(self._written) >= MAX_NOTED:
            self.refresh()

    def fill(self, batch_seconds: float = 60.0, num_workers: int = 0) -> int:
        """Computes all that the store lacks of this process's shard, in batches, and writes it.

        What failed earlier is tried again. Items are read from the store after that: also those
        that other processes wrote before.

        Args:
            batch_seconds: most padded seconds in a batch.
            num_workers: processes that decode; 0 decodes in this one.

        Returns:
            How many recordings got a line in the ledger.

        Raises:
            ValueError: there is no fallback, or no `write`; another process writes the shard.
            StoreUnusable: the disk takes no more.
        """
        recordings = self._recordings
        if self._fallback is None or not self._write or not isinstance(recordings, AudioDataset):
            raise ValueError("fill: needed fallback=Encoder(...) and write=True")
        self.close()
        num_written = 0
        with self._writing(num_writers=None, retry_failed=True) as out:
            loader = DataLoader(
                recordings,
                batch_sampler=out.batches(batch_seconds, num_workers),
                collate_fn=collate,
                num_workers=num_workers,
            )
            for item in batch_encoder(self._fallback, batch_seconds)(iter(loader)):
                num_written += out.put(item)
        self.refresh()
        return num_written

    def refresh(self) -> None:
        """Reads the ledgers again, so that items that other processes wrote meanwhile are read."""
        known, store = list(self._written), self._read.opened()
        if self._fallback is not None:
            assert isinstance(self._recordings, AudioDataset)
            self._index = index_of_recordings(store, self._recordings)
        else:
            self._index = index_of_store(store, _ids(self._recordings))
        for id_ in known:
            self._written.pop(id_, None)
        self._seconds = np.empty(0)

    def close(self) -> None:
        """Keeps what was written, and gives the store free. Items are read and computed still."""
        out, self._out = self._out, None
        if out is not None:
            out.close()

    def __enter__(self) -> FeatureDataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without what computes, which stays in the process that made it."""
        mine = ("_fallback", "_recordings", "_computed", "_out")
        return {**vars(self), **dict.fromkeys(mine), "_seconds": np.empty(0)}


def _ids(recordings: AudioDataset | Manifest | Sequence[str] | None) -> Iterable[str] | None:
    if isinstance(recordings, AudioDataset):
        recordings = recordings.manifest
    return recordings.ids if isinstance(recordings, Manifest) else recordings


def _recording_of(record: Record, index: int) -> Recording:
    return Recording(
        index,
        record.id,
        record.path,
        record.source_size,
        record.source_mtime_ns,
        record.peak,
        record.duration_s,
        record.clipped_samples,
        record.extra,
    )
