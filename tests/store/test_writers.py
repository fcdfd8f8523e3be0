"""Writers: each utterance's outcome is saved and told once; a slow or full disk holds them up."""

import dataclasses
import errno
import os
import sys
import threading
import time
import unittest.mock
import weakref
from pathlib import Path

import pytest
import torch

from extract import systems
from extract.files import replace_cache
from extract.store.formats import _surroundings
from extract.store.layout import Kept, Layout
from extract.store.ledger import Ledger, read
from extract.store.store import Store, StoreUnusable, WriteFailed
from extract.store.writers import MAX_QUEUED_PER_WRITER, Writers
from extract.values import Encoded, Failure, Features, Recording
from support.stores import put


def encoded(name: str, *, retried_fp32: bool = False, dtype: torch.dtype = torch.float16):
    recording = Recording(0, name, f"/there/{name}", 100, 7, 0.5, 0.41, 3)
    features = Features(torch.zeros(1, 20, 4, dtype=dtype), True, retried_fp32)
    return Encoded(recording, features, torch.zeros(13_120, dtype=torch.int16))


class Parts:
    def __init__(self, tmp_path, num_threads: int = 2) -> None:
        self.store = Store(tmp_path / "store", fsync=False)
        self.store.create()
        self.ledger = Ledger(self.store.directory / "ledger.jsonl")
        self.told = []
        self.writers = Writers(self.store, self.ledger, self.told.append, num_threads)

    def lines(self) -> dict[str, dict]:
        found = list(read(self.store.directory))
        assert len({line["id"] for line in found}) == len(found)
        return {line["id"]: line for line in found}

    def stored(self) -> set[str]:
        return {path.name for path in (self.store.directory / "5-wav32k").iterdir()}


@pytest.fixture
def parts(tmp_path):
    parts = Parts(tmp_path)
    yield parts
    parts.writers.close(abandon=True)
    parts.ledger.close()


def test_every_utterance_is_saved_recorded_and_told_once(parts):
    names = {f"{n}.wav" for n in range(100)}
    for name in names:
        parts.writers.put(encoded(name))
    parts.writers.close()
    assert set(parts.lines()) == parts.stored() == names
    assert sorted(record.id for record in parts.told) == sorted(names)


def test_a_line_says_what_became_of_the_utterance(parts):
    parts.writers.put(encoded("a.wav", retried_fp32=True, dtype=torch.float32))
    parts.writers.close()
    line = parts.lines()["a.wav"]
    assert {key: line[key] for key in ("status", "reason", "peak", "duration_s", "num_frames")} == {
        "status": "saved",
        "reason": None,
        "peak": 0.5,
        "duration_s": 0.41,
        "num_frames": 20,
    }
    assert line["dtype"] == "float32"
    assert line["retried_fp32"] is True
    assert line["clipped_samples"] == 3
    assert (line["source_size"], line["source_mtime_ns"]) == (100, 7)
    assert parts.store.intact(line, checksum=True)


def test_the_line_comes_after_the_files(parts, monkeypatch):
    seen = []
    append = parts.ledger.append

    def look(record):
        seen.append(parts.store.intact({"id": record.id, **vars(record)}))
        append(record)

    monkeypatch.setattr(parts.ledger, "append", look)
    parts.writers.put(encoded("a.wav"))
    parts.writers.close()
    assert seen == [True]


def test_a_failure_takes_an_earlier_runs_files_away(parts):
    put(parts.store, "a.wav", torch.zeros(1, 2, 2), torch.zeros(9, dtype=torch.int16))
    parts.writers.put(Failure(Recording(0, "a.wav", "/there/a.wav"), "silent", "only zeros"))
    parts.writers.close()
    assert parts.lines()["a.wav"]["status"] == "rejected"
    assert not parts.stored()


def test_one_that_cannot_be_written_fails_alone(parts, monkeypatch):
    save = parts.store.layout.put

    def refuse(item):
        if item.recording.id == "3.wav":
            raise WriteFailed("3.wav: Is a directory")
        return save(item)

    monkeypatch.setattr(parts.store.layout, "put", refuse)
    for n in range(10):
        parts.writers.put(encoded(f"{n}.wav"))
    parts.writers.close()
    lines = parts.lines()
    assert len(lines) == 10
    assert (lines["3.wav"]["reason"], lines["3.wav"]["detail"]) == (
        "write_failed",
        "3.wav: Is a directory",
    )
    assert parts.stored() == {f"{n}.wav" for n in range(10)} - {"3.wav"}


def test_a_full_disk_is_met_once_and_told_to_who_puts_and_closes(parts, monkeypatch):
    tries = []

    def full(*_):
        tries.append(1)
        raise StoreUnusable("the disk is full")

    monkeypatch.setattr(parts.store.layout, "put", full)

    def put_many():
        for n in range(1000):
            parts.writers.put(encoded(f"{n}.wav"))

    with pytest.raises(StoreUnusable):
        put_many()
    with pytest.raises(StoreUnusable):
        parts.writers.close()
    assert len(tries) <= 2  # one for each thread that was at it
    assert not parts.lines()


def test_a_ledger_that_takes_no_line_stops_the_run_too(parts, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts.ledger, "append", full)
    parts.writers.put(encoded("a.wav"))
    with pytest.raises(StoreUnusable, match="No space left"):
        parts.writers.close()
    assert not parts.told


def test_an_error_of_ours_is_raised_as_it_is(parts, monkeypatch):
    monkeypatch.setattr(parts.store.layout, "put", lambda *_: 1 / 0)
    parts.writers.put(encoded("a.wav"))
    with pytest.raises(ZeroDivisionError):
        parts.writers.close()


@pytest.fixture
def held(parts, monkeypatch):
    """Saves that wait until they are let go."""
    go = threading.Event()
    save = parts.store.layout.put
    monkeypatch.setattr(parts.store.layout, "put", lambda *args: (go.wait(30), save(*args))[1])
    yield go
    go.set()


def test_a_slow_disk_makes_put_wait_and_memory_stays_bounded(parts, held):
    limit, queued = 2 * MAX_QUEUED_PER_WRITER, []

    def put_all():
        for n in range(limit + 20):
            parts.writers.put(encoded(f"{n}.wav"))
            queued.append(n)

    thread = threading.Thread(target=put_all)
    thread.start()
    deadline = time.monotonic() + 10
    while len(queued) < limit and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert len(queued) == limit
    held.set()
    thread.join(30)
    parts.writers.close()
    assert len(parts.lines()) == limit + 20


def test_a_full_queue_takes_more_once_half_of_it_is_done(parts, monkeypatch):
    """Not only when all is: the writers would have nothing to do while the next batch comes."""
    limit = 2 * MAX_QUEUED_PER_WRITER
    go = threading.Semaphore(0)
    save = parts.store.layout.put
    monkeypatch.setattr(parts.store.layout, "put", lambda *args: (go.acquire(), save(*args))[1])
    for n in range(limit):
        parts.writers.put(encoded(f"{n}.wav"))
    last = threading.Thread(target=parts.writers.put, args=[encoded("last.wav")])
    last.start()
    last.join(0.1)
    assert last.is_alive()
    go.release(limit // 2)
    last.join(10)
    taken = not last.is_alive()
    go.release(limit)
    last.join(30)
    parts.writers.close()
    assert taken
    assert len(parts.lines()) == limit + 1


def test_abandoning_finishes_only_what_is_under_way(parts, held):
    for n in range(20):
        parts.writers.put(encoded(f"{n}.wav"))
    time.sleep(0.05)
    threading.Timer(0.05, held.set).start()
    parts.writers.close(abandon=True)
    assert len(parts.lines()) == 2
    assert set(parts.lines()) == parts.stored()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("channels_first", [True, False])
def test_writing_calls_up_none_of_torchs_threads(parts, channels_first):
    """With more of them than cores, OpenMP sends the encoder's to sleep at every barrier."""
    _surroundings.cache_clear()
    many = torch.zeros(1, 768, 250).mT if channels_first else torch.zeros(1, 250, 768)
    item = encoded("a.wav")
    item = dataclasses.replace(item, features=dataclasses.replace(item.features, values=many))
    written = threading.Event()
    parts.writers.done = lambda record: written.set()
    threads = Path("/proc/self/task")
    cores, before = torch.get_num_threads(), set(threads.iterdir())
    torch.set_num_threads(4)
    try:
        parts.writers.put(item)
        assert written.wait(10)
        assert not set(threads.iterdir()) - before
    finally:
        torch.set_num_threads(cores)


# --- a layout that keeps many at once ------------------------------------------------------------


class Dozens(Layout):
    """Keeps twelve utterances at a time, without a file."""

    def __init__(self, size: int = 12) -> None:
        self.size, self.lock = size, threading.Lock()
        self.held, self.closed, self.abandoned = [], 0, 0

    def put(self, item):
        with self.lock:
            self.held.append(item.recording.id)
            return self.keep() if len(self.held) == self.size else ()

    def keep(self):
        kept = [Kept(id_, ((f"{self.held[0]}.dozen", n, 1, 1),)) for n, id_ in enumerate(self.held)]
        self.held = []
        return kept

    def close(self, *, abandon=False):
        self.closed, self.abandoned = self.closed + 1, self.abandoned + abandon
        if abandon:
            self.held = []
        return self.keep()

    def discard(self, id):  # noqa: A002
        pass


@pytest.fixture
def dozens(parts) -> Dozens:
    parts.store.layout = Dozens()
    return parts.store.layout


def test_a_line_is_written_once_its_utterance_is_kept_and_not_before(parts, dozens):
    for n in range(11):
        parts.writers.put(encoded(f"{n}.wav"))
    wait_until(lambda: len(dozens.held) == 11)
    assert not parts.lines()
    assert not parts.told
    parts.writers.put(encoded("11.wav"))
    wait_until(lambda: len(parts.told) == 12)
    assert set(parts.lines()) == {f"{n}.wav" for n in range(12)}
    assert sorted(line["files"][0][1] for line in parts.lines().values()) == list(range(12))


def test_what_a_layout_holds_is_kept_at_the_end_whichever_thread_put_it(parts, dozens):
    names = {f"{n}.wav" for n in range(250)}
    for name in names:
        parts.writers.put(encoded(name))
    parts.writers.close()
    assert set(parts.lines()) == names
    assert sorted(record.id for record in parts.told) == sorted(names)
    assert not dozens.abandoned
    parts.writers.close()
    assert len(parts.told) == 250


def test_abandoning_drops_what_a_layout_holds(parts, dozens):
    for n in range(17):
        parts.writers.put(encoded(f"{n}.wav"))
    wait_until(lambda: len(parts.told) == 12 and len(dozens.held) == 5)
    parts.writers.close(abandon=True)
    assert len(parts.lines()) == 12
    assert (dozens.closed, dozens.abandoned, dozens.held) == (1, 1, [])


def test_a_full_disk_drops_what_a_layout_holds(parts, dozens, monkeypatch):
    def full():
        raise StoreUnusable("the disk is full")

    monkeypatch.setattr(dozens, "keep", full)
    for n in range(12):
        parts.writers.put(encoded(f"{n}.wav"))
    with pytest.raises(StoreUnusable, match="the disk is full"):
        parts.writers.close()
    assert dozens.abandoned == 1
    assert not parts.lines()


@pytest.mark.parametrize("error", [StoreUnusable("is full"), OSError(28, "No space left")])
def test_a_disk_that_is_full_at_the_end_is_told_to_who_closes(parts, dozens, monkeypatch, error):
    def full():
        raise error

    parts.writers.put(encoded("a.wav"))
    wait_until(lambda: dozens.held)
    monkeypatch.setattr(dozens, "keep", full)
    with pytest.raises(StoreUnusable, match="full"):
        parts.writers.close()
    assert not parts.lines()


def test_one_that_cannot_be_written_does_not_wait(parts, dozens, monkeypatch):
    put = dozens.put

    def refuse(item):
        if item.recording.id == "3.wav":
            raise WriteFailed("3.wav: Is a directory")
        return put(item)

    monkeypatch.setattr(dozens, "put", refuse)
    for n in range(5):
        parts.writers.put(encoded(f"{n}.wav"))
    parts.writers.close()
    reasons = {id_: line["reason"] for id_, line in parts.lines().items()}
    assert reasons == {f"{n}.wav": None for n in (0, 1, 2, 4)} | {"3.wav": "write_failed"}


def test_a_layout_that_loses_an_utterance_is_found_out(parts, dozens, monkeypatch):
    monkeypatch.setattr(dozens, "keep", list)
    parts.writers.put(encoded("a.wav"))
    with pytest.raises(AssertionError, match=r"put and never kept: \['a\.wav'\]"):
        parts.writers.close()


def test_what_waits_holds_no_tensor(parts, dozens):
    item = encoded("a.wav")
    features = weakref.ref(item.features.values)
    parts.writers.put(item)
    del item
    wait_until(lambda: dozens.held)
    wait_until(lambda: features() is None)


def wait_until(condition, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)


def in_use(path: str) -> PermissionError:
    error = PermissionError(errno.EACCES, "Access is denied", path)
    error.winerror = 32  # Windows: ERROR_SHARING_VIOLATION
    return error


def test_a_file_that_another_program_has_open_costs_only_itself(parts, monkeypatch):
    parts.writers.put(encoded("a.wav"))
    parts.writers.put(encoded("b.wav"))
    parts.writers.close()
    before = torch.load(parts.store.directory / "4-cnhubert/a.wav.pt", weights_only=True)
    replace, unlink = os.replace, os.unlink

    def denied(call):
        def change(path, *more):
            target = (more or (path,))[0]
            if str(target).endswith("a.wav.pt"):
                raise in_use(target)
            call(path, *more)

        return change

    monkeypatch.setattr(systems, "PAUSES_S", (0.0,))
    monkeypatch.setattr(os, "replace", denied(replace))
    monkeypatch.setattr(os, "unlink", denied(unlink))
    writers = Writers(parts.store, parts.ledger)
    for name in ("a.wav", "c.wav"):
        writers.put(encoded(name))
    writers.close()
    last = {record["id"]: record for record in read(parts.store.directory)}
    assert last["a.wav"]["reason"] == "write_failed"
    assert "another program has it open" in last["a.wav"]["detail"]
    assert last["a.wav"]["detail"].endswith("4-cnhubert/a.wav.pt")
    assert last["c.wav"]["status"] == "saved"
    after = torch.load(parts.store.directory / "4-cnhubert/a.wav.pt", weights_only=True)
    assert torch.equal(after, before)
    assert not list(parts.store.directory.rglob(".tmp-*"))


def test_a_cache_that_another_program_has_open_is_said_and_left(tmp_path, monkeypatch, caplog):
    (tmp_path / "plan").write_bytes(b"old")
    monkeypatch.setattr(systems, "PAUSES_S", ())
    denied = unittest.mock.Mock(side_effect=in_use(str(tmp_path / "plan")))
    monkeypatch.setattr(os, "replace", denied)
    replace_cache(tmp_path / "plan", b"new")
    assert "another program has it open" in caplog.text
    assert (tmp_path / "plan").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]
