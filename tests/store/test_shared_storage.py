"""Locks on storage that several machines see: no flock among them, old listings, other clocks.

Two mounts of one folder by bindfs are two machines: the kernel keeps a flock on one of them from
the other, names cannot be exchanged, and each remembers which names were not there. Where bindfs is
missing the same is played on a local disk.
"""

import errno
import fcntl
import multiprocessing
import os
import signal
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from filelock import MarkerSoftFileLock

from extract.store import caches, held, lease, lock, lock_kind, mounts
from extract.store.layout import LockKind
from extract.store.ledger import Ledger
from extract.store.lock import StoreBusy, locked, starting
from extract.write_errors import StoreUnusable
from support.command import TINY
from support.disks import two_machines
from support.recordings import write_wav

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def short_leases(monkeypatch):
    monkeypatch.setattr(held, "LEASE_S", 0.6)
    monkeypatch.setattr(held, "RENEWED_S", 0.1)


@pytest.fixture
def speech_folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        write_wav(folder / f"{number}.wav", 0.5, number)
    return folder


@pytest.fixture
def machines(tmp_path):
    with two_machines(tmp_path) as views:
        yield views


@pytest.fixture
def forgetful(tmp_path):
    """Two machines that remember for a second which names were not there."""
    with two_machines(tmp_path, remembers_s=1) as views:
        yield views


@pytest.fixture
def another_host(monkeypatch):
    """The processes that filelock finds in records are on another host: it cannot ask for them."""
    monkeypatch.setattr(lease, "is_known_dead", lambda path: False)
    monkeypatch.setattr("filelock._soft._lease.owner_is_stale", lambda *owner: False)
    monkeypatch.setattr("filelock._soft._exclusive._marker.owner_is_stale", lambda *owner: False)


@pytest.fixture
def start():
    """Starts processes; they are killed at the end."""
    processes = []

    def begin(function, *arguments):
        mine, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=function, args=(*arguments, theirs))
        process.start()
        theirs.close()
        processes.append(process)
        return process, mine

    yield begin
    for process in processes:
        process.kill()
        process.join()


def hold(directory, index, count, end) -> None:
    """Holds a shard, and says whether it may write, each time that it is asked."""
    fences = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a run finishes what is under way
    with locked(directory, index, count, guard=fences.append):
        end.send("here")
        while end.recv() == "write":
            try:
                fences[0]()
                end.send("written")
            except StoreUnusable as error:
                end.send(str(error))


def ask(pipe) -> str:
    pipe.send("write")
    assert pipe.poll(30)
    return pipe.recv()


def here(pipe) -> None:
    assert pipe.poll(30)
    assert pipe.recv() == "here"


def owner_of(directory, index=0, count=1) -> Path:
    return directory / ".extract" / f"owner-{index}-of-{count}"


# --- real storage without a flock that all machines see -------------------------------------------


def test_a_run_on_another_machine_is_seen_though_flock_says_nothing(machines, start):
    one, two = machines
    process, pipe = start(hold, one, 0, 1)
    here(pipe)
    with (two / ".extract" / "lock-0-of-1").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel would give it to both
    with pytest.raises(StoreBusy, match=f"process {process.pid} on"), locked(two):
        pass
    assert lock_kind.why_lease(one)


def test_a_run_that_was_killed_on_another_machine_is_followed_after_its_lease(
    machines, start, another_host
):
    """The file system cannot exchange names, by which filelock takes over."""
    one, two = machines
    process, pipe = start(hold, one, 0, 1)
    here(pipe)
    process.kill()
    process.join()
    assert owner_of(two).exists()
    alone = []
    with locked(two, settle=alone.append):
        assert MarkerSoftFileLock(owner_of(two)).owner.pid == os.getpid()
    assert alone == [True]
    assert not owner_of(two).exists()


def test_a_run_that_was_killed_on_this_machine_is_followed_at_once(machines, start, monkeypatch):
    monkeypatch.setattr(held, "LEASE_S", 600.0)
    process, pipe = start(hold, machines[0], 0, 1)
    here(pipe)
    process.kill()
    process.join()
    with locked(machines[0]):
        pass


def test_a_run_that_was_killed_while_it_started_is_followed_too(machines, start, another_host):
    one, two = machines

    def settle(alone: bool, end) -> None:
        end.send("here")
        signal.pause()

    def starting(end) -> None:
        with locked(one, settle=partial(settle, end=end)):
            pass

    process, pipe = start(starting)
    here(pipe)
    process.kill()
    process.join()
    with locked(two):
        pass


def test_of_many_that_wait_for_a_dead_run_one_follows_it(machines, start, another_host):
    process, pipe = start(hold, machines[0], 0, 1)
    here(pipe)
    process.kill()
    process.join()

    def compete(directory, end) -> None:
        try:
            with locked(directory):
                end.send("mine")
                end.recv()
        except StoreBusy:
            end.send("busy")

    pipes = [start(compete, machines[number % 2])[1] for number in range(4)]
    said = []
    for pipe in pipes:
        assert pipe.poll(50)
        said.append(pipe.recv())
    assert sorted(said) == ["busy", "busy", "busy", "mine"]


def test_a_run_that_was_stopped_past_its_lease_writes_nothing_more(machines, start, another_host):
    one, two = machines
    process, pipe = start(hold, one, 0, 1)
    here(pipe)
    assert ask(pipe) == "written"
    os.kill(process.pid, signal.SIGSTOP)
    with locked(two):
        os.kill(process.pid, signal.SIGCONT)
        assert "lost its lock" in ask(pipe)
        record = MarkerSoftFileLock(owner_of(two)).owner
        pipe.send("end")
        process.join(30)
        assert process.exitcode == 0
        assert MarkerSoftFileLock(owner_of(two)).owner == record, "what the other run holds stays"


def take_from(directory) -> str:
    """Makes the lock another host's, as a process there does that waited for its end."""
    taken = owner_of(directory).with_name("taken")
    fields = f"pid=7\nhost=elsewhere\nmode=lease\ntoken=0123\nduration={held.LEASE_S}\n"
    taken.write_text("filelock/2\n" + fields)
    taken.rename(owner_of(directory))
    return owner_of(directory).read_text()


def test_a_run_that_lost_its_lock_adds_no_file_and_no_line(
    tmp_path, speech_folder, command, monkeypatch, capsys
):
    monkeypatch.setattr(lease, "CHECKED_S", 0.0)
    monkeypatch.setattr(held, "RENEWED_S", 0.5)  # the writer is to notice before the heartbeat does
    store, records, append = tmp_path / "out", [], Ledger.append

    def append_and_lose(ledger, record):
        append(ledger, record)
        records.append(take_from(store))

    monkeypatch.setattr(Ledger, "append", append_and_lose)
    options = ("store.lock=lease", "store.num_writers=1")
    assert extract(command, speech_folder, store, *options) == 1
    assert "lost its lock" in capsys.readouterr().err
    assert len((store / "ledger.jsonl").read_bytes().splitlines()) == 1
    assert len([*(store / "4-cnhubert").iterdir()]) == 1
    assert owner_of(store).read_text() == records[0], "what the other run holds stays"


def test_a_line_that_a_robbed_run_still_writes_is_not_in_the_ledger(
    tmp_path, speech_folder, command
):
    store = tmp_path / "out"
    assert extract(command, speech_folder, store, "store.lock=lease") == 0
    late = os.open(store / "ledger.jsonl", os.O_WRONLY | os.O_APPEND)
    lines = (store / "ledger.jsonl").read_bytes()
    assert extract(command, speech_folder, store) == 0
    os.write(late, lines)
    os.close(late)
    assert (store / "ledger.jsonl").read_bytes() == lines


def test_a_run_that_was_stopped_and_not_robbed_goes_on(machines, start):
    process, pipe = start(hold, machines[0], 0, 1)
    here(pipe)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.8)
    os.kill(process.pid, signal.SIGCONT)
    assert ask(pipe) == "written"


def count_alone(directory, times, end) -> None:
    """Takes and leaves a lock; while it has it, no other process may."""
    held = directory / "held"
    for _ in range(times):
        with starting(directory):
            os.close(os.open(held, os.O_CREAT | os.O_EXCL))
            held.unlink()
    end.send("done")


@pytest.mark.parametrize("storage", ["flock", "lease, one machine", "lease, two machines"])
def test_two_that_fight_for_a_lock_never_both_have_it(tmp_path, start, storage, monkeypatch):
    monkeypatch.setattr(held, "RENEWED_S", 0.02)
    monkeypatch.setattr(held, "LEASE_S", 30.0)
    times = 200 if storage == "flock" else 50
    with ExitStack() as stack:
        views = (tmp_path, tmp_path)
        if storage.endswith("two machines"):
            views = stack.enter_context(two_machines(tmp_path))
        (views[0] / ".extract").mkdir()
        if storage != "flock":
            lock_kind.note(views[0], LockKind.lease)
        started = [start(count_alone, view, times) for view in views]
        for _process, pipe in started:
            assert pipe.poll(50)
            assert pipe.recv() == "done", "both had it"
        assert list((views[0] / ".extract").glob("owner*")) == [], "none leaves a lock"


# --- workers, clocks ------------------------------------------------------------------------------


def by_lease(directory) -> None:
    (directory / ".extract").mkdir(exist_ok=True)
    lock_kind.note(directory, LockKind.lease)


def test_a_lease_is_renewed_by_the_process_that_took_it_not_by_its_workers(tmp_path):
    by_lease(tmp_path)
    fences = []
    with locked(tmp_path, guard=fences.append):
        workers = [CONTEXT.Process(target=signal.pause) for _ in range(2)]
        for worker in workers:
            worker.start()
        workers[0].kill()
        workers[0].join()
        seen = {lease._stamp(owner_of(tmp_path))}
        wait_for(lambda: seen.add(lease._stamp(owner_of(tmp_path))) or len(seen) > 2)
        fences[0]()
        workers[1].kill()
        workers[1].join()
    assert not owner_of(tmp_path).exists()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hold_with_clock(directory, index, count, hours, end) -> None:
    """As a machine whose clock is so many hours off, on storage that takes its times from it."""
    now, utime = time.time, os.utime
    time.time = lambda: now() + hours * 3600

    def shifted(path, times=None, **more):
        utime(path, times or (time.time(), time.time()), **more)

    os.utime = shifted
    hold(directory, index, count, end)


@pytest.mark.parametrize("hours", [-6, 6])
@pytest.mark.parametrize(("index", "count"), [(0, 1), (1, 2)])
def test_a_machine_whose_clock_is_hours_off_keeps_its_lease_while_it_lives(
    tmp_path, start, another_host, hours, index, count
):
    by_lease(tmp_path)
    process, pipe = start(hold_with_clock, tmp_path, index, count, hours)
    here(pipe)
    alone = []
    if (index, count) == (0, 1):
        with pytest.raises(StoreBusy, match=f"process {process.pid} on"), locked(tmp_path):
            pass
    else:
        with locked(tmp_path, 0, count, settle=alone.append):
            pass
        assert alone == [False]
    assert ask(pipe) == "written"
    record = owner_of(tmp_path, index, count)
    wait_for(lambda: abs(record.stat().st_mtime - time.time()) > 3600)
    process.kill()
    process.join()
    with locked(tmp_path, 0, count, settle=alone.append):
        pass
    assert alone[-1] is True, "its lease ends by the clock of who waits for it"


# --- folders that a machine remembers as they were ------------------------------------------------


class Remembered:
    """Folders as NFS keeps them: this machine changes one itself, and then asks the server."""

    CALLS = ("open", "stat", "lstat", "listdir", "mkdir")

    def __init__(self, *folders: Path) -> None:
        self._known = {str(folder): {path.name for path in folder.iterdir()} for folder in folders}
        self._real = {name: getattr(os, name) for name in self.CALLS}

    def apply(self, monkeypatch) -> None:
        for name in self._real:
            monkeypatch.setattr(os, name, getattr(self, name))

    def open(self, path, flags, *more, **named):
        if not flags & os.O_CREAT:
            self._ask(path)
        descriptor = self._asked("open", path, flags, *more, **named)
        if flags & os.O_CREAT:
            self._known.pop(os.path.split(os.fsdecode(path))[0], None)
        return descriptor

    def mkdir(self, path, *more, **named):
        self._asked("mkdir", path, *more, **named)

    def _asked(self, name, path, *more, **named):
        """What only the server can do; if it says that a name is there, the machine knows it."""
        try:
            return self._real[name](path, *more, **named)
        except FileExistsError:
            folder, name = os.path.split(os.fsdecode(path))
            self._known.get(folder, set()).add(name)
            raise

    def stat(self, path, *more, **named):
        self._ask(path)
        return self._real["stat"](path, *more, **named)

    def lstat(self, path, *more, **named):
        self._ask(path)
        return self._real["lstat"](path, *more, **named)

    def listdir(self, path="."):
        known = self._known.get(os.fsdecode(path))
        return self._real["listdir"](path) if known is None else sorted(known)

    def _ask(self, path) -> None:
        if not isinstance(path, int):
            folder, name = os.path.split(os.fsdecode(path))
            if name not in self._known.get(folder, {name}):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


@pytest.fixture(params=["remembered listings", "names remembered as not there"])
def seen_before(request, tmp_path, monkeypatch):
    """A store on one machine; and on another one, which looked before there was anything in it."""
    if request.param == "remembered listings":
        one = two = tmp_path / "store"
        one.mkdir()
    else:
        one, two = (view / "store" for view in request.getfixturevalue("forgetful"))
        one.mkdir()

    def as_two() -> Path:
        if request.param == "remembered listings":
            monkeypatch.setattr(lock, "storage_of", lambda folder: mounts.Storage(is_local=False))
            view.apply(monkeypatch)
        return two

    (one / ".extract").mkdir()
    view = Remembered(one, one / ".extract")
    assert not [name for name in ("metadata.json", "ledger.jsonl") if (two / name).exists()]
    return one, as_two


def extract(command, recordings, store, *options) -> int:
    return command(
        "dataset=folder",
        f"dataset.path={recordings}",
        f"store.dir={store}",
        *TINY,
        "loader.num_workers=0",
        *options,
    )


def test_a_store_that_another_machine_has_just_made_is_not_taken_for_a_new_one(
    seen_before, speech_folder, command, capsys
):
    one, as_two = seen_before
    assert extract(command, speech_folder, one) == 0
    metadata = (one / "metadata.json").read_bytes()
    assert extract(command, speech_folder, as_two(), "audio.alpha=0.25") == 2
    assert "audio.alpha" in capsys.readouterr().err
    assert (one / "metadata.json").read_bytes() == metadata


def test_a_ledger_that_another_machine_has_just_written_is_gone_on_with(
    seen_before, speech_folder, command
):
    one, as_two = seen_before
    assert extract(command, speech_folder, one) == 0
    lines = (one / "ledger.jsonl").read_bytes()
    assert extract(command, speech_folder, as_two()) == 0
    assert (one / "ledger.jsonl").read_bytes() == lines


def test_a_name_that_a_machine_remembers_as_not_there_is_found_after_looking_again(forgetful):
    one, two = forgetful
    assert not (two / "new").exists()
    (one / "new").touch()
    assert not (two / "new").exists(), "the file system does not remember: nothing is tested"
    caches.look_again(two)
    assert (two / "new").exists()
    assert [path.name for path in one.iterdir()] == ["new"]


def test_names_that_are_listed_and_never_found_stop_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "LONGEST_S", 0.0)
    (tmp_path / "there").touch()
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(OSError, match=f"{tmp_path}/there"):
        caches.look_again(tmp_path)


# --- which kind of lock ---------------------------------------------------------------------------


MOUNTS = """
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /home rw - {kind} server:/home rw,{options}
31 30 0:41 / /home/my\\040disk rw - xfs /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("kind", "options", "local", "flock"),
    [
        ("ext4", "discard", True, True),
        ("overlay", "lowerdir=/a", True, True),
        ("tmpfs", "size=1k", True, True),
        ("nfs4", "vers=4.2,local_lock=none", False, True),
        ("nfs", "vers=3,nolock,local_lock=all", False, False),
        ("nfs", "vers=3,local_lock=flock", False, False),
        ("nfs", "vers=3,local_lock=posix", False, True),
        ("lustre", "flock,lazystatfs", False, True),
        ("lustre", "localflock", False, False),
        ("lustre", "lazystatfs", False, False),
        ("gfs2", "localflocks", False, False),
        ("fuse.sshfs", "allow_other", False, False),
        ("9p", "trans=virtio", False, False),
        ("cifs", "vers=3.1.1", False, False),
        ("of tomorrow", "rw", False, False),
    ],
)
def test_the_mount_says_whether_flock_reaches_all_machines(
    tmp_path, monkeypatch, kind, options, local, flock
):
    (tmp_path / "mounts").write_text(
        MOUNTS.format(kind=kind.replace(" ", "\\040"), options=options)
    )
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    found = mounts.storage_of(Path("/home/me/store"))
    assert (found.is_local, not found.without_flock) == (local, flock)
    assert mounts.storage_of(Path("/home/my disk/store")) == mounts.Storage()
    assert mounts.storage_of(Path("/homes/store")) == mounts.Storage()


def test_a_disk_that_this_machine_exports_is_locked_by_leases(tmp_path, monkeypatch):
    (tmp_path / "etab").write_text("/srv/my\\040data\t10.0.0.0/8(rw,sync)\n")
    (tmp_path / "mounts").write_text("21 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(mounts, "EXPORTS", (tmp_path / "missing", tmp_path / "etab"))
    assert "exported" in mounts.storage_of(Path("/srv/my data/store")).without_flock
    assert mounts.storage_of(Path("/srv/other")) == mounts.Storage()


def test_a_system_that_does_not_tell_of_mounts_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "missing")
    assert mounts.storage_of(tmp_path) == mounts.Storage()


def mode_of_lock(directory, kind=LockKind.auto) -> str:
    with locked(directory, kind=kind):
        return MarkerSoftFileLock(owner_of(directory)).owner.mode


def test_the_kind_that_a_run_was_told_holds_for_later_ones(tmp_path):
    assert mode_of_lock(tmp_path) == "exclusive"
    assert not (tmp_path / ".extract" / "lock-kind").exists()
    assert mode_of_lock(tmp_path, LockKind.lease) == "lease"
    assert mode_of_lock(tmp_path) == "lease"
    assert mode_of_lock(tmp_path, LockKind.flock) == "exclusive"
    assert (tmp_path / ".extract" / "lock-kind").read_text() == "flock\n"
    assert mode_of_lock(tmp_path) == "exclusive"


def test_storage_that_is_not_trusted_is_locked_by_leases_on_every_machine(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        storage = mounts.Storage(False, "a flock may be seen here alone")
        patched.setattr(lock_kind, "storage_of", lambda folder: storage)
        assert mode_of_lock(tmp_path) == "lease"
        assert mode_of_lock(tmp_path, LockKind.flock) == "exclusive"
        (tmp_path / ".extract" / "lock-kind").unlink()
        assert mode_of_lock(tmp_path) == "lease"
    assert mode_of_lock(tmp_path) == "lease", "also where flock is trusted"


def test_two_runs_that_chose_differently_see_each_other(tmp_path, start):
    process, pipe = start(hold, tmp_path, 0, 1)
    here(pipe)
    with (
        pytest.raises(StoreBusy, match=rf"process {process.pid} on .* remove .*owner-0-of-1"),
        locked(tmp_path, kind=LockKind.lease),
    ):
        pass


def test_the_option_reaches_the_lock(tmp_path, speech_folder, command):
    assert extract(command, speech_folder, tmp_path / "out", "store.lock=lease") == 0
    assert (tmp_path / "out" / ".extract" / "lock-kind").read_text() == "lease\n"
    assert (tmp_path / "out" / "ledger.jsonl").exists()
