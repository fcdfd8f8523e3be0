"""The layout of a store that keeps units alone: no files, only the lines of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from extract.store import units
from extract.store.files import StoreFiles
from extract.store.layout import Kept, Layout

if TYPE_CHECKING:
    from torch import Tensor

    from extract.store.reused import Reused
    from extract.values import Encoded

BYTES_A_UNIT = 5  # `1023 `


class UnitsAlone(Layout):
    """Writes no files: an utterance is kept by its line, which holds the units.

    `of_files` is the layout of the store's files, if an earlier run kept features there, so that
    `overwrite` removes them.
    """

    suffixes = ("",)
    folders = ()
    keeps_audio = False

    def __init__(self, files: StoreFiles, of_files: Layout) -> None:
        self._files, self._of_files = files, of_files
        self.adds = of_files.adds

    def create(self) -> None:
        """Makes the store's folder, and tries whether a file can be made there."""
        self._files.make_folders((".",))

    def put(self, item: Encoded) -> Iterable[Kept]:
        """Nothing to write."""
        return [Kept(item.recording.id, ())]

    def take(self, item: Reused) -> Iterable[Kept]:
        """Nothing to write: its line has the other store's units."""
        return [Kept(item.recording.id, ())]

    def close(self, *, abandon: bool = False) -> Iterable[Kept]:
        """Nothing: `put` holds nothing back."""
        return ()

    def discard(self, id: str) -> None:  # noqa: A002
        """Removes files of an earlier run: `Layout.discard`."""
        self._of_files.discard(id)

    def discard_all(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Removes files of an earlier run: `Layout.discard_all`."""
        self._of_files.discard_all(records)

    def kept(self, record: Mapping[str, Any]) -> Kept | None:
        """No files, if the line has units; those of an earlier run, if it names them."""
        if record.get("files"):
            return self._of_files.kept(record)
        return None if units.of_record(record) is None else Kept(record["id"], ())

    def intact(self, kept: Kept, *, checksum: bool) -> bool:
        """Whether the line names no files: `kept` has looked at its units."""
        return not kept.files

    def read(self, kept: Kept) -> Tensor:
        """Raises OSError: there are no features here."""
        raise OSError(f"{kept.id}: this store keeps units alone (features=false)")

    def ids_of_files(self) -> Iterator[str]:
        """None."""
        return iter(())

    def has_files(self, id: str) -> bool:  # noqa: A002
        """False."""
        return False

    def sweep(self) -> int:
        """Nothing to remove."""
        return 0

    def bytes_per_second(self, width: int, itemsize: int, frame_rate: float) -> float:
        """Of the ledger, at a unit a frame, the most that there are."""
        return BYTES_A_UNIT * frame_rate
