"""One process per shard in a store, one way of sharding at a time, and the dead hold nothing."""

import json
import multiprocessing
import os
import signal
import socket
import sys

import pytest

from extract.store import lock
from extract.store.lock import StoreBusy, locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


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

    yield start
    for process, pipe in processes:
        if process.is_alive():
            pipe.send("go")
        process.join(30)
        assert not process.is_alive()


def owner_of(tmp_path, index: int = 0, count: int = 1):
    return tmp_path / ".extract" / f"owner-{index}-of-{count}.json"


def test_a_second_process_is_refused_and_told_who_works_there(tmp_path, other):
    process = other()
    with pytest.raises(StoreBusy) as caught, locked(tmp_path):
        pass
    said = str(caught.value)
    assert f"process {process.pid} on {socket.gethostname()}" in said
    assert str(tmp_path) in said
    assert "store.dir" in said


def test_a_store_is_free_again_after_its_holder(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            assert json.loads(owner_of(tmp_path).read_text())["pid"] == os.getpid()
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
        assert json.loads(owner_of(tmp_path).read_text())["pid"] == os.getpid()


def test_the_lock_of_a_dead_owner_that_lingers_is_waited_for(tmp_path, other, monkeypatch):
    """A killed run's workers hold its lock for as long as they take to end."""
    monkeypatch.setattr(lock, "TAKE_OVER_S", 1.0)
    other()
    dead = multiprocessing.get_context("fork").Process(target=lambda: None)
    dead.start()
    dead.join()
    owner_of(tmp_path).write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    tries = []
    monkeypatch.setattr(
        lock, "_owner", lambda path, real=lock._owner: tries.append(1) or real(path)
    )
    with pytest.raises(StoreBusy), locked(tmp_path):
        pass
    assert len(tries) > 2


@pytest.mark.parametrize("written", ["", "{", "[]", '{"host": "elsewhere", "pid": 1}'])
def test_an_owner_that_is_not_known_to_be_dead_is_believed(tmp_path, other, monkeypatch, written):
    monkeypatch.setattr(lock, "TAKE_OVER_S", 0.5)
    other()
    owner_of(tmp_path).write_text(written)
    who = "elsewhere" if "elsewhere" in written else r"process \?"
    with pytest.raises(StoreBusy, match=who), locked(tmp_path):
        pass


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
    with pytest.raises(ZeroDivisionError), locked(tmp_path, settle=lambda alone: 1 / 0):
        pass
    assert not owner_of(tmp_path).exists()
    other()


@pytest.mark.parametrize("name", ["lock", "lock-0-of-1", "lock-1-of-3", "owner-0-of-1.json"])
def test_a_link_in_the_place_of_a_lock_leads_nowhere(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    store = tmp_path / "store"
    (store / ".extract").mkdir(parents=True)
    (store / ".extract" / name).symlink_to(victim)
    with locked(store):
        assert json.loads(owner_of(store).read_text())["pid"] == os.getpid()
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
    owner_of(tmp_path).write_text(json.dumps({"host": "\x1b[31m" + "x" * 999, "pid": 10**999}))
    with pytest.raises(StoreBusy) as caught, locked(tmp_path):
        pass
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
