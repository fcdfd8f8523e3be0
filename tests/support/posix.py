"""Marks of tests that `make test-windows` skips, each with what Windows or spawn has not."""

import pytest

NAMED_PIPES = pytest.mark.posix("folders have no named pipes")
OPEN_FILES = pytest.mark.posix("no limit on open files")
PATCHED_WORKER = pytest.mark.posix("a spawned worker has nothing of what a test patches")
SIGKILL = pytest.mark.posix("SIGKILL has no name")
SIGNALS = pytest.mark.posix("no such signal")
START_METHODS = pytest.mark.posix("only spawn starts processes")

PIPE = pytest.param("pipe", marks=NAMED_PIPES)
SIGUSR1 = pytest.param("SIGUSR1", 143, marks=SIGNALS)
FORKS = [pytest.param(method, marks=START_METHODS) for method in ("fork", "forkserver")]
