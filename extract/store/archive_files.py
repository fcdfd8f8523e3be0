"""The finished archives of a store: their names, what is in them, and copies that replace them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

from extract.files import sync_folder
from extract.store.blocks import Block, Format, Piece, copied, without
from extract.store.files import StoreFiles
from extract.store.layout import KeptFile
from extract.store.runs import Runs

MOST_BYTES = 1 << 60  # of any archive


class ArchiveFiles:
    """The archives of one folder.

    Args:
        files: of the store.
        folder: where they are, below the store.
        format: of the archives.
    """

    def __init__(self, files: StoreFiles, folder: str, format: Format) -> None:  # noqa: A002
        self.files, self.folder, self.format = files, folder, format
        self.runs = Runs(files)
        suffix = re.escape(format.suffix)
        self._name = re.compile(rf"{folder}/\d+-of-\d+-([0-9a-f]{{8}})-\d{{6,}}{suffix}")
        self._numbers = itertools.count()

    def is_name(self, name: str) -> bool:
        """Whether a run can have given an archive this name, below the store."""
        return self._name.fullmatch(name) is not None

    def is_place(self, file: KeptFile) -> bool:
        """Whether what a line says of a file can be a block of an archive that a run has made."""
        name, offset, size, crc = file
        return (
            self.is_name(name)
            and 0 <= offset < MOST_BYTES
            and 0 < size < MOST_BYTES
            and crc is not None
            and 0 <= crc < 1 << 32
        )

    def run_of(self, name: str) -> str:
        """The run that made an archive: eight hexadecimal digits of its name; "" if none did."""
        found = self._name.fullmatch(name)
        return found[1] if found else ""

    def new_name(self) -> str:
        """A name below the store that no archive ever had; its run is noted on the disk first.

        Raises:
            OSError: the note cannot be written.
        """
        self.runs.begin()
        run = f"{self.files.part}-{self.runs.mine}"
        return f"{self.folder}/{run}-{next(self._numbers):06}{self.format.suffix}"

    def names(self) -> list[str]:
        """The archives in the folder, of any program, below the store."""
        names = (f"{self.folder}/{name}" for name in self.files.names(self.folder))
        return sorted(name for name in names if name.endswith(self.format.suffix))

    def size_of(self, name: str) -> int:
        """Bytes of an archive; -1 where no regular file of the store has that name."""
        with suppress(OSError):
            return self.files.size(name)
        return -1

    def opened(self, name: str) -> BinaryIO:
        """An archive, open for reading.

        Raises:
            OSError: no regular file of the store is there.
        """
        return self.files.opened(name)

    def ends(self, name: str, end: int) -> bool:
        """Whether an archive's ending is at `end`."""
        if self.files.is_sealed(name):
            return self.size_of(name) == end + len(self.format.ending)
        with self.opened(name) as file:
            file.seek(max(0, end))
            return file.read() == self.format.ending

    def blocks(self, name: str) -> Iterator[Block]:
        """The blocks of an archive; none where it cannot be read."""
        with suppress(OSError), self.opened(name) as file:
            yield from self.format.scan(file)

    def places(self, ids: Iterable[str], but: set[str]) -> Iterator[tuple[str, list[Block]]]:
        """The archives that hold any of these ids, and where, but for some archives."""
        wanted = set(ids)
        for name in self.names():
            if name not in but:
                places = [block for block in self.blocks(name) if block.id in wanted]
                if places:
                    yield name, places

    def remove(self, name: str) -> None:
        """Removes an archive, if it exists.

        Raises:
            StoreUnusable: the file system refuses.
        """
        self.files.remove(name)

    def rewrite(self, name: str, target: str, pieces: Sequence[Piece], ending: bytes) -> None:
        """Writes the pieces of an archive, and an ending, into one that appears whole at `target`.

        Raises:
            OSError: it cannot be read or written; nothing has changed.
        """
        with self.files.temporary(target) as copy:
            with self.opened(name) as source:  # Windows replaces no file that is open
                for part in copied(source, pieces, self.format.blank):
                    copy.append([part])
            copy.append([ending])
            copy.sync()
            copy.publish()
        self.sync()

    def sync(self) -> None:
        """Brings the archives' names to the disk, if they are to survive a power cut."""
        if self.files.fsync:
            sync_folder(self.files.directory / self.folder)

    def blank_out(self, name: str, places: Iterable[Block]) -> None:
        """Replaces an archive by a copy in which some blocks are blank; all others stay.

        Raises:
            OSError: as `rewrite`.
        """
        self.rewrite(name, name, without(places, self.size_of(name)), b"")
