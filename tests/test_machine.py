"""What `auto` becomes."""

import collections
import logging
import platform
import shutil
import subprocess
import sys

import pytest
import torch

from extract import machine
from extract.machine import choose

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def plenty(monkeypatch):
    """Shared memory of 10 GB; called, another size in MB."""

    def free(megabytes: float) -> None:
        usage = Usage(0, 0, int(megabytes * 1e6))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    monkeypatch.setattr(machine, "SHM", machine.Path("/"))
    free(10_000)
    return free


def test_a_cpu_run_leaves_the_cores_to_the_encoder():
    plan = choose("auto", "auto", 2, CPU, torch.float32)
    assert (plan.num_workers, plan.batch_seconds, plan.prefetch) == (1, 60.0, 2)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (8, 7), (64, 16)])
def test_beside_a_gpu_the_cores_decode(monkeypatch, cores, workers):
    monkeypatch.setattr(machine, "cores", lambda: cores)
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


def test_without_workers_shared_memory_does_not_matter(plenty, caplog):
    plenty(0)
    assert choose(0, 60, 4, CPU, torch.float32).prefetch == 4
    assert not caplog.text


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept_for_the_next_layer():
    """In a process of its own: the setting holds for good. Fresh pages are faults."""
    script = """
import resource, torch
from extract.machine import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        for number in (1_000_000, 7_000_000, 3_000_000):
            parts = [torch.ones(number) for _ in range(3)]
            del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    given_back, kept = map(int, run.stdout.split())
    assert kept * 10 < given_back
