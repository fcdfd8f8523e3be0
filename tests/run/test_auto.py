"""What `auto` becomes."""

import collections
import logging
import shutil
from pathlib import Path

import pytest
import torch

from extract.run import auto, build
from extract.run.auto import LoaderPlan, choose, room_for_decoded

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def plenty(monkeypatch):
    """Shared memory of 10 GB; called, another size in MB."""

    def free(megabytes: float) -> None:
        usage = Usage(0, 0, int(megabytes * 1e6))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    monkeypatch.setattr(auto, "SHM", Path("/"))
    free(10_000)
    return free


def test_a_cpu_run_leaves_the_cores_to_the_encoder():
    plan = choose("auto", "auto", 2, CPU, torch.float32)
    assert (plan.num_workers, plan.batch_seconds, plan.prefetch) == (1, 60.0, 2)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (8, 7), (64, 16)])
def test_beside_a_gpu_the_cores_decode(monkeypatch, cores, workers):
    monkeypatch.setattr(auto, "cores", lambda: cores)
    assert choose("auto", 60, 2, CUDA, torch.float16).num_workers == workers


@pytest.mark.parametrize(
    ("free_gb", "dtype", "seconds"),
    [
        (1, torch.float16, 83),
        (1, torch.float32, 42),
        (0.1, torch.float16, 30),
        (140, torch.float16, 1200),
    ],
)
def test_the_budget_follows_the_devices_free_memory(monkeypatch, free_gb, dtype, seconds):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gb * 1e9), 0))
    assert choose(2, "auto", 2, CUDA, dtype).batch_seconds == seconds


@pytest.mark.parametrize(("runs", "seconds"), [(1, 583), (2, 292), (4, 146), (40, 30)])
def test_runs_side_by_side_on_one_card_plan_for_their_share_of_its_memory(
    monkeypatch, runs, seconds
):
    """Both ask before either has allocated anything: each sees all 7 GB free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(7e9), 0))
    assert choose(2, "auto", 2, CUDA, torch.float16, side_by_side=runs).batch_seconds == seconds


@pytest.mark.parametrize(("cores", "runs", "workers"), [(16, 2, 7), (2, 2, 1), (64, 2, 16)])
def test_runs_side_by_side_share_the_cores(monkeypatch, cores, runs, workers):
    monkeypatch.setattr(auto, "cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert choose("auto", 60, 2, CUDA, torch.float16, side_by_side=runs).num_workers == workers
    assert auto.share_of_threads(runs) == max(1, cores // runs)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # OMP_NUM_THREADS=1
    assert auto.share_of_threads(runs) == 1


def test_runs_side_by_side_share_the_shared_memory(plenty, caplog):
    plenty(64)
    assert choose(1, 60, 4, CPU, torch.float32).prefetch == 4
    assert choose(1, 60, 4, CPU, torch.float32, side_by_side=2).prefetch == 2


def test_numbers_are_taken_as_they_are_even_as_text():
    plan = choose("3", "12.5", 4, CPU, torch.float32)
    assert (plan.num_workers, plan.batch_seconds, plan.prefetch) == (3, 12.5, 4)


def test_small_shared_memory_lowers_the_prefetch_and_says_so(plenty, caplog):
    caplog.set_level(logging.WARNING)
    plenty(64)
    assert choose(2, 60, 4, CPU, torch.float32).prefetch == 2
    assert "loader.prefetch=2" in caplog.text
    plenty(20)
    assert choose(2, 60, 4, CPU, torch.float32).prefetch == 1
    assert "--shm-size" in caplog.text


def test_batches_without_training_audio_take_half_of_the_shared_memory(plenty):
    plenty(20)
    assert choose(2, 60, 4, CPU, torch.float32, training_audio=False).prefetch == 1
    plenty(33)
    assert choose(2, 60, 4, CPU, torch.float32).prefetch == 1
    assert choose(2, 60, 4, CPU, torch.float32, training_audio=False).prefetch == 2


def test_without_workers_shared_memory_does_not_matter(plenty, caplog):
    plenty(0)
    assert choose(0, 60, 4, CPU, torch.float32).prefetch == 4
    assert not caplog.text


@pytest.mark.parametrize(
    ("asked", "with_cuda", "without"),
    [
        ("auto", "cuda", "cpu"),
        ("auto:1", "cuda:1", "cpu"),
        ("cuda:1", "cuda:1", "cuda:1"),
        ("cpu", "cpu", "cpu"),
        ("auto:x", "auto:x", "auto:x"),  # which torch refuses by name
    ],
)
def test_auto_is_the_card_that_is_there(monkeypatch, asked, with_cuda, without):
    for there, device in ((True, with_cuda), (False, without)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert build._device(asked) == device


IN_FLIGHT = 2 * 2 * 100 * 128_000  # bytes: two workers, two batches each, 100 s at 16 and 32 kHz


@pytest.mark.parametrize(
    ("wanted", "side_by_side", "shm_mb", "memory_mb", "most_mb"),
    [
        ("auto", 1, 10_000, 8_000, 2_000),  # a quarter of what memory is free
        ("auto", 2, 10_000, 8_000, 1_000),
        ("auto", 1, 1_000, 8_000, (1_000 - 2 * IN_FLIGHT / 1e6) / 2),
        ("auto", 1, 64, 8_000, 0),  # the batches need it
        ("auto", 1, 10_000, 0, 0),
        (300, 2, 10_000, 0, 300),  # as it was asked for
        (3_000, 1, 1_000, 8_000, 1_000 - 2 * IN_FLIGHT / 1e6),
    ],
)
def test_room_for_decoded_recordings_is_what_batches_and_the_machine_leave(
    plenty, monkeypatch, wanted, side_by_side, shm_mb, memory_mb, most_mb
):
    plenty(shm_mb)
    monkeypatch.setattr(auto, "available_memory", lambda: int(memory_mb * 1e6))
    plan = LoaderPlan(num_workers=2, batch_seconds=100, prefetch=2)
    most, spare = room_for_decoded(wanted, plan, side_by_side)
    assert (most, spare) == (int(most_mb * 1e6), 2 * IN_FLIGHT)
