"""A folder and all folders below it: python -m extract dataset=folder dataset.path=DIR"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from extract.fields import location
from extract.manifest.folders import Walk
from extract.manifest.ids import MAX_SHOWN
from extract.manifest.paths import StrPath, canonical, existing_folder
from extract.manifest.source import Output, SourceOptions, read_source
from extract.opener import LocalFiles, Opener
from extract.remote.listing import RemoteWalk
from extract.remote.opener import AnyFiles
from extract.text import count, printable
from extract.urls import CHAIN, is_url, redacted
from extract.values import Entry, Failure

if TYPE_CHECKING:
    from extract.manifest.manifest import Manifest

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


class Ids(Enum):
    """What names a recording's files: its path below the folder, or that without its extension."""

    path = "path"
    stem = "stem"


@dataclass
class Options(SourceOptions):
    """A folder and all folders below it."""

    kind: str = "folder"
    path: str = location()  # the folder, or the URL of one: `s3://bucket/speech`, `zip://::all.zip`
    subfolder: str | None = None  # read only this folder below `path`, such as RVC's `1_16k_wavs`
    ids: Ids = Ids.path
    # Endings of the files to take, `[wav,flac]`; null = those of audio files, [] = every file
    extensions: list[str] | None = None


def source(options: Options) -> str:
    """The canonical path of the folder, or its URL; ValueError if there is no such folder."""
    folder = _folder(options)
    if is_url(folder):
        return redacted(folder).rstrip("/")
    return canonical(existing_folder(folder))


def opener(options: Options) -> Opener:
    """Of a folder at a URL, one that lists it once instead of asking for each recording."""
    folder = _folder(options)
    return AnyFiles(folder) if is_url(folder) else LocalFiles()


def read(options: Options, output: Output) -> Iterator[Entry | Failure]:
    """The recordings below the folder: `read_folder`."""
    folder = _folder(options)
    walk = RemoteWalk(folder) if is_url(folder) else _walk(options, output)
    tail = walk.tail if isinstance(walk, RemoteWalk) else ""
    taken = AUDIO_EXTENSIONS if options.extensions is None else options.extensions
    wanted = tuple(f".{extension.lower().lstrip('.')}" for extension in taken)
    num, num_others = 0, 0
    for item in walk:
        if not isinstance(item, Failure) and not item.lower().endswith(wanted or ""):
            num_others += 1
            continue
        num += 1
        if isinstance(item, Failure):
            yield item
        else:
            yield Entry(_id(item, options.ids), f"{walk.root}{item}{tail}")
    _report(walk, wanted, num, num_others)


def _folder(options: Options) -> str:
    """The folder that is read, or its URL."""
    if not options.subfolder:
        return options.path
    folder, *archive = options.path.split(CHAIN)
    return CHAIN.join([f"{folder.rstrip('/')}/{options.subfolder}", *archive])


def _id(path: str, ids: Ids) -> str:
    return os.path.splitext(path)[0] if ids is Ids.stem else path  # noqa: PTH122


def _walk(options: Options, output: Output) -> Walk:
    root = source(options).rstrip("/") + "/"
    own_store = None if output.store is None else canonical(output.store)
    _refuse_outputs(root, own_store, output.folders)
    return Walk(root, own_store, output.folders, output.beside)


def _report(walk: Walk | RemoteWalk, wanted: Sequence[str], num: int, num_others: int) -> None:
    """Logs what was left out; ValueError if nothing was found."""
    shown = printable(redacted(walk.root))
    if walk.stores:
        log.info("%s: left out what runs wrote: %s", shown, _some(walk.stores))
    looked_for = f"files ending in {' '.join(wanted)}" if wanted else "files"
    if not num:
        raise ValueError(
            f"{shown}: no recordings: looked for {looked_for} here and in all sub-folders, found"
            f" {count(num_others, 'other')}; dataset.extensions=[] takes every file"
        )
    if num_others:
        log.info("%s: %s left out by extension", shown, count(num_others, "file"))


def _refuse_outputs(root: str, own_store: str | None, written: Sequence[str]) -> None:
    """ValueError if `root` is where the store's own outputs go: each run would read the last."""
    for name in filter(None, written if own_store is not None else ()):
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
    options = Options(kind="folder", path=os.fspath(path), extensions=list(extensions or ()))
    return read_source(options, Output(None if store is None else os.fspath(store)))
