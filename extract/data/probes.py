"""What the headers of all recordings say: durations, rates, channels, codecs, what is unreadable.

A run needs durations alone (`extract.data.durations`); a preflight tells all of it. A file of which
there are many cuts is read once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from extract.audio.decode import probe
from extract.audio.faults import AudioError, opened
from extract.audio.headers import Header
from extract.data.dataset import identify
from extract.data.durations import CHUNK, UNKNOWN_S
from extract.data.plan import Indices
from extract.internal import INTERNAL_ERROR, InternalErrors, last_line
from extract.manifest.manifest import Manifest
from extract.text import printable
from extract.values import Failure

Probe = tuple[int, Header | Failure]
Scan = Callable[["Probes", list[Indices]], Iterator[list[Probe]]]


class Probes(Sequence[Probe]):
    """A map-style dataset whose items are recordings' headers, or failures."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Probe:  # type: ignore[override]
        path = self.manifest[index].path
        where = printable(path)
        recording = identify(self.manifest, index)
        try:
            with opened(self.manifest.opener, path, where) as file:
                return index, probe(file, where)
        except AudioError as error:
            return index, Failure(recording, error.reason, str(error))
        except MemoryError:
            return index, Failure(recording, "out_of_memory", f"{where}: no memory to open it")
        except OSError as error:
            return index, Failure(recording, "undecodable", f"{where}: {error}")
        except Exception as error:
            return index, Failure(recording, INTERNAL_ERROR, f"{where}: {last_line(error)}")


@dataclass(frozen=True)
class Probed:
    """What headers say of some recordings, and of cuts of them; arrays (num_entries,) by index."""

    planned_s: NDArray[np.float64]  # as the plan of batches has it: `durations`; 0 is unknown
    held_s: NDArray[np.float64]  # of a cut only what the file holds of it
    counted: NDArray[np.bool_]  # whether the header counts samples, or the duration may be a guess
    rates: Counter[int]  # entries of each sampling rate, Hz
    channels: Counter[int]  # entries of each number of channels
    codecs: Counter[str]  # entries of each codec
    failures: list[Failure]  # of entries whose header cannot be read; a cut behind the end is empty

    @property
    def is_read(self) -> NDArray[np.bool_]:
        """Whether an entry's header was read, and says that there is something to decode."""
        found: NDArray[np.bool_] = np.ones(len(self.planned_s), dtype=bool)
        found[[failure.recording.index for failure in self.failures]] = False
        return found


def read_headers(
    manifest: Manifest,
    scan: Scan,
    progress: Callable[[int], None],
    internal: InternalErrors | None = None,
) -> Probed:
    """Reads the headers of a manifest's recordings, each file once.

    Args:
        manifest: the recordings.
        scan: reads items of `Probes` by chunks of indices, in workers.
        progress: called with the number of headers of each chunk.
        internal: counts faults of this program.
    """
    files = _Files(manifest)
    chunks = [files.first[at : at + CHUNK] for at in range(0, len(files.first), CHUNK)]
    probed, counter = _nothing_yet(manifest), internal or InternalErrors()
    counter.begin()
    for items in scan(Probes(manifest), chunks) if chunks else ():
        for first, found in items:
            for index in files.entries(first):
                _note(probed, manifest, index, found)
        progress(len(items))
        faults = [one.detail for _, one in items if _is_fault(one)]
        counter.note(faults, len(items) - len(faults))
        if counter.give_up:
            break
    return probed


def _is_fault(item: Header | Failure) -> TypeGuard[Failure]:
    return isinstance(item, Failure) and item.reason == INTERNAL_ERROR


class _Files:
    """The files of a manifest: `first` is the index of each one's first entry."""

    def __init__(self, manifest: Manifest) -> None:
        self.first = np.arange(len(manifest))
        self._of: NDArray[np.int64] | None = None  # of each entry; None while each is a file
        if manifest.cuts is None:
            return
        numbers: dict[str, int] = {}
        of = (numbers.setdefault(path, len(numbers)) for path in manifest.paths)
        self._of = np.fromiter(of, np.int64, len(manifest))
        self.first = np.unique(self._of, return_index=True)[1]
        self._order = np.argsort(self._of, kind="stable")
        self._ends = np.cumsum(np.bincount(self._of, minlength=len(numbers)))

    def entries(self, first: int) -> Iterable[int]:
        """The indices of all entries of the file whose first entry is `first`."""
        if self._of is None:
            return (first,)
        number = int(self._of[first])
        start = int(self._ends[number - 1]) if number else 0
        return map(int, self._order[start : self._ends[number]])


def _nothing_yet(manifest: Manifest) -> Probed:
    num = len(manifest)
    planned_s = np.full(num, UNKNOWN_S)
    if manifest.cuts is not None:
        listed = manifest.cuts.durations_s
        planned_s = np.where(np.isnan(listed), UNKNOWN_S, listed)
    nothing = np.zeros(num), np.zeros(num, bool)
    return Probed(planned_s, *nothing, Counter(), Counter(), Counter(), [])


def _note(probed: Probed, manifest: Manifest, index: int, found: Header | Failure) -> None:
    """Adds what an entry's header says."""
    if isinstance(found, Failure):
        again = Failure(identify(manifest, index), found.reason, found.detail)
        probed.failures.append(found if found.recording.index == index else again)
        return
    entry = manifest[index]
    probed.counted[index] = found.counted
    probed.rates[found.rate_hz] += 1
    probed.channels[found.num_channels] += 1
    probed.codecs[found.codec] += 1
    whole_s = float(np.float32(found.duration_s))  # as the cache of durations rounds it
    left_s = max(whole_s - entry.offset_s, UNKNOWN_S)
    if entry.duration_s is None:
        probed.planned_s[index] = left_s
    probed.held_s[index] = min(left_s, probed.planned_s[index])
    if found.counted and entry.offset_s > 0 and left_s == UNKNOWN_S:
        detail = f"{printable(entry.path)}: the recording ends at {whole_s:g} s"
        probed.failures.append(Failure(identify(manifest, index), "empty", detail))
