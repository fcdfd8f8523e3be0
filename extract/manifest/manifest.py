"""The manifest: which recordings there are, and the id that names each one's files.

A source's recordings come as entries, one at a time: `Manifest.from_entries`. What a source cannot
turn into an `Entry` is a `Failure`, never a gap. Nothing here opens a recording.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import overload

import numpy as np

from extract.manifest.clashes import Clash, clash_message, find_clashes
from extract.manifest.collector import Collector
from extract.manifest.cuts import Cuts
from extract.manifest.ids import SUFFIXES
from extract.manifest.strings import PackedStrings
from extract.opener import LocalFiles, Opener
from extract.remote.opener import AnyFiles
from extract.remote.places import require_packages
from extract.text import count, printable
from extract.values import Entry, Failure

log = logging.getLogger(__name__)

_WHOLE = (0.0, None)  # offset and duration of an entry that is no cut


@dataclass(frozen=True, eq=False)
class Manifest(Sequence[Entry]):
    """The entries of one source in the source's order; ids are safe and no two write one file.

    A million entries are four flat arrays; two more where some are cuts, and two where the list
    says more of some. Make one with a reader or `from_entries`: they check.
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
    extras: PackedStrings | None = field(default=None, repr=False)
    """Each entry's `extra`, "" where it has none; None where none has."""

    @classmethod
    def from_entries(
        cls,
        entries: Iterable[Entry | Failure],
        source: str = "",
        suffixes: Sequence[str] = SUFFIXES,
        folds_case: bool = False,
        duplicates_fail: bool = False,
        clashes: list[Clash] | None = None,
    ) -> Manifest:
        """Collect `entries`, one at a time; one listed twice is kept once, a bad id is a failure.

        Args:
            entries: of a source, with a failure for what is none.
            source: the one name of what is read.
            suffixes: what the store's layout adds to an id.
            folds_case: whether `A` and `a` are one file in the store.
            duplicates_fail: of two recordings that would write the same file, the later one is a
                failure, `duplicate_name`.
            clashes: takes the pairs that would write the same file, instead of an error; the
                manifest is then without the later one of each pair.

        Raises:
            ValueError: two recordings would write the same file, and none is to fail for that;
                names both paths of each pair. Or a URL needs a package that is not installed.
        """
        collector = Collector(tuple(suffixes))
        collector.extend(entries)
        ids, paths, cuts, extras = collector.finish()
        opener = _opener_of(collector.urls.values())
        failures = tuple(collector.failures)
        whole = cls(ids, paths, source, failures, cuts, opener, extras)
        return whole._checked(suffixes, folds_case, duplicates_fail, clashes)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Entry | Manifest:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        cut = _WHOLE if self.cuts is None else self.cuts[index]
        extra = None if self.extras is None else self.extras[index] or None
        return Entry(self.ids[index], self.paths[index], *cut, extra)

    def __iter__(self) -> Iterator[Entry]:
        if self.cuts is None and self.extras is None:
            return map(Entry, self.ids, self.paths)
        cuts = repeat(_WHOLE, len(self)) if self.cuts is None else self.cuts
        extras = repeat("", len(self)) if self.extras is None else self.extras
        rows = zip(self.ids, self.paths, cuts, extras, strict=True)
        return (Entry(id_, path, *cut, extra or None) for id_, path, cut, extra in rows)

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
        """The same with `change` made of ids, paths and extras."""
        ids = change(self.ids)
        shared = self.paths.shares_arrays(self.ids)
        paths = ids.with_prefix(self.paths.prefix) if shared else change(self.paths)
        extras = None if self.extras is None else change(self.extras)
        return replace(self, ids=ids, paths=paths, extras=extras)

    def _checked(
        self,
        suffixes: Sequence[str],
        folds_case: bool,
        duplicates_fail: bool,
        taken: list[Clash] | None,
    ) -> Manifest:
        """Itself without repeats; ValueError, or failures, if two recordings share a file."""
        repeats, clashes = find_clashes(self.ids, self.paths, self.cuts, suffixes, folds_case)
        shown = printable(self.source)
        if clashes and taken is None and not duplicates_fail:
            raise ValueError(clash_message(shown or "manifest", clashes))
        if not repeats and not clashes:
            return self
        if repeats:
            log.info("%s: %s listed again, kept once", shown, count(len(repeats), "entry"))
        kept = np.delete(np.arange(len(self)), [*repeats, *(clash.later for clash in clashes)])
        if taken is not None and not duplicates_fail:
            taken += clashes
            clashes = []
        failures = (*self.failures, *map(_duplicate, clashes))
        return replace(self.subset(kept), failures=failures)


def _duplicate(clash: Clash) -> Failure:
    """The failure of the later one of two, which its path names: its id may be the other's."""
    first, later = map(printable, clash.paths)
    detail = f"{later}: would write the same file as {first}, which comes first"
    return Failure.of_source(later, clash.paths[1], "duplicate_name", detail)


def _opener_of(urls: Collection[str]) -> Opener:
    """What opens the paths of a manifest in which `urls` stand for all URLs."""
    if not urls:
        return LocalFiles()
    require_packages(urls)
    return AnyFiles()
