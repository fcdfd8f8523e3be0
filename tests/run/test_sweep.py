"""The folder in memory of a sweep: made, removed, and found again after a kill."""

import os
import pickle
import signal
import stat
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from extract.run import sweep as module
from extract.run.signals import before_signals
from extract.run.sweep import PREFIX, Sweep, sweeping

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no file system in memory")


@pytest.fixture(autouse=True)
def anywhere(monkeypatch):
    monkeypatch.setattr(module, "is_in_memory", lambda folder: True)


def test_a_sweeps_folder_is_its_users_own_and_gone_at_the_end(tmp_path):
    with sweeping(tmp_path) as sweep:
        assert sweep.folder.parent == tmp_path
        assert stat.S_IMODE(sweep.folder.stat().st_mode) == 0o700
        (sweep.folder / "kept").write_text("")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), sweeping(tmp_path):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_there_is_no_folder_where_memory_has_no_file_system(tmp_path, monkeypatch):
    with sweeping(tmp_path / "nowhere") as sweep:
        assert sweep.folder is None
    monkeypatch.setattr(module, "is_in_memory", lambda folder: False)
    with sweeping(tmp_path) as sweep:
        assert sweep == Sweep()
        assert not list(tmp_path.iterdir())


def test_what_a_killed_sweep_left_is_removed_by_the_next_and_a_live_ones_stays(tmp_path):
    left = tmp_path / f"{PREFIX}killed"
    left.mkdir()
    for name in ("lock", "kept"):
        (left / name).write_text("")
    with sweeping(tmp_path) as live:
        assert not left.exists()
        with sweeping(tmp_path) as other:
            assert live.folder.exists()
            assert other.folder != live.folder


def test_folders_of_others_stay(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "theirs").write_text("")
    shared = tmp_path / "shm"
    shared.mkdir()
    (shared / f"{PREFIX}link").symlink_to(elsewhere)
    (shared / "extract-other").mkdir()
    with sweeping(shared):
        pass
    assert list(elsewhere.iterdir()) == [elsewhere / "theirs"]
    assert len(list(shared.iterdir())) == 2
    (shared / f"{PREFIX}of-another-user").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with sweeping(shared):
        pass
    assert (shared / f"{PREFIX}of-another-user").exists()


@pytest.fixture
def at_once(monkeypatch):
    """What another sweep does to the first folder that is made, before it is locked."""

    def at_once(do):
        def mkdtemp(**options):
            made.append(Path(real(**options)))
            if len(made) == 1:
                do(made[0])
            return str(made[-1])

        made, real = [], module.tempfile.mkdtemp
        monkeypatch.setattr(module.tempfile, "mkdtemp", mkdtemp)
        return made

    return at_once


def test_a_folder_that_another_sweep_locks_to_remove_it_is_left_to_that(tmp_path, at_once):
    locks = []
    made = at_once(lambda folder: locks.append(FileLock(folder / "lock").acquire().lock))
    with sweeping(tmp_path) as sweep:
        assert sweep.folder == made[1]
    locks[0].release()


def test_a_folder_that_another_sweep_removed_is_made_again_for_its_user_alone(tmp_path, at_once):
    at_once(Path.rmdir)
    with sweeping(tmp_path) as sweep:
        assert stat.S_IMODE(sweep.folder.stat().st_mode) == 0o700


def test_a_signal_between_two_jobs_removes_the_folder_before_it_ends_the_process(tmp_path):
    def end(signum, frame):
        there.append(list(tmp_path.iterdir()))

    there, before = [], signal.signal(signal.SIGTERM, end)
    try:
        with sweeping(tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
        assert there == [[]]
        assert signal.getsignal(signal.SIGTERM) == end
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_nothing_handles_is_left_alone():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with before_signals(lambda: 1 / 0):
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_jobs_share_reaches_other_processes(tmp_path):
    with sweeping(tmp_path) as sweep:
        assert pickle.loads(pickle.dumps(sweep)) == sweep
