"""What an utterance more costs the main process before the loop: bytes, and calls of the system."""

import os
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from extract.data.durations import durations
from extract.data.plan import plan_batches, plan_fingerprint, unfinished
from extract.data.stamps import Stamps
from extract.manifest.manifest import Manifest
from extract.run import job, work
from extract.run.job import run_shard
from extract.shard import Shard
from extract.store import files
from extract.store.layouts.gpt_sovits import names
from extract.store.ledger import Record
from extract.store.resume import ResumePolicy, remaining
from extract.store.store import Store
from extract.values import SAVED, Entry
from support.configs import tiny_config

FEW, MANY = 1_000, 10_000
FILE_BYTES = 1000
# Bytes that an utterance may add, with an id and a path of 24 and 32 characters.
MANIFEST, PLANNING, RESUME = 90, 280, 440
STAMP = (100, 5)


class Asked:
    """An opener that counts what it is asked."""

    def __init__(self) -> None:
        self.stamps = Counter[str]()

    def stamp(self, path: str) -> tuple[int, int]:
        self.stamps[path] += 1
        return STAMP


def entry(index: int) -> Entry:
    """Ids in an order that no sorting finds, as those of a corpus are."""
    return Entry(f"speaker/{(index * 7919) % 1_000_003:012}.wav", f"/corpus/{index:020}.wav")


def manifest_of(number: int) -> Manifest:
    return replace(Manifest.from_entries(map(entry, range(number))), opener=Asked())


def plan(manifest: Manifest, todo: np.ndarray, stamps: Stamps) -> None:
    def scan(_items, chunks):
        for chunk in chunks:
            yield [(int(index), 1.0 + int(index) % 7) for index in chunk]

    seconds = durations(manifest, None, scan, lambda _num: None, stamps=stamps)
    batches = plan_batches(seconds, 60.0)
    plan_fingerprint(batches, manifest.ids)
    unfinished(batches, todo, np.zeros_like(todo))


def finished(folder: Path, number: int) -> Store:
    """A store whose ledger says that all are saved."""
    store = Store(folder)
    store.create()
    (folder / names("speaker/a")[0]).parent.mkdir()
    with (folder / "ledger.jsonl").open("wb") as ledger:
        for one in map(entry, range(number)):
            record = Record(
                one.id,
                one.path,
                SAVED,
                peak=0.5,
                duration_s=1.5,
                num_frames=74,
                dtype="float16",
                retried_fp32=False,
                clipped_samples=0,
                source_size=STAMP[0],
                source_mtime_ns=STAMP[1],
                files=((names(one.id)[0], 0, FILE_BYTES, 7),),
            )
            ledger.write(record.line())
    return store


@pytest.fixture
def looked_at(monkeypatch, tmp_path):
    """Counts how often a store's file is looked at; each is there."""
    path = tmp_path / "a file"
    path.write_bytes(bytes(FILE_BYTES))
    status, seen = os.lstat(path), Counter[str]()

    def lstat(path):
        seen[os.fspath(path)] += 1
        return status

    monkeypatch.setattr(files, "os", SimpleNamespace(**{**vars(os), "lstat": lstat}))
    return seen


def traced(action) -> tuple[int, int]:
    """Bytes that are held after an action, and at its peak."""
    tracemalloc.start()
    try:
        kept = action()
        held, peak = tracemalloc.get_traced_memory()
        del kept
        return held, peak
    finally:
        tracemalloc.stop()


def each(few: int, many: int) -> float:
    """Bytes that an utterance adds."""
    return (many - few) / (MANY - FEW)


def is_linear(few: int, many: int) -> bool:
    """Ten times the utterances take ten times the bytes: half as much again for tables that grow.

    A table of Python's doubles as it grows, so a count just above a power of two is half empty.
    """
    return many <= 1.5 * few * MANY / FEW


def test_a_manifest_and_a_plan_grow_by_few_bytes_an_utterance():
    def planned(number):
        manifest = manifest_of(number)
        plan(manifest, np.ones(number, bool), Stamps(manifest))

    planned(10)  # what is made once is no growth
    held = [traced(lambda number=number: manifest_of(number))[0] for number in (FEW, MANY)]
    assert each(*held) < MANIFEST
    assert is_linear(*held)
    peaks = [traced(lambda number=number: planned(number))[1] for number in (FEW, MANY)]
    assert each(*peaks) < PLANNING
    assert is_linear(*peaks)


def test_resuming_looks_once_at_each_recording_and_file_and_grows_by_few_bytes(tmp_path, looked_at):
    peaks = []
    for number in (10, FEW, MANY):  # the first makes what is made once
        store, manifest = finished(tmp_path / str(number), number), manifest_of(number)
        stamps = Stamps(manifest)
        looked_at.clear()

        def resume(store=store, manifest=manifest, stamps=stamps):
            path = store.directory / "ledger.jsonl"
            return remaining(manifest, store, path, ResumePolicy(), stamps=stamps)

        rest = []
        peaks.append(traced(lambda resume=resume, rest=rest: rest.append(resume()))[1])
        assert not rest[0].todo.any()
        plan(manifest, np.ones(number, bool), stamps)
        assert manifest.opener.stamps.total() == len(manifest.opener.stamps) == number
        assert looked_at.total() == len(looked_at) == number
    assert each(*peaks[1:]) < RESUME
    assert is_linear(*peaks[1:])


def test_a_finished_store_needs_neither_durations_nor_a_plan(recordings, tmp_path, monkeypatch):
    config = tiny_config(recordings, tmp_path / "out")
    assert run_shard(config, Shard()).num("saved") == 24

    def unneeded(*_args):
        raise AssertionError("asked for")

    monkeypatch.setattr(work, "durations", unneeded)
    monkeypatch.setattr(job, "plan_rest", unneeded)
    again = run_shard(config, Shard())
    assert (again.num("saved"), again.done, again.left) == (24, 0, 0)
    os.utime(next(recordings.rglob("*.wav")), (1, 1))
    with pytest.raises(AssertionError, match="asked for"):
        run_shard(config, Shard())
