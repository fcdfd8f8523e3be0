"""Lists the files below a folder, without those of stores: no output becomes an input."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from extract.shard import LEDGER_NAME
from extract.systems import real_path
from extract.text import printable
from extract.values import Failure

log = logging.getLogger(__name__)

# The names by which a store is known; the modules of `extract.store` import them from here.
WRITTEN = ("4-cnhubert", "5-wav32k")  # the folders of GPT-SoVITS's layout
METADATA = "metadata.json"
PRIVATE = ".extract"  # for locks and indices

MAX_METADATA_BYTES = 1 << 16  # of a store's; another program's metadata.json may be gigabytes

Inode = tuple[int, int | str]


class Walk:
    """The paths of the files below `root`, relative to it; a failure for each unreadable folder.

    The files of a folder come first, then its sub-folders, by code point; then what symbolic links
    to folders add. A folder is read once. Left out are stores below `root` and the output folders
    of `own_store`; if `root` is a store itself, also its own output folders. `stores` collects the
    paths left out.

    Args:
        root: the folder, with a slash at its end.
        own_store: where this run writes; it need not exist.
        written: the folders in which stores keep their outputs.
    """

    def __init__(
        self, root: str, own_store: str | None = None, written: Sequence[str] = WRITTEN
    ) -> None:
        self.root = root
        self.written = written
        self.stores: list[str] = []
        self._visited: set[Inode] = set()
        self._outputs: set[Inode] = set() if own_store is None else self._outputs_of(own_store)

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
            self._outputs |= self._outputs_of(path)
        if folder and listing.is_store:
            self.stores.append(path)
            return None
        return listing

    def _outputs_of(self, store: str) -> set[Inode]:
        """The inodes of a store's folder and of its output folders: links give them other names."""
        found = set()
        for path in (store, *(f"{store}/{name}" for name in self.written)):
            try:
                found.add(_inode(path))
            except OSError:  # not made yet
                continue
        return found


def _inode(path: str) -> Inode:
    status = Path(path).stat()
    # Some of Windows's file systems number no files.
    return status.st_dev, status.st_ino or real_path(path)


class Listing(NamedTuple):
    """Sorted names of what one folder holds; hidden ones are left out."""

    files: list[str]
    folders: list[str]
    links: list[str]  # to folders
    is_store: bool  # a run wrote here


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
    is_store = (has_private and any(map(LEDGER_NAME.fullmatch, files))) or (
        METADATA in files and is_metadata(path + METADATA)
    )
    return Listing(sorted(files), sorted(folders), sorted(links), is_store)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link that leads to itself
        return False


def is_metadata(path: str) -> bool:
    """Whether the file at `path` is the metadata of a store."""
    try:
        if not Path(path).is_file() or Path(path).stat().st_size > MAX_METADATA_BYTES:
            return False
        data = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"format", "identity"} <= data.keys()
