"""Resources of this process: cores, glibc's allocator, Python's garbage collector."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

KEPT_BYTES = 1 << 30  # of freed memory that glibc keeps, at most; a batch's activations take less
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
MAX_MMAP_THRESHOLD = 32 << 20  # the largest that glibc takes

_is_put_off = False  # whether `put_off_garbage_collection` turned the collector off


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_methods() -> list[str]:
    """The ways in which this system can start a worker."""
    import multiprocessing  # not for `--help`

    return multiprocessing.get_all_start_methods()


def best_start_method(*, uses_cuda: bool) -> str:
    """How workers start unless a user says otherwise.

    On Linux by fork, which copies nothing; a process that has used CUDA is not forked, so its
    workers come from a forkserver. Elsewhere by spawn: Windows has nothing else, and on macOS the
    system's libraries start threads, whose locks a forked child would find locked for ever.
    """
    wanted = "forkserver" if uses_cuda else "fork"
    return wanted if sys.platform == "linux" and wanted in start_methods() else "spawn"


def keep_freed_memory() -> None:
    """Raises glibc's trim and mmap thresholds: memory freed by one layer is used by the next.

    At its default thresholds glibc returns that memory to the kernel, and every page of the next
    layer's is a page fault: 2 to 5 % of an encoder's time on a CPU. No effect without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, MAX_MMAP_THRESHOLD)


def put_off_garbage_collection() -> None:
    """Turns Python's garbage collector off until `collect_garbage_again`.

    Importing modules and loading weights makes no garbage, and the collector would search for it
    for 0.3 s.
    """
    global _is_put_off
    _is_put_off = True
    gc.disable()


def collect_garbage_again() -> None:
    """Turns the collector on again, but only if `put_off_garbage_collection` turned it off.

    Objects that exist by now are never searched again: a search of all of torch takes 0.13 s.
    """
    global _is_put_off
    if _is_put_off:
        _is_put_off = False
        gc.freeze()
        gc.enable()
