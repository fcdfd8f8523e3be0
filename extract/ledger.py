"""`ledger.jsonl`: one line per utterance, saying what became of it.

A line is written after the files it speaks of, in one call, so that a killed run leaves at most a
torn last line; opening heals that. The ledger is a cache of the truth, which is the files.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAVED, REJECTED, FAILED = "saved", "rejected", "failed"

# Why a recording gave no features. A gate of the config rejects it, a fault fails it.
REASONS = {
    "peak_above_gate": REJECTED,
    "too_short": REJECTED,
    "too_long": REJECTED,
    "silent": REJECTED,
    "empty": REJECTED,
    "missing": FAILED,
    "undecodable": FAILED,
    "non_finite_audio": FAILED,
    "non_finite_features": FAILED,
    "out_of_memory": FAILED,
    "worker_crashed": FAILED,
    "write_failed": FAILED,
    "internal_error": FAILED,  # a fault of this program
    "bad_line": FAILED,  # a line of a list that names no recording
    "bad_id": FAILED,  # a name that cannot be a file of the store
    "unreadable_folder": FAILED,  # a folder below the dataset's that cannot be listed
}
OF_A_SOURCE = {"bad_line", "bad_id", "unreadable_folder"}  # said anew by each run that reads it

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Record:
    """One line of the ledger."""

    id: str
    path: str
    status: str  # saved, rejected, failed
    reason: str | None = None  # a key of REASONS
    detail: str | None = None
    peak: float | None = None
    duration_s: float | None = None
    num_frames: int | None = None
    dtype: str | None = None  # of the features: float16, float32, bfloat16
    retried_fp32: bool | None = None
    clipped_samples: int | None = None
    source_size: int = -1  # of the recording, bytes and nanoseconds; a change makes the line stale
    source_mtime_ns: int = -1
    feature_bytes: int | None = None  # of the files, to tell a whole one from a torn one
    wav_bytes: int | None = None
    wav_crc32: int | None = None

    def line(self) -> bytes:
        """The record as a line of JSON."""
        return _JSON.encode(vars(self)).encode("utf8", "backslashreplace") + b"\n"


def dtype_name(dtype: object) -> str:
    """A torch dtype as ledger and metadata say it: `float16`."""
    return str(dtype).removeprefix("torch.")


def ledger_name(index: int = 0, count: int = 1) -> str:
    """File name of a shard's ledger; an unsharded run's is `ledger.jsonl`."""
    return "ledger.jsonl" if count == 1 else f"ledger.{index}-of-{count}.jsonl"


def ledger_paths(directory: Path) -> list[Path]:
    """The ledgers of a store, of every shard that ever wrote there."""
    return sorted(directory.glob("ledger*.jsonl"))


def shard_of(id: str, count: int) -> int:  # noqa: A002 - the ledger's own word
    """Which of `count` shards an utterance belongs to: a function of its id alone."""
    return zlib.crc32(id.encode("utf8", "surrogateescape")) % count


def read_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Whole lines of a ledger with their records; a torn or damaged line is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("id"), str):
                yield line, record


def read(directory: Path | str) -> Iterator[dict[str, Any]]:
    """Every record of a store, whatever shards wrote it."""
    for path in ledger_paths(Path(directory)):
        for _line, record in read_lines(path):
            yield record


def rewrite(path: Path, lines: Iterable[bytes]) -> None:
    """Replaces a ledger by these lines, or leaves it as it was."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Ledger:
    """The ledger of one process, open for appending; safe to share among threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, record: Record) -> None:
        """Adds one line.

        Raises:
            OSError: the disk took none of it; a part that it took is removed.
        """
        line = record.line()
        with self._lock:
            written = os.write(self._descriptor, line)
            if written < len(line):  # a full disk takes what still fits
                end = os.lseek(self._descriptor, 0, os.SEEK_END)
                os.ftruncate(self._descriptor, end - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Brings what was appended to the disk."""
        with self._lock:
            if self._descriptor >= 0:
                os.fsync(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = -1
