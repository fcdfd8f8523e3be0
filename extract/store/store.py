"""A store: a folder, the layout of its files, and the ledgers' lines about these files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from extract.choices import find
from extract.store import ledger
from extract.store.alone import UnitsAlone
from extract.store.files import StoreFiles, WriteFailed
from extract.store.layout import DType, Layout, LayoutOptions, TrainingAudio
from extract.store.lease import Fence
from extract.store.mounts import storage_of
from extract.store.place import Here, Place
from extract.store.subfolders import NEEDED, is_subfolders
from extract.text import printable
from extract.urls import redacted
from extract.write_errors import StoreUnusable

__all__ = ["Store", "StoreUnusable", "WriteFailed"]


class Store:
    """A folder of features and training audio. Safe to share among threads and processes.

    Args:
        directory: the folder.
        fsync: whether what is saved survives a power cut.
        options: the layout and its options; those of `gpt_sovits` where there are none.
        part: which shard writes: `0-of-4`.
        features: false keeps units alone, in the ledger, whatever the layout.
        url: where the store is kept, if `directory` is only the folder in which it is worked on.

    Raises:
        ValueError: there is no such layout, or its files cannot hold what the options ask for.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        fsync: bool = True,
        options: LayoutOptions | None = None,
        part: str = "0-of-1",
        features: bool = True,
        url: str = "",
    ) -> None:
        options = options or LayoutOptions(str(directory))
        self.directory, self.fsync = Path(directory), fsync
        # Called before each write that other processes rely on; raises StoreUnusable once this
        # process has lost its lock
        self.fence: Callable[[], None] = _holds
        # Whether a ledger may have been appended to by a process that lost its lock, or be longer
        # than this machine remembers: it is written anew before it is appended to
        self.rewrites_ledger = False
        self.layout_name, self.url = options.layout, url
        self.files, self.place = _files_and_place(self.directory, url, fsync=fsync, part=part)
        module = find("layouts", self.layout_name)
        of_files: Layout = module.layout(options, self.directory, self.files)
        _check(options, of_files)
        self.options, self.features = options, features
        self.layout: Layout = of_files if features else UnitsAlone(self.files, of_files)
        if url and not self.layout.takes_url:
            raise ValueError(no_url(url, f"store={self.layout_name}"))

    @property
    def shown(self) -> str:
        """The store's folder, or its URL without secrets, for a message."""
        return printable(redacted(self.url) if self.url else str(self.directory))

    @property
    def keeps_audio(self) -> bool:
        """Whether training audio is saved beside the features."""
        return self.layout.keeps_audio and self.options.audio is TrainingAudio.wav32k

    def dtype_of(self, computed: str) -> str:
        """The dtype in which features are saved that are computed in `computed`: `float16`."""
        if self.options.dtype is not DType.auto:
            return self.options.dtype.name
        return computed if computed in self.layout.dtypes else DType.float32.name

    def with_options(self, **changed: Any) -> Store:
        """The same store with some of its layout's options changed; nothing is written."""
        return Store(
            self.directory,
            fsync=self.fsync,
            options=replace(self.options, **changed),
            part=self.files.part,
            features=self.features,
            url=self.url,
        )

    def guard_with(self, fence: Fence) -> None:
        """Has each write that other processes rely on stopped once a lock is lost."""
        self.fence = fence
        self.rewrites_ledger = fence.is_lease or not storage_of(self.directory).is_local

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


def _holds() -> None:
    """No lock can be lost."""


def _files_and_place(
    directory: Path, url: str, *, fsync: bool, part: str
) -> tuple[StoreFiles, Place]:
    if not url:
        return StoreFiles(directory, fsync=fsync, part=part), Here(directory)
    from extract.remote.objects import Objects
    from extract.store.remote_files import RemoteFiles
    from extract.store.remote_place import At

    objects = Objects(url)
    files = RemoteFiles(directory, objects, fsync=fsync, part=part)
    return files, At(files, objects)


def no_url(url: str, what: str) -> str:
    """That `what` needs a folder, and is given a URL."""
    return (
        f"{printable(redacted(url))}: a URL, and {what} needs a folder of this machine. Ways out: "
        "store=webdataset, whose tars are whole objects; or a store in a folder, copied there "
        "once it is finished"
    )


def _check(options: LayoutOptions, layout: Layout) -> None:
    if not is_subfolders(options.subfolders):
        raise ValueError(f"store.subfolders: {options.subfolders!r}; needed {NEEDED}")
    if options.subfolders != 0 and not layout.takes_subfolders:
        raise ValueError(
            f"store.subfolders={options.subfolders}: the layout {options.layout} has none, since "
            f"{_why_none(layout)}; needed store.subfolders=0, or a layout that has them: store=npy"
        )
    if options.dtype.name not in (DType.auto.name, *layout.dtypes):
        holds = " or ".join((DType.auto.name, *layout.dtypes))
        raise ValueError(
            f"store.dtype={options.dtype.name}: no file of the layout {options.layout} holds it; "
            f"needed {holds}"
        )
    if options.audio is TrainingAudio.wav32k and not layout.keeps_audio:
        raise ValueError(
            f"store.audio=wav32k: the layout {options.layout} saves no audio; needed "
            "store.audio=none, or a layout that does: store=gpt_sovits, store=npy"
        )


def _why_none(layout: Layout) -> str:
    """Why files of a layout lie in no sub-folders."""
    if layout.holds_many:
        return "its archives hold many utterances each"
    return "its readers open an utterance's file by the recording's name alone"
