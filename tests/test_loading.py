"""Worker deaths of every kind: each item is delivered once, and only the guilty one is given up."""

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from extract import loading, workers
from extract.loading import ResilientLoader
from extract.workers import Options

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
        ("killed", "killed by SIGKILL"),
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
        if kills and position >= kills[0] and loader._workers.processes:
            kills.pop(0)
            time.sleep(rng.uniform(0, 0.02))
            victim = loader._workers.processes[rng.integers(2)]
            os.kill(victim.pid, signal.SIGKILL)
    assert Counter(delivered) == Counter(range(200))
    assert not kills


def test_a_death_never_raises_outside_next():
    loader = make(Items(50))
    iterator = iter(loader)
    next(iterator)
    for process in loader._workers.processes:
        process.kill()
        process.join()
    time.sleep(0.2)  # torch's own handler would have raised by now
    assert sum(len(batch) for batch in iterator) == 45


def test_an_error_of_ours_is_not_taken_for_a_dead_worker():
    with pytest.raises(RuntimeError, match="a bug of ours"):
        load(Items(20, {7: "raise"}))


def test_killed_twice_in_a_row_means_fewer_workers(caplog):
    caplog.set_level(logging.WARNING)
    load(Items(12, {0: "killed"}))
    assert "going on with loader.num_workers=1" in caplog.text


def test_workers_that_cannot_live_end_the_run(monkeypatch):
    monkeypatch.setattr(loading, "MAX_DEATHS_IN_A_ROW", 3)
    monkeypatch.setattr(workers, "_prepare_worker", lambda worker_id: os._exit(9))
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
    processes = loader._workers.processes
    loader.close()
    assert not any(process.is_alive() for process in processes)


@dataclass
class Tensors:
    """A batch as the extractor's: fields that are tensors."""

    items: list[int]
    values: torch.Tensor


def with_values(items: list[int]) -> Tensors:
    return Tensors(items, torch.full((100_000,), float(items[0])))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("full", [False, True])
def test_a_batch_arrives_whether_or_not_shared_memory_has_room(monkeypatch, num_workers, full):
    if full:

        def no_room(self: torch.Tensor) -> None:
            raise RuntimeError("unable to allocate shared memory(shm): temporarily unavailable")

        monkeypatch.setattr(
            workers, "_prepare_worker", lambda _: setattr(torch.Tensor, "share_memory_", no_room)
        )
    options = Options(num_workers)
    loader = ResilientLoader(Items(20), batches(20), with_values, str, options)
    found = list(loader)
    assert [batch.items for batch in found] == [list(batch) for batch in batches(20)]
    for batch in found:
        assert torch.equal(batch.values, with_values(batch.items).values)
        assert batch.values.is_shared() == (num_workers > 0 and not full)


@pytest.mark.parametrize("method", ["forkserver"])
def test_other_start_methods_survive_a_death_too(method):
    delivered = [
        item for batch in load(Items(20, {7: "exit"}), start_method=method) for item in batch
    ]
    assert Counter(str(item).split(":")[0] for item in delivered) == Counter(map(str, range(20)))
