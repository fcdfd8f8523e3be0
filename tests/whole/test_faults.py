"""Faults on a real run. After each, the same command finishes and nothing was lost.

With --all-layouts each runs on every layout, else on that of GPT-SoVITS;
`tests/whole/test_each_layout.py` has four that always run on all of them.
"""

import errno
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch

from extract.data import durations
from extract.files import replace_cache
from extract.run import job
from extract.store import held, writers
from support import readers
from support.command import TINY, start
from support.disks import tmpfs
from support.layouts import words
from support.posix import PATCHED_WORKER, SIGUSR1
from support.recordings import write_wav
from support.stores import audit, contents, files_of, ids_of, is_per_utterance, ledger

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

NUM_KILLS = 20
NUM_OWN_PAGES = 18  # of 4 kB, that a store's ledger, metadata, locks and folders take


SMALL = ["loader.batch_seconds=4", "loader.num_workers=1", "store.num_writers=2"]


@pytest.fixture
def argv(layout):
    """The arguments of a run over a folder, into a store of the layout under test."""

    def argv(folder: Path, store: Path, *options: str) -> list[str]:
        where = [f"dataset.path={folder}", *words(layout), f"store.dir={store}"]
        return ["dataset=folder", *where, *TINY, *SMALL, *options]

    return argv


def finish(process, timeout_s: float = 250) -> int:
    process.join(timeout_s)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("the run did not end")
    return process.exitcode


def wait_for(condition, timeout_s: float = 250) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)


def num_bytes(recordings: Path) -> int:
    """What is saved of recordings: int16 at 32 kHz; 32 float32 at 50 Hz."""
    seconds = sum(soundfile.info(path).duration for path in recordings.rglob("*.wav"))
    return round(seconds * (2 * 32_000 + 50 * 32 * 4))


@pytest.fixture
def slow_saves(tmp_path, monkeypatch):
    """Saves that take long enough for a signal to fall between them; called, longer ones.

    And a queue that holds little, or all 24 utterances are in flight, and saved, whatever comes.
    `num_saves` counts them: lines of the ledger come late from a layout of archives. `end` ends the
    slowness, also of processes that have started.
    """
    over = tmp_path / "no longer slow"

    def slow_down(seconds: float) -> None:
        def slow(self, item):
            time.sleep(0 if over.exists() else seconds)
            save(self, item)
            with (tmp_path / "saves").open("ab") as file:
                file.write(b".")

        monkeypatch.setattr(writers.Writers, "_save", slow)

    save = writers.Writers._save
    monkeypatch.setattr(writers, "MAX_QUEUED_PER_WRITER", 1)
    slow_down(0.02)
    slow_down.end = over.touch
    return slow_down


@pytest.fixture
def num_saves(tmp_path, slow_saves):
    """How many utterances were saved since `begin` was called, or since the test's start."""
    path = tmp_path / "saves"

    def num_saves() -> int:
        return path.stat().st_size if path.exists() else 0

    num_saves.begin = lambda: path.unlink(missing_ok=True)
    return num_saves


@pytest.mark.slow
@pytest.mark.fault(
    "SIGKILL of the run at 20 random moments, then the same command",
    "every file byte for byte that of an uninterrupted run",
)
def test_sigkill_at_random_moments_then_the_same_command_equals_one_run(
    recordings, tmp_path, slow_saves, num_saves, argv
):
    rng = random.Random(1)
    assert finish(start(argv(recordings, tmp_path / "whole"), tmp_path)) == 0
    interrupted = 0
    for kill in range(NUM_KILLS):
        store = tmp_path / f"killed{kill}"
        slow_saves(0.02)
        num_saves.begin()
        process = start(argv(recordings, store), tmp_path)
        saves = rng.randrange(-4, 23)  # -4 to 0: while it starts, reads headers, loads the first
        wait_for(lambda saves=saves: num_saves() >= saves)
        time.sleep(rng.uniform(0, 0.03 if saves > 0 else 0.6))
        process.kill()
        process.join()
        interrupted += 0 < num_saves() < 24
        slow_saves(0)
        assert finish(start(argv(recordings, store), tmp_path)) == 0
        audit(store, ids_of(recordings))
        assert contents(store) == contents(tmp_path / "whole")
    assert interrupted >= NUM_KILLS // 2, "the kills missed the run"


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), SIGUSR1])
@pytest.mark.fault(
    "Ctrl-C, SIGTERM, SIGUSR1, to the whole process group",
    "the batch in flight is saved; exit 130 or 143; the same command goes on",
)
def test_a_signal_finishes_what_is_under_way(
    recordings, tmp_path, slow_saves, num_saves, argv, name, code
):
    slow_saves(0.1)  # a busy machine may be late with the signal
    store = tmp_path / "out"
    process = start(argv(recordings, store), tmp_path)
    wait_for(lambda: num_saves() >= 1)
    os.killpg(process.pid, getattr(signal, name))  # as a terminal or batch system does: the group
    assert finish(process) == code
    done = {record["id"] for record in ledger(store)}
    assert 0 < len(done) < 24
    audit(store, done)
    slow_saves.end()
    assert finish(start(argv(recordings, store), tmp_path)) == 0
    audit(store, ids_of(recordings))


def test_ctrl_c_ends_a_sweep_and_not_only_its_job(
    recordings, tmp_path, slow_saves, num_saves, argv
):
    slow_saves(0.1)
    named_by_the_run = ("store=", "store.dir=", "store.subfolders=")
    options = [o for o in argv(recordings, tmp_path) if not o.startswith(named_by_the_run)]
    process = start(["-m", *options, "audio.alpha=0.1,0.2", "dataset.name=it"], tmp_path)
    stores = tmp_path / "outputs" / "it"
    wait_for(lambda: num_saves() >= 1)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130
    assert [store.name for store in stores.iterdir()] == ["tiny_random-maxx0.95-alpha0.1"]


@pytest.mark.fault("a second Ctrl-C", "stops within a save; no half-written file")
def test_a_second_ctrl_c_stops_at_once_and_leaves_no_half_file(
    recordings, tmp_path, slow_saves, num_saves, argv
):
    slow_saves(0.5)
    store = tmp_path / "out"
    process = start(argv(recordings, store), tmp_path)
    wait_for(lambda: num_saves() >= 1)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    before = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130
    assert time.monotonic() - before < 4
    audit(store, {record["id"] for record in ledger(store)})


@pytest.mark.fault(
    "a recording that kills its worker every time (SIGSEGV)",
    "tried again apart, then recorded as `worker_crashed`; all others saved",
)
@PATCHED_WORKER
def test_a_recording_that_kills_its_worker_each_time_costs_only_itself(
    recordings, tmp_path, monkeypatch, argv
):
    from extract.data import dataset

    prepare = dataset.prepare

    def deadly(file, where, *rest, **options):
        if where.endswith("07.wav"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return prepare(file, where, *rest, **options)

    monkeypatch.setattr(dataset, "prepare", deadly)
    store = tmp_path / "out"
    assert finish(start(argv(recordings, store), tmp_path)) == 1
    audit(store, ids_of(recordings))
    reasons = {record["id"]: record["reason"] for record in ledger(store) if record["reason"]}
    assert reasons == {"07.wav": "worker_crashed"}


@pytest.mark.fault("SIGKILL of the workers during a run", "new workers; everything saved")
def test_workers_killed_at_random_in_a_run_cost_nothing(
    recordings, tmp_path, slow_saves, num_saves, argv
):
    store = tmp_path / "out"
    process = start(argv(recordings, store), tmp_path)
    for saves in (1, 8):
        wait_for(lambda saves=saves: num_saves() >= saves)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
    assert finish(process) == 0
    audit(store, ids_of(recordings))


@pytest.mark.fault(
    "disk full (a real small tmpfs)",
    "stops, exit 1, says how much is missing; goes on once there is room",
)
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(recordings, tmp_path, argv, monkeypatch):
    disk = tmp_path / "disk"
    assert finish(start(argv(recordings, tmp_path / "whole"), tmp_path)) == 0
    files = files_of(tmp_path / "whole")
    pages = sum(-(-(tmp_path / "whole" / name).stat().st_size // 4096) for name in files)
    monkeypatch.setattr(job, "require_room", lambda *_: None)  # it would stop before the work
    with tmpfs(disk, f"size={(NUM_OWN_PAGES + pages // 2) * 4}k"):
        store = disk / "out"
        log = tmp_path / "log"
        process = start(argv(recordings, store), tmp_path, log)
        assert finish(process) == 1
        said = log.read_text().replace("\n", " ")
        assert "the disk is full" in said
        assert "MB needed" in said or "ledger.jsonl" in said  # which has no size of its own
        assert "MB are needed for what is left" in said
        assert "goes on from here" in said
        done = {record["id"] for record in ledger(store)}
        assert len(done) < 24
        assert done or not is_per_utterance(store)
        audit(store, done)
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        assert finish(start(argv(recordings, store), tmp_path)) == 0
        audit(store, ids_of(recordings))


@pytest.mark.fault(
    "a disk too small for what is left to do (a real small tmpfs)",
    "said before any work, with the numbers; exit 1; goes on once there is room",
)
def test_a_disk_that_is_too_small_is_said_before_any_work(recordings, tmp_path, argv):
    disk = tmp_path / "disk"
    whole = tmp_path / "whole"
    assert finish(start(argv(recordings, whole), tmp_path)) == 0
    needed = sum((whole / name).stat().st_size for name in files_of(whole))
    with tmpfs(disk, f"size={needed // 2}"):
        store, log = disk / "out", tmp_path / "log"
        assert finish(start(argv(recordings, store), tmp_path, log)) == 1
        said = log.read_text().replace("\n", " ")
        assert re.search(r"is too small for what is left to do: about \d\.\d MB needed, ", said)
        assert "goes on from here" in said
        assert not ledger(store)
        audit(store, set())
        assert finish(start([*argv(recordings, store), "preflight=true"], tmp_path)) == 1
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        assert finish(start(argv(recordings, store), tmp_path)) == 0
        audit(store, ids_of(recordings))


def test_a_disk_that_only_just_seems_to_hold_it_all_is_said_to(recordings, tmp_path, argv, layout):
    """One that holds what is written, but not the whole pages that its files take."""
    if layout != "gpt_sovits":
        pytest.skip("the size of the disk is for two small files an utterance")
    disk, log = tmp_path / "disk", tmp_path / "log"
    with tmpfs(disk, f"size={num_bytes(recordings) + 40_000}"):
        assert finish(start(argv(recordings, disk / "out"), tmp_path, log)) == 1
        said = log.read_text().replace("\n", " ")
        assert "there may not be room for all" in said
        assert "the disk is full" in said
        assert 0 < len(ledger(disk / "out")) < 24


@pytest.mark.fault("read-only store", "said before any work; exit 1")
def test_a_read_only_store_is_said_before_any_work(recordings, tmp_path, argv):
    store, log = tmp_path / "out", tmp_path / "log"
    with tmpfs(store, "ro"):
        assert finish(start(argv(recordings, store), tmp_path, log)) == 1
        assert "Read-only file system" in log.read_text()


@pytest.mark.fault(
    "shared memory of 1 MB, less than a batch",
    "said at the start; such batches go through a pipe; everything saved",
)
def test_little_shared_memory_costs_nothing_but_time(recordings, tmp_path, argv):
    write_wav(recordings / "long.wav", 30.0)
    store = tmp_path / "out"
    command = [sys.executable, "-m", "extract", *argv(recordings, store), "loader.num_workers=2"]
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-c", mount, "sh", "true"]).returncode:
        pytest.skip("mounting is not allowed here")
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "/dev/shm is small" in ran.stderr
    audit(store, ids_of(recordings))


@pytest.mark.fault("the store's folder gone in mid-run", "stops, exit 1; goes on once it is back")
def test_a_store_that_vanishes_stops_the_run(recordings, tmp_path, slow_saves, num_saves, argv):
    store, log = tmp_path / "out", tmp_path / "log"
    process = start(argv(recordings, store), tmp_path, log)
    wait_for(lambda: num_saves() >= 1)
    store.rename(tmp_path / "elsewhere")
    assert finish(process) == 1
    assert "the folder is gone" in log.read_text()
    (tmp_path / "elsewhere").rename(store)
    assert finish(start(argv(recordings, store), tmp_path)) == 0
    audit(store, ids_of(recordings))


@pytest.mark.fault(
    "a second run into the same folder",
    "refused with the first one's process and host; the first is undisturbed",
)
def test_a_second_run_into_the_same_folder_is_told_who_works_there(
    recordings, tmp_path, slow_saves, num_saves, argv
):
    slow_saves(0.3)
    store, log = tmp_path / "out", tmp_path / "log"
    first = start(argv(recordings, store), tmp_path)
    wait_for(lambda: num_saves() >= 1)
    assert finish(start(argv(recordings, store), tmp_path, log)) == 2
    said = log.read_text().replace("\n", " ")
    assert f"process {first.pid} on {socket.gethostname()}" in said
    slow_saves.end()
    assert finish(first) == 0
    audit(store, ids_of(recordings))


@pytest.mark.fault(
    "storage without flock: a second run, then SIGKILL of the first",
    "refused with the first one's process and host; then the same command goes on at once",
)
def test_storage_without_flock_is_locked_all_the_same(
    recordings, tmp_path, slow_saves, num_saves, monkeypatch, argv
):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(held, "RENEWED_S", 0.1)
    slow_saves(0.3)
    store, log = tmp_path / "out", tmp_path / "log"
    first = start(argv(recordings, store), tmp_path)
    wait_for(lambda: num_saves() >= 1)
    assert finish(start(argv(recordings, store), tmp_path, log)) == 2
    said = " ".join(log.read_text().split())
    assert "lock-kind says lease" in said  # as the first run noted
    assert f"process {first.pid} on {socket.gethostname()}" in said
    first.kill()
    first.join()
    assert 0 < num_saves() < 24
    slow_saves.end()
    assert finish(start(argv(recordings, store), tmp_path)) == 0
    audit(store, ids_of(recordings))


@pytest.mark.fault(
    "shards of one job side by side in one folder", "each utterance once over their ledgers"
)
def test_shards_run_side_by_side(recordings, tmp_path, slow_saves, num_saves, argv):
    store = tmp_path / "out"
    shards = [
        start(argv(recordings, store, "shard.count=2", f"shard.index={index}"), tmp_path)
        for index in range(2)
    ]
    assert [finish(shard) for shard in shards] == [0, 0]
    audit(store, ids_of(recordings))


@pytest.mark.fault(
    "both shards started together on a finished unsharded store",
    "nothing is done again; each utterance once over their ledgers",
)
def test_shards_that_start_together_on_a_finished_store_find_all_done(recordings, tmp_path, argv):
    store = tmp_path / "out"
    assert finish(start(argv(recordings, store), tmp_path)) == 0
    before = contents(store)
    times = times_of(store)
    for folder in readers.opened(store).layout.folders:
        if (store / folder).exists():
            (store / folder / "below").mkdir(exist_ok=True)
            for name in ("", "below/"):  # of a shard that was killed
                (store / folder / f"{name}.tmp-host-12-0123abcd-3").touch()
    options = ("shard.count=2", "shard.index={}")
    shards = [
        start(argv(recordings, store, *(o.format(index) for o in options)), tmp_path)
        for index in range(2)
    ]
    assert [finish(shard) for shard in shards] == [0, 0]
    audit(store, ids_of(recordings))
    assert contents(store) == before
    assert times_of(store) == times
    assert sorted(path.name for path in store.glob("ledger*")) == [
        "ledger.0-of-2.jsonl",
        "ledger.1-of-2.jsonl",
    ]


@pytest.mark.fault(
    "`overwrite=true` with other settings on both shards at once",
    "the first one replaces the store, the second one finds its own; each utterance once",
)
def test_shards_that_start_together_may_both_overwrite(recordings, tmp_path, argv):
    store = tmp_path / "out"
    assert finish(start(argv(recordings, store), tmp_path)) == 0
    before = contents(store)
    other = ("model.layer=1", "overwrite=true", "shard.count=2")
    shards = [
        start(argv(recordings, store, *other, f"shard.index={index}"), tmp_path)
        for index in range(2)
    ]
    assert [finish(shard) for shard in shards] == [0, 0]
    audit(store, ids_of(recordings))
    after = contents(store)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before if not name.startswith("5-wav32k"))


def test_a_shard_with_other_settings_than_a_running_one_is_told_to_wait(
    recordings, tmp_path, slow_saves, num_saves, argv
):
    slow_saves(0.3)
    store, log = tmp_path / "out", tmp_path / "log"
    first = start(argv(recordings, store, "shard.count=2"), tmp_path)
    wait_for(lambda: (store / "ledger.0-of-2.jsonl").exists())
    other = ("audio.alpha=0.25", "overwrite=true", "shard.count=2", "shard.index=1")
    assert finish(start(argv(recordings, store, *other), tmp_path, log)) == 2
    said = " ".join(log.read_text().split())
    assert "another process is at work here, with other settings" in said
    assert "Wait for it" in said
    slow_saves.end()
    assert finish(first) == 0


def times_of(store: Path) -> dict[str, int]:
    return {name: (store / name).stat().st_mtime_ns for name in files_of(store)}


def leave(disk: Path, num_pages: int, num_inodes: int) -> None:
    """Fills a disk but for so many pages and files."""
    filler = disk / "filler"
    shutil.rmtree(filler, ignore_errors=True)
    filler.mkdir()
    room = os.statvfs(disk)
    with (filler / "pages").open("wb") as file:
        file.truncate(0)
        os.posix_fallocate(file.fileno(), 0, max(1, (room.f_bavail - num_pages)) * room.f_bsize)
    for number in range(os.statvfs(disk).f_favail - num_inodes):
        (filler / str(number)).touch()


def fill_up(disk: Path, path: Path, data: bytes) -> None:
    """Writes a cache on a disk that has filled up meanwhile."""
    leave(disk, 0, 0)
    replace_cache(path, data)


FEW = [(pages, 100) for pages in range(12)] + [(100, inodes) for inodes in range(16)]


@pytest.mark.slow
@pytest.mark.fault(
    "a disk that is full at any write: folders, locks, metadata, caches, ledger, files",
    "stops, exit 1, says what is missing; goes on once there is room",
)
def test_a_disk_that_is_full_at_any_write_says_so(
    extract_folder, tmp_path, capfd, monkeypatch, layout
):
    for seed in range(3):
        write_wav(tmp_path / "in" / "below" / f"{seed}.wav", 0.2 + 0.1 * seed, seed)
    disk, stopped_at = tmp_path / "disk", set()
    with tmpfs(disk, "size=2m,nr_inodes=200"):
        for pages, inodes in [*FEW, (100, 100)]:
            options = (*words(layout), f"store.dir={disk / 'out'}", "store.num_writers=1")
            options += ("loader.num_workers=0",)
            leave(disk, pages, inodes)
            with monkeypatch.context() as patch:
                if (pages, inodes) == (100, 100):
                    # No disk is full for it from the start: the start-up lock's record, which has
                    # just been removed, took as much.
                    patch.setattr(durations, "replace_cache", partial(fill_up, disk))
                code = extract_folder(tmp_path / "in", *options)
            said = " ".join(capfd.readouterr().err.split())
            assert "Traceback" not in said, said
            if code == 0:
                assert min(pages, inodes) > (8 if layout == "gpt_sovits" else 4)
            else:
                assert code == 1
                assert "the disk is full: " in said or "the disk is too small for " in said, said
                stopped_at.update(re.findall(r"needed for (?:\S+/)?(\S+)", said))
                leave(disk, 300, 100)
                assert extract_folder(tmp_path / "in", *options) == 0
            audit(disk / "out", ids_of(tmp_path / "in"))
            folders = {f"{name}:" for name in readers.opened(disk / "out").layout.folders}
            shutil.rmtree(disk / "out")
            capfd.readouterr()
    folders = {"out:"} | (folders & {"4-cnhubert:"})
    locks = {"lock:", "lock-0-of-1:", "owner:", "owner-0-of-1:"}
    others = {"metadata.json:", "unfinished-0-of-1:", "plan-0-of-1:", "durations-0-of-1:"}
    utterance, ledger_itself = {"the"}, {"ledger.jsonl:"}
    assert stopped_at >= folders | locks | others | utterance | ledger_itself, stopped_at


@pytest.mark.fault(
    "one file that cannot be written", "`write_failed` for that utterance; all others saved"
)
def test_a_target_that_is_a_folder_fails_that_utterance_alone(
    extract_folder, recordings, tmp_path, layout
):
    where = *words(layout), f"store.dir={tmp_path / 'whole'}"
    assert extract_folder(recordings, *where) == 0
    if not is_per_utterance(tmp_path / "whole"):
        pytest.skip("no file is one utterance's")
    [record] = [record for record in ledger(tmp_path / "whole") if record["id"] == "05.wav"]
    (tmp_path / "out" / record["files"][0][0]).mkdir(parents=True)
    assert extract_folder(recordings, *words(layout)) == 1
    reasons = {record["id"]: record["reason"] for record in ledger(tmp_path / "out")}
    assert reasons["05.wav"] == "write_failed"
    assert sum(reason is None for reason in reasons.values()) == 23


@pytest.mark.fault("resume with another batch size and other workers", "features agree within 1e-5")
def test_a_run_resumed_with_other_batches_and_workers_agrees(
    recordings, tmp_path, slow_saves, num_saves, argv
):
    assert finish(start(argv(recordings, tmp_path / "whole"), tmp_path)) == 0
    store = tmp_path / "out"
    num_saves.begin()
    process = start(argv(recordings, store), tmp_path)
    wait_for(lambda: num_saves() >= 5)
    process.kill()
    process.join()
    other = argv(recordings, store, "loader.batch_seconds=1.5", "loader.num_workers=2")
    assert finish(start(other, tmp_path)) == 0
    audit(store, ids_of(recordings))
    found, whole = readers.read(store), readers.read(tmp_path / "whole")
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.mark.fault(
    "eleven kinds of bad recordings among good ones",
    "each in the ledger with its reason; all good ones saved",
)
def test_bad_files_of_every_kind_land_in_the_ledger_and_their_neighbours_are_saved(
    extract_folder, recordings, tmp_path, layout
):
    import numpy as np
    import soundfile

    def wav(name: str, samples, rate: int = 32_000) -> None:
        soundfile.write(recordings / name, np.asarray(samples, np.float32), rate, subtype="FLOAT")

    good = ids_of(recordings)
    tone = np.sin(np.arange(32_000) / 20).astype(np.float32)
    (recordings / "zero_bytes.wav").touch()
    (recordings / "text.wav").write_text("this is not a recording\n" * 100)
    (recordings / "random.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    whole = (recordings / "01.wav").read_bytes()
    (recordings / "short_header.wav").write_bytes(whole[:30])
    wav("silence.wav", 0 * tone)
    wav("short.wav", tone[:200])
    wav("nan.wav", np.where(np.arange(32_000) == 5, np.nan, tone))
    wav("inf.wav", np.where(np.arange(32_000) == 5, np.inf, tone))
    wav("loud.wav", 3 * tone)
    (recordings / "nowhere.wav").symlink_to(tmp_path / "nothing")
    os.mkfifo(recordings / "pipe.wav")
    assert extract_folder(recordings, *words(layout), f"store.dir={tmp_path / 'out'}") == 1
    records = ledger(tmp_path / "out")
    reasons = {record["id"]: record["reason"] for record in records if record["id"] not in good}
    assert reasons == {
        "zero_bytes.wav": "empty",
        "text.wav": "undecodable",
        "random.wav": "undecodable",
        "short_header.wav": "undecodable",
        "silence.wav": "silent",
        "short.wav": "too_short",
        "nan.wav": "non_finite_audio",
        "inf.wav": "non_finite_audio",
        "loud.wav": "peak_above_gate",
        "nowhere.wav": "missing",
        "pipe.wav": "undecodable",
    }
    audit(tmp_path / "out", good | set(reasons))
    assert all(record["status"] == "saved" for record in records if record["id"] in good)


@pytest.mark.fault("a recording above `audio.max_duration_s`", "`too_long`, without being decoded")
def test_a_recording_above_the_time_gate_is_not_decoded(
    extract_folder, recordings, tmp_path, layout
):
    write_wav(recordings / "long.wav", 30)
    assert extract_folder(recordings, *words(layout), "audio.max_duration_s=5") == 0
    reasons = {record["id"]: record["reason"] for record in ledger(tmp_path / "out")}
    assert reasons["long.wav"] == "too_long"
    assert sum(reason is None for reason in reasons.values()) == 24
