"""The manifest: which recordings there are, and the id that names each one's files.

Readers take a folder or a list and return a `Manifest`. What a reader cannot turn into an `Entry`
becomes a `Failure`, never a gap. Nothing here opens a recording.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np

from extract.manifest.clashes import clash_message, find_clashes
from extract.manifest.folders import WRITTEN, Walk, canonical
from extract.manifest.ids import MAX_SHOWN, check_id
from extract.manifest.lists import read_entries
from extract.manifest.strings import PackedStrings, Packer
from extract.opener import LocalFiles, Opener
from extract.text import count, printable, shortened
from extract.values import Entry, Failure

__all__ = [
    "AUDIO_EXTENSIONS",
    "Manifest",
    "check_id",
    "read_folder",
    "read_gpt_sovits_list",
]

log = logging.getLogger(__name__)

# fmt: off
AUDIO_EXTENSIONS = (
    ".3g2", ".3ga", ".3gp", ".3gp2", ".3gpp", ".8svx", ".aa", ".aa3", ".aac", ".aax", ".ac3",
    ".ac4", ".acm", ".adp", ".ads", ".adts", ".adx", ".aea", ".afc", ".aif", ".aifc", ".aiff",
    ".aix", ".alac", ".amr", ".amv", ".aob", ".apc", ".ape", ".asf", ".ast", ".au", ".avi", ".avr",
    ".awb", ".bcstm", ".bfstm", ".binka", ".bmv", ".bonk", ".brstm", ".bwf", ".c2", ".caf", ".cdxl",
    ".dav", ".dff", ".dif", ".divx", ".dsf", ".dss", ".dtk", ".dts", ".dtshd", ".dv", ".dvr-ms",
    ".eac3", ".ec3", ".evo", ".f4a", ".f4v", ".fap", ".flac", ".flv", ".fsb", ".fwse", ".genh",
    ".gsm", ".gxf", ".hca", ".iamf", ".ifv", ".imx", ".ircam", ".isma", ".ismv", ".ivr", ".kux",
    ".laf", ".latm", ".lc3", ".loas", ".lvf", ".m2a", ".m2p", ".m2t", ".m2ts", ".m4a", ".m4b",
    ".m4r", ".m4v", ".mac", ".mca", ".mj2", ".mk3d", ".mka", ".mkv", ".mlp", ".moflex", ".mov",
    ".mp1", ".mp2", ".mp3", ".mp4", ".mpa", ".mpc", ".mpe", ".mpeg", ".mpg", ".mpga", ".msf",
    ".mtaf", ".mts", ".musx", ".mvi", ".mxf", ".mxg", ".nist", ".nsp", ".nsv", ".nut", ".oga",
    ".ogg", ".ogm", ".ogv", ".ogx", ".oma", ".omg", ".opus", ".osq", ".paf", ".pvf", ".qoa", ".qt",
    ".qta", ".ra", ".rf64", ".rka", ".rm", ".rmvb", ".rsd", ".rso", ".sdns", ".sds", ".sdx", ".sf",
    ".sga", ".shn", ".snd", ".son", ".sph", ".spx", ".svag", ".svs", ".tak", ".thd", ".tod", ".tp",
    ".trp", ".ts", ".tta", ".ty", ".usm", ".vag", ".viv", ".vob", ".voc", ".vox", ".vpk", ".vqe",
    ".vqf", ".vql", ".vro", ".w64", ".wav", ".wave", ".weba", ".webm", ".wma", ".wmv", ".wsd",
    ".wtv", ".wv", ".xmv", ".xvag", ".xwma", ".yop",
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
    """Absolute path of the folder or list, without links in it; "" where there is none."""
    failures: tuple[Failure, ...] = field(default=(), repr=False)
    opener: Opener = field(default=LocalFiles(), repr=False)
    """What opens the paths."""

    @classmethod
    def from_entries(cls, entries: Iterable[Entry | Failure], source: str = "") -> Manifest:
        """Collect `entries`, one at a time; one listed twice is kept once, a bad id is a failure.

        Raises:
            ValueError: two recordings would write the same file; names both paths of each pair.
        """
        ids, paths, failures = Packer(), Packer(), []
        for entry in entries:
            if isinstance(entry, Failure):
                failures.append(entry)
            elif problem := check_id(entry.id):
                detail = f"'{shortened(entry.id)}' cannot name a file: {problem}"
                failures.append(
                    Failure.of_source(printable(entry.id), entry.path, "bad_id", detail)
                )
            else:
                ids.append(entry.id)
                paths.append(entry.path)
        return cls(ids.finish(), paths.finish(), source, tuple(failures))._checked()

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
        """The entries at `indices`, in that order. The failures stay with the whole manifest."""
        chosen = np.fromiter(indices, np.int64)
        return replace(self._map(lambda strings: strings.take(chosen)), failures=())

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
            raise ValueError(clash_message(printable(self.source) or "manifest", clashes))
        if not repeats:
            return self
        shown = printable(self.source)
        log.info("%s: %s listed again, kept once", shown, count(len(repeats), "entry"))
        kept = np.delete(np.arange(len(self)), repeats)
        return replace(self.subset(kept), failures=self.failures)


def read_folder(
    path: StrPath,
    extensions: Sequence[str] | None = AUDIO_EXTENSIONS,
    store: StrPath | None = None,
) -> Manifest:
    """The recordings below `path`, each under its path from there: `speaker/a.wav`.

    The files of a folder come first, then its sub-folders, by code point; then what symbolic links
    to folders add. A folder is read once, under its real place if it has one here, so a loop ends.
    Names that start with a dot are left out, and so are stores of features below `path`: what a
    run wrote is no recording. A broken link, FIFO or device is an entry like any other:
    decoding it says what it is.

    Args:
        path: the folder, however it is spelled: `Manifest.source` and all paths are canonical.
        extensions: endings of the files to take, in either case, with or without the dot; an
            empty list (or None) takes every file.
        store: the store that will be written; it need not exist. Where it is `path` itself, the
            folder is read, less what the store keeps there.

    Raises:
        ValueError: no such folder, not readable, no recording in it, or the store's own outputs.
    """
    source = canonical(_existing(path, "folder", os.path.isdir))
    root = source.rstrip(os.sep) + "/"
    own_store = None if store is None else canonical(store)
    _refuse_outputs(root, own_store)
    walk = Walk(root, own_store)
    wanted = tuple(f".{extension.lower().lstrip('.')}" for extension in extensions or ())
    num_others = 0

    def entries() -> Iterator[Entry | Failure]:
        nonlocal num_others
        for item in walk:
            if isinstance(item, Failure):
                yield item
            elif item.lower().endswith(wanted or ""):
                yield Entry(item, root + item)
            else:
                num_others += 1

    manifest = Manifest.from_entries(entries(), source)
    shown = printable(root)
    if walk.stores:
        log.info("%s: left out what runs wrote: %s", shown, _some(walk.stores))
    looked_for = f"files ending in {' '.join(wanted)}" if wanted else "files"
    if not manifest.ids and not manifest.failures:
        raise ValueError(
            f"{shown}: no recordings: looked for {looked_for} here and in all sub-folders, found"
            f" {count(num_others, 'other')}; dataset.extensions=[] takes every file"
        )
    if num_others:
        log.info("%s: %s left out by extension", shown, count(num_others, "file"))
    return replace(manifest, paths=manifest.ids.with_prefix(root))  # the same bytes serve both


def _refuse_outputs(root: str, own_store: str | None) -> None:
    """ValueError if `root` is where the store's own outputs go: each run would read the last."""
    for name in WRITTEN if own_store is not None else ():
        if root.startswith(f"{own_store}/{name}/"):
            raise ValueError(
                f"{printable(root)}: this run would write what it reads here; choose a store.dir"
                f" other than {printable(str(own_store))}"
            )


def _some(paths: Sequence[str]) -> str:
    """The first few of `paths`, and how many more there are."""
    more = len(paths) - MAX_SHOWN
    shown = ", ".join(map(printable, paths[:MAX_SHOWN]))
    return f"{shown} and {more} more" if more > 0 else shown


def _existing(path: StrPath, kind: str, is_kind: Callable[[str], bool]) -> str:
    """The absolute form of `path`; ValueError if it is not what is needed."""
    found = str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 (pathlib's may raise)
    if not os.fspath(path) or not is_kind(found):
        shown = printable(os.fspath(path)) or "(nothing)"
        raise ValueError(f"{shown}: no such {kind}; looked for {printable(found)}")
    return found


def read_gpt_sovits_list(path: StrPath, audio_dir: StrPath | None = None) -> Manifest:
    """The recordings of a GPT-SoVITS list, one a line: `wav|speaker|language|text`.

    Each goes under its file name with the extension. Its path is searched as it is written, then
    cleaned of quotes, blanks and backslashes as GPT-SoVITS's `clean_path` does; a relative one
    from the working folder, then from the list's own. A line of too few fields is a failure.

    Args:
        path: the list; any line ends, in UTF-8, UTF-16 with its mark, or GB18030.
        audio_dir: where the recordings are now; only their file names are taken from the list.

    Raises:
        ValueError: no such list or folder, not readable, an encoding that is none of these,
            nothing in it, or two recordings of the same file name.
    """
    named = _existing(path, "list", os.path.isfile)
    if audio_dir:
        folders = [canonical(_existing(audio_dir, "folder", os.path.isdir))]
    else:
        folders = [str(Path.cwd()), canonical(str(Path(named).parent))]

    source = canonical(named)
    try:
        entries = read_entries(source, folders, names_only=bool(audio_dir))
        manifest = Manifest.from_entries(entries, source)
    except OSError as error:
        raise ValueError(f"{printable(source)}: cannot be read: {error.strerror}") from error
    if not manifest.ids and not manifest.failures:
        raise ValueError(
            f"{printable(source)}: no lines; needed: wav|speaker|language|text in each"
        )
    return manifest
