"""Recordings to try things on, and the command, in this process or in one that may be killed."""

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from extract.app import main

os.environ["HF_HUB_OFFLINE"] = "1"
DEMO = Path(__file__).parents[1] / "extract" / "demo"
TINY = ["model=tiny_random", "loader.num_workers=2", "device=cpu"]


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share small machines, where threads that wait for one another only slow them."""
    torch.set_num_threads(1)


def speech_like(seconds: float, seed: int = 0, rate: int = 16_000) -> np.ndarray:
    """A hum with syllables and some noise: (samples,) float32, peak about 0.5."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    hum = sum(np.sin(2 * np.pi * f * t) / n for n, f in enumerate((120, 240, 360, 900), 1))
    wave = hum * (1 + np.sin(2 * np.pi * 3 * t)) + 0.1 * rng.standard_normal(len(t))
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def write_wav(path: Path, seconds: float = 0.5, seed: int = 0, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech_like(seconds, seed, rate), rate)
    return path


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


def start(argv: list[str], cwd: Path, log: Path | None = None) -> multiprocessing.Process:
    """The command in a process of its own, forked with everything imported: it starts at once.

    What it says goes to `log`.
    """
    import extract.run.job
    from extract.run.build import _encoder

    assert extract.run.job
    _encoder("tiny_random", None, 0, "cpu", "auto", None)  # imported and built, for every child

    def child() -> None:
        os.setsid()
        os.chdir(cwd)
        sys.stdout = sys.stderr = open(log or os.devnull, "a", buffering=1)  # noqa: SIM115
        torch.set_num_threads(1)
        os._exit(main(argv))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def ledger(store: Path) -> list[dict]:
    lines = []
    for path in sorted(store.glob("ledger*.jsonl")):
        lines += [json.loads(line) for line in path.read_text("utf8").splitlines()]
    return lines


def audit(store: Path, ids: set[str]) -> None:
    """What must hold after any run that finished, read from nothing but files.

    I1 every id once; I2 every saved one readable, finite, of the right shape; I3 nothing unreadable
    under a final name; I4 no stray file.
    """
    records = ledger(store)
    assert Counter(record["id"] for record in records) == Counter(ids)
    expected = set()
    for record in records:
        if record["status"] != "saved":
            assert record["reason"]
            continue
        feature_path = store / "4-cnhubert" / f"{record['id']}.pt"
        wav_path = store / "5-wav32k" / record["id"]
        expected |= {feature_path, wav_path}
        features = torch.load(feature_path, weights_only=True)
        samples, rate = soundfile.read(wav_path, dtype="int16")
        assert rate == 32_000
        frames = (-(-len(samples) // 2) - 400) // 320 + 1
        assert features.shape[0] == 1
        assert features.shape[2] == frames == record["num_frames"]
        assert torch.isfinite(features).all()
    folders = (store / "4-cnhubert", store / "5-wav32k")
    found = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert found == expected


def contents(store: Path) -> dict[str, bytes]:
    folders = (store / "4-cnhubert", store / "5-wav32k")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def ids_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="write what became of each fault here")


survived: list[str] = []  # rows of the README's fault table, in the order of the tests


def fault_row(fault: str, happened: str) -> str:
    """A row of the README's fault table."""
    return f"| {fault} | {happened} | nothing |"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        row = dict(report.user_properties).get("fault")
        if row and row not in survived:
            survived.append(row)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if marker := item.get_closest_marker("fault"):
        item.user_properties.append(("fault", fault_row(*marker.args)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := session.config.getoption("--fault-table"):
        head = "| fault | what happened | lost |\n|---|---|---|\n"
        path.write_text(head + "\n".join(survived) + "\n")
