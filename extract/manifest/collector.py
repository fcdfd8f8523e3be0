"""Entries, one at a time, become the flat arrays of a manifest."""

from __future__ import annotations

from collections.abc import Iterable

from extract.manifest.cuts import CutCollector, Cuts, check_cut, said
from extract.manifest.ids import check_id
from extract.manifest.strings import PackedStrings, Packer
from extract.text import printable, shortened
from extract.values import Entry, Failure


class Collector:
    """Collects the entries of a source, and a failure for each that cannot be one.

    While each path is its id behind one prefix, as in a folder, the same bytes serve both.

    Args:
        suffixes: what the store's layout adds to an id.
    """

    def __init__(self, suffixes: tuple[str, ...]) -> None:
        self.failures: list[Failure] = []
        self._suffixes = suffixes
        self._num = 0
        self._ids = Packer()
        self._prefix: str | None = None
        self._paths: Packer | None = None  # None while the ids and the prefix say them
        self._cuts = CutCollector()

    def extend(self, entries: Iterable[Entry | Failure]) -> None:
        """Takes all of `entries`."""
        for entry in entries:
            if isinstance(entry, Failure):
                self.failures.append(entry)
            elif failure := self._failure(entry):
                self.failures.append(failure)
            else:
                self._add(entry)

    def finish(self) -> tuple[PackedStrings, PackedStrings, Cuts | None]:
        """Ids, paths and cuts; cuts are None where no entry is one. Nothing more can be taken."""
        ids = self._ids.finish()
        paths = ids.with_prefix(self._prefix or "") if self._paths is None else self._paths.finish()
        return ids, paths, self._cuts.finish()

    def _failure(self, entry: Entry) -> Failure | None:
        if problem := check_id(entry.id, self._suffixes):
            detail = f"'{shortened(entry.id)}' cannot name a file: {problem}"
            return Failure.of_source(printable(entry.id), entry.path, "bad_id", detail)
        if problem := check_cut(entry.offset_s, entry.duration_s):
            cut = said(entry.offset_s, entry.duration_s)  # the id alone may be another entry's
            return Failure.of_source(
                f"{printable(entry.id)}:{cut}", entry.path, "bad_line", problem
            )
        return None

    def _add(self, entry: Entry) -> None:
        if self._paths is None and not self._is_behind_the_prefix(entry):
            self._paths = self._ids.behind(self._prefix or "")
        if self._paths is not None:
            self._paths.append(entry.path)
        self._ids.append(entry.id)
        self._cuts.append(entry.offset_s, entry.duration_s, self._num)
        self._num += 1

    def _is_behind_the_prefix(self, entry: Entry) -> bool:
        if self._prefix is None and entry.path.endswith(entry.id):
            self._prefix = entry.path.removesuffix(entry.id)
        return self._prefix is not None and entry.path == self._prefix + entry.id
