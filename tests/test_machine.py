"""What holds for the whole process."""

import multiprocessing
import platform
import subprocess
import sys

import pytest

from extract import machine


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


def python(code: str, *words: str) -> list[str]:
    """What a process of its own prints."""
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_the_command_collects_garbage_again_once_all_is_loaded(tmp_path):
    code = """
import gc, sys
from extract.__main__ import command
from extract.run import job
def note(*_): raise SystemExit(print(gc.isenabled(), gc.get_freeze_count() > 10_000))
job._extract = note
command()
"""
    words = ["dataset=demo", "device=cpu", f"store.dir={tmp_path / 'out'}"]
    assert python(code, *words) == ["True", "True"]


def test_a_collector_that_a_caller_turned_off_stays_off():
    code = """
import gc
from extract.machine import collect_garbage_again
gc.disable()
collect_garbage_again()
print(gc.isenabled(), gc.get_freeze_count())
"""
    assert python(code) == ["False", "0"]


@pytest.mark.parametrize(
    ("system", "there", "on_a_cpu", "beside_a_gpu"),
    [
        ("linux", ["fork", "spawn", "forkserver"], "fork", "forkserver"),
        ("linux", ["fork", "spawn"], "fork", "spawn"),
        ("win32", ["spawn"], "spawn", "spawn"),
        ("darwin", ["spawn", "fork", "forkserver"], "spawn", "spawn"),
    ],
)
def test_how_workers_start_on_each_system(monkeypatch, system, there, on_a_cpu, beside_a_gpu):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: there)
    assert machine.best_start_method(uses_cuda=False) == on_a_cpu
    assert machine.best_start_method(uses_cuda=True) == beside_a_gpu
