"""Resources of this process: cores, memory, glibc's allocator, Python's garbage collector."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

KEPT_BYTES = 1 << 30  # of freed memory that glibc keeps, at most; a batch's activations take less
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
MAX_MMAP_THRESHOLD = 32 << 20  # the largest that glibc takes
SHM = Path("/dev/shm")  # where Linux has a file system in memory
# Files of a control group: its limit on memory, what it uses, and its statistics, of which the row
# is the part that the kernel takes back when memory is short. Version 2, then version 1.
_CGROUPS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)

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


def is_in_memory(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether a file system in memory is mounted at `folder`; False where there is no `mounts`."""
    try:
        rows = [line.split() for line in mounts.read_text("utf8", "replace").splitlines()]
    except OSError:
        return False
    kinds = [row[2] for row in rows if len(row) > 2 and row[1] == str(folder)]
    return kinds[-1:] in (["tmpfs"], ["ramfs"])  # the last one mounted there hides the others


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory to be had without swapping, within the limits of this process's cgroups.

    0 where the system does not say. `root` is where its `proc` and `sys` are.
    """
    machine = 1024 * _rows(root / "proc/meminfo").get("MemAvailable:", 0)
    return max(0, min([machine, *_left_in_cgroups(root)]))


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Bytes that each control group that this process is in may still take."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        for controller, most, used, row in _CGROUPS:
            if controller in controllers.split(","):
                for folder in _groups(root / "sys/fs/cgroup" / controller, path):
                    with suppress(OSError, ValueError):  # no such file here, or it says `max`
                        left = int((folder / most).read_text()) - int((folder / used).read_text())
                        yield left + _rows(folder / "memory.stat").get(row, 0)


def _groups(top: Path, path: str) -> list[Path]:
    """The folders of a control group and of all that it is in, up to `top`."""
    group = top / path.lstrip("/")
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]


def _rows(path: Path) -> dict[str, int]:
    """Names and numbers of a file of the kernel's, a pair a line; none if it cannot be read."""
    with suppress(OSError):
        rows = (line.split() for line in path.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
    return {}
