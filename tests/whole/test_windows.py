"""Runs in processes in which this package sees no more of the system than Windows has."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from support.command import TINY
from support.stores import contents
from support.windows import SEEN, environment

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

# Of the tests of loading and of faults: the most important ones. `make test-windows` runs them all.
COSTS_ONLY_ITSELF = "test_an_item_that_ends_its_worker_each_time_costs_only_itself"
CHOSEN = [
    f"data/test_loader.py::{COSTS_ONLY_ITSELF}[segfault-killed by SIGSEGV]",
    f"data/test_loader.py::{COSTS_ONLY_ITSELF}[hang-hung for 1 s (loader.timeout_s)]",
    "data/test_loader.py::test_an_error_of_ours_is_not_taken_for_a_dead_worker",
    "store/test_writers.py",  # the full queue, the full disk
    "store/test_ledger.py",
    # and resumes
    "whole/test_faults.py::test_a_signal_finishes_what_is_under_way[gpt_sovits-SIGINT-130]",
    "whole/test_faults.py::test_a_second_run_into_the_same_folder_is_told_who_works_there",
]


def python(folder: Path, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(folder / "site"),
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_only_this_package_is_disguised(tmp_path):
    code = (
        "import os, signal; from extract import machine, systems; from extract.data import workers;"
        "print(os.name, systems.os.name, hasattr(os, 'fork'), hasattr(systems.os, 'fork'), "
        "hasattr(workers.signal, 'SIGKILL'), machine.start_methods())"
    )
    ran = python(tmp_path, "-c", code)
    assert ran.stdout.split(maxsplit=5) == ["posix", "nt", "True", "False", "False", "['spawn']\n"]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are found in /proc")
def test_an_open_file_is_neither_replaced_nor_removed(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    new.touch()
    old.touch()
    for change in (partial(SEEN["os"].replace, new, old), partial(SEEN["os"].unlink, old)):
        with old.open(), pytest.raises(PermissionError) as caught:
            change()
        assert (caught.value.winerror, caught.value.filename) == (32, str(old))
        change()
    assert not new.exists()
    assert not old.exists()


def test_the_demo_is_the_same_byte_for_byte(tmp_path, command):
    words = ["dataset=demo", *TINY, "loader.num_workers=1", "loader.batch_seconds=2"]
    ran = python(tmp_path, "-m", "extract", *words, f"store.dir={tmp_path / 'there'}", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert command(*words, f"store.dir={tmp_path / 'here'}") == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_tests_of_faults_pass_there_too(tmp_path):
    chosen = [f"tests/{name}" for name in CHOSEN]
    ran = python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(re.search(r"(\d+) passed", ran.stdout)[1]) >= len(chosen)
    assert "skipped" not in ran.stdout


def test_a_start_method_that_is_not_there_is_refused(tmp_path):
    words = ["dataset=demo", *TINY, "loader.start_method=fork"]
    ran = python(tmp_path, "-m", "extract", *words, cwd=tmp_path)
    assert ran.returncode == 2
    said = " ".join(ran.stderr.split())
    assert "loader.start_method: fork, which this system has not; needed auto or spawn" in said
    assert os.listdir(tmp_path) == ["site"]  # noqa: PTH208
