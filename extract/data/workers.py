"""DataLoader workers: which item each is reading, and whether one died or hangs.

Only this module uses private parts of torch's DataLoader. It works without them too, in case a
release of torch renames them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.util
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader

from extract.data.plan import Indices
from extract.data.transport import Packed
from extract.data.watched import IDLE, INDEX, PID, SINCE_S, Items, Watched, prepare_worker
from extract.machine import best_start_method

Handler = Callable[[int, FrameType | None], None]

POLL_S = 1.0  # seconds to wait for data before workers and signals are checked
PRELOAD = (
    "extract.data.batch",
    "extract.data.dataset",
    "torch.utils.data",
)  # what a forkserver imports before it forks


@dataclass(frozen=True)
class Options:
    """How workers work; `extract.config.LoaderConfig` says what each is for."""

    num_workers: int  # 0 loads in this process, which a crash of a decoder then ends
    prefetch: int = 2
    timeout_s: float = 300.0
    start_method: str = field(default_factory=partial(best_start_method, uses_cuda=False))


@dataclass(frozen=True)
class Death:
    """The end of one worker."""

    index: int  # of the item it was reading, or IDLE
    cause: str  # "killed by SIGSEGV", "exit code 3", "hung for 300 s"
    killed: bool  # by SIGKILL, as the kernel's out-of-memory killer does


class WorkersDied(Exception):
    """A worker died or hangs; its DataLoader delivers nothing more."""

    def __init__(self, deaths: Sequence[Death]) -> None:
        super().__init__("; ".join(death.cause for death in deaths))
        self.deaths = deaths


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
            (max(1, options.num_workers), 3), float(IDLE), dtype=torch.float64
        )
        self.waiting = False
        children = multiprocessing.active_children()
        parallel: dict[str, Any] = {}
        if options.num_workers:
            self.current.share_memory_()  # type: ignore[no-untyped-call]
            parallel = {
                "prefetch_factor": options.prefetch,
                "timeout": POLL_S,
                "multiprocessing_context": _context(options.start_method),
                "worker_init_fn": partial(
                    prepare_worker,
                    os.getpid() if options.start_method == "fork" else None,
                    self.current,
                ),
            }
        loader = DataLoader(
            Watched(items, self.current),
            batch_sampler=_Lists(batches),
            collate_fn=Packed(collate),
            num_workers=options.num_workers,
            **parallel,
        )
        self.processes: list[Any] = []
        self._handler = _handler_of(weakref.ref(self))
        self._handler_before: Any = None
        self._replace_handler()  # before workers start: one may die at once
        try:
            self.iterator: Any = iter(loader)
        except BaseException:
            self._restore_handler()
            raise
        self._replace_handler()  # the first loader of a process brings torch's
        if options.num_workers:
            self.processes = _processes(self.iterator, children)

    def next(self) -> Any | None:
        """The next batch, or None once `stop()` is true.

        Raises:
            WorkersDied: a worker died or hung.
        """
        while not self.stop():
            if not self.processes:
                return next(self.iterator)
            self.raise_if_dead()
            self.waiting = True
            try:
                return pickle.loads(next(self.iterator))
            except (EOFError, ConnectionError, RuntimeError, OSError) as error:
                if "timed out" not in str(error) and not self._dead(wait_s=POLL_S):
                    raise
            finally:
                self.waiting = False
            self.raise_if_dead()
            self._raise_if_hung()
        return None

    def kill(self) -> None:
        """Sends SIGKILL: a worker has nothing to save, and a hung one ignores other signals."""
        self.waiting = False
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        if shut_down := getattr(self.iterator, "_shutdown_workers", None):
            shut_down()
        self.iterator = None  # its finaliser shuts down, if there is no _shutdown_workers
        self.processes = []
        self._restore_handler()

    def _replace_handler(self) -> None:
        """Installs a handler that raises only inside `next`, in the main thread.

        torch's handler of SIGCHLD raises wherever the main process is, even within a save.
        """
        in_main = threading.current_thread() is threading.main_thread()
        if self.options.num_workers and in_main and hasattr(signal, "SIGCHLD"):  # not on Windows
            before = signal.signal(signal.SIGCHLD, self._handler)
            if before is not self._handler:
                self._handler_before = before

    def _restore_handler(self) -> None:
        """Restores the handler of SIGCHLD that was there before."""
        before, self._handler_before = self._handler_before, None
        if before is None or not hasattr(signal, "SIGCHLD"):
            return
        if signal.getsignal(signal.SIGCHLD) is self._handler:
            signal.signal(signal.SIGCHLD, before)

    def _dead(self, wait_s: float = 0.0) -> list[int]:
        deadline = time.monotonic() + wait_s
        while True:
            dead = [n for n, process in enumerate(self.processes) if not process.is_alive()]
            if dead or time.monotonic() >= deadline:
                return dead
            time.sleep(0.01)

    def raise_if_dead(self) -> None:
        """Raises `WorkersDied` if a worker has ended."""
        if dead := self._dead():
            self.waiting = False
            raise WorkersDied([self._death(worker) for worker in dead])

    def _death(self, worker: int) -> Death:
        process = self.processes[worker]
        its = self.current[self.current[:, PID] == process.pid, INDEX].tolist()
        index = int(its[0]) if its else IDLE  # no note: it died before `prepare_worker`
        return Death(index, *_cause(process.exitcode))

    def _raise_if_hung(self) -> None:
        now = time.monotonic()
        busy = self.current[:, INDEX] != IDLE
        hung = busy & (now - self.current[:, SINCE_S] > self.options.timeout_s)
        if hung.any():
            cause = f"hung for {self.options.timeout_s:g} s (loader.timeout_s)"
            indices = self.current[hung, INDEX].tolist()
            raise WorkersDied([Death(int(index), cause, killed=False) for index in indices])


def _handler_of(reference: weakref.ref[Workers]) -> Handler:
    """A handler of SIGCHLD for some workers, which it does not keep alive.

    torch's own handler, installed by the first loader of a process, holds the one before for ever.
    """

    def on_child(_signum: int, _frame: FrameType | None) -> None:
        workers = reference()
        if workers is not None and workers.waiting:
            workers.raise_if_dead()

    return on_child


class _Lists:
    """Batches as lists of Python's numbers, each made when it is taken: 36 bytes an index."""

    def __init__(self, batches: Sequence[Indices]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield batch.tolist()


def _cause(exit_code: int) -> tuple[str, bool]:
    """How a process ended, in words, and whether SIGKILL ended it."""
    if exit_code >= 0:  # Windows's own for a crash, 0xC0000005, are known in hexadecimal
        return f"exit code {exit_code if exit_code < 1 << 31 else hex(exit_code)}", False
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:  # a real-time signal
        name = f"signal {-exit_code}"
    return f"killed by {name}", name == "SIGKILL"


def _context(start_method: str) -> Any:
    # Workers send tensors through sockets in multiprocessing's temporary folder. Made here, they
    # share this process's folder, which it removes at its end; a killed worker would leave its own.
    multiprocessing.util.get_temp_dir()
    context = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        for name in PRELOAD:  # raises for a wrong name, which multiprocessing would ignore
            importlib.import_module(name)
        context.set_forkserver_preload(list(PRELOAD))
    return context


def _processes(iterator: Any, children: Sequence[Any]) -> list[Any]:
    """A DataLoader's worker processes.

    Args:
        iterator: the DataLoader's.
        children: this process's children before the iterator was made.
    """
    workers = getattr(iterator, "_workers", None)  # private to torch
    if workers is not None:
        return list(workers)
    return [child for child in multiprocessing.active_children() if child not in children]
