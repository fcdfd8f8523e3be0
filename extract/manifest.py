"""The manifest: which recordings there are, and the id that names each one's files.

Readers take a folder or a list and return a `Manifest`. What a reader cannot turn into an `Entry`
becomes a `Fault`, never a gap. Nothing here opens a recording.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np

from extract.ids import Entry, Fault, check_id, clash_message, find_clashes, printable
from extract.lists import read_entries
from extract.strings import PackedStrings, Packer
from extract.text import count

__all__ = [
    "AUDIO_EXTENSIONS",
    "Entry",
    "Fault",
    "Manifest",
    "check_id",
    "read_folder",
    "read_gpt_sovits_list",
]

log = logging.getLogger(__name__)

# fmt: off
AUDIO_EXTENSIONS = (
    ".aa", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".alac", ".amr", ".ape", ".asf", ".au",
    ".avi", ".awb", ".caf", ".dsf", ".dts", ".eac3", ".flac", ".flv", ".gsm", ".m2ts", ".m4a",
    ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp1", ".mp2", ".mp3", ".mp4", ".mpc", ".mpeg",
    ".mpg", ".mpga", ".mts", ".nist", ".oga", ".ogg", ".ogv", ".opus", ".ra", ".rf64", ".rm",
    ".sf", ".snd", ".sph", ".spx", ".tak", ".tta", ".vob", ".voc", ".vox", ".w64", ".wav", ".wave",
    ".weba", ".webm", ".wma", ".wmv", ".wv", ".3ga", ".3gp",
)
# fmt: on

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Manifest(Sequence[Entry]):
    """The entries of one source in the source's order; ids are safe and no two write one file.

    A million entries are four flat arrays. Make one with a reader or `from_entries`: they check.
    """

    ids: PackedStrings
    paths: PackedStrings
    source: str = ""
    """Absolute path of the folder or list; "" where there is none."""
    faults: tuple[Fault, ...] = field(default=(), repr=False)

    @classmethod
    def from_entries(cls, entries: Iterable[Entry | Fault], source: str = "") -> Manifest:
        """Collect `entries`, one at a time; one listed twice is kept once, a bad id is a fault.

        Raises:
            ValueError: two recordings would write the same file; names both paths of each pair.
        """
        ids, paths, faults = Packer(), Packer(), []
        for entry in entries:
            if isinstance(entry, Fault):
                faults.append(entry)
            elif problem := check_id(entry.id):
                shown = printable(entry.id)
                detail = f"{shown[:200]!r} cannot name a file: {problem}"
                faults.append(Fault(shown, entry.path, "bad_id", detail))
            else:
                ids.append(entry.id)
                paths.append(entry.path)
        return cls(ids.finish(), paths.finish(), source, tuple(faults))._checked()

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Entry | Manifest:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        return Entry(self.ids[index], self.paths[index])

    def __iter__(self) -> Iterator[Entry]:
        return map(Entry, self.ids, self.paths)

    def subset(self, indices: Iterable[int]) -> Manifest:
        """The entries at `indices`, in that order. The faults stay with the whole manifest."""
        chosen = np.fromiter(indices, np.int64)
        return replace(self._map(lambda strings: strings.take(chosen)), faults=())

    def share(self) -> Manifest:
        """The same in shared memory, for workers that are not forked: `PackedStrings.share`."""
        return self._map(PackedStrings.share)

    def _map(self, change: Callable[[PackedStrings], PackedStrings]) -> Manifest:
        ids = change(self.ids)
        if self.paths.shares_arrays(self.ids):
            return replace(self, ids=ids, paths=ids.with_prefix(self.paths.prefix))
        return replace(self, ids=ids, paths=change(self.paths))

    def _checked(self) -> Manifest:
        """Itself, repeated entries taken out; ValueError if two recordings share a file."""
        repeats, clashes = find_clashes(self.ids, self.paths)
        if clashes:
            raise ValueError(clash_message(self.source or "manifest", clashes))
        if not repeats:
            return self
        log.info("%s: %s listed again, kept once", self.source, count(len(repeats), "entry"))
        kept = np.delete(np.arange(len(self)), repeats)
        return replace(self.subset(kept), faults=self.faults)


def read_folder(path: StrPath, extensions: Sequence[str] | None = AUDIO_EXTENSIONS) -> Manifest:
    """The recordings below `path`, each under its path from there: `speaker/a.wav`.

    The files of a folder come first, then its sub-folders, by code point; then what symbolic links
    to folders add. A folder is read once, under its real place if it has one here, so a loop ends.
    Names that start with a dot are left out. A broken link, FIFO or device is an entry like any
    other: whoever reads it says what it is.

    Args:
        path: the folder.
        extensions: endings of the files to take, in either case, with or without the dot; an
            empty list (or None) takes every file.

    Raises:
        ValueError: no such folder, not readable, or no recording in it.
    """
    source = _existing(path, "folder", os.path.isdir)
    root = source.rstrip(os.sep) + "/"
    wanted = tuple(f".{extension.lower().lstrip('.')}" for extension in extensions or ())
    num_others = 0

    def entries() -> Iterator[Entry | Fault]:
        nonlocal num_others
        for item in _walk(root):
            if isinstance(item, Fault):
                yield item
            elif item.lower().endswith(wanted or ""):
                yield Entry(item, root + item)
            else:
                num_others += 1

    manifest = Manifest.from_entries(entries(), source)
    looked_for = f"files ending in {' '.join(wanted)}" if wanted else "files"
    if not manifest.ids and not manifest.faults:
        raise ValueError(
            f"{root}: no recordings: looked for {looked_for} here and in all sub-folders, found"
            f" {count(num_others, 'other')}; dataset.extensions=[] takes every file"
        )
    if num_others:
        log.info("%s: %s left out by extension", root, count(num_others, "file"))
    return replace(manifest, paths=manifest.ids.with_prefix(root))  # the same bytes serve both


def _existing(path: StrPath, kind: str, is_kind: Callable[[str], bool]) -> str:
    """The absolute form of `path`; ValueError if it is not what is needed."""
    found = str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 (pathlib's may raise)
    if not os.fspath(path) or not is_kind(found):
        raise ValueError(f"{path or '(nothing)'}: no such {kind}; looked for {found}")
    return found


def _walk(root: str) -> Iterator[str | Fault]:
    """The files below `root` by their path from there; a fault for a folder that hides its own."""
    visited = set()
    folders, links = [""], deque[str]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            status = Path(root + folder).stat()
            if (status.st_dev, status.st_ino) in visited:
                log.info("%s: read already under another name", root + folder)
                continue
            visited.add((status.st_dev, status.st_ino))
            files, subfolders, linked = _list_folder(root + folder)
        except OSError as error:
            if not folder:
                raise ValueError(f"{root}: cannot be read: {error.strerror}") from error
            yield Fault(printable(folder), root + folder, "unreadable_folder", str(error.strerror))
            continue
        yield from (folder + name for name in files)
        folders += (f"{folder}{name}/" for name in reversed(subfolders))
        links += (f"{folder}{name}/" for name in linked)


def _list_folder(path: str) -> tuple[list[str], list[str], list[str]]:
    """Sorted names of the files, the folders and the links to folders in `path`; none hidden."""
    files, folders, links = [], [], []
    with os.scandir(path) as items:
        for item in items:
            if item.name.startswith("."):
                continue
            if not _is_folder(item):
                files.append(item.name)
            elif item.is_symlink():
                links.append(item.name)
            else:
                folders.append(item.name)
    return sorted(files), sorted(folders), sorted(links)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link that leads to itself
        return False


def read_gpt_sovits_list(path: StrPath, audio_dir: StrPath | None = None) -> Manifest:
    """The recordings of a GPT-SoVITS list, one a line: `wav|speaker|language|text`.

    Each goes under its file name with the extension. Its path is searched as it is written, then
    cleaned of quotes, blanks and backslashes as GPT-SoVITS's `clean_path` does; a relative one
    from the working folder, then from the list's own. A line of too few fields is a fault.

    Args:
        path: the list; any line ends, in UTF-8, UTF-16 with its mark, or GB18030.
        audio_dir: where the recordings are now; only their file names are taken from the list.

    Raises:
        ValueError: no such list or folder, an encoding that is none of these, nothing in it, or
            two recordings of the same file name.
    """
    source = _existing(path, "list", os.path.isfile)
    if audio_dir:
        folders = [_existing(audio_dir, "folder", os.path.isdir)]
    else:
        folders = [str(Path.cwd()), str(Path(source).parent)]

    entries = read_entries(source, folders, names_only=bool(audio_dir))
    manifest = Manifest.from_entries(entries, source)
    if not manifest.ids and not manifest.faults:
        raise ValueError(f"{source}: no lines; needed: wav|speaker|language|text in each")
    return manifest
