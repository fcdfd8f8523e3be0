"""Marks of tests that `make test-windows` skips, each with what Windows or spawn has not."""

import pytest

CALLS = pytest.mark.posix("no os.writev, no os.statvfs")
FOLDERS = pytest.mark.posix("a folder is not synced to the disk")
NAMED_PIPES = pytest.mark.posix("folders have no named pipes")
IN_USE = pytest.mark.posix("an open file is not replaced")
LIMITS = pytest.mark.posix("no limit on open files")
PATCHED_WORKER = pytest.mark.posix("a spawned worker has nothing of what a test patches")
SIGKILL = pytest.mark.posix("SIGKILL has no name")
SIGNALS = pytest.mark.posix("no such signal")
START_METHODS = pytest.mark.posix("only spawn starts processes")

PIPE = pytest.param("pipe", marks=NAMED_PIPES)
SIGUSR1 = pytest.param("SIGUSR1", 143, marks=SIGNALS)
SIGUSR = [SIGUSR1, pytest.param("SIGUSR2", 143, marks=SIGNALS)]
FORKS = [pytest.param(method, marks=START_METHODS) for method in ("fork", "forkserver")]
