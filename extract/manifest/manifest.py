"""The manifest: which recordings there are, and the id that names each one's files.

A source's recordings come as entries, one at a time: `Manifest.from_entries`. What a source cannot
turn into an `Entry` is a `Failure`, never a gap. Nothing here opens a recording.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np

from extract.manifest.clashes import Clash, clash_message, find_clashes
from extract.manifest.collector import Collector
from extract.manifest.cuts import Cuts
from extract.manifest.ids import SUFFIXES
from extract.manifest.strings import PackedStrings
from extract.opener import LocalFiles, Opener
from extract.text import count, printable
from extract.values import Entry, Failure

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Manifest(Sequence[Entry]):
    """The entries of one source in the source's order; ids are safe and no two write one file.

    A million entries are four flat arrays, six where some are cuts. Make one with a reader or
    `from_entries`: they check.
    """

    ids: PackedStrings
    paths: PackedStrings
    source: str = ""
    """The one name of what was read, absolute path of a folder or list; "" where there is none."""
    failures: tuple[Failure, ...] = field(default=(), repr=False)
    cuts: Cuts | None = field(default=None, repr=False)
    """Which part of its file each entry is; None where all are whole."""
    opener: Opener = field(default=LocalFiles(), repr=False)
    """Opens the paths."""

    @classmethod
    def from_entries(
        cls,
        entries: Iterable[Entry | Failure],
        source: str = "",
        suffixes: Sequence[str] = SUFFIXES,
        folds_case: bool = False,
        duplicates_fail: bool = False,
    ) -> Manifest:
        """Collect `entries`, one at a time; one listed twice is kept once, a bad id is a failure.

        Args:
            entries: of a source, with a failure for what is none.
            source: the one name of what is read.
            suffixes: what the store's layout adds to an id.
            folds_case: whether `A` and `a` are one file in the store.
            duplicates_fail: of two recordings that would write the same file, the later one is a
                failure, `duplicate_name`.

        Raises:
            ValueError: two recordings would write the same file, and none is to fail for that;
                names both paths of each pair.
        """
        collector = Collector(tuple(suffixes))
        collector.extend(entries)
        ids, paths, cuts = collector.finish()
        whole = cls(ids, paths, source, tuple(collector.failures), cuts)
        return whole._checked(suffixes, folds_case, duplicates_fail)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Entry | Manifest:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        id_, path = self.ids[index], self.paths[index]
        return Entry(id_, path) if self.cuts is None else Entry(id_, path, *self.cuts[index])

    def __iter__(self) -> Iterator[Entry]:
        if self.cuts is None:
            return map(Entry, self.ids, self.paths)
        return (
            Entry(id_, path, *cut)
            for id_, path, cut in zip(self.ids, self.paths, self.cuts, strict=True)
        )

    def subset(self, indices: Iterable[int]) -> Manifest:
        """The entries at `indices`, in that order. The failures stay with the whole manifest."""
        chosen = np.fromiter(indices, np.int64)
        cuts = None if self.cuts is None else self.cuts.take(chosen)
        return replace(self._map(lambda strings: strings.take(chosen)), failures=(), cuts=cuts)

    def share(self) -> Manifest:
        """The same in shared memory, for workers that are not forked: `PackedStrings.share`."""
        cuts = None if self.cuts is None else self.cuts.share()
        return replace(self._map(PackedStrings.share), cuts=cuts)

    def _map(self, change: Callable[[PackedStrings], PackedStrings]) -> Manifest:
        ids = change(self.ids)
        if self.paths.shares_arrays(self.ids):
            return replace(self, ids=ids, paths=ids.with_prefix(self.paths.prefix))
        return replace(self, ids=ids, paths=change(self.paths))

    def _checked(
        self, suffixes: Sequence[str], folds_case: bool, duplicates_fail: bool
    ) -> Manifest:
        """Itself without repeats; ValueError, or failures, if two recordings share a file."""
        repeats, clashes = find_clashes(self.ids, self.paths, self.cuts, suffixes, folds_case)
        shown = printable(self.source)
        if clashes and not duplicates_fail:
            raise ValueError(clash_message(shown or "manifest", clashes))
        if not repeats and not clashes:
            return self
        if repeats:
            log.info("%s: %s listed again, kept once", shown, count(len(repeats), "entry"))
        kept = np.delete(np.arange(len(self)), [*repeats, *(clash.later for clash in clashes)])
        failures = (*self.failures, *map(_duplicate, clashes))
        return replace(self.subset(kept), failures=failures)


def _duplicate(clash: Clash) -> Failure:
    """The failure of the later one of two, which its path names: its id may be the other's."""
    first, later = map(printable, clash.paths)
    detail = f"{later}: would write the same file as {first}, which comes first"
    return Failure.of_source(later, clash.paths[1], "duplicate_name", detail)
