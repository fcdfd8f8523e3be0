"""What holds for the whole process."""

import multiprocessing
import platform
import subprocess
import sys
from pathlib import Path

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
before = gc.get_freeze_count()  # Python 3.12 begins with some
collect_garbage_again()
print(gc.isenabled(), gc.get_freeze_count() - before)
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


def kernel(root: Path, files: dict[str, str]) -> Path:
    """Files of the kernel's below `root`, with a machine of which 8,000 kB are to be had."""
    meminfo = "MemTotal: 9000 kB\nMemAvailable: 8000 kB\nHugePages_Total: 0\n"
    for name, text in {"proc/meminfo": meminfo, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = "sys/fs/cgroup/memory/jobs"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8_192_000),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 8_192_000),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "5000000\n",  # of the group above this one
                "sys/fs/cgroup/a/memory.current": "3000000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 1000000\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": "1\n",
            },
            3_000_000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/\n4:cpuset,memory:/jobs/1\n",
                f"{V1}/memory.limit_in_bytes": "4000000\n",
                f"{V1}/memory.usage_in_bytes": "4500000\n",
                f"{V1}/memory.stat": "total_inactive_file 100\n",
            },
            0,
        ),
    ],
    ids=["no group", "no limit", "version 2", "version 1"],
)
def test_available_memory_is_within_the_limits_of_all_control_groups(tmp_path, files, free):
    assert machine.available_memory(kernel(tmp_path, files)) == free


def test_without_the_kernels_files_no_memory_is_available(tmp_path):
    assert machine.available_memory(tmp_path) == 0


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (["tmpfs /dev/shm tmpfs rw 0 0"], True),
        (["tmpfs /dev/shm tmpfs rw 0 0", "/dev/sda /dev/shm ext4 rw 0 0"], False),
        (["tmpfs /dev tmpfs rw 0 0"], False),
    ],
)
def test_a_folder_is_in_memory_if_such_a_file_system_is_mounted_there(tmp_path, rows, found):
    (tmp_path / "mounts").write_text("\n".join(rows) + "\n")
    assert machine.is_in_memory(Path("/dev/shm"), tmp_path / "mounts") is found
    assert not machine.is_in_memory(Path("/dev/shm"), tmp_path / "nowhere")
