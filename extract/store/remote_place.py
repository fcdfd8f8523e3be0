"""A store at a URL: objects with the names of its files, and a folder in which it is worked on.

An archive is sent once it is finished and its lines are in the folder's ledger; then the ledger is
sent, up to a point where all archives that it names are objects; then the archive leaves the
folder. So an object store's ledger never names what is not there. What a kill leaves is one of

    an archive in the folder, with lines there       sent by the next run in this folder (`pulled`)
    an archive that is an object and has no line     removed by the next run, wherever it runs
    an object, its lines sent, and in the folder     removed from the folder by the next run there
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from extract.files import read_whole, replace_whole
from extract.manifest.folders import PRIVATE
from extract.remote.leases import Held, Lease
from extract.remote.objects import Objects
from extract.shard import Shard
from extract.store import ledger, metadata
from extract.store.layout import Kept
from extract.store.lock import START_UP_S, StoreBusy, starting
from extract.store.others import Others, lock_name
from extract.store.place import Place
from extract.store.pulled import Pull, origin_of
from extract.store.remote_files import RemoteFiles
from extract.text import printable
from extract.write_errors import StoreUnusable

START_UP = f"{PRIVATE}/lock"
# A ledger is sent whole. Its requests take at most a quarter of the bytes that the archives take: a
# ledger larger than that waits for more archives.
SHARE = 4

Signature = tuple[int, int]  # inode, bytes: tells whether a file of the folder was changed


class At(Place):
    """The place of a store at a URL.

    Args:
        files: of the store, in the working folder and at the URL.
        objects: below the URL.
    """

    def __init__(self, files: RemoteFiles, objects: Objects) -> None:
        self._files, self._objects = files, objects
        self._folder = files.directory
        self._shard = Shard()
        self._lease: Lease | None = None
        self._sending = threading.Lock()  # of what follows
        self._there: dict[str, Signature | None] = {}  # ledgers as they were sent
        self._metadata = b""
        self._notes = set[str]()  # that are objects
        self._committed = set[str]()  # archives whose lines are in the folder's ledger
        self._sent = set[str]()  # archives that are objects, and in the folder too
        self._unnamed = 0  # bytes of archives that were sent since the ledger was

    @contextmanager
    def opening(self, shard: Shard, alone: bool) -> Iterator[bool]:
        """As `Place.opening`."""
        with self._explained():
            origin = origin_of(self._folder, self._objects)
            with self._start_up(origin):
                try:
                    alone = self._begin(shard, origin, alone)
                    yield alone
                    self._send_all(alone)
                except BaseException:
                    self.close()
                    raise

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Holds both start-up locks."""
        with self._explained(), starting(self._folder):
            origin = origin_of(self._folder, self._objects)
            with self._start_up(origin):
                yield
                self._send_all(alone=False)

    def publish(self, kept: Iterable[Kept] = (), *, last: bool = False) -> None:
        """As `Place.publish`."""
        names = {file[0] for one in kept for file in one.files}
        if not names and not last:
            return
        with self._explained(), self._sending:
            assert self._lease is not None
            self._lease.require()
            self._committed |= names
            path = self._folder / self._shard.ledger_name
            length = path.stat().st_size  # archives of all lines before it are in the folder
            self._send_archives()
            if last:
                self._committed |= self._sent
            if last or self._unnamed >= SHARE * length:
                self._send_ledger(path, length)
                self._let_go()

    def note(self, name: str, is_gone: Callable[[str], bool], *, is_new: bool) -> None:
        """As `Place.note`."""
        wanted = f"{PRIVATE}/{name}"
        gone = [note for note in self._notes if is_gone(note.removeprefix(f"{PRIVATE}/"))]
        with self._explained(), self._sending:
            assert self._lease is not None
            self._lease.require()
            if is_new or wanted not in self._notes:
                self._objects.upload(self._folder / wanted, wanted)
            if gone:
                self._objects.remove(gone)

    def close(self) -> None:
        """Gives up the lease."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    @contextmanager
    def _start_up(self, origin: str) -> Iterator[None]:
        lease = Lease(self._objects, START_UP, origin)
        try:
            lease.take(lambda owner: owner.get("origin") == origin, START_UP_S)
        except Held as held:
            raise StoreBusy(
                f"{self._objects.shown}: {held} has been starting here for {START_UP_S:g} s; try "
                "again"
            ) from None
        try:
            yield
        finally:
            lease.release()

    def _begin(self, shard: Shard, origin: str, alone: bool) -> bool:
        """Takes the shard's lease and brings the folder up to date; returns whether it is alone."""
        there = self._objects.list()
        others = Others(self._objects, there, origin, START_UP, is_alone_here=alone)
        others.require_sharding(shard)
        lease = Lease(self._objects, lock_name(shard), origin)
        try:
            lease.take(lambda owner: owner.get("origin") == origin, 0)
        except Held as held:
            wanted = f"shard {shard} of this store"
            raise StoreBusy(others.message(held.owner, wanted)) from None
        self._lease, self._shard = lease, shard
        at_work = others.at_work(shard)
        alone = alone and not at_work
        here = {part for part, is_here in at_work.items() if is_here}
        more = Pull(self._files, self._objects, there, shard, alone=alone, at_work=here).run()
        ledgers = ledger.ledger_paths(self._folder)
        known = {path.name: _signature(path) for path in ledgers if path.name in there}
        self._there = {**known, **dict.fromkeys(more & known.keys())}
        self._notes = {name for name in there if name.startswith(f"{PRIVATE}/listed-")}
        self._metadata = self._metadata_here() if metadata.NAME in there else b""
        return alone

    def _send_all(self, alone: bool) -> None:
        """Sends what an opening changed; the metadata last, so that they are true of every line."""
        with self._sending:
            self._send_archives()
            mine = self._folder / self._shard.ledger_name
            ledgers = ledger.ledger_paths(self._folder) if alone else [mine]
            for path in ledgers:
                if path.exists() and self._there.get(path.name) != _signature(path):
                    self._send_ledger(path, path.stat().st_size)
            for name in [name for name in self._there if alone and not _is_in(self._folder, name)]:
                self._objects.remove([name])
                del self._there[name]
            self._committed |= self._sent
            self._let_go()
            data = self._metadata_here()
            if data and data != self._metadata:
                self._objects.write(metadata.NAME, data)
                self._metadata = data

    def _metadata_here(self) -> bytes:
        with suppress(FileNotFoundError):
            return read_whole(self._folder / metadata.NAME)
        return b""

    def _send_archives(self) -> None:
        for name in self._files.to_send():
            path = self._files.path(name)
            size = Path(path).stat().st_size
            self._objects.upload(path, name)
            self._files.sent(name, size)
            self._sent.add(name)
            self._unnamed += size

    def _send_ledger(self, path: Path, length: int) -> None:
        """Replaces the object of a ledger by the whole lines in its first `length` bytes."""
        signature = _signature(path)[0], length
        self._unnamed = 0
        if self._there.get(path.name) == signature:
            return
        copy = self._folder / PRIVATE / f"sent-{path.name}"
        replace_whole(copy, _lines(path, length), fsync=False)
        if copy.stat().st_size or path.name in self._there:
            self._objects.upload(copy, path.name)
            self._there[path.name] = signature
        copy.unlink()

    def _let_go(self) -> None:
        """Removes what no ledger at the URL needs in the folder, or no ledger names at the URL."""
        for name in sorted(self._committed & self._sent):
            self._files.let_go(name)
        self._sent -= self._committed
        self._committed.clear()
        for name in self._files.to_remove():
            self._objects.remove([name])
            self._files.removed(name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns an OSError into `StoreUnusable`, which names the URL."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise
            said = f"{error.strerror or error}: {error.filename or self._folder}"
            raise StoreUnusable(f"{self._objects.shown}: {printable(said)}") from None


def _lines(path: Path, length: int) -> Iterator[bytes]:
    """The whole lines in the first `length` bytes of a ledger."""
    for line in ledger.lines(path):
        length -= len(line)
        if length < 0 or not line.endswith(b"\n"):
            return
        yield line


def _signature(path: Path) -> Signature:
    status = path.stat()
    return status.st_ino, status.st_size


def _is_in(folder: Path, name: str) -> bool:
    return (folder / name).exists()
