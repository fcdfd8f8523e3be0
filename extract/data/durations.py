"""Durations of a manifest's entries, from their list or their headers, cached in the store.

The plan of batches needs durations before anything is decoded. Reading a header takes a tenth of a
millisecond to a few milliseconds. The first run reads all headers, on all cores; later runs read
only those of new or changed recordings.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.audio.decode import probe_duration_s
from extract.audio.faults import AudioError, opened
from extract.data.plan import Indices
from extract.data.stamps import Stamps
from extract.files import read_whole, replace_cache
from extract.internal import InternalErrors, last_line
from extract.manifest.manifest import Manifest
from extract.text import printable
from extract.urls import redacted
from extract.write_errors import explained

CHUNK = 64  # headers a worker reads before it reports
UNKNOWN_S = 0.0  # the plan's duration of a recording whose header cannot be read

Scanned = list[tuple[int, float | str]]  # (index, seconds, or the message of an internal error)
Scan = Callable[["Headers", list[Indices]], Iterator[Scanned]]

MAX_INDEX = 1 << 30  # bytes, 12 for each recording; a larger file is damaged

_ROW = np.dtype([("key", "<u8"), ("duration_s", "<f4")])


class Headers(Sequence[tuple[int, float | str]]):
    """A map-style dataset whose items are durations, each read from its recording's header."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[int, float | str]:  # type: ignore[override]
        path = self.manifest[index].path
        where = printable(redacted(path))
        try:
            with opened(self.manifest.opener, path, where) as file:
                return index, probe_duration_s(file, where)
        except (AudioError, OSError, MemoryError):  # decoding fails too, and reports the reason
            return index, UNKNOWN_S
        except Exception as error:
            return index, f"{where}: {last_line(error)}"


def durations(
    manifest: Manifest,
    path: Path | None,
    scan: Scan,
    progress: Callable[[int], None],
    internal: InternalErrors | None = None,
    also: Path | None = None,
    stamps: Stamps | None = None,
) -> NDArray[np.float64]:
    """Seconds of each entry, (len(manifest),); 0 if its header cannot be read.

    A cut with a `duration_s` of its own needs no header.

    Args:
        manifest: the recordings.
        path: the cache file, or None for no cache. A row is valid for one path and stamp.
        scan: reads items of `Headers` by chunks of indices, in workers.
        progress: called with the number of headers of each chunk.
        internal: counts faults of this program. The next run reads those headers again.
        also: the cache of another store, whose rows are taken where `path` has none.
        stamps: of the recordings, if some are known already.
    """
    whole, cuts = np.full(len(manifest), np.nan), manifest.cuts
    own_s = whole if cuts is None else cuts.durations_s
    asked = np.isnan(own_s)
    keys = _keys(manifest, asked, stamps or Stamps(manifest))
    whole_s, found = _looked_up(keys, path)
    also_s, taken = _looked_up(keys, also)
    taken &= asked & ~found
    whole_s[taken] = also_s[taken]
    found = (found | taken) & asked
    missing = np.flatnonzero(asked & ~found)
    if len(missing):
        chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
        scanned = _noted(scan(Headers(manifest), chunks), progress, internal or InternalErrors())
        for index, duration_s in scanned:  # may end early: the next run reads the rest
            whole_s[index] = np.float32(duration_s)  # the cache's dtype, so both runs plan alike
            found[index] = True
    if path is not None and (len(missing) or taken.any()):
        _write(path, keys[found], whole_s[found])
    offsets_s = 0.0 if cuts is None else cuts.offsets_s
    return np.where(asked, np.maximum(whole_s - offsets_s, UNKNOWN_S), own_s)


def _keys(manifest: Manifest, asked: NDArray[np.bool_], stamps: Stamps) -> NDArray[np.uint64]:
    """The cache's key of each entry whose header is `asked` for; 0 of the others."""
    nothing = bytes(8)
    keys = bytearray()
    for index, (path, is_asked) in enumerate(zip(manifest.paths, asked.data, strict=True)):
        keys += _key(path, stamps.of_file(index, path)) if is_asked else nothing
    return np.frombuffer(keys, "<u8")


def _noted(
    chunks: Iterator[Scanned], progress: Callable[[int], None], internal: InternalErrors
) -> Iterator[tuple[int, float]]:
    """Yields the durations in `chunks`, until `internal` has counted too many faults."""
    internal.begin()
    for scanned in chunks:
        read = [(index, found) for index, found in scanned if not isinstance(found, str)]
        yield from read
        progress(len(scanned))
        internal.note([found for _, found in scanned if isinstance(found, str)], len(read))
        if internal.give_up:
            break


def _key(path: str, stamp: tuple[int, int]) -> bytes:
    """Eight bytes of a hash of a recording's path and stamp."""
    text = f"{path}\0{stamp[0]}\0{stamp[1]}".encode("utf8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=8).digest()


def _looked_up(
    keys: NDArray[np.uint64], path: Path | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cached seconds for each key, and whether the cache has the key."""
    known = np.empty(0, _ROW) if path is None else _read(path)
    if not len(known):
        return np.full(len(keys), UNKNOWN_S), np.zeros(len(keys), dtype=bool)
    at = np.searchsorted(known["key"], keys).clip(max=len(known) - 1)
    found = known["key"][at] == keys
    return np.where(found, known["duration_s"][at].astype(np.float64), UNKNOWN_S), found


def _read(path: Path) -> NDArray[np.void]:
    """The cache's rows; none if the file is missing or damaged."""
    try:
        table = _parse(read_whole(path, MAX_INDEX))
    except Exception:  # numpy raises many kinds for a damaged header
        return np.empty(0, _ROW)
    seconds = table["duration_s"]
    sound = np.isfinite(seconds).all() and (seconds >= 0).all()
    return table if sound and (table["key"][1:] >= table["key"][:-1]).all() else np.empty(0, _ROW)


def _parse(data: bytes) -> NDArray[np.void]:
    """The rows of an NPY file, version 1.0, of dtype `_ROW`; raises for anything else.

    `np.load` would read other formats too, and allocate whatever size a damaged header states.
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
