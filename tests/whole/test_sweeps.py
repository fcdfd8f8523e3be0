"""Sweeps: what jobs share, that nothing of a job stays in the next, that a failing one stops none.

`tests/whole/test_app.py` has their folders and their table.
"""

import gc
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path

import pytest

from extract.audio import prepare as prepare_module
from extract.data import durations
from extract.machine import SHM, is_in_memory
from extract.run import build, job
from support.command import TINY
from support.recordings import DEMO, write_coded, write_wav
from support.stores import audit, ids_of, ledger

IN_MEMORY = pytest.mark.skipif(not is_in_memory(SHM), reason="no file system in memory")
HERE = ["model=tiny_random", "device=cpu", "loader.num_workers=0"]  # nothing in another process
GAINS = "audio.alpha=0.3,0.7"


@pytest.fixture
def mixed(tmp_path):
    """Recordings that are read as they lie, resampled, and decoded."""
    folder = tmp_path / "in"
    for index, rate in enumerate((16_000, 32_000, 44_100)):
        write_wav(folder / f"{rate}.wav", 0.5 + index / 10, index, rate)
    write_coded(folder / "a.mp3", duration_s=0.8)
    return folder


def of(folder: Path, *more: str) -> list[str]:
    return ["dataset=folder", f"dataset.path={folder}", "store.dir=out${audio.alpha}", *HERE, *more]


def counted(monkeypatch, module, name):
    """How often a function of a module is called, in its arguments."""

    def call(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    calls, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, call)
    return calls


def outcomes(store: Path) -> tuple[dict[str, bytes], dict[str, dict]]:
    """The files of a store's utterances, and its ledger's lines."""
    found = {str(path.relative_to(store)): path.read_bytes() for path in store.glob("?-*/*")}
    return found, {record["id"]: record for record in ledger(store)}


APART = "share_features=false"


@IN_MEMORY
def test_later_jobs_read_what_the_first_decoded_and_write_what_a_run_writes(
    command, mixed, tmp_path, monkeypatch, capfd
):
    decodes = counted(monkeypatch, prepare_module, "decode")
    assert command("-m", *of(mixed, GAINS, APART)) == 0
    assert Counter(Path(arguments[1]).name for arguments in decodes) == {
        "a.mp3": 1,
        "16000.wav": 1,
        "44100.wav": 1,
        "32000.wav": 2,  # it is read as it lies
    }
    [said] = [line for line in capfd.readouterr().err.splitlines() if "stay in memory" in line]
    assert not Path(said.split(" in ")[-1].split()[0]).exists()
    swept = outcomes(tmp_path / "out0.7")
    assert len(swept[0]) == 8
    (tmp_path / "out0.7").rename(tmp_path / "swept")
    assert command(*of(mixed, "audio.alpha=0.7")) == 0
    assert "stay in memory" not in capfd.readouterr().err
    assert outcomes(tmp_path / "out0.7") == swept


@IN_MEMORY
def test_a_job_that_takes_features_of_another_decodes_nothing_either(
    command, mixed, tmp_path, monkeypatch
):
    decodes = counted(monkeypatch, prepare_module, "decode")
    (mixed / "32000.wav").unlink()
    assert command("-m", *of(mixed, GAINS)) == 0
    assert {"shared" in record for record in ledger(tmp_path / "out0.7")} == {True}
    assert len(decodes) == 3  # by the first job; the proof of the rule has them from memory too


@IN_MEMORY
def test_an_option_keeps_decoded_recordings_out_of_memory(command, mixed, monkeypatch, capfd):
    decodes = counted(monkeypatch, prepare_module, "decode")
    assert command("-m", *of(mixed, GAINS, APART, "loader.decoded_mb=0")) == 0
    assert len(decodes) == 8
    assert "stay in memory" not in capfd.readouterr().err
    assert command("-m", *of(mixed, "audio.alpha=0.1,0.2", APART, "loader.decoded_mb=0.1")) == 0
    assert "at most 0.1 MB" in capfd.readouterr().err
    assert len(decodes) == 8 + 8 - 1  # there is room for one


@IN_MEMORY
def test_workers_of_later_jobs_find_what_workers_of_the_first_kept(command, mixed, tmp_path):
    """By the recording itself, which is damaged under its old size and time once it is decoded."""
    times = (mixed / "a.mp3").stat()

    def damage(config, *arguments, **options):
        summary = run_shard(config, *arguments, **options)
        (mixed / "a.mp3").write_bytes(bytes(times.st_size))
        os.utime(mixed / "a.mp3", ns=(times.st_atime_ns, times.st_mtime_ns))
        return summary

    run_shard = job.run_shard
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "run_shard", damage)
        assert command("-m", *of(mixed, *TINY, GAINS)) == 0
    audit(tmp_path / "out0.7", ids_of(mixed))
    assert {record["status"] for record in ledger(tmp_path / "out0.7")} == {"saved"}


def test_later_jobs_read_no_header(command, mixed, tmp_path, monkeypatch):
    probes = counted(monkeypatch, durations, "probe_duration_s")
    assert command("-m", *of(mixed, GAINS)) == 0
    assert len(probes) == 4
    write_wav(mixed / "new.wav")
    assert command("-m", *of(mixed, "audio.alpha=0.7,0.5")) == 0
    assert len(probes) == 5
    caches = [(tmp_path / f"out{a}/.extract/durations-0-of-1").read_bytes() for a in (0.7, 0.5)]
    assert caches[0] == caches[1]


def census() -> Counter:
    """Objects of this package, arrays, tensors and processes that are alive."""
    kinds = ("Tensor", "UntypedStorage", "ndarray", "DataLoader", "Popen")
    return Counter(
        f"{kind.__module__}.{kind.__name__}"
        for kind in map(type, gc.get_objects())
        if str(kind.__module__).startswith("extract.") or kind.__name__ in kinds
    )


def resources() -> dict[str, object]:
    """What of the operating system this process holds, and what Python calls for it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    handlers = [getattr(signal.getsignal(n), "__qualname__", None) for n in numbers]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": threading.active_count(),
        "children": len(multiprocessing.active_children()),
        "log handlers": [type(one).__name__ for one in logging.getLogger().handlers],
        "signal handlers": handlers,
        "shared memory": len(list(SHM.glob(f"*_{os.getpid()}_*"))),
    }


OF_A_JOB = (
    r"extract\.(data\.(batch|dataset|loader|transport|watched|workers)|manifest\.(manifest|strings)"
    r"|store\.(ledger|store|writers)|run\.(auto|clock|tally|timings|work))\."
)
OF_THE_TABLE = {"Ended", "Summary", "Row", "Failure", "Recording"}  # what a job's row is made of


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_nothing_of_a_job_stays_in_the_next(command, tmp_path, monkeypatch):
    """Six jobs, each of recordings whose lengths no other has."""
    seen = []

    def note(config, *arguments, **options):
        if len(seen) in (3, 5):  # what is made once, and what stays of a job's neighbour, is there
            gc.collect()
        seen.append((resources(), census()))
        return run_shard(config, *arguments, **options)

    run_shard = job.run_shard
    monkeypatch.setattr(job, "run_shard", note)
    for number in range(6):
        for index in range(3):
            seconds = 0.2 + number / 10 + index / 37
            write_wav(tmp_path / f"in{number}" / f"{index}.wav", seconds, index, 44_100)
    folders = ",".join(f"in{number}" for number in range(6))
    argv = ["-m", "dataset=folder", f"dataset.path={folders}", *TINY, "loader.batch_seconds=2"]
    assert command(*argv) == 0
    assert len(seen) == 6
    assert seen[3][0] == seen[5][0]
    before = {kind for kind in seen[5][1] - seen[0][1] if re.match(OF_A_JOB, kind)}
    assert before == set()  # of the job that has just ended
    more = seen[5][1] - seen[3][1]
    assert {kind: n for kind, n in more.items() if kind.split(".")[-1] not in OF_THE_TABLE} == {}


def test_a_sweep_over_models_frees_one_before_it_loads_the_next(command, monkeypatch):
    def load(*arguments, **options):
        loaded.append([model() for model in models])
        return load_model(*arguments, **options)

    def note(*arguments):
        encoder = load_encoder(*arguments)
        models.append(weakref.ref(encoder))
        return encoder

    loaded, models, load_model, load_encoder = [], [], build.load_model, build._load_encoder
    monkeypatch.setattr(build, "load_model", load)
    monkeypatch.setattr(build, "_load_encoder", note)
    build._kept.clear()
    assert command("-m", "dataset=demo", *HERE, "seed=1,2,3") == 0
    assert loaded == [[], [None], [None, None]]


OTHERS = {"LICENSE", "README.md"}  # files of the demo that are no recordings


class Held:
    """Stands for what a job allocates."""


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, AssertionError])
def test_a_job_that_raises_is_said_at_once_let_go_of_and_stops_no_other(
    command, tmp_path, monkeypatch, capfd, error
):
    """Even where Hydra is given one job at a time."""
    held, before = [], []

    def fail(config, *arguments, **options):
        before.append([one() for one in held] + capfd.readouterr().err.splitlines()[-1:])
        if config.audio.alpha == 0.3:
            memory = Held()
            held.append(weakref.ref(memory))
            raise error("of ours")
        return run_shard(config, *arguments, **options)

    run_shard = job.run_shard
    monkeypatch.setattr(job, "run_shard", fail)
    one_by_one = "hydra.sweeper.max_batch_size=1"
    assert command("-m", "dataset=demo", *HERE, one_by_one, "audio.alpha=0.3,0.7") == 70
    assert before[1] == [None, f"{error.__name__}: of ours"]
    said = capfd.readouterr().err
    assert "70 crashed" in said
    assert "Traceback" not in said
    audit(tmp_path / "outputs/demo/tiny_random-maxx0.95-alpha0.7", ids_of(DEMO) - OTHERS)


def endings(capfd) -> list[str]:
    """The exit codes in a sweep's table, in the order of its jobs."""
    table = capfd.readouterr().err.rpartition("exit")[2]
    return re.findall(r" 0\.\d{3} +(\d+) \w", table)


def test_a_store_that_cannot_be_used_stops_no_other(command, mixed, tmp_path, capfd):
    assert command(*of(mixed, "audio.alpha=0.1"), "store.dir=foreign") == 0
    (tmp_path / "file").write_text("no store")
    capfd.readouterr()
    assert command("-m", *of(mixed), "store.dir=foreign,file,good") == 2
    assert endings(capfd) == ["2", "1", "0"]
    audit(tmp_path / "good", ids_of(mixed))


def test_a_model_that_cannot_be_loaded_stops_no_other(command, capfd):
    models = "model.path=tiny_random,nowhere,tiny_random"
    assert command("-m", "dataset=demo", *HERE, models, "store.dir=out") == 2
    assert endings(capfd) == ["0", "2", "0"]


def test_an_error_outside_the_jobs_counts_in_the_exit_code(command, monkeypatch, capfd):
    """Hydra composes the configs of a batch of jobs before it runs the first of them."""
    one_by_one = "hydra.sweeper.max_batch_size=1"
    assert command("-m", "dataset=demo", *HERE, one_by_one, "audio.alpha=0.5,high") == 70
    assert "audio.alpha" in capfd.readouterr().err
