"""What the jobs of a sweep share, and the folder in memory where it lies.

Nothing here imports torch: the command line makes a `Sweep` before it knows that there is work.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from extract.machine import SHM, is_in_memory
from extract.run.signals import before_signals

if TYPE_CHECKING:
    from extract.data.decoded import DecodedCache

log = logging.getLogger(__name__)

PREFIX = "extract-sweep-"
LOCK = "lock"  # file in a sweep's folder, locked by the kernel until its process has ended
TRIES = 5  # another sweep may take a new folder for one that was left, before it is locked


@dataclass
class Sweep:
    """What the jobs of a sweep share; `run_shard` is given it. Picklable."""

    folder: Path | None = None  # in memory, for decoded recordings; None where there is none
    decoded: DecodedCache | None = None  # chosen by the first job that loads
    durations: Path | None = None  # the last job's cache of headers' durations
    # Stores of the jobs that ended before, in the order of the jobs: features are taken from them
    stores: list[Path] = field(default_factory=list)
    # Of each kind of features, by its identity: how far apart the gains were of the proof that
    # another gain does not change them (`extract.run.proof`); None where it does
    proofs: dict[str, float | None] = field(default_factory=dict)

    def ended(self, directories: Iterable[Path]) -> None:
        """Adds the stores of a job, each once, which the next jobs may take features from."""
        self.stores += dict.fromkeys(directories)


@contextmanager
def sweeping(parent: Path = SHM) -> Iterator[Sweep]:
    """Yields a sweep whose folder in `parent` exists during the block, if that lies in memory.

    The folder is removed at the end, also at the end by a signal. That of a process which was
    killed is removed by the next sweep.
    """
    folder, lock = _private_folder(parent) if is_in_memory(parent) else (None, None)
    try:
        with before_signals(lambda: _remove(folder)):
            yield Sweep(folder)
    finally:
        _remove(folder)
        if lock is not None:
            lock.release()


def _private_folder(parent: Path) -> tuple[Path | None, FileLock | None]:
    """A new folder that this process alone may read, and the lock in it; None if that fails."""
    _remove_left(parent)
    for _ in range(TRIES):
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            lock = FileLock(folder / LOCK, fallback_to_soft=False).acquire(timeout=0).lock
            folder.chmod(0o700)  # FileLock makes a folder that was removed again, for all to read
        except Timeout:
            continue
        except OSError as error:
            log.info("%s: %s: each job decodes for itself", parent, error.strerror)
            break
        if (folder / LOCK).exists():
            return folder, lock
        lock.release()
    return None, None


def _remove_left(parent: Path) -> None:
    """Removes the folders of this user's sweeps that were killed: nothing locks them any more."""
    if sys.platform == "win32":  # no file system in memory, no owner of a file
        return
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            is_ours = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            if is_ours and folder.is_dir():
                lock = FileLock(folder / LOCK, fallback_to_soft=False).acquire(timeout=0).lock
                try:
                    _remove(folder)
                finally:
                    lock.release()


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
