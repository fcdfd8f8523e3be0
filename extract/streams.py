"""Standard streams that take everything: the work never depends on who listens."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any


class _Unheard(io.FileIO):
    """A file descriptor to write to, that raises no errors.

    The reader of a pipe may be gone, a log's disk full. What cannot be written is dropped, at the
    lowest level, so that nothing is left in a buffer to be written again, or to fail at exit.
    """

    def write(self, data: Any) -> int:
        """Writes what can be written; returns the number of bytes in `data`."""
        with contextlib.suppress(OSError):
            written = super().write(data)
            if written:
                return written
        return memoryview(data).nbytes


def make_safe() -> None:
    """Puts streams that never fail in place of this process's stdout and stderr.

    Closed ones lead to the null device: a file of the store would get their number otherwise, and
    what libraries print would end in it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.__stdout__ = _safe(sys.stdout, 1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _safe(sys.stderr, 2)  # type: ignore[misc]


def _safe(stream: Any, descriptor: int) -> Any:
    """A text stream like `stream`; what its encoding lacks is written with backslashes."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.flush()
        if os.name == "nt" and stream.isatty():
            return stream  # the console's own, which takes any character; bytes it takes for CP437
    return io.TextIOWrapper(
        io.BufferedWriter(_Unheard(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )
