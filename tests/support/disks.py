"""Small disks for tests that fill one up."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[None]:
    """A small disk of its own at `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def two_machines(folder: Path, remembers_s: float = 0.0) -> Iterator[tuple[Path, Path]]:
    """Two views of one folder, as two machines have them of a network file system.

    Each has its own flock, of which the other sees nothing; names cannot be exchanged; and each
    remembers for so many seconds which names were not there. Skips where FUSE cannot be had.
    """
    there, *views = (folder / name for name in ("there", "one", "two"))
    for path in (there, *views):
        path.mkdir()
    keeps = ",".join(f"{what}_timeout={remembers_s}" for what in ("attr", "entry", "negative"))
    try:
        for view in views:
            mount = ["bindfs", "-o", keeps, there, view]
            if not shutil.which("bindfs") or subprocess.run(mount, capture_output=True).returncode:
                pytest.skip("bindfs is not installed, or FUSE cannot be had here")
        yield views[0], views[1]
    finally:
        for view in views:
            subprocess.run(["umount", "-l", view], capture_output=True)
