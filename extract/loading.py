"""Batches from DataLoader workers, each delivered once, whatever becomes of a worker.

A worker can die (a decoder's segmentation fault, the kernel's out-of-memory killer) or hang. Each
one notes in shared memory which item it is at, so the death convicts nobody but that item: it is
tried again in a batch of its own, and when that kills a worker too it is given up. Everything not
yet delivered is loaded again by new workers.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from extract.plan import Indices

log = logging.getLogger(__name__)

POLL_S = 1.0  # how long a wait for data goes on before workers and signals are looked at
MAX_STRIKES = 2  # deaths on one item, the second one alone in its batch
MAX_DEATHS_IN_A_ROW = 8  # with nothing delivered between them: the machine's fault, not an item's
IDLE = -1

T = TypeVar("T", covariant=True)


class Items(Protocol):
    """What a worker needs of a dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class Death:
    """The end of one worker."""

    index: int  # the item it was at, or IDLE
    cause: str  # "killed by SIGSEGV", "exit code 3", "hung for 300 s"
    killed: bool  # SIGKILL from outside, which is how memory shortage looks


class WorkersDied(Exception):
    """At least one worker is gone; the loader it belonged to is of no further use."""

    def __init__(self, deaths: Sequence[Death]) -> None:
        super().__init__("; ".join(death.cause for death in deaths))
        self.deaths = deaths


class _Watched(Dataset[Any]):
    """A dataset whose workers say which item they are at and since when."""

    def __init__(self, items: Items, current: torch.Tensor) -> None:
        self.items = items
        self.current = current  # (workers, 2) float64 in shared memory: index, monotonic seconds

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        if info is None:
            return self.items[index]
        self.current[info.id, 1] = time.monotonic()
        self.current[info.id, 0] = index
        item = self.items[index]
        self.current[info.id, 0] = IDLE
        return item


def _ignore_signals(_worker_id: int) -> None:
    """Ctrl-C and a batch system's signals reach the whole group; the main process decides."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class ResilientLoader(Generic[T]):
    """Iterates over a plan's batches in order, through faults.

    Args:
        items: map-style and picklable.
        batches: indices of each batch.
        collate: items of one batch -> what is yielded.
        crashed: index and cause of an item that keeps killing its worker -> what is yielded for it.
        num_workers: 0 loads in this process, where nothing can be survived.
        prefetch: batches each worker keeps ready.
        timeout_s: an item that takes longer has hung its worker.
        start_method: "fork", "forkserver" or "spawn".
        stop: looked at while waiting; iteration ends when it says so.
    """

    def __init__(
        self,
        items: Items,
        batches: Sequence[Indices],
        collate: Callable[[list[Any]], T],
        crashed: Callable[[int, str], T],
        *,
        num_workers: int,
        prefetch: int = 2,
        timeout_s: float = 300.0,
        start_method: str = "fork",
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.items, self.collate, self.crashed, self.stop = items, collate, crashed, stop
        self.num_workers, self.prefetch, self.timeout_s = num_workers, prefetch, timeout_s
        self.start_method = start_method
        self._undelivered = deque(batches)
        self._strikes: Counter[int] = Counter()
        self._deaths_in_a_row = 0
        self._kills_in_a_row = 0
        self._workers: _Workers | None = None

    def start(self) -> None:
        """Starts the workers now; otherwise the first `next` does."""
        if self._workers is None and self._undelivered:
            self._workers = _Workers(self, list(self._undelivered))

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

    def _deliver(self, workers: _Workers) -> Iterator[T]:
        while self._undelivered:
            batch = workers.next()
            if batch is None:  # told to stop
                return
            self._undelivered.popleft()
            self._deaths_in_a_row = self._kills_in_a_row = 0
            yield batch
        self.close()

    def _after(self, deaths: Sequence[Death]) -> Iterator[T]:
        """Sets the suspects apart, gives up the convicted, and starts over with fewer if need be.

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
        if self._kills_in_a_row >= 2 and self.num_workers > 1:
            self.num_workers -= 1
            self._kills_in_a_row = 0
            log.warning(
                "workers were killed twice in a row, as happens when memory runs out: "
                "going on with loader.num_workers=%d",
                self.num_workers,
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
            self._undelivered.appendleft(torch.tensor([index]).numpy())
        else:
            yield self.crashed(index, death.cause)
            self._deaths_in_a_row = 0


class _Workers:
    """One DataLoader and its processes. The only place that knows its private parts."""

    def __init__(self, loader: ResilientLoader[Any], batches: list[Indices]) -> None:
        self.loader = loader
        self.current = torch.full((max(1, loader.num_workers), 2), float(IDLE), dtype=torch.float64)
        self.waiting = False
        parallel: dict[str, Any] = {}
        if loader.num_workers:
            self.current.share_memory_()
            parallel = {
                "prefetch_factor": loader.prefetch,
                "timeout": POLL_S,
                "multiprocessing_context": _context(loader.start_method),
                "worker_init_fn": _ignore_signals,
            }
        self.iterator: Any = iter(
            DataLoader(
                _Watched(loader.items, self.current),
                batch_sampler=[batch.tolist() for batch in batches],
                collate_fn=loader.collate,
                num_workers=loader.num_workers,
                **parallel,
            )
        )
        self.processes: list[Any] = list(getattr(self.iterator, "_workers", []))
        in_main = threading.current_thread() is threading.main_thread()
        if self.processes and in_main and sys.platform != "win32":
            # torch's own handler raises wherever the main process happens to be, in the middle of
            # a save if need be. Ours raises only inside `next`.
            signal.signal(signal.SIGCHLD, self._on_child)

    def next(self) -> Any | None:
        """The next batch, or None once told to stop.

        Raises:
            WorkersDied: a worker died or hung.
        """
        while not self.loader.stop():
            if not self.processes:
                return next(self.iterator)
            self._raise_if_dead()
            self.waiting = True
            try:
                return next(self.iterator)
            except (EOFError, ConnectionError, RuntimeError, OSError) as error:
                if "timed out" not in str(error) and not self._dead(wait_s=POLL_S):
                    raise
            finally:
                self.waiting = False
            self._raise_if_dead()
            self._raise_if_hung()
        return None

    def kill(self) -> None:
        """SIGKILL: a worker holds nothing that is worth a farewell, and a hung one hears none."""
        self.waiting = False
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        if self.processes:
            self.iterator._shutdown_workers()
        self.processes = []

    def _on_child(self, _signum: int, _frame: FrameType | None) -> None:
        if self.waiting:
            self._raise_if_dead()

    def _dead(self, wait_s: float = 0.0) -> list[int]:
        deadline = time.monotonic() + wait_s
        while True:
            dead = [n for n, process in enumerate(self.processes) if not process.is_alive()]
            if dead or time.monotonic() >= deadline:
                return dead
            time.sleep(0.01)

    def _raise_if_dead(self) -> None:
        if dead := self._dead():
            self.waiting = False
            raise WorkersDied([self._death(worker) for worker in dead])

    def _death(self, worker: int) -> Death:
        code = self.processes[worker].exitcode
        cause = f"exit code {code}"
        if code is not None and code < 0:
            cause = f"killed by {signal.Signals(-code).name}"
        return Death(int(self.current[worker, 0]), cause, code == -signal.SIGKILL)

    def _raise_if_hung(self) -> None:
        now = time.monotonic()
        busy = self.current[:, 0] != IDLE
        hung = busy & (now - self.current[:, 1] > self.loader.timeout_s)
        if hung.any():
            cause = f"hung for {self.loader.timeout_s:g} s (loader.timeout_s)"
            indices = self.current[hung, 0].tolist()
            raise WorkersDied([Death(int(index), cause, killed=False) for index in indices])


def _context(start_method: str) -> Any:
    context = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        context.set_forkserver_preload(["extract.dataset", "torch.utils.data"])
    return context


def raise_open_file_limit() -> None:
    """Lifts the soft limit on open files to the hard one: tensors in flight hold descriptors."""
    if sys.platform == "win32":
        return
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
