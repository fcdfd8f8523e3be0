"""A whole run against a loop that works as the reference does: `python -m benchmarks.run`.

60 clips of 2 to 6 s, 44.1 and 32 kHz in turn; HuBERT-base with random weights on disk; whole
processes, start-up included, on two cores. `python -m extract` in fp32 and bf16 and
`benchmarks/reference.py` run in turns; each ratio compares consecutive runs.
"""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.common import Row, in_turns, random_hubert, ratio, run_alone, work_dir, write_clips
from benchmarks.padding import clip_durations_s

NUM_CLIPS, NUM_CORES, PAIRS = 60, 2, 3
GOALS = {"fp32": 1.7, "bf16": 2.8}
ROOT = Path(__file__).resolve().parents[1]


def environment(num_cores: int = NUM_CORES) -> dict[str, str]:
    """Environment of a process on `num_cores` cores, without network access.

    PYTHONDONTWRITEBYTECODE, which containers often set, is removed: it costs each start 0.15 s.
    """
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    threads = {name: str(num_cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, **threads, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}


def in_process(command: list[str], out: Path, num_cores: int = NUM_CORES) -> None:
    """Removes `out` and runs a Python command to its end."""
    shutil.rmtree(out, ignore_errors=True)
    limit = ["taskset", "-c", f"0-{num_cores - 1}"] if _must_limit(num_cores) else []
    done = subprocess.run(
        [*limit, sys.executable, *command],
        env=environment(num_cores),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command[:2]}: exit code {done.returncode}: {done.stdout[-1500:]}")


def _must_limit(num_cores: int) -> bool:
    return (os.cpu_count() or 1) > num_cores and shutil.which("taskset") is not None


def ours(recordings: Path, out: Path, model: Path, *options: str) -> list[str]:
    """This package's command for a folder and a model on disk."""
    places = [f"dataset.path={recordings}", f"model.path={model}", f"store.dir={out}"]
    return ["-m", "extract", "dataset=folder", "model=local", *places, *options]


def reference(recordings: Path, out: Path, model: Path, *options: str) -> list[str]:
    """The reference loop's command for a folder and a model on disk."""
    return ["-m", "benchmarks.reference", str(recordings), str(out), str(model), *options]


def count_saved(out: Path) -> int:
    """Number of feature files of a run."""
    return sum(1 for _ in (out / "4-cnhubert").rglob("*.pt"))


def measure(pairs: int = PAIRS) -> list[Row]:
    """Rows for fp32 and bf16 on the CPU; without ffmpeg they say that nothing was measured."""
    what = f"whole run, {NUM_CLIPS} clips of 2 to 6 s, {NUM_CORES} CPU cores, against the loop, "
    if shutil.which("ffmpeg") is None:
        note = "not measured: ffmpeg is not installed"
        return [Row(what + name, f">= {goal:g}x", note) for name, goal in GOALS.items()]
    model = random_hubert()
    with work_dir() as name:
        recordings = Path(name) / "recordings"
        durations_s = clip_durations_s(NUM_CLIPS, 2, 6)
        write_clips(recordings, durations_s, [44_100, 32_000])
        outs = {key: Path(name) / key for key in ("loop", *GOALS)}
        works = {
            "loop": partial(in_process, reference(recordings, outs["loop"], model), outs["loop"])
        }
        for precision in GOALS:
            options = ("device=cpu", f"precision={precision}")
            command = ours(recordings, outs[precision], model, *options)
            works[precision] = partial(in_process, command, outs[precision])
        taken = in_turns(works, pairs)
        assert {count_saved(out) for out in outs.values()} == {NUM_CLIPS}
    audio_s = float(durations_s.sum())

    def row(precision: str) -> Row:
        times = ", ".join(
            f"{a:.1f} s to {b:.1f} s" for a, b in zip(taken["loop"], taken[precision], strict=True)
        )
        note = f"{times} for {audio_s:.0f} s of audio"
        value = ratio(taken["loop"], taken[precision])
        return Row.at_least(what + precision, value, GOALS[precision], "x", note)

    return [row(precision) for precision in GOALS]


if __name__ == "__main__":
    run_alone(__doc__, measure)
