"""Loads batches in DataLoader workers, each batch once, even if workers die or hang.

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

MAX_STRIKES = 2  # deaths at one item, the second one alone in its batch
MAX_DEATHS_IN_A_ROW = 8  # without a batch between them: then no item is to blame

MACOS_OPEN_FILES = 10_240  # OPEN_MAX: macOS takes no higher limit, though it says "unlimited"

T = TypeVar("T", covariant=True)


class ResilientLoader(Generic[T]):
    """Iterates over a plan's batches in order; replaces workers that die or hang.

    Args:
        items: map-style and picklable.
        batches: indices of each batch.
        collate: makes the yielded batch of its items.
        crashed: makes the batch that is yielded for an item that killed two workers, from its index
            and the cause.
        options: the workers' number, prefetch, timeout and start method.
        stop: checked while waiting; iteration ends once it returns True.
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
        """Kills the workers."""
        if self._workers is not None:
            self._workers.kill()
            self._workers = None

    def _deliver(self, workers: Workers) -> Iterator[T]:
        while self._undelivered:
            batch = workers.next()
            if batch is None:  # `stop()` is true
                return
            self._undelivered.popleft()
            self._deaths_in_a_row = self._kills_in_a_row = 0
            yield batch
        self.close()

    def _after(self, deaths: Sequence[Death]) -> Iterator[T]:
        """Retries or reports the items whose workers died.

        After two SIGKILLs in a row it starts one worker fewer: memory may have run out.

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
                f"({causes}), at no particular recording; try loader.num_workers=1"
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
        """Moves the item to a batch of its own; after MAX_STRIKES deaths yields its report."""
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
    """Raises the soft limit on open files to the hard one: a tensor in flight holds descriptors."""
    if sys.platform == "win32":  # it has no such limit
        return
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, MACOS_OPEN_FILES):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return
