"""How long each recording is, from its header, remembered beside the store.

The plan of batches needs durations before anything is decoded. Reading a header takes a tenth of a
millisecond to a few, so the first run reads them on all cores and a second run reads none.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.audio.prepare import AudioError, probe_duration_s
from extract.data.dataset import size_and_time
from extract.data.plan import Indices
from extract.files import explained, read_whole, replace_cache
from extract.internal import InternalErrors, last_line
from extract.manifest.manifest import Manifest

CHUNK = 64  # headers a worker reads before it reports
UNKNOWN_S = 0.0  # what the plan takes for a recording whose header says nothing

Scanned = list[tuple[int, float | str]]  # (index, seconds), or a fault of this program in words
Scan = Callable[["Durations", list[Indices]], Iterator[Scanned]]

MAX_INDEX = 1 << 30  # bytes: of ninety million recordings

_ROW = np.dtype([("key", "<u8"), ("duration_s", "<f4")])


class Durations(Sequence[tuple[int, float | str]]):
    """The headers of a manifest, read one by one; a map-style dataset for the loader's workers."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[int, float | str]:  # type: ignore[override]
        path = self.manifest[index].path
        try:
            return index, probe_duration_s(path)
        except (AudioError, OSError, MemoryError):  # decoding meets it again and says what is wrong
            return index, UNKNOWN_S
        except Exception as error:
            return index, f"{path}: {last_line(error)}"


def durations(
    manifest: Manifest,
    path: Path,
    scan: Scan,
    progress: Callable[[int], None],
    internal: InternalErrors | None = None,
) -> NDArray[np.float64]:
    """Seconds of each recording, (len(manifest),); 0 where the header does not tell.

    Args:
        manifest: the recordings.
        path: the index's file. An entry holds for one path, size and time.
        scan: runs `Durations` over chunks of indices, in workers.
        progress: told how many headers were read.
        internal: told of faults of this program. Such a header is read again by the next run.
    """
    internal = internal or InternalErrors()
    keys = np.frombuffer(b"".join(map(_key, manifest.paths)), "<u8")
    known = _read(path)
    at = np.searchsorted(known["key"], keys).clip(max=max(0, len(known) - 1))
    found = known["key"][at] == keys if len(known) else np.zeros(len(keys), dtype=bool)
    seconds = np.where(found, known["duration_s"][at] if len(known) else 0.0, UNKNOWN_S)
    seconds = seconds.astype(np.float64)
    missing = np.flatnonzero(~found)
    if len(missing):
        internal.begin()
        chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
        known_now = found.copy()  # an interrupted scan leaves the rest for the next one
        for scanned in scan(Durations(manifest), chunks):
            read = [(index, found) for index, found in scanned if not isinstance(found, str)]
            for index, duration_s in read:
                seconds[index] = np.float32(duration_s)  # as the index will give it next time
                known_now[index] = True
            progress(len(scanned))
            internal.note([found for _, found in scanned if isinstance(found, str)], len(read))
            if internal.give_up:
                break
        _write(path, keys[known_now], seconds[known_now])
    return seconds


def _key(path: str) -> bytes:
    """Eight bytes that stand for a recording's path, size and time."""
    text = "\0".join((path, *map(str, size_and_time(path))))
    return hashlib.blake2b(text.encode("utf8", "surrogateescape"), digest_size=8).digest()


def _read(path: Path) -> NDArray[np.void]:
    """The index; an empty one where the file is missing or damaged, since it is only a cache."""
    try:
        table = _parse(read_whole(path, MAX_INDEX))
    except Exception:  # numpy's words for a damaged header are many
        return np.empty(0, _ROW)
    seconds = table["duration_s"]
    sound = np.isfinite(seconds).all() and (seconds >= 0).all()
    return table if sound and (table["key"][1:] >= table["key"][:-1]).all() else np.empty(0, _ROW)


def _parse(data: bytes) -> NDArray[np.void]:
    """A file of numpy's format, version 1.0, that holds rows of ours and nothing else.

    Not by `np.load`: it takes other formats too, and as much memory as a damaged header asks for.
    """
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version")
    (num_rows,), _by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    table = np.frombuffer(data, _ROW, offset=file.tell())
    if dtype != _ROW or len(table) != num_rows:
        raise ValueError("another table")
    return table


def _write(path: Path, keys: NDArray[np.uint64], seconds: NDArray[np.float64]) -> None:
    table = np.empty(len(keys), _ROW)
    table["key"], table["duration_s"] = keys, seconds
    table.sort(order="key")
    file = io.BytesIO()
    np.lib.format.write_array(file, table, version=(1, 0))
    with explained(path.parent):
        replace_cache(path, file.getvalue())
