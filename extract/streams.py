"""Makes stdout and stderr unable to fail: a closed pipe or a full disk never stops a run."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any


class _DropOnError(io.FileIO):
    """A file descriptor for writing; bytes that cannot be written are dropped without an error.

    The reader of a pipe may be gone, or the disk of a log full. Python's buffers lie above this
    class and are told that all was written: otherwise they would try again, and fail at exit.
    """

    def write(self, data: Any) -> int:
        """Writes what can be written; returns the number of bytes in `data`."""
        with contextlib.suppress(OSError):
            written = super().write(data)
            if written:
                return written
        return memoryview(data).nbytes


def make_safe() -> None:
    """Replaces this process's stdout and stderr by streams that raise no OSError.

    A closed descriptor is opened on the null device. Otherwise a file of the store would get its
    number, and what libraries print would be written into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.__stdout__ = _safe(sys.stdout, 1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _safe(sys.stderr, 2)  # type: ignore[misc]


def _safe(stream: Any, descriptor: int) -> Any:
    """A text stream like `stream`; characters outside its encoding become backslash escapes."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.flush()
        if os.name == "nt" and stream.isatty():
            return stream  # the console's own, which takes any character; bytes it takes for CP437
    return io.TextIOWrapper(
        io.BufferedWriter(_DropOnError(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )
