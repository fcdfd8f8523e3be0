"""Writer threads with back-pressure: a slow disk slows the run and never grows its memory.

An utterance's line is in the ledger once the layout has kept its files, and not before: a layout of
archives keeps many utterances at once. Until then its line waits here, without the tensors.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from extract.store import units
from extract.store.dtypes import converted
from extract.store.layout import Kept
from extract.store.ledger import Ledger, Record, dtype_name
from extract.store.reused import NotReusable, Reused, rounded
from extract.store.store import Store, StoreUnusable, WriteFailed
from extract.text import printable
from extract.values import SAVED, STATUS_OF, Encoded, Failure, Recording

log = logging.getLogger(__name__)

MAX_QUEUED_PER_WRITER = 16  # utterances: about 0.7 MB each at 5 s and fp16


class Writers:
    """Saves utterances and writes their ledger lines, in whatever order the disk takes them.

    Args:
        store: where the files go.
        ledger: where the lines go.
        done: called by a writer thread with each record once it is in the ledger.
        num_threads: writer threads; with 0, `put` writes, and `done` is called by its thread.
        foreign: ids whose files here are another program's. Features replace them; a recording
            that gives none leaves them.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        done: Callable[[Record], None] = lambda record: None,
        num_threads: int = 4,
        foreign: Set[str] = frozenset(),
    ) -> None:
        self.store, self.ledger, self.done = store, ledger, done
        # Indices of utterances that were put as `Reused`, and whose features are not there any
        # more: they have no line.
        self.not_taken: list[int] = []
        self._foreign = foreign
        self._max_queued = num_threads * MAX_QUEUED_PER_WRITER
        self._num_queued = 0
        self._changed = threading.Condition()  # notified as _num_queued falls to half, and to 0
        self._error: BaseException | None = None
        self._abandoned = False
        self._queue: SimpleQueue[Encoded | Reused | Failure | None] = SimpleQueue()
        # Lines of utterances that the layout holds. No lock: each access is one atomic operation.
        self._waiting: dict[str, partial[Record]] = {}
        self._threads = [
            # A daemon: Python would wait for ever for the threads of writers that nobody closed.
            threading.Thread(target=self._work, name=f"writer-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, item: Encoded | Reused | Failure) -> None:
        """Queues one utterance; once the queue is full, waits until half of it is done.

        Call it from one thread only. It waits for half of the queue because waking a thread for
        each utterance would cost more than saving the utterance.

        Raises:
            StoreUnusable: an earlier utterance found the store full, read-only or gone.
        """
        if not self._threads:
            self._write(item)
            if self._error is not None:
                raise self._error
            return
        with self._changed:
            if self._num_queued >= self._max_queued:
                self._changed.wait_for(lambda: self._num_queued <= self._max_queued // 2)
            if self._error is not None:
                raise self._error
            self._num_queued += 1
        self._queue.put(item)

    def drain(self) -> None:
        """Waits until the queue is empty: then `not_taken` has all that it will have.

        Raises:
            StoreUnusable: as `put`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._num_queued == 0)
        if self._error is not None:
            raise self._error

    def close(self, *, abandon: bool = False) -> None:
        """Waits until the queue is empty, then closes the layout, which keeps what it holds.

        With `abandon` waits only for what is being written: what is not kept by then gets no line
        and leaves no file. The threads end in any case.

        Raises:
            StoreUnusable: as `put`.
        """
        self._abandoned = abandon
        # Not by joining the threads: a Ctrl-C during a join makes Python 3.11 and 3.12 take a
        # running thread for an ended one, and the next join returns at once.
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._num_queued == 0)
        finally:
            for _ in self._threads:
                self._queue.put(None)
        self._keep_the_rest()
        if self._error is not None and not abandon:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._write(item)
            del item  # else an idle thread would keep an utterance in memory
            with self._changed:
                self._num_queued -= 1
                if self._num_queued in (self._max_queued // 2, 0):
                    self._changed.notify_all()

    def _write(self, item: Encoded | Reused | Failure) -> None:
        with self._noting_errors():
            if self._error is None and not self._abandoned:
                self._save(item)

    def _keep_the_rest(self) -> None:
        """Closes the layout and records the utterances it held; after a failure drops them."""
        with self._noting_errors():
            self.store.fence()
        abandon = self._abandoned or self._error is not None
        with self._noting_errors():
            self._commit(self.store.layout.close(abandon=abandon))
            assert abandon or not self._waiting, f"put and never kept: {list(self._waiting)[:5]}"
            self._waiting.clear()

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or StoreUnusable(self.store.explain(error))
        except BaseException as error:
            self._error = self._error or error

    def _save(self, item: Encoded | Reused | Failure) -> None:
        self.store.fence()
        if not isinstance(item, Failure):
            id_ = item.recording.id
            try:
                self._commit(self._kept(item))
                return
            except NotReusable as error:
                del self._waiting[id_]
                log.debug("%s: %s", printable(id_), error)  # the run says how many there are
                self.not_taken.append(item.recording.index)
                return
            except WriteFailed as error:
                del self._waiting[id_]
                item = Failure(item.recording, "write_failed", str(error))
        if item.recording.id not in self._foreign:
            self.store.layout.discard(item.recording.id)  # files of an earlier run, no longer true
        self._record(failure_record(item))

    def _kept(self, item: Encoded | Reused) -> Iterable[Kept]:
        """Gives the layout an utterance; its line waits first: another thread may be given it."""
        id_ = item.recording.id
        if isinstance(item, Reused):
            self._waiting[id_] = _line_of_reused(item)
            return self.store.layout.take(item)
        item = self._to_save(item)
        self._waiting[id_] = _line_of(item)
        return self.store.layout.put(item)

    def _to_save(self, item: Encoded) -> Encoded:
        """The utterance with its features in the store's dtype."""
        dtype = self.store.dtype_of(dtype_name(item.features.values.dtype))
        return replace(item, features=converted(item.features, dtype))

    def _commit(self, kept: Iterable[Kept]) -> None:
        recorded = []
        for one in kept:
            self._record(self._waiting.pop(one.id)(files=one.files))
            recorded.append(one)
        if recorded:
            self.store.place.publish(recorded)

    def _record(self, record: Record) -> None:
        self.store.fence()
        self.ledger.append(record)
        self.done(record)


def _line_of(item: Encoded) -> partial[Record]:
    """Makes the ledger's line of a saved utterance, given its `files`; holds no tensor."""
    features = item.features
    text, sensitivity = units.as_text(item.units), features.gain_sensitivity
    return _saved(
        item.recording,
        num_frames=features.values.shape[1],
        dtype=dtype_name(features.values.dtype),
        retried_fp32=features.retried_fp32,
        units=text,
        units_crc32=units.checksum(text),
        gain_sensitivity=None if sensitivity is None else rounded(sensitivity),
    )


def _line_of_reused(item: Reused) -> partial[Record]:
    """As `_line_of`: what it says of the features is what the other store's line says."""
    donor = item.record
    return _saved(
        item.recording,
        num_frames=donor["num_frames"],
        dtype=donor["dtype"],
        retried_fp32=donor["retried_fp32"],
        units=donor.get("units"),
        units_crc32=donor.get("units_crc32"),
        gain_sensitivity=item.gain_sensitivity,
        shared=item.shared,
    )


def _saved(recording: Recording, **of_features: Any) -> partial[Record]:
    """Makes the line of a saved recording, of which `of_features` says the rest but the `files`."""
    return partial(
        Record,
        recording.id,
        recording.path,
        SAVED,
        peak=recording.peak,
        duration_s=recording.duration_s,
        clipped_samples=recording.clipped_samples,
        source_size=recording.size,
        source_mtime_ns=recording.mtime_ns,
        extra=recording.extra,
        **of_features,
    )


def failure_record(failure: Failure, source: str | None = None) -> Record:
    """The ledger's line for a recording that gave no features.

    Args:
        failure: of the recording.
        source: which list or folder the failure is of, where a store is to say it.
    """
    recording: Recording = failure.recording
    return Record(
        recording.id,
        recording.path,
        STATUS_OF[failure.reason],
        failure.reason,
        failure.detail,
        peak=recording.peak,
        duration_s=recording.duration_s,
        source_size=recording.size,
        source_mtime_ns=recording.mtime_ns,
        extra=recording.extra,
        source=source,
    )
