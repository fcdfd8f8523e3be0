"""Runs in a worker: notes in shared memory which item it reads, and ends with the main process.

`extract.data.workers` reads the notes in the main process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, get_worker_info

from extract.systems import ASKING, end_with_parent

IDLE = -1
INDEX, SINCE_S, PID = 0, 1, 2  # columns of the workers' notes


class Items(Protocol):
    """What a worker needs of a dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


class Watched(Dataset[Any]):
    """A dataset whose workers note which item they are reading, and since when."""

    def __init__(self, items: Items, current: torch.Tensor) -> None:
        self.items = items
        # (workers, 3) float64 in shared memory: item's index, monotonic seconds, process id
        self.current = current

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        if info is None:
            return self.items[index]
        self.current[info.id, SINCE_S] = time.monotonic()
        self.current[info.id, INDEX] = index
        item = self.items[index]
        self.current[info.id, INDEX] = IDLE
        return item


def prepare_worker(parent: int | None, current: torch.Tensor, worker: int) -> None:
    """Runs once in each worker, before its first item.

    A terminal or scheduler signals the whole process group, so workers ignore those signals; only
    the main process acts. A worker ends when the main process dies: an orphan would keep the
    store's lock open.

    Args:
        parent: process id of the main process, if that forks the workers itself.
        current: where the worker notes its process id.
        worker: its number.
    """
    for name in ASKING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if parent is None:
        threading.Thread(target=_end_with_main, daemon=True).start()
    else:
        end_with_parent(parent)
    current[worker, PID] = os.getpid()


def _end_with_main() -> None:
    """Waits for the death of the main process, in a worker whose parent is a forkserver.

    A forkserver ends only after its workers, so no worker is told of the main process by its own
    parent's death. multiprocessing's pipe tells it; forked workers inherit that from one another,
    which keeps it open.
    """
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)
