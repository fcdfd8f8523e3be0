"""Layouts of archives: files of bounded size that hold many utterances, each a block of bytes.

    <folder>/<shard>-<run>-<number><suffix>   `run` is drawn by each process, so that no name is
                                              given twice

An archive grows under a temporary name and gets its own when it is full, or when the run ends: then
its utterances get their lines, which name the archive and the block. A `Format` says what is in a
block; all else is here.

`compaction` takes blocks out of archives at the start of a run: those whose lines were dropped.
After that `put` and `discard` meet an utterance in a finished archive only where another program
put it there, or this process. They replace the archive by a copy in which that block is blank: all
others stay where their lines say.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from extract.files import make_folder
from extract.manifest.folders import PRIVATE
from extract.store.archive_files import ArchiveFiles
from extract.store.blocks import Format
from extract.store.compaction import Compaction
from extract.store.files import StoreFiles, crc32, num_bytes
from extract.store.layout import Kept, Layout, Moved, Records
from extract.store.progress import OpenArchive
from extract.store.seen import Seen
from extract.text import printable
from extract.write_errors import StoreUnusable, explained

if TYPE_CHECKING:
    from torch import Tensor

    from extract.values import Encoded

MB = 1_000_000  # bytes


class Archives(Layout):
    """The files of a layout of archives, in its one folder.

    Args:
        format: of the archives.
        files: of the store.
        most_mb: megabytes of an archive; one with a single utterance may be larger.
    """

    holds_many = True

    def __init__(self, format: Format, files: StoreFiles, most_mb: float) -> None:  # noqa: A002
        [folder] = self.folders
        self._format, self._files, self._most_bytes = format, files, int(most_mb * MB)
        self._archives = ArchiveFiles(files, folder, format)
        self._lock = threading.Lock()  # of what follows
        self._open: OpenArchive | None = None
        self._accounted = set[str]()  # archives that hold what lines name, and nothing else
        self._seen: Seen | None = None  # ids in all other finished archives
        self._replacing = threading.Lock()

    def write_index(self, records: Records) -> None:
        """Writes what lists the store's utterances, whole, where a layout has such files.

        Args:
            records: the lines of all ledgers.

        Raises:
            OSError: it cannot be written.
        """

    def create(self) -> None:
        """Makes the folder: `Layout.create`."""
        self._files.make_folders(self.folders)

    def put(self, item: Encoded) -> Iterable[Kept]:
        """Adds one utterance; returns those of an archive that is full: `Layout.put`."""
        id_, parts = item.recording.id, self._format.block(item)
        size, crc = num_bytes(parts), crc32(parts)
        with self._lock:
            full = self._taken_if_full(size)
            try:
                if self._open is None:
                    self._open = OpenArchive(self._archives.new_name(), self._files)
                self._open.add(id_, parts, crc, self._format.blank)
            except OSError as error:
                if full is not None:
                    full.abandon()
                raise StoreUnusable(self._files.explain(error, size)) from None
        return self._finished(full)

    def close(self, *, abandon: bool = False) -> Iterable[Kept]:
        """Finishes the archive in progress: `Layout.close`."""
        with self._lock:
            last, self._open = self._open, None
        if last is not None and abandon:
            last.abandon()
            return ()
        return self._finished(last)

    def discard(self, id: str) -> None:  # noqa: A002 - the ledger's own word
        """Takes an utterance out of its archive: `Layout.discard`."""
        with self._lock, explained(self._files.directory):
            if self._open is not None:
                self._open.remove(id, self._format.blank)
        self._take_away([id])

    def discard_all(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Removes archives of which nothing is left: `Layout.discard_all`.

        `settle` does the others, which it knows by the notes of their runs.
        """
        dropped: dict[str, int] = {}
        for record in records:
            kept = Kept.of(record)
            for file in kept.files if kept else ():
                if self._archives.is_place(file):
                    name, _offset, size, _crc = file
                    dropped[name] = dropped.get(name, len(self._format.ending)) + size
        self._archives.runs.note(map(self._archives.run_of, dropped))
        for name, size in dropped.items():
            if self._archives.size_of(name) == size:
                self._archives.remove(name)

    def settle(self, mine: Records, others: Records, *, alone: bool) -> Iterator[Moved]:
        """Rewrites archives that hold other blocks than lines name: `Layout.settle`."""
        index = self.write_index
        compaction = Compaction(self._archives, mine, others, alone=alone, write_index=index)
        yield from compaction.run()
        with self._lock:
            self._accounted, self._seen = compaction.accounted, None

    def finish(self, records: Records) -> None:
        """Writes the index; every archive of this run has its lines by now: `Layout.finish`."""
        self.write_index(records)
        self._archives.runs.end()

    def kept(self, record: Mapping[str, Any]) -> Kept | None:
        """The block that a line names; None if another utterance's begins there, or none."""
        kept = Kept.of(record)
        if kept is None or len(kept.files) != 1 or not self._archives.is_place(kept.files[0]):
            return None
        name, offset, _size, _crc = kept.files[0]
        start = self._format.start(kept.id)
        with suppress(OSError):
            found = self._files.peek((name, offset, len(start), None))
            return kept if found == start else None
        return kept  # `intact` says if the archive is not there, and `read` what begins there

    def intact(self, kept: Kept, *, checksum: bool) -> bool:
        """Whether its archive reaches so far: `Layout.intact`."""
        return self._files.is_whole(kept.files[0], checksum=checksum, part=True)

    def read(self, kept: Kept) -> Tensor:
        """The features: `Layout.read`."""
        block = self.block_of(kept)
        try:
            return self._format.features(block)
        except ValueError as error:
            raise ValueError(f"{self.where(kept)} is damaged: {error}") from error

    def block_of(self, kept: Kept) -> bytes:
        """An utterance's block, read by its offset.

        Raises:
            OSError: its archive is not there.
            ValueError: another utterance's block begins there, or none.
        """
        block = self._files.read(kept.files[0])
        if not block.startswith(self._format.start(kept.id)):
            raise ValueError(f"{self.where(kept)} is not where its line says")
        return block

    def where(self, kept: Kept) -> str:
        """The archive and the id, for a message."""
        return printable(f"{self._files.path(kept.files[0][0])}: {kept.id}")

    def ids_of_files(self) -> Iterator[str]:
        """The ids in all archives but those that `settle` found to be just what lines name."""
        for name in self._archives.names():
            if name not in self._accounted:
                blocks = self._archives.blocks(name)
                yield from (block.id for block in blocks if block.id is not None)

    def has_files(self, id: str) -> bool:  # noqa: A002
        """Whether one of those archives holds it."""
        return id in self._known() and any(self._archives.places([id], self._accounted))

    def sweep(self) -> int:
        """Removes temporary files: `Layout.sweep`."""
        return self._files.sweep(self.folders)

    def _taken_if_full(self, size: int) -> OpenArchive | None:
        """The archive in progress if it has no room for so many bytes: another one is begun then.

        The caller holds the lock.
        """
        taken = self._open
        if taken is None or not taken.size:
            return None
        if taken.size + size + len(self._format.ending) <= self._most_bytes:
            return None
        self._open = None
        return taken

    def _finished(self, archive: OpenArchive | None) -> Iterable[Kept]:
        """Gives an archive its name, once its utterances are in no other; returns them."""
        if archive is None:
            return ()
        try:
            if archive.kept:
                self._take_away(archive.kept)
                with explained(self._files.directory):
                    archive.publish(self._format.ending)
                    self._archives.sync()
                self._known().add(archive.kept)
        finally:
            archive.abandon()  # no effect once it is published
        return list(archive.kept.values())

    def _known(self) -> Seen:
        """The ids in finished archives that `settle` did not account for."""
        with self._lock:
            if self._seen is None:
                self._seen = Seen()
                self._seen.add(self.ids_of_files())
            return self._seen

    def _take_away(self, ids: Iterable[str]) -> None:
        """Replaces archives that hold these ids by copies in which their blocks are blank."""
        known = self._known()
        twice = [id_ for id_ in ids if id_ in known]
        if not twice:
            return
        from extract.store.lock import starting  # `--help` reads layouts without it

        directory = self._files.directory
        with explained(directory), self._replacing:
            make_folder(directory / PRIVATE)
            with starting(directory):
                for name, places in self._archives.places(twice, self._accounted):
                    self._archives.blank_out(name, places)
