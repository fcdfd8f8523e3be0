"""Worker deaths of every kind: each item is delivered once, and only the guilty one is given up."""

import contextlib
import itertools
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from extract.data import loader as module
from extract.data import workers
from extract.data.loader import ResilientLoader
from extract.data.workers import Options
from support import posix

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


class Items:
    """Integers; some of them do harm to the worker that reads them."""

    def __init__(self, num: int, harm: dict[int, str] | None = None, pause_s: float = 0.001):
        self.num, self.harm, self.pause_s = num, harm or {}, pause_s

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> int:
        time.sleep(self.pause_s)
        match self.harm.get(index):
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "raise":
                raise RuntimeError("a bug of ours")
        return index


def batches(num: int, size: int = 5) -> list[np.ndarray]:
    return [np.arange(start, min(num, start + size)) for start in range(0, num, size)]


TWO = Options(num_workers=2)


def make(items: Items, options: Options = TWO, **stop) -> ResilientLoader:
    return ResilientLoader(
        items,
        batches(len(items)),
        list,
        lambda index, cause: [f"{index}: {cause}"],
        options,
        **stop,
    )


def load(items: Items, **options) -> list[list[int | str]]:
    chosen = Options(**{"num_workers": 2, "timeout_s": 60.0} | options)
    return list(make(items, chosen))


def test_batches_come_in_the_order_of_the_plan():
    assert load(Items(23)) == [list(batch) for batch in batches(23)]
    assert load(Items(23), num_workers=0) == [list(batch) for batch in batches(23)]


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        ("segfault", "killed by SIGSEGV"),
        ("exit", "exit code 3"),
        pytest.param("killed", "killed by SIGKILL", marks=posix.SIGKILL),
        ("hang", "hung for 1 s (loader.timeout_s)"),
    ],
)
def test_an_item_that_ends_its_worker_each_time_costs_only_itself(harm, cause):
    timeout_s = 1.0 if harm == "hang" else 60.0
    delivered = [
        item for batch in load(Items(40, {17: harm}), timeout_s=timeout_s) for item in batch
    ]
    assert delivered.count(f"17: {cause}") == 1
    rest = [item for item in delivered if isinstance(item, int)]
    assert Counter(rest) == Counter(set(range(40)) - {17})


def test_several_guilty_items_are_all_found():
    harm = {3: "segfault", 4: "exit", 20: "killed", 39: "exit"}
    delivered = [item for batch in load(Items(40, harm)) for item in batch]
    assert sorted(int(item.split(":")[0]) for item in delivered if isinstance(item, str)) == [
        3,
        4,
        20,
        39,
    ]
    assert Counter(item for item in delivered if isinstance(item, int)) == Counter(
        set(range(40)) - set(harm)
    )


@pytest.mark.parametrize("seed", range(6))
def test_workers_killed_at_random_lose_nothing(seed):
    rng = np.random.default_rng(seed)
    loader = make(Items(200, pause_s=0.004))
    delivered = []
    kills = sorted(rng.choice(30, size=3, replace=False))
    for position, batch in enumerate(loader):
        delivered += batch
        if kills and position >= kills[0] and loader.processes:
            kills.pop(0)
            time.sleep(rng.uniform(0, 0.02))
            victim = loader.processes[rng.integers(2)]
            os.kill(victim.pid, signal.SIGKILL)
    assert Counter(delivered) == Counter(range(200))
    assert not kills


def test_a_death_never_raises_outside_next():
    loader = make(Items(50))
    iterator = iter(loader)
    next(iterator)
    for process in loader.processes:
        process.kill()
        process.join()
    time.sleep(0.2)  # torch's own handler would have raised by now
    assert sum(len(batch) for batch in iterator) == 45


def test_an_error_of_ours_is_not_taken_for_a_dead_worker():
    with pytest.raises(RuntimeError, match="a bug of ours"):
        load(Items(20, {7: "raise"}))


@posix.SIGKILL
def test_killed_twice_in_a_row_means_fewer_workers(caplog):
    caplog.set_level(logging.WARNING)
    load(Items(12, {0: "killed"}))
    assert "going on with loader.num_workers=1" in caplog.text


@posix.PATCHED_WORKER
def test_workers_that_cannot_live_end_the_run(monkeypatch):
    monkeypatch.setattr(module, "MAX_DEATHS_IN_A_ROW", 3)
    monkeypatch.setattr(workers, "prepare_worker", lambda *_: os._exit(9))
    with pytest.raises(RuntimeError, match=r"try loader\.num_workers=1"):
        load(Items(20))


def test_stop_ends_the_wait_for_a_slow_item():
    stopped = threading.Event()
    loader = make(Items(4, {0: "hang"}), Options(1), stop=stopped.is_set)
    threading.Timer(0.5, stopped.set).start()
    start = time.monotonic()
    assert list(loader) == []
    assert time.monotonic() - start < 10


def test_nothing_is_left_running():
    loader = make(Items(50))
    iterator = iter(loader)
    next(iterator)
    processes = loader.processes
    loader.close()
    assert not any(process.is_alive() for process in processes)


@dataclass
class Tensors:
    """A batch as the extractor's: fields that are tensors."""

    items: list[int]
    values: torch.Tensor


def with_values(items: list[int]) -> Tensors:
    return Tensors(items, torch.full((100_000,), float(items[0])))


@pytest.mark.parametrize(
    ("full", "num_workers"),
    [(False, 0), (False, 2), (True, 0), pytest.param(True, 2, marks=posix.PATCHED_WORKER)],
)
def test_a_batch_arrives_whether_or_not_shared_memory_has_room(monkeypatch, num_workers, full):
    if full:

        def no_room(self: torch.Tensor) -> None:
            raise RuntimeError("unable to allocate shared memory(shm): temporarily unavailable")

        monkeypatch.setattr(
            workers, "prepare_worker", lambda *_: setattr(torch.Tensor, "share_memory_", no_room)
        )
    options = Options(num_workers)
    loader = ResilientLoader(Items(20), batches(20), with_values, str, options)
    found = list(loader)
    assert [batch.items for batch in found] == [list(batch) for batch in batches(20)]
    for batch in found:
        assert torch.equal(batch.values, with_values(batch.items).values)
        assert batch.values.is_shared() == (num_workers > 0 and not full)


class Public(DataLoader):
    """A DataLoader whose iterator has nothing private."""

    def __iter__(self):
        return itertools.chain(super().__iter__())


def test_deaths_are_found_without_the_private_parts_of_torch(monkeypatch):
    monkeypatch.setattr(workers, "DataLoader", Public)
    loader = make(Items(40, {17: "segfault"}))
    iterator = iter(loader)
    delivered = next(iterator)
    processes = loader.processes
    assert len(processes) == 2
    delivered += [item for batch in iterator for item in batch]
    assert delivered.count("17: killed by SIGSEGV") == 1
    assert set(range(40)) - {17} == {item for item in delivered if isinstance(item, int)}
    assert not any(process.is_alive() for process in processes)


def test_a_killed_worker_leaves_no_iterator_of_torchs_behind():
    loader = make(Items(20, {3: "exit"}))
    iterator = iter(loader)
    loader.start()
    first = weakref.ref(loader._workers.iterator)
    list(iterator)
    assert first() is None


@posix.START_METHODS
@pytest.mark.parametrize("method", ["forkserver"])
def test_other_start_methods_survive_a_death_too(method):
    delivered = [
        item for batch in load(Items(20, {7: "exit"}), start_method=method) for item in batch
    ]
    assert Counter(str(item).split(":")[0] for item in delivered) == Counter(map(str, range(20)))


RUN_TO_BE_KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_loader import Items, make
from extract.data.workers import Options

loader = make(Items(40, {7: "hang", 13: "hang"}), Options(2, start_method=sys.argv[1]))
for _ in loader:
    print("delivered", flush=True)
"""


def group_of(leader: int) -> set[int]:
    """Processes of a process group that live."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and os.getpgid(process.pid) == leader:
                found.add(process.pid)
    return found


@pytest.mark.parametrize("method", [*posix.FORKS, pytest.param("spawn", marks=pytest.mark.slow)])
def test_nothing_outlives_a_main_process_that_is_killed(method):
    """Neither a worker in the midst of an item nor a helper of multiprocessing's."""
    code = [sys.executable, "-c", RUN_TO_BE_KILLED, method, str(Path(__file__).parent)]
    places = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}  # for `support`
    main = subprocess.Popen(code, stdout=subprocess.PIPE, start_new_session=True, env=environment)
    try:
        assert main.stdout.readline() == b"delivered\n"
        assert len(group_of(main.pid)) >= 3
        main.kill()
        main.wait()
        deadline = time.monotonic() + 30
        while group_of(main.pid):
            assert time.monotonic() < deadline, group_of(main.pid)
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(main.pid, signal.SIGKILL)
        main.stdout.close()


@posix.START_METHODS
@pytest.mark.parametrize(("parent", "code"), [(os.getpid, 0), (os.getppid, 1)])
def test_a_worker_whose_parent_died_before_it_was_prepared_ends(parent, code):
    """The kernel says nothing of a death that came before it was asked to."""
    arguments = parent(), torch.zeros(1, 3), 0
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=workers.prepare_worker, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == code


@posix.START_METHODS
def test_a_forkserver_has_imported_all_that_a_worker_needs():
    """multiprocessing says nothing of a preload that fails; each worker would import torch."""
    names = ("torch", "extract.data.dataset", "extract.data.batch")
    code = (
        "import sys; from extract.data import workers; "
        "pool = workers._context('forkserver').Pool(1); "
        "print(sorted(pool.apply(eval, (\"list(__import__('sys').modules)\",))))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(repr(name) in ran.stdout for name in names)


@posix.START_METHODS
def test_a_preload_that_does_not_exist_is_an_error(monkeypatch):
    monkeypatch.setattr(workers, "PRELOAD", ("extract.no_such_module",))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load(Items(5), start_method="forkserver")


@pytest.mark.parametrize(
    ("code", "said", "killed"),
    [
        (3, "exit code 3", False),
        (0xC0000005, "exit code 0xc0000005", False),  # Windows's access violation
        pytest.param(-signal.SIGKILL, "killed by SIGKILL", True, marks=posix.SIGKILL),
        (-signal.SIGTERM, "killed by SIGTERM", False),
        (-40, "killed by signal 40", False),  # a real-time signal
    ],
)
def test_how_a_worker_ended_is_said(code, said, killed):
    assert workers._cause(code) == (said, killed)


@posix.LIMITS
def test_a_system_that_takes_no_unlimited_files_gives_as_many_as_it_has(monkeypatch):
    """macOS: the hard limit says "unlimited", and `setrlimit` refuses that."""
    taken = []

    def set_limit(_which: int, limits: tuple[int, int]) -> None:
        if limits[0] == resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")
        taken.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    module.raise_open_file_limit()
    assert taken == [(10_240, resource.RLIM_INFINITY)]


@posix.LIMITS
def test_a_run_may_open_as_many_files_as_the_system_lets_it(extract_folder, recordings):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    try:
        assert extract_folder(recordings) == 0
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
