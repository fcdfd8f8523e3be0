"""Memory is flat: nothing that a run holds grows with the number of utterances it has done."""

import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from extract.data.batch import Batch, collate
from extract.data.dataset import AudioDataset
from extract.data.loader import ResilientLoader
from extract.data.plan import plan_batches
from extract.data.workers import Options
from extract.encoder.batches import BatchEncoder
from extract.encoder.encoder import Encoder
from extract.manifest.manifest import Manifest
from extract.models.load import load_model
from extract.run.clock import Clock
from extract.run.pipeline import run
from extract.store.ledger import Ledger, read
from extract.store.store import Store
from extract.store.writers import Writers
from extract.values import Entry
from support.recordings import speech_like

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's /proc"),
]

NUM, NUM_WORKERS = 6_000, 2
WINDOW = 30  # batches over which the largest value counts: prefetching makes each one swing
# Well under 2 % of the memory that torch alone takes: 1.3 kB an utterance would be seen. Pages that
# the allocator keeps or gives back as it likes, and the tensors of a batch more or less in flight.
MAY_GROW = {"rss": 6e6, "files": 4, "threads": 0, "shared": 1e6}


class Gauge:
    """Passes batches on and notes what main process and workers hold meanwhile."""

    def __init__(self, loader: ResilientLoader[Batch], num_batches: int) -> None:
        self.loader, self.num_batches = loader, num_batches
        self.early: Counter[str] = Counter()
        self.late: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Batch]:
        fifth, end = self.num_batches // 5, self.num_batches - 5
        for number, batch in enumerate(self.loader):
            if fifth - WINDOW < number <= fifth:
                self.early |= self._held()
            if end - WINDOW < number <= end:
                self.late |= self._held()
            yield batch

    def _held(self) -> Counter[str]:
        main = psutil.Process()
        workers = [psutil.Process(one.pid) for one in self.loader.processes]
        assert len(workers) == NUM_WORKERS
        held: Counter[str] = Counter()
        for number, process in enumerate([main, *workers]):
            name = f"worker {number}" if number else "main"
            held[f"rss of {name}"] = process.memory_info().rss
            held[f"files of {name}"] = process.num_fds()
            held[f"threads of {name}"] = process.num_threads()
        held["shared memory"] = shared_bytes([main, *workers])
        return held


def shared_bytes(processes: Iterable[psutil.Process]) -> int:
    """What tensors on their way take in shared memory, each segment once."""
    segments = {}
    for process in processes:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            if "torch_" in line and "/dev/shm" in line:
                span, _mode, _offset, _device, inode, *_name = line.split()
                start, _, stop = span.partition("-")
                segments[inode] = int(stop, 16) - int(start, 16)
    return sum(segments.values())


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def entries(scratch: Path) -> list[Entry]:
    """Short utterances, no two of one length, a tenth of them faulty in four ways."""
    lengths = np.random.default_rng(0).permutation(np.arange(1_600, 1_600 + NUM))
    samples = speech_like(1, seed=1)
    good = [scratch / f"good{n}.wav" for n in range(NUM)]
    for path, length in zip(good, lengths, strict=True):
        soundfile.write(path, samples[:length], 16_000)
    bad = [scratch / name for name in ("text.wav", "silent.wav", "nan.wav", "missing.wav")]
    bad[0].write_text("no recording\n" * 50)
    soundfile.write(bad[1], np.zeros(3200, np.float32), 32_000)
    soundfile.write(bad[2], np.full(3200, np.nan, np.float32), 32_000, subtype="FLOAT")
    paths = [bad[n // 10 % 4] if n % 10 == 3 else good[n] for n in range(NUM)]
    return [Entry(f"{n:05}.wav", str(path)) for n, path in enumerate(paths)]


def test_a_long_run_holds_at_its_end_what_it_held_at_one_fifth(scratch, entries):
    manifest = Manifest.from_entries(entries)
    batches = plan_batches([0.1] * NUM, 2.0)  # as they come: each batch has lengths of all kinds
    dataset, options = AudioDataset(manifest), Options(num_workers=NUM_WORKERS)
    loader = ResilientLoader(dataset, batches, collate, lambda index, cause: collate([]), options)
    store = Store(scratch / "store", fsync=False)
    store.create()
    ledger = Ledger(store.directory / "ledger.jsonl")
    writers = Writers(store, ledger, num_threads=2)
    gauge = Gauge(loader, len(batches))
    encoding = BatchEncoder(Encoder(load_model("tiny_random")), 100)
    try:
        run(gauge, encoding, writers, np.ones(NUM, dtype=bool), Clock())
        writers.close()
    finally:
        loader.close()
        ledger.close()

    outcomes = Counter(record["reason"] for record in read(store.directory))
    faults = {"undecodable", "silent", "non_finite_audio", "missing"}
    assert outcomes == {None: 0.9 * NUM} | dict.fromkeys(faults, 0.1 * NUM / 4)
    grown = {
        name: (gauge.early[name], late)
        for name, late in gauge.late.items()
        if late > gauge.early[name] + MAY_GROW[name.split()[0]]
    }
    assert min(held for name, held in gauge.late.items() if "rss" in name) * 0.02 > MAY_GROW["rss"]
    assert not grown, "(at one fifth, at the end)"
    assert gauge.early["shared memory"] > 0, "nothing was measured"


MANIFEST = """
    import gc, json, os, random
    from extract.manifest.manifest import Entry, Manifest

    def held(key):
        with open("/proc/self/smaps_rollup") as file:
            return {line.split(":")[0]: int(line.split()[1]) for line in list(file)[1:]}[key] / 1000

    def entry(n):
        name = f"speaker{n % 1000:04}/utterance_{n:07}.wav"
        return Entry(name, f"/data/corpus/{name}")

    def work(manifest):
        gc.freeze()
        before = held("Private_Dirty")
        for _ in range(NUM // 10):  # at random, as a plan by length reads them
            manifest[random.randrange(NUM)]
        return held("Private_Dirty") - before

    before = held("Rss")
    manifest = Manifest.from_entries(map(entry, range(NUM)))
    gc.collect()
    costs = [held("Rss") - before]
    for _ in range(4):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, json.dumps(work(manifest)).encode())
            os._exit(0)
        costs.append(json.loads(os.read(reader, 100)))
        os.wait()
    print(json.dumps(costs))
"""


def test_a_manifest_costs_300_mb_a_million_entries_with_four_workers():
    """A quarter of a million, for time: the bytes are flat arrays' and grow in proportion."""
    num = 250_000
    code = f"NUM = {num}\n" + textwrap.dedent(MANIFEST)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    costs_mb = json.loads(result.stdout)
    assert len(costs_mb) == 5
    assert 10 < sum(costs_mb) <= 300 * num / 1e6, costs_mb


LENGTHS = """
    import random, sys
    import torch
    from extract.encoder.encoder import Encoder
    from extract.machine import keep_freed_memory
    from extract.models.families import hubert
    from extract.models.weights import random_checkpoint

    def resident_mb():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6

    torch.set_num_threads(1)
    sizes = dict(hidden_size=64, num_attention_heads=2, intermediate_size=128, conv_dim=(32,) * 7)
    model = random_checkpoint(hubert.architecture({"num_hidden_layers": 1, **sizes}), seed=0)
    encoder = Encoder(model, precision=sys.argv[1])
    keep_freed_memory()
    lengths = random.Random(0).sample(range(400, 24_000, 10), 3 * 200)
    batches = [sorted(lengths[n : n + 3], reverse=True) for n in range(0, len(lengths), 3)]
    for number, batch in enumerate(sorted(batches, reverse=True)[:1] + batches, 1):
        encoder.encode(torch.randn(len(batch), batch[0]), batch)
        if number in (20, len(batches) + 1):
            print(resident_mb())
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lengths_that_never_repeat_cost_no_memory(precision):
    """oneDNN keeps what it made for each number of rows: 180 batches more took hundreds of MB."""
    command = [sys.executable, "-c", textwrap.dedent(LENGTHS), precision]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    early, late = map(float, result.stdout.split())
    assert late - early <= 30
