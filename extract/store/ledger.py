"""`ledger.jsonl`: one line per utterance, saying what became of it.

A line is written after the files it speaks of, in one call, so that a killed run leaves at most a
torn last line; opening heals that. The ledger is a cache of the truth, which is the files.

What is read from a ledger may be damaged, or written by somebody else: `parse` lets through only
lines that a run could have written, whose ids stay below the store's folders. Which files a line
may name is the layout's to say: `extract.store.store.Store.read_lines`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import threading
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from extract.files import APPEND, open_regular, replace_whole
from extract.json_lines import parsed
from extract.manifest.ids import check_id
from extract.shard import LEDGER_NAME
from extract.store.layout import KeptFile, is_kept_file
from extract.systems import open_no_link
from extract.values import OF_A_SOURCE, SAVED, STATUS_OF, Reason, Status

SYNC_EVERY_S = 5.0  # lines older than this survive a power cut
# Bytes. A line takes about 500, its path and its detail at most some thousand, and its units five a
# unit: 38 hours at 25 a second.
MAX_LINE = 1 << 24
BLOCK = 1 << 16  # bytes that are read at a time

_STATUS_OF: Mapping[str, Status] = dict[str, Status](STATUS_OF.items())  # takes any str
_NUMBERS = ("peak", "duration_s", "gain_sensitivity")
_MOST = 1e100  # no run writes a larger one
_LATER = ("source", "units", "units_crc32", "gain_sensitivity", "shared", "extra")
_REAL, _WHOLE = frozenset({float, int}), frozenset({int, type(None)})
_TEXT, _OBJECT = frozenset({str, type(None)}), frozenset({dict, type(None)})
_COUNTS = ("num_frames", "source_size", "source_mtime_ns")
_STRING = rb'[^"\\]*(?:\\.[^"\\]*)*'
_HEAD = re.compile(rb'\{"id":"(%b)"(?:,"path":"%b","status":"([a-z]+)")?' % (_STRING, _STRING))
_HEADS = re.compile(  # of lines without an escape in id and path
    rb'^\{"id":"([^"\\\n]*)","path":"[^"\\\n]*","status":"([a-z]+)"[^\n]*\n', re.MULTILINE
)

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Record:
    """One line of the ledger."""

    id: str
    path: str
    status: Status
    reason: Reason | None = None
    detail: str | None = None
    peak: float | None = None
    duration_s: float | None = None
    num_frames: int | None = None
    dtype: str | None = None  # of the features: float16, float32, bfloat16
    retried_fp32: bool | None = None
    clipped_samples: int | None = None
    source_size: int = -1  # of the recording, bytes and nanoseconds; a change makes the line stale
    source_mtime_ns: int = -1
    files: tuple[KeptFile, ...] | None = None  # of a saved one
    # Which list or folder a failure of a source is of, in a store to which several add
    source: str | None = None
    units: str | None = None  # `12 7 7`, if a quantizer made any
    units_crc32: int | None = None
    # In a sweep: how far its features may be from what no gain changes, at any gain for which they
    # stand (`extract.encoder.first_layer.gain_sensitivity`)
    gain_sensitivity: float | None = None
    shared: str | None = None  # the folder's name of the store for which they were computed
    extra: str | None = None  # what its list says more: a JSON object's text

    def line(self) -> bytes:
        """The record as a line of JSON."""
        values = dict(vars(self))
        extra = values.pop("extra")
        line = line_of(values)
        return line if extra is None else b'%b,"extra":%b}\n' % (line[:-2], _bytes(extra))


def line_of(record: Mapping[str, Any]) -> bytes:
    """A record as a line of JSON. Keys of later versions are left out where they say nothing."""
    said = {key: record[key] for key in record if key not in _LATER or record[key] is not None}
    return _bytes(_JSON.encode(said)) + b"\n"


def _bytes(text: str) -> bytes:
    return text.encode("utf8", "backslashreplace")


def dtype_name(dtype: object) -> str:
    """A torch dtype as ledger and metadata say it: `float16`."""
    return str(dtype).removeprefix("torch.")


def ledger_paths(directory: Path) -> list[Path]:
    """The ledgers of a store, of every shard that ever wrote there; no other file."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if LEDGER_NAME.fullmatch(path.name))


def parse(line: bytes, known: Container[str] = ()) -> dict[str, Any] | None:
    """The record of a line; None where no run could have written it.

    Args:
        line: of a ledger, with its end.
        known: ids that are known to be possible, and need no check.
    """
    if not line.endswith(b"\n"):
        return None
    try:
        is_object = line[:1] == b"{"  # then `json.loads` decodes it so
        record = parsed(line.decode("utf-8", "surrogatepass")) if is_object else json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and _is_possible(record, known) else None


def _is_possible(record: dict[str, Any], known: Container[str]) -> bool:
    get = record.get
    id_, reason = get("id"), get("reason")
    if type(id_) is not str or not (reason is None or type(reason) is str):
        return False
    if get("status") != (SAVED if reason is None else _STATUS_OF.get(reason)):
        return False
    if not _WHOLE.issuperset(map(type, map(get, _COUNTS))):
        return False
    for key in _NUMBERS:
        number = get(key)
        if number is not None and (type(number) not in _REAL or not 0 <= number < _MOST):
            return False
    if type(get("extra")) not in _OBJECT or type(get("shared")) not in _TEXT:
        return False
    files = get("files") or []
    if type(files) is not list or not all(map(is_kept_file, files)):
        return False
    return id_ in known or reason in OF_A_SOURCE or not check_id(id_)


def lines(path: Path) -> Iterator[bytes]:
    """A ledger's lines; one of more than `MAX_LINE` bytes, which no run writes, comes in pieces."""
    try:
        with open_regular(path) as file:
            yield from _lines(file)
    except FileNotFoundError:
        return


def _lines(file: BinaryIO) -> Iterator[bytes]:
    return iter(partial(file.readline, MAX_LINE), b"")


def read_lines(path: Path, known: Container[str] = ()) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Whole lines of a ledger with their records; a torn or damaged line is left out.

    Args:
        path: the ledger.
        known: see `parse`.
    """
    for line in lines(path):
        if (record := parse(line, known)) is not None:
            yield line, record


def heads(path: Path) -> Iterator[tuple[str, bool]]:
    """Each line's id, and whether it says that the utterance is saved.

    Takes a third of the time of `read_lines` at most, since only the start of a line is parsed. A
    line that is damaged further on is included: its files, if there are any, are this program's.
    """
    with suppress(FileNotFoundError), open_regular(path) as file:
        while block := file.read(BLOCK):
            block += file.readline(MAX_LINE)  # up to the end of its last line
            found = _HEADS.findall(block)
            if len(found) == block.count(b"\n") and block.endswith(b"\n"):
                yield from [(_text(raw), status == b"saved") for raw, status in found]
            else:
                yield from filter(None, map(_head, _lines(io.BytesIO(block))))


def _head(line: bytes) -> tuple[str, bool] | None:
    """What `heads` says of a line of any form."""
    found = _HEAD.match(line)
    raw, status = found.groups() if found else (None, None)
    if raw is not None and status:
        return _text(raw), status == b"saved"
    if (record := parse(line)) is not None:
        return record["id"], record["status"] == SAVED
    return None if raw is None else (_text(raw), True)


def _text(raw: bytes) -> str:
    """The text of a JSON string; "", which is no id, if the string is damaged."""
    try:
        return str(json.loads(b'"%b"' % raw)) if b"\\" in raw else raw.decode()
    except ValueError:
        return ""


def read(directory: Path | str) -> Iterator[dict[str, Any]]:
    """Every record of a store, of all shards that ever wrote there."""
    for path in ledger_paths(Path(directory)):
        for _line, record in read_lines(path):
            yield record


def rewrite(path: Path, lines: Iterable[bytes]) -> None:
    """Replaces a ledger by these lines, or leaves it as it was."""
    replace_whole(path, lines)


class Ledger:
    """The ledger of one process, open for appending; safe to share among threads.

    Args:
        path: the file; never one behind a symbolic link.
        fsync: whether lines survive a power cut, those of the last `SYNC_EVERY_S` seconds aside.
    """

    def __init__(self, path: Path, *, fsync: bool = True) -> None:
        self.path, self.fsync = path, fsync
        self._lock = threading.Lock()
        self._descriptor = open_no_link(path, APPEND, 0o644)
        self._synced = time.monotonic()

    def append(self, record: Record) -> None:
        """Adds one line.

        Raises:
            OSError: it cannot be written; a part that was written is removed.
        """
        line = record.line()
        with self._lock:
            written = os.write(self._descriptor, line)
            if written < len(line):  # a full disk takes what still fits
                end = os.lseek(self._descriptor, 0, os.SEEK_END)
                os.ftruncate(self._descriptor, end - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            if self.fsync and time.monotonic() - self._synced >= SYNC_EVERY_S:
                os.fsync(self._descriptor)
                self._synced = time.monotonic()

    def close(self) -> None:
        """Closes the file; fsyncs what was appended, if the ledger was opened with `fsync`."""
        with self._lock:
            if self._descriptor >= 0:
                descriptor, self._descriptor = self._descriptor, -1
                try:
                    if self.fsync:
                        os.fsync(descriptor)
                finally:
                    os.close(descriptor)
