"""Writer threads with back-pressure: a slow disk slows the run and never grows its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Set
from queue import SimpleQueue

from extract.store.ledger import Ledger, Record, dtype_name
from extract.store.store import Store, StoreUnusable, WriteFailed
from extract.values import SAVED, STATUS_OF, Encoded, Failure, Recording

MAX_QUEUED_PER_WRITER = 16  # utterances: about 0.7 MB each at 5 s and fp16


class Writers:
    """Saves utterances and writes their ledger lines, in whatever order the disk takes them.

    Args:
        store: where the files go.
        ledger: where the lines go.
        done: called with each record once it is in the ledger, from a writer's thread.
        num_threads: how many.
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
        self._foreign = foreign
        self._max_queued = num_threads * MAX_QUEUED_PER_WRITER
        self._num_queued = 0
        self._changed = threading.Condition()  # of _num_queued, at half and at none
        self._error: BaseException | None = None
        self._abandoned = False
        self._queue: SimpleQueue[Encoded | Failure | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"writer-{number}")
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, item: Encoded | Failure) -> None:
        """Queues one utterance; once the queue is full, waits until half of it is done.

        For one thread. Being woken for each utterance would cost more than saving it.

        Raises:
            StoreUnusable: an earlier utterance found the store full, read-only or gone.
        """
        with self._changed:
            if self._num_queued >= self._max_queued:
                self._changed.wait_for(lambda: self._num_queued <= self._max_queued // 2)
            if self._error is not None:
                raise self._error
            self._num_queued += 1
        self._queue.put(item)

    def close(self, *, abandon: bool = False) -> None:
        """Waits for what is queued, or with `abandon` only for what is being written.

        The threads end in any case.

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
        if self._error is not None and not abandon:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._write(item)
            del item  # an idle thread holds no utterance
            with self._changed:
                self._num_queued -= 1
                if self._num_queued in (self._max_queued // 2, 0):
                    self._changed.notify_all()

    def _write(self, item: Encoded | Failure) -> None:
        try:
            if self._error is None and not self._abandoned:
                record = self._save(item)
                self.ledger.append(record)
                self.done(record)
        except OSError as error:
            self._error = self._error or StoreUnusable(self.store.explain(error))
        except BaseException as error:
            self._error = self._error or error

    def _save(self, item: Encoded | Failure) -> Record:
        if isinstance(item, Encoded):
            try:
                return self._publish(item)
            except WriteFailed as error:
                item = Failure(item.recording, "write_failed", str(error))
        if item.recording.id not in self._foreign:
            self.store.discard(item.recording.id)  # of an earlier run: no longer the truth
        return failure_record(item)

    def _publish(self, item: Encoded) -> Record:
        recording, features = item.recording, item.features
        files = self.store.publish(recording.id, features.values, item.wav32k)
        return Record(
            recording.id,
            recording.path,
            SAVED,
            peak=recording.peak,
            duration_s=recording.duration_s,
            num_frames=len(features.values),
            dtype=dtype_name(features.values.dtype),
            retried_fp32=features.retried_fp32,
            clipped_samples=recording.clipped_samples,
            source_size=recording.size,
            source_mtime_ns=recording.mtime_ns,
            files=files,
        )


def failure_record(failure: Failure) -> Record:
    """The ledger's line for a recording that gave no features."""
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
    )
