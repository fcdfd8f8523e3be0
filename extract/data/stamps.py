"""Stamps of a manifest's recordings, each asked for once while a run begins."""

from __future__ import annotations

from array import array

from extract.data.dataset import stamp_of_cut
from extract.manifest.manifest import Manifest

_NOT_ASKED = -2  # no opener's size: `MISSING` is -1


class Stamps:
    """The stamps of a manifest's recordings by index, 16 bytes each.

    Resuming compares each recording's stamp with the ledger's, then the cache of durations looks it
    up. Asked for twice, a million stamps cost two million calls of the system. A stamp that is kept
    is older than what is read afterwards, never newer: a later run sees that the recording changed.

    Args:
        manifest: the recordings.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._opener, self._cuts = manifest.opener, manifest.cuts
        self._sizes = array("q", [_NOT_ASKED]) * len(manifest)
        self._times = array("q", bytes(8 * len(manifest)))

    def of_file(self, index: int, path: str) -> tuple[int, int]:
        """What the opener says of an entry's file, which is at `path`."""
        if (size := self._sizes[index]) != _NOT_ASKED:
            return size, self._times[index]
        stamp = self._opener.stamp(path)
        try:
            self._sizes[index], self._times[index] = stamp
        except OverflowError:  # no 64 bits, of an opener from outside: it is asked again
            self._sizes[index] = _NOT_ASKED
        return stamp

    def of_entry(self, index: int, path: str) -> tuple[int, int]:
        """The stamp in an entry's line of the ledger: `extract.data.dataset.stamp`."""
        stamp = self.of_file(index, path)
        return stamp if self._cuts is None else stamp_of_cut(stamp, *self._cuts[index])
