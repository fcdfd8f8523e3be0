"""Collects entries, one at a time, into the flat arrays of a manifest."""

from __future__ import annotations

from collections.abc import Iterable

from extract.manifest.cuts import CutCollector, Cuts, check_cut, describe_cut
from extract.manifest.extra import check_extra
from extract.manifest.ids import check_id, max_part_bytes
from extract.manifest.strings import PackedStrings, Packer
from extract.text import printable, shortened
from extract.urls import is_url, schemes
from extract.values import Entry, Failure, Reason


class Collector:
    """Collects the entries of a source, and a failure for each that cannot be one.

    As long as every path is one prefix and its id, as in a folder, ids and paths share their bytes.

    Args:
        suffixes: what the store's layout adds to an id.
    """

    def __init__(self, suffixes: tuple[str, ...]) -> None:
        self.failures: list[Failure] = []
        self.urls: dict[tuple[str, ...], str] = {}  # one for each chain of protocols
        self._part_bytes = max_part_bytes(suffixes)
        self._ids = Packer()
        self._prefix = ""
        self._paths: Packer | None = None  # None while every path is the prefix and its id
        self._cuts: CutCollector | None = None  # None while no entry is one
        self._extras: Packer | None = None  # None while no entry has one

    def extend(self, entries: Iterable[Entry | Failure]) -> None:
        """Takes all of `entries`.

        Raises:
            ValueError: an `extra` that is no JSON object: a fault of the source.
        """
        part_bytes = self._part_bytes
        for entry in entries:
            if isinstance(entry, Failure):
                self.failures.append(entry)
            elif problem := check_id(entry.id, part_bytes):
                detail = f"'{shortened(entry.id)}' cannot name a file: {problem}"
                self._fail(printable(entry.id), entry, "bad_id", detail)
            elif entry.offset_s == 0 and entry.duration_s is None:
                self._add(entry)
            elif problem := check_cut(entry.offset_s, entry.duration_s):
                # With the cut, since the id alone may be another entry's.
                cut = describe_cut(entry.offset_s, entry.duration_s)
                self._fail(f"{printable(entry.id)}:{cut}", entry, "bad_line", problem)
            else:
                self._cuts = self._cuts or CutCollector(len(self._ids))
                self._add(entry)

    def finish(self) -> tuple[PackedStrings, PackedStrings, Cuts | None, PackedStrings | None]:
        """Ids, paths, cuts and extras; the last two are None where no entry has one.

        Nothing more can be taken.
        """
        ids = self._ids.finish()
        paths = ids.with_prefix(self._prefix) if self._paths is None else self._paths.finish()
        cuts = None if self._cuts is None else self._cuts.finish()
        return ids, paths, cuts, None if self._extras is None else self._extras.finish()

    def _fail(self, id: str, entry: Entry, reason: Reason, detail: str) -> None:  # noqa: A002
        self.failures.append(Failure.of_source(id, entry.path, reason, detail))

    def _add(self, entry: Entry) -> None:
        if self._paths is None and entry.path != self._prefix + entry.id:
            self._set_apart(entry)
        if is_url(entry.path):
            self.urls.setdefault(schemes(entry.path), entry.path)
        if self._paths is not None:
            self._paths.append(entry.path)
        if self._cuts is not None:
            self._cuts.append(entry.offset_s, entry.duration_s)
        if entry.extra is not None or self._extras is not None:
            self._add_extra(entry)
        self._ids.append(entry.id)

    def _add_extra(self, entry: Entry) -> None:
        if entry.extra is not None and (problem := check_extra(entry.extra)):
            raise ValueError(f"{printable(entry.id)}: {problem}")
        self._extras = self._extras or Packer(num_empty=len(self._ids))
        self._extras.append(entry.extra or "")

    def _set_apart(self, entry: Entry) -> None:
        """Stores paths apart from ids from this entry on; the first entry may set the prefix."""
        if not len(self._ids) and entry.path.endswith(entry.id):
            self._prefix = entry.path.removesuffix(entry.id)
        else:
            self._paths = self._ids.behind(self._prefix)
