"""A working folder made equal to what a store at a URL holds, but for what is not sent yet.

What the object store holds is the truth. Of the folder only this is kept: archives with lines that
no ledger there has a line of the same id for. A run that was killed, or that could not reach the
object store, left them; they are sent by the run that follows in this folder.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from extract.files import make_folder, read_whole, replace_whole
from extract.manifest.folders import PRIVATE
from extract.remote.objects import Info, Objects
from extract.shard import LEDGER_NAME, Shard
from extract.store import ledger, metadata
from extract.store.layout import Kept
from extract.store.remote_files import RemoteFiles, is_archive
from extract.store.runs import Runs
from extract.text import printable
from extract.values import SAVED

_MADE = re.compile(r"[^/]+/(\d+-of-\d+)-([0-9a-f]{8})-\d{6,}\.\w+")  # an archive of a run

ORIGIN = "origin.json"  # in the private folder: which URL is worked on here


def origin_of(folder: Path, objects: Objects) -> str:
    """A word that names a working folder, by which its own leases are known.

    Raises:
        ValueError: the folder holds another store.
    """
    path = folder / PRIVATE / ORIGIN
    known: Mapping[str, Any] = {}
    with suppress(OSError, ValueError):
        known = json.loads(read_whole(path))
    if known.get("url") == objects.shown:
        return str(known["id"])
    if known or ledger.ledger_paths(folder) or (folder / metadata.NAME).exists():
        what = f"the working folder of {known.get('url')}" if known else "a store of its own"
        raise ValueError(
            f"{printable(str(folder))}: {printable(what)}; needed another store.scratch=DIR"
        )
    make_folder(path.parent)
    said = {"url": objects.shown, "id": secrets.token_hex(8)}
    replace_whole(path, json.dumps(said).encode())
    return said["id"]


class Pull:
    """Makes a working folder equal to the object store. The caller holds both start-up locks.

    Args:
        files: of the store.
        objects: below its URL.
        there: what the listing says.
        shard: whose lock this process holds.
        alone: whether no other process works in the store.
        at_work: other parts, `1-of-2`, on which processes work in this folder: what is theirs in it
            is left as it is.
    """

    def __init__(
        self,
        files: RemoteFiles,
        objects: Objects,
        there: Mapping[str, Info],
        shard: Shard,
        *,
        alone: bool,
        at_work: set[str],
    ) -> None:
        self._folder, self._files, self._objects = files.directory, files, objects
        self._there = there
        self._mine, self._alone = shard, alone
        self._at_work = at_work
        self._names_at_work = {_ledger_of(part) for part in at_work}

    def run(self) -> set[str]:
        """Does it; returns the names of ledgers that hold more than their objects do."""
        sizes = {name: info.size for name, info in self._there.items() if is_archive(name)}
        self._files.found(sizes)
        same = self._pull_metadata()
        fresh = self._download()
        waiting = self._waiting(fresh) if same else {}
        for name in {*map(_name, ledger.ledger_paths(self._folder)), *fresh}:
            if name not in self._names_at_work:
                self._replace(name, fresh.get(name), waiting.get(name, []))
        self._keep_archives(waiting)
        self._leave_notes()
        mine = {self._mine.ledger_name}
        return {name for name in waiting if self._alone or name in mine}

    def _pull_metadata(self) -> bool:
        """Replaces the metadata; returns whether they have the identity of those before."""
        path, before = self._folder / metadata.NAME, None
        with suppress(metadata.Unreadable):
            before = metadata.read(self._folder)
        if metadata.NAME not in self._there:
            path.unlink(missing_ok=True)
            return False
        replace_whole(path, self._objects.read(metadata.NAME), fsync=False)
        with suppress(metadata.Unreadable):
            now = metadata.read(self._folder)
            return bool(before and now and before["identity"] == now["identity"])
        return False

    def _download(self) -> dict[str, Path]:
        """The object store's ledgers, in files beside the folder's own."""
        fresh = {}
        for name in filter(LEDGER_NAME.fullmatch, self._there):
            if name not in self._names_at_work:
                fresh[name] = self._folder / PRIVATE / f"pulled-{name}"
                self._objects.download(name, fresh[name])
        return fresh

    def _waiting(self, fresh: Mapping[str, Path]) -> dict[str, list[bytes]]:
        """The folder's lines that no other ledger has, by the ledger's name."""
        archives = {name for name in self._archives_here() if self._can_be_sent(name)}
        if not archives:
            return {}
        known = {id_ for path in fresh.values() for id_, _is_saved in ledger.heads(path)}
        waiting: dict[str, list[bytes]] = {}
        for path in ledger.ledger_paths(self._folder):
            if path.name not in self._names_at_work:
                for line, record in ledger.read_lines(path):
                    if archive_of(record) in archives and record["id"] not in known:
                        known.add(record["id"])
                        waiting.setdefault(path.name, []).append(line)
        return waiting

    def _can_be_sent(self, name: str) -> bool:
        """Whether an archive of the folder is no object, or was one before its lines were there."""
        size = self._files.size(name)
        return size == (self._there[name].size if name in self._there else size)

    def _archives_here(self) -> Iterator[str]:
        for path in sorted(self._folder.glob("*/*")):
            name = f"{path.parent.name}/{path.name}"
            if is_archive(name) and not self._is_at_work(path.name):
                yield name

    def _is_at_work(self, base: str) -> bool:
        return any(base.startswith(f"{part}-") for part in self._at_work)

    def _replace(self, name: str, fresh: Path | None, more: list[bytes]) -> None:
        """Puts a ledger of the object store, and what is not there yet, in the folder."""
        path = self._folder / name
        if fresh is not None:
            if more:
                with fresh.open("ab") as file:
                    file.writelines(more)
            fresh.replace(path)
        elif more:
            replace_whole(path, more, fsync=False)
        else:
            path.unlink(missing_ok=True)

    def _keep_archives(self, waiting: Mapping[str, list[bytes]]) -> None:
        """Notes which archives are to be sent; removes those that are objects or have no lines."""
        named: dict[str, bool] = {}
        for ledger_name, lines in waiting.items():
            is_sent = self._alone or ledger_name == self._mine.ledger_name
            for line in lines:
                name = archive_of(ledger.parse(line) or {})
                named[name] = named.get(name, False) or is_sent
        for name in list(self._archives_here()):
            if named.get(name):
                self._files.change(name)
            elif name not in named:
                self._files.let_go(name)

    def _leave_notes(self) -> None:
        """Notes for `compaction` and `foreign` that a run was cut short.

        Archives without lines, of the runs that have them, are then removed: those that were sent
        before their lines. A part's archives are that part's alone, unless no other is at work.
        """
        found = [_MADE.fullmatch(name) for name in self._there]
        runs = {one[2] for one in found if one and (self._alone or one[1] == str(self._mine))}
        if runs:
            Runs(self._files).note(runs)
        if metadata.NAME in self._there:
            (self._folder / PRIVATE / f"unfinished-{self._mine}").touch()


def archive_of(record: Mapping[str, Any]) -> str:
    """The archive that a saved utterance's line names; "" of any other line."""
    kept = Kept.of(record) if record.get("status") == SAVED else None
    return kept.files[0][0] if kept else ""


def _name(path: Path) -> str:
    return path.name


def _ledger_of(part: str) -> str:
    index, _, count = part.partition("-of-")
    return Shard(int(index), int(count)).ledger_name
