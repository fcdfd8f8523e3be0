"""The loop: batches -> features -> finite? -> saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from extract.data.batch import Batch
from extract.internal import INTERNAL_ERROR, InternalErrors
from extract.run.clock import Clock
from extract.store.reused import Reused
from extract.store.writers import Writers
from extract.values import Encoded, Failure

Stage = Callable[[Iterable[Batch]], Iterator[Encoded | Reused | Failure]]


def run(
    batches: Iterable[Batch],
    encoding: Stage,
    writers: Writers,
    todo: NDArray[np.bool_],
    clock: Clock,
    internal: InternalErrors | None = None,
) -> None:
    """Encodes and saves every batch; ends early after too many faults of this program.

    Args:
        batches: from `extract.data.loader`.
        encoding: batch -> features, on the device; or where another store has them.
        writers: where each utterance's outcome goes.
        todo: for every index of the manifest, whether its outcome is wanted; the others were saved
            earlier and are computed only because they share an interrupted batch.
        clock: told where the time goes.
        internal: told of faults of this program.

    Raises:
        StoreUnusable: the store is full, read-only or gone.
    """
    start = time.monotonic() - clock.total_s  # of a loop before
    for item in encoding(_until_given_up(_timed(batches, clock), internal or InternalErrors())):
        if todo[item.recording.index]:
            before = time.monotonic()
            writers.put(item)
            clock.writer_s += time.monotonic() - before
        clock.encoder_s = time.monotonic() - start - clock.data_s - clock.writer_s


def _timed(batches: Iterable[Batch], clock: Clock) -> Iterator[Batch]:
    """The batches; adds the time spent waiting for each one to the clock."""
    iterator = iter(batches)
    while True:
        before = time.monotonic()
        batch = next(iterator, None)
        clock.data_s += time.monotonic() - before
        if batch is None:
            return
        yield batch


def _until_given_up(batches: Iterator[Batch], internal: InternalErrors) -> Iterator[Batch]:
    """The batches, until `internal` gives up after too many faults of this program."""
    internal.begin()
    while not internal.give_up and (batch := next(batches, None)) is not None:
        faults = [one.detail for one in batch.failures if one.reason == INTERNAL_ERROR]
        internal.note(faults, len(batch))
        yield batch
