"""Batches from DataLoader workers, each delivered once, whatever becomes of a worker.

A worker can die (a decoder's segmentation fault, the kernel's out-of-memory killer) or hang. Each
worker notes in shared memory which item it is reading, and its death is attributed to that item.
The item is retried in a batch of its own; if it kills a second worker, it is reported through
`crashed`. New workers load everything that was not yet delivered.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np

from extract.data.plan import Indices
from extract.data.watched import IDLE, Items
from extract.data.workers import Death, Options, Workers, WorkersDied

log = logging.getLogger(__name__)

MAX_STRIKES = 2  # deaths on one item, the second one alone in its batch
MAX_DEATHS_IN_A_ROW = 8  # with nothing delivered between them: the machine's fault, not an item's

MACOS_OPEN_FILES = 10_240  # OPEN_MAX: macOS takes no higher limit, though it says "unlimited"

T = TypeVar("T", covariant=True)


class ResilientLoader(Generic[T]):
    """Iterates over a plan's batches in order, through faults.

    Args:
        items: map-style and picklable.
        batches: indices of each batch.
        collate: items of one batch -> what is yielded.
        crashed: index and cause of an item that keeps killing its worker -> what is yielded for it.
        options: of the workers.
        stop: looked at while waiting; iteration ends when it says so.
    """

    def __init__(
        self,
        items: Items,
        batches: Sequence[Indices],
        collate: Callable[[list[Any]], T],
        crashed: Callable[[int, str], T],
        options: Options,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.items, self.collate, self.crashed, self.stop = items, collate, crashed, stop
        self.options = options
        self._undelivered = deque(batches)
        self._strikes: Counter[int] = Counter()
        self._deaths_in_a_row = 0
        self._kills_in_a_row = 0
        self._workers: Workers | None = None

    def start(self) -> None:
        """Starts the workers now; otherwise the first `next` does."""
        if self._workers is None and self._undelivered:
            self._workers = Workers(
                self.items, list(self._undelivered), self.collate, self.options, self.stop
            )

    @property
    def processes(self) -> Sequence[Any]:
        """The workers' processes; none before the start and after the end."""
        return () if self._workers is None else self._workers.processes

    def __iter__(self) -> Iterator[T]:
        try:
            while self._undelivered and not self.stop():
                self.start()
                assert self._workers is not None
                try:
                    yield from self._deliver(self._workers)
                except WorkersDied as error:
                    deaths = error.deaths
                else:
                    continue
                self.close()
                yield from self._after(deaths)
        finally:
            self.close()

    def close(self) -> None:
        """Ends the workers at once."""
        if self._workers is not None:
            self._workers.kill()
            self._workers = None

    def _deliver(self, workers: Workers) -> Iterator[T]:
        while self._undelivered:
            batch = workers.next()
            if batch is None:  # told to stop
                return
            self._undelivered.popleft()
            self._deaths_in_a_row = self._kills_in_a_row = 0
            yield batch
        self.close()

    def _after(self, deaths: Sequence[Death]) -> Iterator[T]:
        """Retries or reports the items whose workers died; lowers the number of workers if need be.

        Raises:
            RuntimeError: workers keep dying and no item is to blame.
        """
        for death in deaths:
            self._deaths_in_a_row += 1
            self._kills_in_a_row = self._kills_in_a_row + 1 if death.killed else 0
            log.warning("a loader worker died (%s); going on with new ones", death.cause)
            if death.index != IDLE:
                yield from self._judge(death)
        if self._deaths_in_a_row >= MAX_DEATHS_IN_A_ROW:
            causes = "; ".join(death.cause for death in deaths)
            raise RuntimeError(
                f"loader: {self._deaths_in_a_row} workers died with nothing delivered between them "
                f"({causes}); needed workers that live: try loader.num_workers=1"
            )
        if self._kills_in_a_row >= 2 and self.options.num_workers > 1:
            self.options = replace(self.options, num_workers=self.options.num_workers - 1)
            self._kills_in_a_row = 0
            log.warning(
                "workers were killed twice in a row, as happens when memory runs out: "
                "going on with loader.num_workers=%d",
                self.options.num_workers,
            )

    def _judge(self, death: Death) -> Iterator[T]:
        index = death.index
        self._strikes[index] += 1
        for position, batch in enumerate(self._undelivered):
            if index in batch:
                self._undelivered[position] = batch[batch != index]
                break
        self._undelivered = deque(batch for batch in self._undelivered if len(batch))
        if self._strikes[index] < MAX_STRIKES:
            self._undelivered.appendleft(np.array([index]))
        else:
            yield self.crashed(index, death.cause)
            self._deaths_in_a_row = 0


def raise_open_file_limit() -> None:
    """Lifts the soft limit on open files to the hard one: tensors in flight hold descriptors."""
    if sys.platform == "win32":  # it has no such limit
        return
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, MACOS_OPEN_FILES):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return
