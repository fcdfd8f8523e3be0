"""`FeatureStore`: writes a store from a loop of one's own, as the command would have written it."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from extract.data.batch import Batch
from extract.data.dataset import AudioDataset
from extract.data.durations import durations
from extract.data.plan import padded_seconds, plan_batches, unfinished
from extract.encoder.batches import encoded, not_finite
from extract.encoder.encoder import Encoder
from extract.shard import Shard
from extract.store import foreign, settling
from extract.store.layout import LayoutOptions
from extract.store.ledger import Ledger, Record
from extract.store.listed import note_listed
from extract.store.lock import PRIVATE
from extract.store.opened import find_rest, made_with, opened
from extract.store.opening import Opening
from extract.store.resume import ResumePolicy
from extract.store.writers import Writers, failure_record
from extract.text import printable
from extract.training.identity import identity_for, said_before, store_for
from extract.training.loader import scan_headers
from extract.values import Encoded, Failure, Features
from extract.write_errors import explained


class FeatureStore:
    """A store, open to be written by this process; `python -m extract` goes on with what is in it.

    An utterance is in the ledger once its files are whole on the disk. As a context manager it
    keeps what it was given where its block ends, and after an exception what is whole by then. One
    that is never closed is closed when Python ends.

    Attributes:
        todo: (len(recordings),) bool: which recordings the store lacks, of this shard, and were not
            `put` yet. A file or a recording that changed since is lacking too, and so is one that
            failed, unless `retry_failed` is false.

    Args:
        directory: its folder, which need not exist.
        encoder: whose features are saved.
        recordings: what is encoded: its manifest, and how it prepares them.
        layout: the name of one, or its options; None: the store's own, or that of the command,
            `gpt_sovits`, where there is no store yet.
        shard: the part of the recordings that this process writes: `Shard(rank, world_size)` where
            several processes write at once. A part is chosen by the ids alone.
        retry_failed: whether what failed earlier is tried again.
        overwrite: replace what was made with other settings.
        model: what metadata.json says that the model is; no part of the identity.
        num_writers: threads that write; None: as the layout's options say; 0 writes within `put`.
        done: called by what writes with each line once it is in the ledger.

    Raises:
        ValueError: the store holds features of another identity, shown side by side; another
            process works on this shard; the layout cannot hold what there is to save; or the
            recordings are augmented.
        StoreUnusable: the disk takes no files.
    """

    def __init__(
        self,
        directory: Path | str,
        encoder: Encoder,
        recordings: AudioDataset,
        *,
        layout: str | LayoutOptions | None = None,
        shard: Shard | None = None,
        retry_failed: bool = True,
        overwrite: bool = False,
        model: str = "",
        num_writers: int | None = None,
        done: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self.encoder, self.recordings, self.shard = encoder, recordings, shard or Shard()
        self.store = store_for(directory, encoder, recordings, layout, self.shard)
        self._done, self._num_writers = done, num_writers
        ids = recordings.manifest.ids
        self._mine = np.flatnonzero([self.shard.owns(id_) for id_ in ids])
        self._manifest = self.shard.part_of(recordings.manifest)
        self.todo = np.zeros(len(recordings), bool)
        self._writers: Writers | None = None
        with ExitStack() as stack:
            opening = self._opening(model, overwrite)
            self._foreign = stack.enter_context(opened(self.store, opening))
            note_listed(self.store, self.shard, self._manifest)
            rest = find_rest(self.store, self._manifest, self.shard, ResumePolicy(retry_failed))
            self.todo[self._mine] = rest.todo
            self._ledger = self._opened_ledger(stack)
            self._stack, self.is_open = stack.pop_all(), True
        self._at_exit = partial(_close_at_exit, weakref.ref(self), os.getpid())
        atexit.register(self._at_exit)

    def _opening(self, model: str, overwrite: bool) -> Opening:
        identity = identity_for(self.store, self.encoder, self.recordings)
        said = {**said_before(self.store.directory), **({"model": model} if model else {})}
        if self.store.layout.adds:
            said["dataset"] = printable(self._manifest.source)
        return Opening(
            identity,
            made_with(**said),
            self.encoder.architecture.stack,
            self.recordings.settings,
            self._manifest.ids,
            self.shard,
            overwrite,
        )

    def _opened_ledger(self, stack: ExitStack) -> Ledger:
        """The shard's ledger, with the lines of what the source lists and is no recording."""
        directory, source = self.store.directory, printable(self._manifest.source)
        with explained(directory):
            book = Ledger(directory / self.shard.ledger_name, fsync=self.store.fsync)
            stack.callback(book.close)
            failures = {one.recording.id: one for one in self._manifest.failures}
            for failure in failures.values():
                book.append(failure_record(failure, source if self.store.layout.adds else None))
        return book

    def put(self, item: Encoded | Failure) -> bool:
        """Takes an utterance's features, or why it has none; waits while the disk is slow.

        Call it from one thread. What the store has already, what was put before and what is another
        shard's is not written.

        Args:
            item: of one of `recordings`. Its features are converted to the store's dtype; features
                with NaN or infinity become a failure.

        Returns:
            Whether it is written.

        Raises:
            ValueError: it is of no recording here, or the store is closed.
            StoreUnusable: the disk takes no more.
        """
        if not self.is_open:
            raise ValueError(f"{printable(str(self.store.directory))}: closed; needed a new one")
        index, ids = item.recording.index, self.recordings.manifest.ids
        if not 0 <= index < len(ids) or ids[index] != item.recording.id:
            needed = f"needed one of the {len(ids):,} that this store was opened for"
            raise ValueError(f"{printable(item.recording.id)}: not recording {index}; {needed}")
        if not self.todo[index]:
            return False
        self.todo[index] = False
        self._started().put(self._as_wanted(item))
        return True

    def put_batch(self, batch: Batch, features: Sequence[Features]) -> int:
        """`put` of a batch's utterances and failures: returns how many are written.

        Args:
            batch: of a loader over `recordings`.
            features: what `Encoder.encode` made of it, one for each utterance.
        """
        return sum(map(self.put, [*batch.failures, *encoded(batch, features)]))

    def batches(self, batch_seconds: float = 60.0, num_workers: int = 0) -> list[list[int]]:
        """What is to do, as indices of batches, for `make_loader(batches=...)`.

        They are those of the command's plan: features of a store that is written so are the
        command's to the last bit where both run on one CPU.

        Args:
            batch_seconds: most padded seconds in a batch, `loader.batch_seconds`.
            num_workers: processes that read the headers.
        """
        cache = self.store.directory / PRIVATE / f"durations-{self.shard}"
        scan = partial(scan_headers, num_workers)
        seconds = durations(self._manifest, cache, scan, lambda _num: None)
        plan = plan_batches(
            padded_seconds(seconds, self.recordings.settings),
            batch_seconds,
            self.encoder.architecture.quadratic_s,
        )
        todo = self.todo[self._mine]
        left = unfinished(plan, todo, np.zeros_like(todo))
        return [self._mine[batch].tolist() for batch in left]

    def close(self, *, abandon: bool = False) -> None:
        """Waits until all is written, and gives the store free; may be called again.

        Args:
            abandon: drop what is not on the disk yet.

        Raises:
            StoreUnusable: the disk takes no more.
        """
        if self.is_open:
            self.is_open = False
            atexit.unregister(self._at_exit)
            with self._stack, explained(self.store.directory):
                self._finish(abandon)

    def _finish(self, abandon: bool) -> None:
        if self._writers is not None:
            try:
                self._writers.close(abandon=abandon)
            except BaseException:
                self._writers.close(abandon=True)
                raise
        if not abandon:
            settling.finish(self.store)
            if not self.todo.any():
                foreign.end(self.store.directory, self.shard)

    def _started(self) -> Writers:
        """The writers, started by the first utterance: workers can be forked before, not after."""
        if self._writers is None:
            num_threads = self._num_writers
            if num_threads is None:
                num_threads = self.store.options.num_writers
            self._writers = Writers(
                self.store, self._ledger, self._done, num_threads, self._foreign
            )
        return self._writers

    def _as_wanted(self, item: Encoded | Failure) -> Encoded | Failure:
        """The item without audio that the store does not keep; a failure if it is not finite."""
        if isinstance(item, Encoded) and not item.features.finite:
            return not_finite(item.recording)
        if isinstance(item, Failure) or self.store.keeps_audio:
            return item
        return replace(item, wav32k=item.wav32k[:0])

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(abandon=kind is not None)


def _close_at_exit(of: weakref.ref[FeatureStore], pid: int) -> None:
    """Closes a store that nobody closed; in a forked child, which has no writers, nothing."""
    store = of()
    if store is not None and os.getpid() == pid:
        store.close()
