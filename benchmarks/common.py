"""Shared by all benchmarks: rows of the table, timing in turns, recordings, a random model."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch

from extract import __version__
from extract.opener import LocalFiles
from extract.store.layout import KeptFile
from extract.store.ledger import Record
from extract.values import SAVED

SHM = Path("/dev/shm")
CACHE = Path(tempfile.gettempdir()) / "extract-benchmarks"  # the random model, kept between runs


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    goal: str
    measured: str
    met: bool | None = None  # None: there is no goal, or nothing was measured
    value: float | None = None  # the number in `measured` that is compared with the goal

    @classmethod
    def at_least(cls, what: str, value: float, goal: float, unit: str, note: str = "") -> Row:
        """A rate or ratio that should be high."""
        return cls(what, f">= {goal:,g}{unit}", _said(value, unit, note), value >= goal, value)

    @classmethod
    def at_most(cls, what: str, value: float, goal: float, unit: str, note: str = "") -> Row:
        """A time or an error that should be low."""
        return cls(what, f"<= {goal:,g}{unit}", _said(value, unit, note), value <= goal, value)

    @classmethod
    def plain(cls, what: str, value: float, unit: str, note: str = "") -> Row:
        """A number without a goal."""
        return cls(what, "", _said(value, unit, note), None, value)


def _said(value: float, unit: str, note: str) -> str:
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number}{unit}" + (f" ({note})" if note else "")


def guarded(what: str, work: Callable[[], list[Row]]) -> list[Row]:
    """The rows of `work`; if it fails, one row with the error, so that the others still run."""
    try:
        return work()
    except Exception as error:
        traceback.print_exc()
        return [Row(what, "", f"{type(error).__name__}: {error}"[:200], met=False)]


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    said = {True: "yes", False: "**no**", None: ""}
    cells = [(row.what, row.goal, row.measured, said[row.met]) for row in rows]
    lines = [("what", "goal", "measured", "met"), ("---",) * 4, *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def head() -> dict[str, str]:
    """Hardware, load, date, versions and command, to be printed above the table."""
    found = {
        "processor": f"{_processor()}, {usable_cores()} cores, {torch.get_num_threads()} threads",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "load": "{:.1f} {:.1f} {:.1f} (1, 5, 15 minutes, at the start)".format(*os.getloadavg()),
        "date": date.today().isoformat(),
        "versions": f"Python {platform.python_version()}, "
        f"extract {__version__}, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers")),
        "command": " ".join(["python", *_command()]),
    }
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
    return found


def _command() -> list[str]:
    package = Path(__file__).parent
    script = Path(sys.argv[0])
    if script.parent != package:
        return sys.argv
    module = [package.name] if script.stem == "__main__" else [package.name, script.stem]
    return ["-m", ".".join(module), *sys.argv[1:]]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def show(
    rows: Sequence[Row], json_path: Path | None = None, about: dict[str, str] | None = None
) -> None:
    """Prints head and table; writes both as JSON to `json_path` if given."""
    about = about or head()
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    print("\n" + table(rows))
    if json_path is not None:
        write(rows, json_path, about)


def write(rows: Sequence[Row], path: Path, about: dict[str, str]) -> None:
    """Writes head and rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {**about, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf8")


def run_alone(doc: str | None, measure: Callable[[], list[Row]]) -> None:
    """The command line of a single benchmark."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = head()
    show(measure(), options.json, about)


# ---------------------------------------------------------------------- timing


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work, in the order A B A B, so that load on the machine slows all."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return taken


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median of slow / fast over pairs that were measured one after the other."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


# ---------------------------------------------------------------------- material


def speech_like(duration_s: float, rate_hz: int, seed: int = 0) -> np.ndarray:
    """A hum with syllables and some noise, (samples,) float32, peak 0.5."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    hum = sum(np.sin(2 * np.pi * f * t) / n for n, f in enumerate((120, 240, 360, 900), 1))
    wave = hum * (1 + np.sin(2 * np.pi * 3 * t)) + 0.1 * rng.standard_normal(len(t))
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def write_clips(folder: Path, durations_s: Sequence[float], rates_hz: Sequence[int]) -> None:
    """One 16-bit WAV for each duration, the rates in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, duration_s in enumerate(durations_s):
        rate_hz = rates_hz[index % len(rates_hz)]
        wave = speech_like(duration_s, rate_hz, index)
        soundfile.write(folder / f"{index:05}.wav", wave, rate_hz)


def saved_record(id_: str, path: str, files: Sequence[KeptFile]) -> Record:
    """The record of half a second that was saved, of the recording at `path`."""
    size, mtime_ns = LocalFiles().stamp(path)
    return Record(
        id_,
        path,
        SAVED,
        peak=0.5,
        duration_s=0.5,
        num_frames=24,
        dtype="float16",
        retried_fp32=False,
        clipped_samples=0,
        source_size=size,
        source_mtime_ns=mtime_ns,
        files=tuple(files),
    )


def random_hubert(size: str = "base") -> Path:
    """A folder with a random HuBERT: `base`, or `small` for a quick check of the script."""
    folder = CACHE / f"hubert-{size}-{version('transformers')}"
    if not (folder / "model.safetensors").exists():
        from transformers import HubertConfig, HubertModel

        small = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        small |= {"intermediate_size": 256, "conv_dim": (64,) * 7}
        config = HubertConfig(**(small if size == "small" else {}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            HubertModel(config).save_pretrained(folder)
    return folder


def work_dir(prefer: Path = SHM) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder for a `with` block; in memory if /dev/shm exists."""
    return tempfile.TemporaryDirectory(
        prefix="extract-benchmark-", dir=prefer if prefer.is_dir() else None
    )
