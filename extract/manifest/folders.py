"""Lists the files below a folder, without those of stores: no output becomes an input."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from extract.files import open_regular
from extract.shard import LEDGER_NAME
from extract.systems import real_path
from extract.text import printable
from extract.values import Failure

log = logging.getLogger(__name__)

# The names by which a store is known; the modules of `extract.store` import them from here.
WRITTEN = ("4-cnhubert", "5-wav32k")  # the folders of GPT-SoVITS's layout
METADATA = "metadata.json"
REPORT = "report.html"
PRIVATE = ".extract"  # for locks and indices
BESIDE = "beside"  # key of the metadata: what `Beside` holds

# A sweep's page and table lie above its stores, in a folder that may be anyone's. What is at the
# beginning of each tells it from another program's file of its name.
SWEEP_PAGE, SWEEP_CSV = "sweep.html", "sweep.csv"
SWEEP_TITLE = "Extraction sweep: "  # begins the title of every page
SWEEP_MARKS = {
    SWEEP_PAGE: f"<title>{SWEEP_TITLE}".encode(),
    SWEEP_CSV: "\ufeffjob,store,".encode(),
}
MARKED_BYTES = 4096

MAX_METADATA_BYTES = 1 << 16  # of a store's; another program's metadata.json may be gigabytes

Inode = tuple[int, int | str]


class Walk:
    """The paths of the files below `root`, relative to it; a failure for each unreadable folder.

    The files of a folder come first, then its sub-folders, by code point; then what symbolic links
    to folders add. A folder is read once. Left out are stores below `root` and the output folders
    of `own_store`; if `root` is a store itself, also its own output folders. Of a store that may be
    a folder of recordings only its own files and output folders are left out. `stores` collects the
    paths left out.

    Args:
        root: the folder, with a slash at its end.
        own_store: where this run writes; it need not exist.
        written: the folders in which stores keep their outputs.
        beside: endings of the files that this run writes beside recordings; None: nothing else is
            in `own_store`.
    """

    def __init__(
        self,
        root: str,
        own_store: str | None = None,
        written: Sequence[str] = WRITTEN,
        beside: Sequence[str] | None = None,
    ) -> None:
        self.root = root
        self.written = written
        self.stores: list[str] = []
        self._visited: set[Inode] = set()
        self._outputs: set[Inode] = set()
        self._endings: dict[str, tuple[str, ...]] = {}  # of the files that stores keep there
        if own_store is not None:
            whole = beside is None
            self._leave_out(f"{own_store}/", Beside(tuple(written), tuple(beside or ())), whole)

    def __iter__(self) -> Iterator[str | Failure]:
        folders, links = [""], deque[str]()
        while folders or links:
            folder = folders.pop() if folders else links.popleft()
            try:
                listing = self._list(folder)
            except OSError as error:
                if not folder:
                    message = f"{printable(self.root)}: cannot be read: {error.strerror}"
                    raise ValueError(message) from error
                path = self.root + folder
                yield Failure.of_source(
                    printable(folder), path, "unreadable_folder", str(error.strerror)
                )
                continue
            if listing is not None:
                yield from (folder + name for name in listing.files)
                folders += (f"{folder}{name}/" for name in reversed(listing.folders))
                links += (f"{folder}{name}/" for name in listing.links)

    def _list(self, folder: str) -> Listing | None:
        """What is in `folder`; None if it was read already or holds outputs."""
        path = self.root + folder
        inode = _inode(path)
        if inode in self._visited:
            log.info("%s: read already under another name", printable(path))
            return None
        self._visited.add(inode)
        if folder and inode in self._outputs:
            self.stores.append(path)
            return None
        listing = list_folder(path)
        if listing.is_store:
            whole = listing.beside is None
            self._leave_out(path, listing.beside or Beside(tuple(self.written), ()), whole)
            if folder and whole:
                self.stores.append(path)
                return None
        return listing._replace(files=self._recordings(path, listing))

    def _leave_out(self, store: str, outputs: Beside, whole: bool) -> None:
        """Notes what a store wrote, by inodes: links give folders other names."""
        if outputs.endings:
            self._endings[store] = outputs.endings
        folders = [store] if whole else []
        for path in (*folders, *(f"{store}{name}" for name in outputs.folders if name)):
            with suppress(OSError):  # not made yet
                self._outputs.add(_inode(path))

    def _recordings(self, folder: str, listing: Listing) -> list[str]:
        """The files of a folder that no store wrote."""
        stores = (store for store in self._endings if folder.startswith(store))
        endings = tuple(ending for store in stores for ending in self._endings[store])
        files = [
            name
            for name in listing.files
            if not (name.endswith(endings) or is_of_a_sweep(f"{folder}{name}"))
        ]
        if not listing.is_store:
            return files
        own = (METADATA, REPORT)
        return [name for name in files if name not in own and not LEDGER_NAME.fullmatch(name)]


def _inode(path: str) -> Inode:
    status = Path(path).stat()
    # Some of Windows's file systems number no files.
    return status.st_dev, status.st_ino or real_path(path)


class Beside(NamedTuple):
    """What tells a store's outputs from the recordings that they may lie beside."""

    folders: tuple[str, ...]  # its output folders, below it
    endings: tuple[str, ...]  # of its files in its own folder and below

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Beside | None:
        """As a store's metadata say it; None if they do not."""
        said = metadata.get(BESIDE)
        if not isinstance(said, dict):
            return None
        folders, endings = (_texts(said.get(key)) for key in cls._fields)
        return None if folders is None or endings is None else cls(folders, endings)


def _texts(value: Any) -> tuple[str, ...] | None:
    """A JSON list of texts; None if `value` is none."""
    is_one = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return tuple(value) if is_one else None


class Listing(NamedTuple):
    """Sorted names of what one folder holds; hidden ones are left out."""

    files: list[str]
    folders: list[str]
    links: list[str]  # to folders
    is_store: bool  # a run wrote here
    beside: Beside | None = None  # of a store that may be a folder of recordings


def list_folder(path: str) -> Listing:
    """What is in the folder `path`, which ends with a slash.

    Raises:
        OSError: it cannot be read.
    """
    files, folders, links, has_private = [], [], [], False
    with os.scandir(path) as items:
        for item in items:
            if item.name.startswith("."):
                has_private |= item.name == PRIVATE
            elif not _is_folder(item):
                files.append(item.name)
            elif item.is_symlink():
                links.append(item.name)
            else:
                folders.append(item.name)
    data = read_metadata(path + METADATA) if METADATA in files else None
    is_store = data is not None or (has_private and any(map(LEDGER_NAME.fullmatch, files)))
    beside = None if data is None else Beside.of(data)
    return Listing(sorted(files), sorted(folders), sorted(links), is_store, beside)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link that leads to itself
        return False


def is_of_a_sweep(path: str) -> bool:
    """Whether the file at `path` is a page or a table that this program made of a sweep."""
    mark = SWEEP_MARKS.get(path[path.rfind("/") + 1 :])
    if mark is None:
        return False
    try:
        with open_regular(path) as file:
            return mark in file.read(MARKED_BYTES)
    except OSError:
        return False


def read_metadata(path: str) -> dict[str, Any] | None:
    """The metadata of a store at `path`; None if the file is none."""
    try:
        if not Path(path).is_file() or Path(path).stat().st_size > MAX_METADATA_BYTES:
            return None
        data = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    known = isinstance(data, dict) and {"format", "identity"} <= data.keys()
    return data if known else None
