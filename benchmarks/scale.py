"""Measures how a run grows with the number of its utterances: `python -m benchmarks.scale`.

Lists of 10,000, 100,000 and 1,000,000 recordings (hard links to eight short files, in memory), and
an encoder that computes nothing. Planning goes from the list to the first batch, resume over a
store in which every utterance is finished; both are steps of `extract.run.job`, each in a process
of its own that says its time and its peak of resident memory. The loop is that of a run, with
loader workers. What is real and what is not: README.md, "How a run grows".
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import Row, head, show, work_dir
from benchmarks.memory import peak_mb
from benchmarks.run import environment
from benchmarks.scale_material import FakeEncoder, NoFiles, config_for, make
from extract.config import Config
from extract.data.batch import Batch
from extract.data.dataset import AudioDataset
from extract.data.loader import ResilientLoader
from extract.data.plan import Indices
from extract.data.stamps import Stamps
from extract.encoder.batches import BatchEncoder
from extract.machine import collect_garbage_again
from extract.run.assembled import Job, choose_loading, job_of
from extract.run.build import load_batches, load_encoder
from extract.run.clock import Clock
from extract.run.observer import Silent
from extract.run.opened import opened
from extract.run.pipeline import Stage, run
from extract.run.room import require_room
from extract.run.signals import Stop
from extract.run.work import find_rest, needs_plan, plan_rest, read_durations
from extract.shard import Shard
from extract.store.ledger import Ledger
from extract.store.writers import Writers

NUMBERS = (10_000, 100_000, 1_000_000)
EMPTY = 10  # entries of the run whose peak of memory is that of imports
NUM_LOOPED = 10_000  # utterances that go through the loop
ROUNDS = 3

Laps = dict[str, list[float]]  # step -> seconds by the clock, seconds of the processor


class Timer:
    """Notes the time of each step, by the clock and of this process's processor."""

    def __init__(self) -> None:
        self.laps: Laps = {}
        self._last = time.perf_counter(), time.process_time()

    def lap(self, step: str) -> None:
        """Ends a step."""
        now = time.perf_counter(), time.process_time()
        self.laps[step] = [a - b for a, b in zip(now, self._last, strict=True)]
        self._last = now


def to_first_batch(config: Config) -> dict[str, object]:
    """The steps of `run_shard` up to the first batch; what they took, and the peak of memory."""
    load_encoder(config)  # it is kept, so that no step holds its time
    collect_garbage_again()
    timer = Timer()
    job = job_of(config, Shard(), Silent(), Stop())
    timer.lap("list")
    with opened(job):
        timer.lap("store")
        loading = choose_loading(job)
        stamps = Stamps(job.manifest)
        rest = find_rest(job, stamps)
        timer.lap("ledger")
        batches: list[Indices] = []
        if needs_plan(job, rest):
            seconds = read_durations(job, stamps)
            timer.lap("durations")
            batches, _reusable = plan_rest(job, loading.batch_seconds, rest, seconds)
            timer.lap("plan")
            require_room(job, rest.todo, seconds)
            timer.lap("disk")
        with closing(_loader(job, batches)) as loader:
            for _batch in loader:
                break
            timer.lap("first batch")
            return {"laps": timer.laps, "peak_mb": peak_mb(), "todo": int(rest.todo.sum())}


def _loader(job: Job, batches: list[Indices]) -> ResilientLoader[Batch]:
    dataset = AudioDataset(job.manifest, job.config.audio, training_audio=job.store.keeps_audio)
    loading = choose_loading(job)
    return load_batches(dataset, batches, job.config, loading, job.encoder.device, job.stop)


def loop(config: Config) -> dict[str, object]:
    """Processor time of the main process for each of NUM_LOOPED utterances, in ms.

    `whole` is the loop; `stage` the encoding stage alone on the same batches, already loaded. Each
    is the fastest of ROUNDS.
    """
    torch.set_num_threads(1)
    job = job_of(config, Shard(), Silent(), Stop())
    indices = np.arange(min(NUM_LOOPED, len(job.manifest)))
    batches = [indices[start : start + 64] for start in range(0, len(indices), 64)]
    kept: list[Batch] = []
    with closing(_loader(job, batches)) as loader:
        kept.extend(loader)
    taken: dict[str, list[float]] = {"whole": [], "writing": [], "stage": []}
    job.store.create()
    for _ in range(ROUNDS):
        taken["stage"].append(_cpu(lambda: _exhaust(BatchEncoder(FakeEncoder(), 1e9)(kept))))
        taken["writing"].append(_cpu(lambda: _loop(job, batches)))
        layout, job.store.layout = job.store.layout, NoFiles()
        taken["whole"].append(_cpu(lambda: _loop(job, batches)))
        job.store.layout = layout
    return {name: 1e3 * min(times) / len(indices) for name, times in taken.items()}


def _loop(job: Job, batches: list[Indices]) -> None:
    """Loads, encodes and saves the batches, as `extract.run.job` does."""
    job.ledger_path.unlink(missing_ok=True)
    ledger = Ledger(job.ledger_path, fsync=False)
    writers = Writers(job.store, ledger)
    with closing(_loader(job, batches)) as loader:
        stage: Stage = BatchEncoder(FakeEncoder(), 1e9)
        run(loader, stage, writers, np.ones(len(job.manifest), bool), Clock())
    writers.close()
    ledger.close()


def _exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass


def _cpu(work: Callable[[], None]) -> float:
    """Seconds of this process's processor time, all threads."""
    before = time.process_time()
    work()
    return time.process_time() - before


CHILDREN = {"start": to_first_batch, "loop": loop}


def in_child(child: str, folder: Path, kind: str, store: str) -> dict[str, object]:
    """Result of one of CHILDREN, run in a new process."""
    options = ["--child", child, "--folder", str(folder), "--kind", kind, "--store", store]
    command = [sys.executable, "-m", "benchmarks.scale", *options]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def _row(what: str, found: dict, empty: dict, goal: dict[str, float], number: int) -> list[Row]:
    """Rows of the time and the memory of one process."""
    clock_s, processor_s = (sum(times) for times in zip(*found["laps"].values(), strict=True))
    steps = ", ".join(f"{name} {times[0]:.2f}" for name, times in found["laps"].items())
    note = f"processor {processor_s:.2f} s, {1e6 * clock_s / number:.1f} us each; {steps}"
    above = found["peak_mb"] - empty["peak_mb"]
    memory = f"peak {found['peak_mb']:.0f} MB, {above * 1e6 / number:.0f} bytes each"
    rows = []
    for name, value, unit, said in (
        ("time", clock_s, " s", note),
        ("memory", above, " MB", memory),
    ):
        is_whole = number == NUMBERS[-1] and name in goal
        row = Row.at_most(f"{what}, {name}", value, goal[name], unit, said) if is_whole else None
        rows.append(row or Row.plain(f"{what}, {name}", value, unit, said))
    return rows


def rows_of(number: int, kinds: list[str]) -> list[Row]:
    """Rows for lists of `number` entries."""
    rows: list[Row] = []
    with work_dir() as name:
        folder, few = Path(name) / "many", Path(name) / "few"
        make(folder, number, finished="resume" in kinds)
        make(few, EMPTY, finished=True)
        for kind in ("whole", "cuts", "folder"):
            if kind in kinds:
                found, empty = (in_child("start", one, kind, "new") for one in (folder, few))
                assert found["todo"] == number
                goal = {} if kind == "folder" else {"time": 10.0, "memory": 300.0}
                rows += _row(f"planning, {kind}, {number:,}", found, empty, goal, number)
        if "resume" in kinds:
            found, empty = (in_child("start", one, "whole", "done") for one in (folder, few))
            assert found["todo"] == 0
            rows += _row(f"resume, {number:,}", found, empty, {"time": 25.0}, number)
        if "loop" in kinds:
            ms = in_child("loop", folder, "whole", "looped")
            note = f"with files {ms['writing']:.3g} ms; stage alone {ms['stage']:.3g} ms"
            what = f"an utterance of {number:,} in the loop, above the stage alone"
            rows.append(Row.at_most(what, ms["whole"] - ms["stage"], 0.5, " ms", note))
    return rows


KINDS = ("whole", "cuts", "folder", "resume", "loop")


def measure(numbers: tuple[int, ...] = NUMBERS, kinds: tuple[str, ...] = KINDS) -> list[Row]:
    """Rows for each number of entries."""
    return [row for number in numbers for row in rows_of(number, list(kinds))]


def main() -> None:
    """Prints the table, or a child's result as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--numbers", type=int, nargs="+", default=list(NUMBERS))
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        config = config_for(options.folder, options.kind, options.store)
        print(json.dumps(CHILDREN[options.child](config)))
        return
    rows = measure(tuple(options.numbers), tuple(options.only))
    show(rows, options.json, head())


if __name__ == "__main__":
    main()
