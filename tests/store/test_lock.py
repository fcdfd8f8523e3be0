"""One process per shard in a store, one way of sharding at a time, and the dead hold nothing."""

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from filelock import MarkerSoftFileLock

from extract.run.signals import stop_on_signals
from extract.store import held, lock
from extract.store.lock import StoreBusy, locked
from extract.write_errors import StoreUnusable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


WITH_FLOCK = pytest.mark.parametrize("storage", ["flock"], indirect=True)
WITHOUT_FLOCK = pytest.mark.parametrize("storage", ["lease"], indirect=True)


@pytest.fixture(params=["flock", "lease"], autouse=True)
def storage(request, monkeypatch) -> str:
    """With flock, and without it; leases are renewed so often that no test waits for it."""
    if request.param == "lease":
        without_flock(monkeypatch, errno.ENOLCK)
    return request.param


def without_flock(monkeypatch, number: int) -> None:
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(held, "RENEWED_S", 0.1)


def hold(directory, index, count, end) -> None:
    with locked(directory, index, count):
        end.send("here")
        end.recv()


@pytest.fixture
def other(tmp_path):
    """Starts processes that hold a shard; they let go at the end."""
    context = multiprocessing.get_context("fork")
    processes = []

    def start(index: int = 0, count: int = 1):
        mine, theirs = context.Pipe()
        process = context.Process(target=hold, args=(tmp_path, index, count, theirs))
        process.start()
        processes.append((process, mine))
        assert mine.poll(30)
        return process

    def let_go(process) -> None:
        next(pipe for started, pipe in processes if started is process).send("go")
        process.join(30)
        assert process.exitcode == 0

    start.let_go = let_go
    yield start
    for process, _ in processes:
        if process.is_alive():
            let_go(process)


def owner_of(tmp_path, index: int = 0, count: int = 1):
    return tmp_path / ".extract" / f"owner-{index}-of-{count}"


def pid_of(path) -> int:
    """The process that filelock's record names."""
    return MarkerSoftFileLock(path).owner.pid


def record(pid: int, host: str = "", mode: str = "exclusive", **more: object) -> str:
    """What filelock writes of an owner; of this host by default."""
    fields = {"pid": pid, "host": host or socket.gethostname(), "mode": mode, **more}
    if mode == "lease":
        fields = {**fields, "token": "0123", "duration": held.LEASE_S}
    return "\n".join(["filelock/2", *(f"{key}={value}" for key, value in fields.items()), ""])


def write_record(path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.with_name(path.name.replace("owner", "lock")).touch()
    path.write_text(text)


@pytest.fixture(params=["waited for", "zombie"])
def dead(request) -> Iterator[int]:
    """The id of a process that has ended, and whose parent has asked for its end or has not."""
    if request.param == "zombie" and sys.platform != "linux":
        pytest.skip("a zombie is known by /proc")
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if request.param == "waited for":
        os.waitpid(pid, 0)
    yield pid
    if request.param == "zombie":
        os.waitpid(pid, 0)


def test_a_second_process_is_refused_and_told_who_works_there(tmp_path, other):
    process = other()
    with pytest.raises(StoreBusy) as caught, locked(tmp_path):
        pass
    said = str(caught.value)
    assert f"process {process.pid} on {socket.gethostname()}" in said
    assert str(tmp_path) in said
    assert "store.dir" in said


def test_the_name_of_a_busy_store_does_not_reach_the_terminal_as_it_is(tmp_path):
    store = tmp_path / "a\x1b[2J"
    store.mkdir()
    with locked(store), pytest.raises(StoreBusy) as caught, locked(store):
        pass
    assert "\x1b" not in str(caught.value)
    assert "a\\x1b[2J: process" in str(caught.value)


def test_a_store_is_free_again_after_its_holder(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            assert pid_of(owner_of(tmp_path)) == os.getpid()
        assert not owner_of(tmp_path).exists()


def test_a_store_is_free_again_after_its_holder_failed(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path, other):
    process = other()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert owner_of(tmp_path).exists()
    with locked(tmp_path):
        assert pid_of(owner_of(tmp_path)) == os.getpid()


BY_A_LATER_RUN = pytest.mark.parametrize("shard", [(0, 1), (1, 3)], ids=["the same", "of others"])


@WITH_FLOCK
@BY_A_LATER_RUN
def test_the_lock_of_a_dead_owner_that_lingers_is_waited_for(tmp_path, other, dead, shard):
    """A killed run's workers hold its lock for as long as they take to end."""
    lingering = other()
    write_record(owner_of(tmp_path), record(dead))
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)

    def second() -> None:
        with locked(tmp_path, *shard, settle=tell.send):
            pass

    process = context.Process(target=second)
    process.start()
    tell.close()
    assert not told.poll(0.5), "it neither waits nor settles what another process holds"
    other.let_go(lingering)
    assert told.poll(30)
    assert told.recv() is True, "the dead one is not at work"
    process.join(30)
    assert process.exitcode == 0


@WITH_FLOCK
@BY_A_LATER_RUN
def test_the_lock_of_a_dead_owner_is_not_waited_for_without_end(
    tmp_path, other, dead, shard, monkeypatch
):
    monkeypatch.setattr(lock, "TAKE_OVER_S", 1.0)
    other()
    write_record(owner_of(tmp_path), record(dead))
    with pytest.raises(StoreBusy, match=f"process {dead} on"), locked(tmp_path, *shard):
        pass


@pytest.mark.parametrize(
    "written",
    ["", "{", "[]", record(1, "elsewhere?pidns-f0000123")],
    ids=["empty", "cut", "json", "elsewhere, in a container"],
)
def test_an_owner_that_is_not_known_to_be_dead_is_believed(tmp_path, other, monkeypatch, written):
    monkeypatch.setattr(lock, "TAKE_OVER_S", 0.5)
    other()
    owner_of(tmp_path).write_text(written)
    who = "process 1 on elsewhere has" if "elsewhere" in written else r"process \?"
    with pytest.raises(StoreBusy, match=who), locked(tmp_path):
        pass


@WITH_FLOCK
def test_a_process_of_another_host_is_not_taken_for_a_dead_one_of_this(tmp_path, other, dead):
    other()
    write_record(owner_of(tmp_path), record(dead, "elsewhere"))
    began = time.monotonic()
    with pytest.raises(StoreBusy, match=f"process {dead} on elsewhere"), locked(tmp_path):
        pass
    assert time.monotonic() - began < lock.TAKE_OVER_S / 2, "it does not wait for that one's end"


def test_shards_of_one_count_work_side_by_side(tmp_path, other):
    other(0, 3)
    other(1, 3)
    with locked(tmp_path, 2, 3):
        pass
    with pytest.raises(StoreBusy, match="lock-1-of-3"), locked(tmp_path, 1, 3):
        pass


@pytest.mark.parametrize(
    ("running", "wanted"), [((0, 2), (0, 1)), ((0, 1), (1, 2)), ((1, 2), (1, 3))]
)
def test_another_sharding_is_refused_while_one_runs(tmp_path, other, running, wanted):
    other(*running)
    with pytest.raises(StoreBusy, match=f"shard.count={wanted[1]}"), locked(tmp_path, *wanted):
        pass


def test_another_sharding_is_welcome_afterwards(tmp_path):
    for index, count in ((0, 2), (0, 1), (2, 3)):
        with locked(tmp_path, index, count):
            pass


def test_whoever_shares_a_store_knows_that_he_is_not_alone(tmp_path, other):
    told = []
    with locked(tmp_path, 0, 2, told.append):
        assert told == [True]
    other(1, 2)
    with locked(tmp_path, 0, 2, told.append):
        assert told == [True, False]


def test_of_two_that_start_together_one_settles_alone_before_the_other_has_its_shard(
    tmp_path, other
):
    """Both holding a shard before either settles, neither would be alone."""
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)

    def second() -> None:
        with locked(tmp_path, 1, 2, tell.send):
            pass

    process = context.Process(target=second)

    def settle(alone: bool) -> None:
        assert alone
        process.start()
        assert not told.poll(0.5), "the second one settles while the first does"

    with locked(tmp_path, 0, 2, settle):
        assert told.poll(30)
        assert told.recv() is False
    process.join(30)
    assert process.exitcode == 0


def test_a_shard_is_free_again_if_settling_fails(tmp_path, other):
    with pytest.raises(ZeroDivisionError) as caught, locked(tmp_path, settle=lambda alone: 1 / 0):
        pass
    assert not owner_of(tmp_path).exists()
    other()
    del caught  # until here its traceback kept the lock from being released as garbage


@pytest.mark.parametrize("name", ["lock", "owner", "lock-0-of-1", "lock-1-of-3", "owner-0-of-1"])
def test_a_link_in_the_place_of_a_lock_leads_nowhere(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    store = tmp_path / "store"
    (store / ".extract").mkdir(parents=True)
    (store / ".extract" / name).symlink_to(victim)
    with locked(store):
        assert pid_of(owner_of(store)) == os.getpid()
    assert victim.read_text() == "mine"


def test_a_folder_of_locks_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".extract").symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match="a symbolic link"), locked(tmp_path / "store"):
        pass
    assert list((tmp_path / "victim").iterdir()) == []


def test_an_owner_cannot_send_anything_to_the_terminal(tmp_path, other, monkeypatch):
    monkeypatch.setattr(lock, "TAKE_OVER_S", 0.5)
    other()
    owner_of(tmp_path).write_text(record(2**31 - 1, "\x1b[31m" + "x" * 900))
    with pytest.raises(StoreBusy) as caught, locked(tmp_path):
        pass
    assert "process 2147483647 on" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_refused_process_is_told_since_when(tmp_path, other):
    other()
    os.utime(tmp_path / ".extract" / "lock-0-of-1", (1e9, 1e9))
    with pytest.raises(StoreBusy, match=f"working here since {time.ctime(1e9)}"), locked(tmp_path):
        pass


def test_since_when_a_lock_is_held_is_its_holders_time(tmp_path):
    with locked(tmp_path):
        pass
    path = tmp_path / ".extract" / "lock-0-of-1"
    os.utime(path, (1e9, 1e9))
    with locked(tmp_path):
        assert path.stat().st_mtime > 1e9


def test_a_process_with_the_id_of_a_dead_owner_is_not_taken_for_it(tmp_path, storage):
    mode = "lease" if storage == "lease" else "exclusive"
    write_record(owner_of(tmp_path), record(os.getpid(), mode=mode, start=1))
    with locked(tmp_path):
        assert pid_of(owner_of(tmp_path)) == os.getpid()


def test_a_folder_in_the_place_of_an_owner_is_named_and_nothing_stays_locked(tmp_path, other):
    (owner_of(tmp_path) / "mine").mkdir(parents=True)
    with (
        pytest.raises(StoreUnusable, match=r"owner-0-of-1 is in the way") as caught,
        locked(tmp_path),
    ):
        pass
    (owner_of(tmp_path) / "mine").rename(tmp_path / "mine")
    other()  # an empty folder gives way
    del caught  # until here its traceback kept the lock from being released as garbage


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_lock_is_left_alone(tmp_path, kind):
    path = tmp_path / ".extract" / "lock-1-of-3"
    path.mkdir(parents=True)
    (path / "mine").touch()
    if kind == "link":
        path.rename(tmp_path / "folder")
        path.symlink_to(tmp_path / "folder")
    with locked(tmp_path):
        pass
    assert (path / "mine").exists()
    assert path.is_symlink() == (kind == "link")


# --- a run on another host, and storage with flock here and without it there ----------------------


def keep_renewing(path) -> threading.Event:
    """Renews a lease as its owner on another host does, until the event is set."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    threading.Thread(target=renew).start()
    return ended


def test_a_run_that_was_killed_on_another_host_holds_nothing(tmp_path, storage, monkeypatch):
    monkeypatch.setattr(held, "LEASE_S", 0.5)
    mode = "lease" if storage == "lease" else "exclusive"
    for index, count in ((0, 1), (1, 3)):
        write_record(owner_of(tmp_path, index, count), record(1, "elsewhere", mode))
    told = []
    with locked(tmp_path, settle=told.append):
        assert pid_of(owner_of(tmp_path)) == os.getpid()
    assert told == [True]


@pytest.mark.parametrize(("index", "count"), [(0, 1), (1, 3)])
def test_a_lease_that_is_renewed_on_another_host_is_respected(tmp_path, index, count):
    """Also by a process that has flock, where the other has none."""
    path = owner_of(tmp_path, index, count)
    write_record(path, record(7, "elsewhere", "lease"))
    ended = keep_renewing(path)
    try:
        with pytest.raises(StoreBusy, match="process 7 on elsewhere"), locked(tmp_path):
            pass
    finally:
        ended.set()
    assert pid_of(path) == 7


@WITH_FLOCK
def test_a_process_without_flock_respects_one_that_has_it(tmp_path, other, monkeypatch):
    process = other()
    without_flock(monkeypatch, errno.ENOTSUP)
    monkeypatch.setattr(held, "LEASE_S", 0.5)
    with pytest.raises(StoreBusy, match=f"process {process.pid} on"), locked(tmp_path):
        pass


# --- storage without flock ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_storage_without_flock_is_said_once_and_locked_all_the_same(
    tmp_path, other, monkeypatch, caplog, number
):
    without_flock(monkeypatch, number)
    with caplog.at_level("INFO"), locked(tmp_path, 0, 2):
        pass
    said = (
        f"{tmp_path}: this storage has no flock, so a run renews a lease; that of one killed on "
        "another host ends after 60 s"
    )
    assert [r.message for r in caplog.records if r.name.startswith("extract")] == [said]
    process = other()
    with pytest.raises(StoreBusy, match=f"process {process.pid} on"), locked(tmp_path):
        pass


@WITH_FLOCK
def test_storage_with_flock_says_nothing(tmp_path, caplog):
    with caplog.at_level("INFO"), locked(tmp_path):
        pass
    assert not [r for r in caplog.records if r.name.startswith("extract")]


def test_another_error_of_flock_is_no_reason_to_go_without(tmp_path, monkeypatch):
    without_flock(monkeypatch, errno.EIO)
    with pytest.raises(StoreUnusable, match=os.strerror(errno.EIO)), locked(tmp_path):
        pass


@WITHOUT_FLOCK
def test_a_run_whose_lease_was_taken_stops(tmp_path, caplog):
    with stop_on_signals() as stop, locked(tmp_path):
        taken = owner_of(tmp_path).with_name("taken")
        taken.write_text(record(7, "elsewhere", "lease"))
        taken.rename(owner_of(tmp_path))
        deadline = time.monotonic() + 30
        while not stop():
            assert time.monotonic() < deadline, "the run goes on"
            time.sleep(0.01)
    assert stop.signal_name == "SIGTERM"
    assert "another run may have begun here; this one stops" in caplog.text
    assert pid_of(owner_of(tmp_path)) == 7, "what the other run wrote stays"
