"""Measures a run's time to its first batch: `python -m benchmarks.startup`.

100,000 recordings (hard links to eight files, in memory): the steps of `extract.run.job` from the
list of recordings to the first batch, with an empty store. The first run reads every header, the
second finds the durations in the cache. `resume` is the same steps over a store in which every
utterance is finished. Imports and loading the model are not timed; `--help` is a whole process.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import Row, run_alone, saved_record, seconds, work_dir, write_clips
from benchmarks.run import environment
from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.data.durations import Headers, Scanned, durations
from extract.data.loader import ResilientLoader
from extract.data.plan import Indices, plan_batches, plan_fingerprint, unfinished
from extract.data.workers import Options
from extract.frames import HUBERT_STACK
from extract.machine import cores
from extract.manifest.manifest import Manifest
from extract.manifest.sources.folder import read_folder
from extract.run.room import free_bytes, outside_gates
from extract.shard import Shard
from extract.store.layouts.gpt_sovits import names
from extract.store.lock import PRIVATE
from extract.store.resume import ResumePolicy, remaining
from extract.store.store import Store
from extract.values import AudioSettings

NUM_RECORDINGS = 100_000
NUM_FINISHED = 100_000
PER_FOLDER = 1000
BATCH_SECONDS = 60.0

Laps = dict[str, float]  # step -> seconds


def link_recordings(folder: Path, num_recordings: int) -> None:
    """Makes `num_recordings` hard links to eight short recordings."""
    originals = folder.with_name("originals")
    write_clips(originals, [0.2 + 0.1 * index for index in range(8)], [32_000])
    sources = sorted(map(str, originals.iterdir()))
    for start in range(0, num_recordings, PER_FOLDER):
        speaker = folder / f"speaker{start // PER_FOLDER:04}"
        speaker.mkdir(parents=True)
        for index in range(start, min(start + PER_FOLDER, num_recordings)):
            os.link(sources[index % len(sources)], f"{speaker}/{index:07}.wav")


def finish(recordings: Path, store: Store) -> None:
    """Makes a store as after a run that saved every recording; its files hold zeros."""
    store.create()
    manifest = read_folder(recordings)
    contents = store.directory / "contents"
    contents.write_bytes(bytes(1000))
    with (store.directory / Shard().ledger_name).open("wb") as ledger:
        for entry in manifest:
            for name in names(entry.id):
                (store.directory / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(contents, store.directory / name)
            files = [(name, 0, 1000, 1234567890) for name in names(entry.id)]
            ledger.write(saved_record(entry.id, entry.path, files).line())


def scan(items: Headers, chunks: list[Indices]) -> Iterator[Scanned]:
    """Reads headers in one worker for each core, as `extract.run.job` does."""
    workers = min(cores(), len(chunks))
    return iter(ResilientLoader(items, chunks, list, _nothing, Options(workers)))


def _nothing(index: int, _cause: str) -> Scanned:
    return [(index, 0.0)]


def start_up(recordings: Path, store: Store) -> tuple[Laps, Manifest, int]:
    """Runs the steps from the list of recordings to the first batch; seconds of each step."""
    laps: Laps = {}
    last = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal last
        now = time.perf_counter()
        laps[step], last = now - last, now

    store.create()
    private = store.directory / PRIVATE
    private.mkdir(exist_ok=True)
    manifest = read_folder(recordings)
    lap("list")
    store.layout.sweep()
    lap("sweep")
    rest = remaining(manifest, store, store.directory / "ledger.jsonl", ResumePolicy())
    lap("ledger")
    known = durations(manifest, private / "durations", scan, lambda _num: None)
    lap("durations")
    batches = plan_batches(known, BATCH_SECONDS)
    plan_fingerprint(batches, manifest.ids)
    batches = unfinished(batches, rest.todo, np.zeros_like(rest.unseen))
    lap("plan")
    outside_gates(known, AudioSettings(), HUBERT_STACK)
    free_bytes(store.directory, store.layout.folders)
    lap("disk")
    items = AudioDataset(manifest, AudioSettings())
    loader = ResilientLoader(items, batches, collate, _none_dies, Options(1))
    if batches:
        next(iter(loader))
    lap("first batch")
    loader.close()
    return laps, manifest, int(rest.todo.sum())


def _none_dies(_index: int, cause: str) -> None:
    """Fails the benchmark if a worker dies."""
    raise AssertionError(cause)


def _steps(laps: Laps) -> str:
    return ", ".join(f"{step} {taken:.2f}" for step, taken in laps.items())


def help_row() -> Row:
    """A row for `--help`, the fastest of three runs."""
    command = [sys.executable, "-m", "extract", "--help"]
    taken = min(
        seconds(lambda: subprocess.run(command, check=True, capture_output=True, env=environment()))
        for _ in range(3)
    )
    return Row.at_most("python -m extract --help", taken, 2, " s")


def first_batch_rows(num_recordings: int) -> list[Row]:
    """Rows for the first and the second run."""
    with work_dir() as name:
        recordings = Path(name) / "recordings"
        link_recordings(recordings, num_recordings)
        store = Store(Path(name) / "store")
        first, _, todo = start_up(recordings, store)
        second, _, _ = start_up(recordings, store)
        assert todo == num_recordings
    what = f"start-up to the first batch, {num_recordings:,} recordings"
    return [
        Row.plain(f"{what}, first run", sum(first.values()), " s", _steps(first)),
        Row.at_most(f"{what}, second run", sum(second.values()), 3, " s", _steps(second)),
    ]


def resume_rows(num_finished: int) -> list[Row]:
    """A row for a finished store: ledger and file sizes show that nothing is left."""
    with work_dir() as name:
        recordings = Path(name) / "recordings"
        link_recordings(recordings, num_finished)
        store = Store(Path(name) / "store")
        finish(recordings, store)
        start_up(recordings, store)  # reads the headers
        laps, _, todo = start_up(recordings, store)
        assert todo == 0
    taken = sum(laps.values())
    each_us = taken / num_finished * 1e6
    note = f"{each_us:.0f} us each, so about {each_us:.0f} s for 1,000,000; {_steps(laps)}"
    return [Row.plain(f"resume of {num_finished:,} finished utterances", taken, " s", note)]


def measure(num_recordings: int = NUM_RECORDINGS, num_finished: int = NUM_FINISHED) -> list[Row]:
    """Rows for `--help`, the first batch, and a finished store."""
    return [help_row(), *first_batch_rows(num_recordings), *resume_rows(num_finished)]


if __name__ == "__main__":
    run_alone(__doc__, measure)
