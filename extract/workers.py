"""DataLoader workers: what each is at, and when one is dead or hung.

The only place that knows the private parts of torch's DataLoader.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.util
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from types import FrameType
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from extract.plan import Indices

POLL_S = 1.0  # how long a wait for data goes on before workers and signals are looked at
IDLE = -1
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Items(Protocol):
    """What a worker needs of a dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class Options:
    """How workers work; `extract.config.LoaderConfig` says what each is for."""

    num_workers: int  # 0 loads in this process, where nothing can be survived
    prefetch: int = 2
    timeout_s: float = 300.0
    start_method: str = "fork"


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


def _prepare_worker(_worker_id: int) -> None:
    """Ctrl-C and a batch system's signals reach the whole group; the main process decides.

    Its death they do not survive: they would hold its lock on the store for seconds.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Packed:
    """A collate whose batches leave the worker as bytes that need no more memory than there is.

    Tensors travel through shared memory, and a container often has little of it. DataLoader finds
    that out in a thread of its worker that drops the batch, and waits for it for ever. Here it is
    found out before, and such a batch goes through the pipe, at a few times the price.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        batch = self.collate(items)
        if get_worker_info() is None:
            return batch
        try:
            for value in vars(batch).values() if hasattr(batch, "__dict__") else ():
                if isinstance(value, torch.Tensor):
                    value.share_memory_()  # type: ignore[no-untyped-call]
            return bytes(ForkingPickler.dumps(batch))
        except (RuntimeError, OSError):
            return pickle.dumps(batch, pickle.HIGHEST_PROTOCOL)


class Workers:
    """One DataLoader over some batches, and its processes."""

    def __init__(
        self,
        items: Items,
        batches: Sequence[Indices],
        collate: Callable[[list[Any]], Any],
        options: Options,
        stop: Callable[[], bool],
    ) -> None:
        self.options, self.stop = options, stop
        self.current = torch.full(
            (max(1, options.num_workers), 2), float(IDLE), dtype=torch.float64
        )
        self.waiting = False
        parallel: dict[str, Any] = {}
        if options.num_workers:
            self.current.share_memory_()  # type: ignore[no-untyped-call]
            parallel = {
                "prefetch_factor": options.prefetch,
                "timeout": POLL_S,
                "multiprocessing_context": _context(options.start_method),
                "worker_init_fn": _prepare_worker,
            }
        self.iterator: Any = iter(
            DataLoader(
                _Watched(items, self.current),
                batch_sampler=[batch.tolist() for batch in batches],
                collate_fn=_Packed(collate),
                num_workers=options.num_workers,
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
        while not self.stop():
            if not self.processes:
                return next(self.iterator)
            self._raise_if_dead()
            self.waiting = True
            try:
                return pickle.loads(next(self.iterator))
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
        hung = busy & (now - self.current[:, 1] > self.options.timeout_s)
        if hung.any():
            cause = f"hung for {self.options.timeout_s:g} s (loader.timeout_s)"
            indices = self.current[hung, 0].tolist()
            raise WorkersDied([Death(int(index), cause, killed=False) for index in indices])


def _context(start_method: str) -> Any:
    # Workers hand tensors over through sockets in a temporary folder. Made here it is theirs too,
    # and goes when this process ends; a killed worker would leave its own behind.
    multiprocessing.util.get_temp_dir()
    context = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        context.set_forkserver_preload(["extract.dataset", "torch.utils.data"])
    return context
