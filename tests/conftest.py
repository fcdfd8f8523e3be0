"""Fixtures and hooks; what tests import is in `support`."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra._internal.hydra import Hydra
from hypothesis import settings

from extract.app import main
from support import trials
from support.command import TINY
from support.faults import fault_row
from support.layouts import EVERY
from support.recordings import write_wav
from support.windows import is_disguised

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["EXTRACT_REPORT"] = "none"  # a test that looks at a page asks for it: report=html
settings.register_profile("no clock", deadline=None)  # a busy machine is no fault
settings.load_profile("no clock")


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share small machines, where threads that wait for one another only slow them."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def composed_once() -> Iterator[None]:
    """Commands in this process compose their options once.

    Hydra composes them once more before, a third of a short run's time, to look for `hydra.mode`,
    which no file of options sets. Commands in processes of their own do as Hydra does.
    """
    really = Hydra.get_mode

    def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> object:
        is_set = any("hydra.mode" in word for word in overrides)
        return really(hydra, config_name, overrides) if is_set else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", get_mode)
        yield


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder of 24 short recordings of different lengths, some in a folder below."""
    rng = np.random.default_rng(7)
    for index, seconds in enumerate(rng.uniform(0.1, 1.2, 24)):
        folder = "in" if index % 4 else "in/below"
        write_wav(tmp_path / folder / f"{index:02}.wav", seconds, index)
    return tmp_path / "in"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `python -m extract` in this process, in `tmp_path`; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["extract"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # `main` changes it
    return lambda *argv: main(list(map(str, argv)))


@pytest.fixture
def extract_folder(command: Callable[..., int], tmp_path: Path) -> Callable[..., int]:
    """Extracts a folder into `tmp_path/out` with the tiny model; returns the exit code."""

    def extract_folder(folder: Path, *options: str) -> int:
        return command(
            "dataset=folder",
            f"dataset.path={folder}",
            f"store.dir={tmp_path / 'out'}",
            *TINY,
            *options,
        )

    return extract_folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="write what became of each fault here")
    parser.addoption("--slurm", action="store_true", help="run the tests that start a Slurm")
    parser.addoption("--trials", type=int, help="try each fault of the protocol so often")
    parser.addoption(
        "--netns", action="store_true", help="give Ray's nodes networks of their own, as root"
    )
    parser.addoption("--all-layouts", action="store_true", help="run every fault on every layout")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test that takes a `layout`, and names none, the layouts to run it on."""
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "layout" in metafunc.fixturenames and not any("layout" in names for names in given):
        every = metafunc.config.getoption("--all-layouts")
        marked = metafunc.definition.get_closest_marker("each_layout")
        layouts = EVERY if every or marked else ("gpt_sovits",)
        metafunc.parametrize("layout", layouts, scope="module")
    if "trial_seed" in metafunc.fixturenames:
        seeds = range(metafunc.config.getoption("--trials") or 1)
        metafunc.parametrize("trial_seed", seeds)


survived: list[str] = []  # rows of the fault table in docs/faults.md, in the order of the tests


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        row = dict(report.user_properties).get("fault")
        if row and row not in survived:
            survived.append(row)
    if report.when == "call" and (trial := dict(report.user_properties).get("trial")):
        trials.count(trial, failed=report.failed)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if is_disguised() and (marker := item.get_closest_marker("posix")):
        pytest.skip(f"not on Windows: {marker.args[0]}")
    if item.get_closest_marker("slurm") and not item.config.getoption("--slurm"):
        pytest.skip("only with --slurm: it starts daemons as root")
    if marker := item.get_closest_marker("fault"):
        item.user_properties.append(("fault", fault_row(*marker.args)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.getoption("--trials"):
        for line in trials.table():
            terminalreporter.line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := session.config.getoption("--fault-table"):
        head = "| fault | what happened | lost |\n|---|---|---|\n"
        path.write_text(head + "\n".join(survived) + "\n")
