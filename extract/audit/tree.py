"""The files that are in a store, held against those that its lines name."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from extract.audit.findings import Findings
from extract.audit.forms import Form, InArchives, OneFile
from extract.audit.hashes import Hashes, Known
from extract.audit.utterances import Named

TEMPORARY = ".tmp-"
PRIVATE = ".extract"
_LEDGER = re.compile(r"ledger(?:\.\d+-of-\d+)?\.jsonl")
SCP, NUM_FRAMES = "feats.scp", "utt2num_frames"


class NamedFiles:
    """What lines name: whole files by hashes, places in archives by offsets, lines of lists."""

    def __init__(self) -> None:
        self.files = Hashes()
        self.places: dict[str, array[int]] = {}
        self.in_lists = {SCP: Hashes(), NUM_FRAMES: Hashes()}

    def add(self, id: str, files: Iterable[Named], num_frames: object, form: Form) -> None:  # noqa: A002
        """Notes what a line names."""
        for name, at, _size, _crc in files:
            if isinstance(form, OneFile):
                self.files.add(name)
                continue
            self.places.setdefault(name, array("Q")).append(at)
            if form.suffix == ".ark":
                start = at + len(_key(id).encode()) + 1
                self.in_lists[SCP].add(f"{_key(id)} {name}:{start}")
                self.in_lists[NUM_FRAMES].add(f"{_key(id)} {num_frames}")


def _key(id: str) -> str:  # noqa: A002
    """An id as Kaldi's lists have it: white space, and a `%` before two digits, as in a URL."""

    def escaped(found: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in found[0].encode())

    return re.sub(r"\s|%(?=[0-9A-Fa-f]{2})", escaped, id)


def note_strays(directory: Path, form: Form | None, named: NamedFiles, findings: Findings) -> None:
    """Notes unfinished files, and files of the layout's kind that no line names."""
    known = Known(named.files)
    for folder, own in _folders(directory, form):
        for name in _files(directory, folder, own):
            base = name.rpartition("/")[2]
            if base.startswith(TEMPORARY):
                findings.add("temporary", name)
            elif isinstance(form, OneFile) and _is_of(form, folder, name):
                if name not in known:
                    findings.add("stray", name)
            elif isinstance(form, InArchives) and folder == form.folder:
                _note_in_archive(directory, name, named, form, findings)
    if isinstance(form, InArchives) and form.suffix == ".ark":
        _note_lists(directory, named, findings)


def _folders(directory: Path, form: Form | None) -> Iterator[tuple[str, bool]]:
    """Folders to look at, and whether all below them is to be: "" is the store's own."""
    outputs = {form.folder, getattr(form, "audio_folder", None)} if form is not None else set()
    yield PRIVATE, True
    yield "", "" in outputs
    for folder in sorted(one for one in outputs if one):
        yield folder, True


def _files(directory: Path, folder: str, below: bool) -> Iterator[str]:
    """Files of a folder by their names below the store, without those of other stores."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(directory / here))
        except OSError:
            continue  # a folder that is not there holds no stray file
        if here != folder and any(_LEDGER.fullmatch(entry.name) for entry in entries):
            continue
        for entry in entries:
            name = f"{here}/{entry.name}".lstrip("/")
            if not entry.is_dir(follow_symlinks=False):
                yield name
            elif below and not (folder == "" and here == "" and entry.name in _APART):
                waiting.append(name)


_APART = (PRIVATE, "wav32k")  # folders in the store's own that are looked at by themselves


def _is_of(form: OneFile, folder: str, name: str) -> bool:
    """Whether a file is of the kind that the layout writes in a folder."""
    suffixes = {form.audio_folder: form.audio_suffix, form.folder: form.suffix}
    return folder in suffixes and name.endswith(suffixes[folder])


def _note_in_archive(
    directory: Path, name: str, named: NamedFiles, form: InArchives, findings: Findings
) -> None:
    """Notes utterances in an archive that no line names there."""
    if not name.endswith(form.suffix):
        return
    places = frozenset(named.places.get(name, ()))
    if not places:
        findings.add("stray", name)
        return
    try:
        with (directory / name).open("rb") as file:
            for at, key in form.blocks(file):
                if at not in places:
                    findings.add("stray", f"{name}, {key} at {at}")
    except Exception as error:  # of tarfile, or a damaged archive of any kind
        findings.add("unreadable", name, f"{type(error).__name__}: {error}"[:200])


def _note_lists(directory: Path, named: NamedFiles, findings: Findings) -> None:
    """Holds Kaldi's lists against the ledgers, both ways."""
    ours = (f" {directory.absolute()}/", " ")
    for name, expected in named.in_lists.items():
        found = Hashes()
        try:
            text = (directory / name).open("rb")
        except OSError:
            text = None
        for line in text or ():
            row = line.rstrip(b"\n").decode("utf8", "surrogateescape")
            if name == NUM_FRAMES or ours[0] in row:
                found.add(row.replace(*ours, 1) if name == SCP else row)
        if text is not None:
            text.close()
        there, wanted = found.sorted(), expected.sorted()
        missing = len(np.setdiff1d(wanted, there))
        if missing:
            findings.add("wrong_index", name, f"{missing} utterances of the ledgers are not in it")
        if name == SCP and (more := len(np.setdiff1d(there, wanted))):
            findings.add("wrong_index", name, f"{more} lines that the ledgers do not say")
        if len(there) != len(np.unique(there)):
            findings.add("wrong_index", name, "an utterance stands in it twice")
