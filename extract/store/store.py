"""A store: a folder, the layout of its files, and the ledgers' lines about these files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from extract.choices import find
from extract.store import ledger
from extract.store.alone import UnitsAlone
from extract.store.files import StoreFiles, WriteFailed
from extract.store.layout import Layout, LayoutOptions
from extract.write_errors import StoreUnusable

__all__ = ["Store", "StoreUnusable", "WriteFailed"]


class Store:
    """A folder of features and training audio. Safe to share among threads and processes.

    Args:
        directory: the folder.
        fsync: whether what is saved survives a power cut.
        options: the layout and its options; those of `gpt_sovits` where there are none.
        features: false keeps units alone, in the ledger, whatever the layout.

    Raises:
        ValueError: there is no such layout.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        fsync: bool = True,
        options: LayoutOptions | None = None,
        features: bool = True,
    ) -> None:
        options = options or LayoutOptions(str(directory))
        self.directory, self.fsync = Path(directory), fsync
        self.layout_name = options.layout
        self.files = StoreFiles(self.directory, fsync=fsync)
        module = find("layouts", self.layout_name)
        of_files: Layout = module.layout(options, self.directory, self.files)
        self.features = features
        self.layout: Layout = of_files if features else UnitsAlone(self.files, of_files)

    def create(self) -> None:
        """Makes the folders.

        Raises:
            StoreUnusable: they cannot be made or written to.
            ValueError: one of them is a symbolic link.
        """
        self.layout.create()

    def intact(self, record: Mapping[str, Any], *, checksum: bool = False) -> bool:
        """Whether the files of a saved record are there and whole.

        Sizes tell a missing or torn file; `checksum` reads them to tell a changed one.
        """
        try:
            kept = self.layout.kept(record)
            return kept is not None and self.layout.intact(kept, checksum=checksum)
        except (OSError, ValueError):
            return False

    def is_possible(self, record: Mapping[str, Any]) -> bool:
        """Whether a run can have written a line. A damaged id shows: the files are another id's."""
        return not record.get("files") or self.layout.kept(record) is not None

    def read_lines(self, path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Whole lines of a ledger with their records, without any that no run can have written."""
        return ((line, one) for line, one in ledger.read_lines(path) if self.is_possible(one))

    def explain(self, error: OSError, needed: int = 0) -> str:
        """Why a write into this store failed, for the user: `extract.write_errors.explain`."""
        return self.files.explain(error, needed)
