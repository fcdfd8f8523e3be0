"""`engine=ray` against plain processes on the same shards: `python -m benchmarks.engines`.

Two shards side by side on two cores, as two plain commands and as two tasks of Ray on this machine.
Both run with two numbers of clips, in turns; what is compared is the time of the additional clips,
so that start-up is on neither side. The model is small, so that what an engine adds to an utterance
shows. Processor time is that of all processes, Ray's own included,
read every 0.1 s.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil

from benchmarks.common import Row, head, random_hubert, show, work_dir, write_clips
from benchmarks.padding import clip_durations_s
from benchmarks.run import count_saved, environment, ours

SIZES, SHARDS, PAIRS, GOAL = (100, 2100), 2, 3, 5.0
OPTIONS = ("device=cpu", "precision=fp32", "loader.num_workers=1", "report=none")
PLAIN = "loader.side_by_side=2"
RAY = ("engine=ray", "engine.num_cpus=1", f"shard.count={SHARDS}")
POLL_S = 0.1

Taken = tuple[float, float]  # seconds by the clock, and of processors


def together(commands: list[list[str]], out: Path) -> Taken:
    """Runs Python commands side by side into a new store; returns what they took.

    Raises:
        RuntimeError: one of them failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    start, processor_s = time.perf_counter(), dict[psutil.Process, float]()
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            env=environment(1),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    while any(one.poll() is None for one in running):
        for one in running:
            _read(one.pid, processor_s)
        time.sleep(POLL_S)
    if any(one.returncode for one in running):
        raise RuntimeError(f"exit codes {[one.returncode for one in running]}")
    return time.perf_counter() - start, sum(processor_s.values())


def _read(pid: int, processor_s: dict[psutil.Process, float]) -> None:
    """Notes the processor time of a process and all below it, each as it was last seen."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return
    for process in family:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        processor_s[process] = times.user + times.system


def measure(size: str = "small", sizes: tuple[int, int] = SIZES, pairs: int = PAIRS) -> list[Row]:
    """Rows of time by the clock and of processor time."""
    model = random_hubert(size)
    taken: dict[tuple[str, int], list[Taken]] = {}
    with work_dir() as name:
        for number in sizes:
            folder = Path(name) / str(number)
            write_clips(folder, clip_durations_s(number, 1, 4), [32_000])
        for _ in range(pairs):
            for number in sizes:
                for engine in ("plain", "ray"):
                    out = Path(name) / "out"
                    command = ours(Path(name) / str(number), out, model, *OPTIONS)
                    shards = [[f"shard.index={n}", f"shard.count={SHARDS}"] for n in range(SHARDS)]
                    commands = [[*command, PLAIN, *shard] for shard in shards]
                    found = together([[*command, *RAY]] if engine == "ray" else commands, out)
                    assert count_saved(out) == number
                    taken.setdefault((engine, number), []).append(found)
    return [
        _row(kind, which, taken, sizes) for which, kind in enumerate(("time", "processor time"))
    ]


def _row(
    kind: str, which: int, taken: dict[tuple[str, int], list[Taken]], sizes: tuple[int, int]
) -> Row:
    ms = {
        engine: [
            1000 * (large[which] - small[which]) / (sizes[1] - sizes[0])
            for small, large in zip(*(taken[engine, number] for number in sizes), strict=True)
        ]
        for engine in ("plain", "ray")
    }
    more = median(
        100 * (ray / plain - 1) for plain, ray in zip(ms["plain"], ms["ray"], strict=True)
    )
    each = ", ".join(f"{a:.1f} to {b:.1f} ms" for a, b in zip(ms["plain"], ms["ray"], strict=True))
    least = {engine: min(one[which] for one in taken[engine, sizes[0]]) for engine in ms}
    start = f"{sizes[0]} clips with start-up {least['plain']:.1f} s to {least['ray']:.1f} s"
    what = f"engine=ray against plain processes, two shards on two cores, {kind} of a clip"
    note = f"{each}; {start}"
    return Row.at_most(what, more, GOAL, " %", note)


def main() -> None:
    """Measures with the sizes of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", choices=("base", "small"), default="small")
    parser.add_argument("--clips", type=int, nargs=2, default=SIZES)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args()
    about = head()
    show(measure(options.model, tuple(options.clips), options.pairs), options.json, about)


if __name__ == "__main__":
    main()
