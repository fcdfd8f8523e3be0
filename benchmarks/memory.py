"""Measures the main process's memory: `python -m benchmarks.memory [--longest]`.

Each measurement runs in a process of its own, on clips whose lengths never repeat: peak resident
size after 10 and after 400 batches with a tiny model, resident size after 10 and after 130 batches
with HuBERT-base, time of a clip among the first and the last thousand of 16,000, and MB of a padded
second with HuBERT-base. `--longest` adds 1,000 batches, and one recording of 600 s
(`audio.max_duration_s`) through one layer, which needs as much memory as twelve.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import torch

from benchmarks.common import Row, head, random_hubert, show, work_dir, write_clips
from benchmarks.run import environment
from extract.choices import find
from extract.data.batch import Batch, collate
from extract.data.dataset import AudioDataset
from extract.data.plan import plan_batches
from extract.encoder.batches import BatchEncoder
from extract.encoder.encoder import Encoder
from extract.machine import keep_freed_memory
from extract.manifest.sources.folder import read_folder
from extract.models.family import Family
from extract.models.load import load_model
from extract.models.weights import random_checkpoint
from extract.run.clock import Clock
from extract.run.pipeline import run
from extract.store.ledger import Ledger
from extract.store.store import Store
from extract.store.writers import Writers
from extract.values import AudioSettings

FEW, MANY = 10, 400
PER_BATCH = 8
BATCHES, MORE_BATCHES = 130, 1_000  # of CLIPS each, in HuBERT-base
CLIPS = 3
NUM_CLIPS, THOUSAND = 16_000, 1_000
LONGEST_S = 600
FAMILIES = ("wav2vec2", "unispeech_sat", "wavlm", "data2vec_audio")  # HuBERT is measured whole
RATE_HZ = 16_000


def peak_mb() -> float:
    """Peak resident size of this process so far, MB."""
    try:  # not `ru_maxrss`: it includes the parent's size at the fork
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def pipeline_peaks() -> dict[str, float]:
    """Peak after FEW batches and after MANY, through dataset, encoder and writers."""
    peaks: list[float] = []
    with work_dir() as name:
        recordings = Path(name) / "recordings"
        lengths = random.Random(0).sample(range(1_600, 12_000), PER_BATCH * MANY)  # none twice
        durations_s = [length / RATE_HZ for length in lengths]
        write_clips(recordings, durations_s, [RATE_HZ])
        manifest = read_folder(recordings)
        dataset = AudioDataset(manifest, AudioSettings())
        longest = max(lengths) / RATE_HZ
        plan = plan_batches([longest] * len(manifest), PER_BATCH * 1.2 * longest)

        def batches() -> Iterator[Batch]:
            for indices in plan:
                yield collate([dataset[int(index)] for index in indices])
                peaks.append(peak_mb())

        store = Store(Path(name) / "store", fsync=False)
        store.create()
        ledger = Ledger(store.directory / "ledger.jsonl")
        writers = Writers(store, ledger)
        encoding = BatchEncoder(Encoder(load_model("tiny_random")), 1e9)
        run(batches(), encoding, writers, torch.ones(len(manifest)).bool().numpy(), Clock())
        writers.close()
        ledger.close()
    return {"few": peaks[FEW - 1], "many": peaks[-1]}


def resident_mb() -> float:
    """Resident size of this process now, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def encode_lengths(encoder: Encoder, lengths: list[int]) -> None:
    """Encodes one batch of noise."""
    batch = torch.randn(len(lengths), max(lengths)) * 100
    encoder.encode(batch, lengths)


def growth(precision: str, num_batches: int) -> dict[str, float]:
    """Resident size of HuBERT-base after FEW batches and after more, the longest first."""
    return grown_sizes(Encoder(load_model(str(random_hubert())), precision=precision), num_batches)


def growth_of_family(name: str) -> dict[str, float]:
    """The same of four layers of another family's base model."""
    architecture = cast(Family, find("families", name)).architecture({})
    return grown_sizes(Encoder(random_checkpoint(architecture, 0), layer=4), BATCHES)


def grown_sizes(encoder: Encoder, num_batches: int) -> dict[str, float]:
    """Resident size after FEW batches of lengths that never repeat, and after more."""
    lengths = random.Random(3).sample(range(4_800, 48_000), CLIPS * num_batches)
    lengths.sort(reverse=True)
    sizes = {}
    for number in range(num_batches):
        encode_lengths(encoder, lengths[CLIPS * number : CLIPS * (number + 1)])
        if number + 1 in (FEW, BATCHES, MORE_BATCHES):
            sizes[str(number + 1)] = resident_mb()
    return sizes


def clip_times() -> dict[str, float]:
    """Milliseconds for a clip of the first and of the last thousand of NUM_CLIPS, tiny model."""
    torch.set_num_threads(1)
    encoder = Encoder(load_model("tiny_random"))
    lengths = random.Random(4).sample(range(4_800, 4_800 + 2 * NUM_CLIPS), NUM_CLIPS)
    encode_lengths(encoder, lengths[:PER_BATCH])
    times = []
    for start in range(0, NUM_CLIPS, THOUSAND):
        begun = time.process_time()
        for first in range(start, start + THOUSAND, PER_BATCH):
            encode_lengths(encoder, lengths[first : first + PER_BATCH])
        times.append(time.process_time() - begun)
    return {"first": times[0], "last": times[-1]}


def encoder_peaks(
    precision: str, padded_s: list[int], layer: int | None = None
) -> dict[str, float]:
    """Peak MB after a batch of each size, ascending: clips of 5 s, or with `layer` one clip."""
    encoder = Encoder(load_model(str(random_hubert())), precision=precision, layer=layer)
    peaks = {"loaded": peak_mb()}
    for total_s in padded_s:
        duration_s = total_s if layer else 5
        shape = (total_s // duration_s, duration_s * RATE_HZ)
        encoder.encode(torch.randn(shape) * 100, [shape[1]] * shape[0])
        peaks[str(total_s)] = peak_mb()
    return peaks


CHILDREN = {
    "pipeline": pipeline_peaks,
    "clips": clip_times,
    "growth fp32": lambda: growth("fp32", BATCHES),
    "growth bf16": lambda: growth("bf16", BATCHES),
    "more fp32": lambda: growth("fp32", MORE_BATCHES),
    "more bf16": lambda: growth("bf16", MORE_BATCHES),
    **{f"growth {name}": partial(growth_of_family, name) for name in FAMILIES},
    "fp32": lambda: encoder_peaks("fp32", [10, 40]),
    "bf16": lambda: encoder_peaks("bf16", [10, 40]),
    "longest fp32": lambda: encoder_peaks("fp32", [LONGEST_S], layer=1),
    "longest bf16": lambda: encoder_peaks("bf16", [LONGEST_S], layer=1),
}


def in_child(name: str) -> dict[str, float]:
    """Result of one of CHILDREN, run in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", name]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    peaks: dict[str, float] = json.loads(done.stdout)
    return peaks


def grown(what: str, few: float, many: float, unit: str) -> Row:
    """A row for growth in percent; the goal is at most 5 %."""
    note = f"{few:.4g} {unit} to {many:.4g} {unit}"
    return Row.at_most(what, 100 * (many / few - 1), 5, " %", note)


def measure(longest: bool = False) -> list[Row]:
    """Rows for growth over a run, and for memory of a padded second."""
    random_hubert()
    peaks = in_child("pipeline")
    what = f"peak memory after {MANY} batches, above that after {FEW}"
    rows = [grown(what, peaks["few"], peaks["many"], "MB")]
    kind, many = ("more", MORE_BATCHES) if longest else ("growth", BATCHES)
    for precision in ("fp32", "bf16"):
        sizes = in_child(f"{kind} {precision}")
        what = f"memory after {many} batches, above that after {FEW}, HuBERT-base {precision}"
        rows.append(grown(what, sizes[str(FEW)], sizes[str(many)], "MB"))
    for family in FAMILIES:
        sizes = in_child(f"growth {family}")
        what = f"memory after {BATCHES} batches, above that after {FEW}, {family}, 4 layers, fp32"
        rows.append(grown(what, sizes[str(FEW)], sizes[str(BATCHES)], "MB"))
    times = in_child("clips")
    what = f"a clip of the last thousand of {NUM_CLIPS:,}, above one of the first, tiny model"
    rows.append(grown(what, times["first"], times["last"], "ms"))
    for precision in ("fp32", "bf16"):
        peaks = in_child(precision)
        each = (peaks["40"] - peaks["10"]) / 30
        note = f"peak {peaks['40']:.0f} MB at 40 s; {peaks['loaded']:.0f} MB with the model loaded"
        what = f"CPU memory of a padded second, HuBERT-base {precision}"
        rows.append(Row.plain(what, each, " MB", note))
    for precision in ("fp32", "bf16") if longest else ():
        peak = in_child(f"longest {precision}")[str(LONGEST_S)]
        what = f"peak memory of one recording of {LONGEST_S} s, HuBERT-base {precision}"
        rows.append(Row.plain(what, peak, " MB"))
    return rows


def main() -> None:
    """Prints the table, or a child's result as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--longest", action="store_true")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        keep_freed_memory()  # as a run does
        print(json.dumps(CHILDREN[options.child]()))
    else:
        show(measure(options.longest), options.json, head())


if __name__ == "__main__":
    main()
