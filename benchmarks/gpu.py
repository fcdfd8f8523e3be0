"""All checks and measurements that need a card: `make bench-gpu`.

    python -m benchmarks.gpu [--device cuda:0] [--json outputs/bench-gpu.json]
    python -m benchmarks.gpu --device cpu --small     the same code on a CPU, in a minute

Prints a short table at the end and writes it as JSON. HuBERT-base with random weights. If a part
fails, its row holds the error and the other parts still run. Designed for under ten minutes on a
datacentre card.
"""

import argparse
import gc
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import HubertModel

from benchmarks.common import (
    Row,
    guarded,
    head,
    random_hubert,
    seconds,
    show,
    usable_cores,
    work_dir,
    write,
    write_clips,
)
from benchmarks.encoder import flops, noise, relative_error
from benchmarks.padding import clip_durations_s
from benchmarks.run import count_saved, in_process, ours, reference
from benchmarks.stream import as_batch, streamed
from benchmarks.writer import through_writers
from extract.audio.prepare import Prepared, prepare
from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.data.plan import plan_batches
from extract.encoder.batches import BatchEncoder
from extract.encoder.encoder import Encoder
from extract.frames import num_frames
from extract.manifest.sources.folder import read_folder
from extract.models.load import load_model
from extract.run.auto import choose
from extract.run.clock import Clock
from extract.run.pipeline import run
from extract.store.ledger import Ledger
from extract.store.store import Store
from extract.store.writers import Writers
from extract.values import AudioSettings, Features

RATE_HZ = 16_000
CLIP_S = 5.0
OFTEN = 20  # repetitions in one timing of a step that takes microseconds
DEMO = Path(__file__).resolve().parents[1] / "extract" / "demo"


@dataclass(frozen=True)
class Sizes:
    """Sizes of model, batches and numbers of clips."""

    model: str = "base"
    batch_seconds: float = 600.0
    num_utterances: int = 1500  # of the log-normal mix
    num_alone: int = 100  # of them encoded one at a time
    many_batches: int = 200
    matrix: int = 8192
    tight_seconds: float = 100.0  # the batch budget that fits into the limited memory
    clips: tuple[int, int] = (2000, 8000)  # of two whole runs; their difference has no start-up
    loop_clips: tuple[int, int] = (20, 100)
    written: int = 1000


SMALL = Sizes("small", 10.0, 5, 2, 11, 512, 10.0, (4, 16), (1, 3), 16)


class Bench:
    """Device, sizes, model and batches that all parts share."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.device = torch.device("cuda:0" if device == "cuda" else device)
        self.sizes = sizes
        self.on_cuda = self.device.type == "cuda"
        self.half = "fp16" if self.on_cuda else "bf16"  # CPUs compute fp16 slowly if at all
        self.model = load_model(str(random_hubert(sizes.model)))

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder in half precision."""
        return self.in_precision(self.half)

    def in_precision(self, precision: str) -> Encoder:
        """An encoder on the device."""
        return Encoder(self.model, device=self.device, precision=precision)

    @cached_property
    def batches(self) -> list[tuple[Tensor, list[int]]]:
        """Planned batches of log-normal clips of 1 to 20 s: pinned (B, time), lengths."""
        durations_s = clip_durations_s(self.sizes.num_utterances)
        found = []
        for indices in plan_batches(durations_s, self.sizes.batch_seconds):
            found.append(self.noise([int(s * RATE_HZ) for s in durations_s[indices]]))
        return found

    def noise(self, lengths: list[int]) -> tuple[Tensor, list[int]]:
        """Noise at about speech's level, (B, time) zero-padded, and its lengths."""
        waveforms = noise(lengths)
        return (waveforms.pin_memory() if self.on_cuda else waveforms), lengths

    def sync(self) -> None:
        """Waits for the device."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def allocated_mb(self) -> float:
        """Device memory in use, MB, after a garbage collection; 0 on a CPU."""
        gc.collect()
        self.sync()
        return torch.cuda.memory_allocated(self.device) / 1e6 if self.on_cuda else 0.0

    def peak_mb(self, work: Callable[[], object]) -> float:
        """Peak device memory in use during `work`, MB; 0 on a CPU."""
        if not self.on_cuda:
            work()
            return 0.0
        self.sync()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.sync()
        return torch.cuda.max_memory_allocated(self.device) / 1e6

    def median_s(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Median seconds of `work` until the device is done, after one warm-up."""

        def whole() -> None:
            work()
            self.sync()

        whole()
        return median(seconds(whole) for _ in range(repeats))


def encode_all(encoder: Encoder, batches: list[tuple[Tensor, list[int]]]) -> list[Features]:
    """Encodes all batches with two in flight, as a run does."""
    found: list[Features] = []
    in_flight: deque[Any] = deque()
    for waveforms, lengths in batches:
        in_flight.append(encoder.submit(waveforms, lengths))
        if len(in_flight) == 2:
            found += in_flight.popleft().result()
    for pending in in_flight:
        found += pending.result()
    return found


def seconds_of(batches: list[tuple[Tensor, list[int]]]) -> float:
    """Seconds of audio, without padding."""
    return sum(sum(lengths) for _, lengths in batches) / RATE_HZ


# ---------------------------------------------------------------------- the encoder


def encoder_speed(bench: Bench) -> list[Row]:
    """Rows: the encoder against the dense matrix rate and against transformers' forward."""
    batches, encoder = bench.batches, bench.encoder
    audio_s = seconds_of(batches)
    taken = bench.median_s(lambda: encode_all(encoder, batches))
    work = sum(flops(bench.model, lengths) for _, lengths in batches)
    dense = _dense_rate(bench, encoder.dtype)
    title = (
        f"encoder {bench.half}, {len(batches)} batches of at most {bench.sizes.batch_seconds:g} s"
    )
    speed = f"{audio_s / taken:,.0f}x real time"
    note = f"{work / taken / 1e12:.3g} of {dense / 1e12:.3g} TFLOP/s; {speed}"
    share = 100 * work / taken / dense
    rows = [Row.at_least(f"{title}, of the dense matrix rate", share, 50, " %", note)]

    plain = HubertModel.from_pretrained(random_hubert(bench.sizes.model)).eval()
    plain = plain.to(bench.device, encoder.dtype)
    utterances = [w[i, :n] for w, lengths in batches for i, n in enumerate(lengths)]
    chosen = utterances[:: max(1, len(utterances) // bench.sizes.num_alone)]

    @torch.inference_mode()
    def forward(waveforms: Tensor) -> None:
        on_device = waveforms.to(bench.device, encoder.dtype)
        plain(on_device).last_hidden_state.cpu()

    alone_s = bench.median_s(lambda: [forward(waveform[None]) for waveform in chosen], 1)
    alone_s *= audio_s / (sum(map(len, chosen)) / RATE_HZ)
    rows.append(
        Row.at_least("encoder against transformers, one at a time", alone_s / taken, 20, "x")
    )
    batched_s = bench.median_s(lambda: [forward(waveforms) for waveforms, _ in batches], 2)
    what = "encoder against transformers, the same batches (wrong, but fast)"
    rows.append(Row.at_least(what, batched_s / taken, 1.5, "x"))
    return rows


def _dense_rate(bench: Bench, dtype: torch.dtype) -> float:
    """FLOP/s of one large matrix product."""
    size = bench.sizes.matrix
    left = torch.randn(size, size, device=bench.device).to(dtype)
    right = torch.randn(size, size, device=bench.device).to(dtype)

    def work() -> None:
        for _ in range(10):
            torch.mm(left, right)

    return 10 * 2 * size**3 / bench.median_s(work)


def first_layer(bench: Bench) -> list[Row]:
    """A row for the first layer's kernel against its steps; a CPU has steps only."""
    first = bench.encoder.exact.convolutions.first
    waveforms, lengths = bench.noise([int(CLIP_S * RATE_HZ)] * 12)
    frames = num_frames(max(lengths))
    with torch.inference_mode():
        batch = first.fold(waveforms.to(bench.device), lengths, frames)
        arguments = batch.windows(0, frames), batch.weight, batch.bias
        ways = {"chosen": first.activations, "steps": first.in_steps}
        taken = {
            name: bench.median_s(partial(_often, way, arguments)) for name, way in ways.items()
        }
    audio_s = OFTEN * seconds_of([(waveforms, lengths)])
    note = ", ".join(f"{name} {1e6 * s / audio_s:.2f} us" for name, s in taken.items())
    what = "first layer, as chosen against its steps, for a second of audio"
    if not first.in_one_works:
        return [Row(what, "", f"steps are what was chosen ({note})")]
    return [Row.at_least(what, taken["steps"] / taken["chosen"], 1, "x", note)]


def _often(work: Callable[..., object], arguments: tuple[Tensor, ...]) -> None:
    for _ in range(OFTEN):
        work(*arguments)


def prepared(path: Path, settings: AudioSettings) -> Prepared:
    """Decodes and prepares one recording."""
    with path.open("rb") as file:
        return prepare(file, str(path), settings)


def accuracy(bench: Bench) -> list[Row]:
    """Rows for errors on real speech: half precision against fp32, a batch against alone."""
    clips = [torch.from_numpy(prepared(p, AudioSettings()).waveform) for p in _demo_clips()]
    lengths = [len(clip) for clip in clips]
    speech = pad_sequence(clips, batch_first=True)
    exact = bench.in_precision("fp32").encode(speech, lengths)
    rows = []
    for precision in ("fp16", "bf16") if bench.on_cuda else ("bf16",):
        found = bench.in_precision(precision).encode(speech, lengths)
        worst, mean = relative_error(_values(found), _values(exact))
        what = f"{precision} against fp32, relative error per utterance, worst"
        note = f"mean {mean:.1e}, {len(clips)} clips of speech"
        if precision == "fp16":
            rows.append(Row.at_most(what, worst, 1e-2, "", note))
        else:
            rows.append(Row.plain(what, worst, "", note))
        redone = sum(features.retried_fp32 for features in found)
        rows.append(Row.at_most(f"{precision}, clips of speech redone in fp32", redone, 0, ""))
    together = bench.encoder.encode(speech, lengths)
    apart = [bench.encoder.encode(clip[None], [len(clip)])[0] for clip in clips]
    worst, _ = relative_error(_values(together), _values(apart))
    goal = 2e-3 if bench.half == "fp16" else 2e-2
    what = f"{bench.half}, in a batch against alone, worst relative error"
    return [*rows, Row.at_most(what, worst, goal, "")]


def _demo_clips() -> list[Path]:
    return sorted(path for path in DEMO.iterdir() if path.suffix in {".wav", ".mp3", ".flac"})


def _values(found: list[Features]) -> list[Tensor]:
    return [features.values for features in found]


# ---------------------------------------------------------------------- memory and faults


def memory(bench: Bench) -> list[Row]:
    """Rows for growth of device memory over a run, and for memory of a padded second."""
    batches, many = bench.batches, bench.sizes.many_batches
    after_few = bench.peak_mb(lambda: encode_all(bench.encoder, batches))
    endless = [batches[index % len(batches)] for index in range(many)]

    def run_many() -> None:
        for start in range(0, many, 10):  # the features are not kept
            encode_all(bench.encoder, endless[start : start + 10])

    after_many = bench.peak_mb(run_many)
    growth = 100 * (after_many / after_few - 1) if after_few else 0.0
    what = f"peak device memory after {many} batches, above that after the first {len(batches)}"
    note = f"{after_few:,.0f} MB to {after_many:,.0f} MB" + _no_card(bench)
    rows = [Row.at_most(what, growth, 1, " %", note)]
    for precision in dict.fromkeys((bench.half, "fp32")):
        each, note = _mb_per_second(bench, precision)
        rows.append(Row.plain(f"device memory of a padded second, {precision}", each, " MB", note))
    return rows


def _no_card(bench: Bench) -> str:
    return "" if bench.on_cuda else "; a CPU has none"


def _mb_per_second(bench: Bench, precision: str, in_flight: int = 1) -> tuple[float, str]:
    """MB above the weights per padded second, from a batch of `batch_seconds`, and a note."""
    total_s = bench.sizes.batch_seconds
    encoder = bench.in_precision(precision)
    batch = bench.noise([int(CLIP_S * RATE_HZ)] * int(total_s / CLIP_S))
    base = bench.allocated_mb()
    peak = bench.peak_mb(lambda: encode_all(encoder, [batch] * in_flight))
    note = f"{peak:,.0f} MB at {total_s:g} s, {base:,.0f} MB without a batch{_no_card(bench)}"
    return (peak - base) / total_s, note


def faults(bench: Bench) -> list[Row]:
    """A row for device memory that stays in use after a NaN and after an out-of-memory error."""
    encoder = bench.encoder
    waveforms, lengths = bench.noise([RATE_HZ, 2 * RATE_HZ])
    encoder.encode(waveforms, lengths)
    base = bench.allocated_mb()
    bad = waveforms.clone()
    bad[0, 100] = float("nan")
    ruined, sound = encoder.encode(bad, lengths)
    assert not ruined.finite
    assert sound.finite
    del ruined, sound
    after_nan = bench.allocated_mb()
    list(BatchEncoder(_Fails(encoder, 1.5), 1e9)([as_batch(waveforms, lengths)]))
    after_oom = bench.allocated_mb()
    kept = max(after_nan, after_oom) - base
    what = "device memory kept after a NaN and after running out of memory"
    return [Row.at_most(what, kept, 0, " MB", f"base {base:,.0f} MB{_no_card(bench)}")]


class _Fails:
    """An encoder that raises OutOfMemoryError for more than `most_s` padded seconds."""

    def __init__(self, encoder: Encoder, most_s: float) -> None:
        self.encoder, self.most_s = encoder, most_s

    def submit(self, waveforms: Tensor, lengths: list[int]) -> Any:
        pending = self.encoder.submit(waveforms, lengths)  # so that a leak would show
        if waveforms.numel() > self.most_s * RATE_HZ:
            raise torch.OutOfMemoryError("made up")
        return pending


def out_of_memory(bench: Bench) -> list[Row]:
    """A row: share of utterances saved with a batch budget three times too large."""
    fits_s = bench.sizes.tight_seconds
    wanted_s = 3 * fits_s
    per_batch = int(wanted_s / CLIP_S)
    with work_dir() as name:
        recordings = Path(name) / "recordings"
        link_clips(recordings, 2 * per_batch)
        manifest = read_folder(recordings)
        dataset = AudioDataset(manifest, AudioSettings())
        plan = [range(per_batch), range(per_batch, 2 * per_batch)]
        batches = [collate([dataset[index] for index in indices]) for indices in plan]
        store = Store(Path(name) / "store", fsync=False)
        store.create()
        with (
            closing(Ledger(store.directory / "ledger.jsonl")) as ledger,
            closing(Writers(store, ledger)) as writers,
            _scarce_memory(bench, fits_s) as encoder,
        ):
            encoding = BatchEncoder(encoder, 10 * wanted_s)
            run(batches, encoding, writers, torch.ones(len(manifest)).bool().numpy(), Clock())
        share = 100 * count_saved(store.directory) / len(manifest)
    what = f"saved with a budget of {wanted_s:g} s where about {fits_s:g} s fit"
    note = (
        f"{len(manifest)} utterances; out of memory {encoding.times_out_of_memory} times, "
        f"budget lowered to {encoding.batch_seconds:.0f} s"
    )
    met = share == 100 and encoding.times_out_of_memory > 0
    return [Row(what, "100 %", f"{share:.0f} % ({note})", met, share)]


@contextmanager
def _scarce_memory(bench: Bench, fits_s: float) -> Iterator[Any]:
    """Limits device memory to two batches of about `fits_s` seconds; simulated on a CPU."""
    if not bench.on_cuda:
        yield _Fails(bench.encoder, fits_s)
        return
    encoder = bench.encoder
    each, _ = _mb_per_second(bench, bench.half, in_flight=2)
    base = bench.allocated_mb()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(bench.device).total_memory / 1e6
    torch.cuda.set_per_process_memory_fraction((base + 1.3 * each * fits_s) / total, bench.device)
    try:
        yield encoder
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


# ---------------------------------------------------------------------- the whole


def link_clips(folder: Path, count: int) -> None:
    """Makes `count` hard links to 16 clips of CLIP_S seconds, 32 kHz mono."""
    originals = folder.with_name("originals")
    if not originals.exists():
        write_clips(originals, [CLIP_S] * 16, [32_000])
    sources = sorted(originals.iterdir())
    folder.mkdir(exist_ok=True)
    for index in range(count):
        os.link(sources[index % len(sources)], folder / f"{index:05}.wav")


def whole_run(bench: Bench) -> list[Row]:
    """Rows: the whole command against the loop, and against its slowest stage alone."""
    model = random_hubert(bench.sizes.model)
    decoder = "ffmpeg" if shutil.which("ffmpeg") else "pyav"
    with tempfile.TemporaryDirectory(prefix="extract-benchmark-") as name:
        place = Path(name)
        loop_options = ["--device", str(bench.device), "--decoder", decoder]
        loop_options += ["--half"] * bench.on_cuda
        loop_s, _ = _seconds_per_clip(
            place, bench.sizes.loop_clips, lambda a, b: reference(a, b, model, *loop_options)
        )
        options = [f"device={bench.device}"]
        each_s, total_s = _seconds_per_clip(
            place, bench.sizes.clips, lambda a, b: ours(a, b, model, *options)
        )
        stages = _stages(bench, place)
    rate = CLIP_S / each_s
    num_clips = bench.sizes.clips[1]
    note = (
        f"{rate:,.0f}x real time; {num_clips:,} clips in {total_s:.0f} s with start-up; "
        f"the loop {CLIP_S / loop_s:.1f}x real time, decoding by {decoder}"
    )
    slowest = min(stages, key=lambda stage: stages[stage])
    said = ", ".join(f"{stage} {speed:,.0f}x" for stage, speed in stages.items())
    share = 100 * rate / stages[slowest]
    return [
        Row.at_least("whole run, 5 s clips, against the loop", loop_s / each_s, 150, "x", note),
        Row.at_least(f"whole run, of its slowest stage alone ({slowest})", share, 80, " %", said),
    ]


def _seconds_per_clip(
    place: Path, counts: tuple[int, int], command: Callable[[Path, Path], list[str]]
) -> tuple[float, float]:
    """Seconds for each additional clip, without start-up, and seconds of the larger run."""
    taken = []
    for count in counts:
        recordings, out = place / f"recordings-{count}", place / "out"
        link_clips(recordings, count)
        argv = command(recordings, out)
        taken.append(seconds(partial(in_process, argv, out, usable_cores())))
        assert count_saved(out) == count
        shutil.rmtree(out)
        shutil.rmtree(recordings)
    slope = (taken[1] - taken[0]) / (counts[1] - counts[0])
    if slope <= 0:  # noise exceeds the difference: use the larger run, with start-up
        slope = taken[1] / counts[1]
    return slope, taken[1]


def _stages(bench: Bench, place: Path) -> dict[str, float]:
    """Speed of each stage alone, times real time."""
    link_clips(place / "one", 1)
    clip = place / "one" / "00000.wav"
    settings = AudioSettings()
    prepared(clip, settings)
    cpu_s = median(seconds(partial(prepared, clip, settings)) for _ in range(30))
    plan = choose("auto", "auto", 2, bench.device, bench.encoder.dtype)
    encoder = bench.encoder if bench.on_cuda else bench.in_precision("fp32")
    length = int(CLIP_S * RATE_HZ)
    per_batch = int(min(plan.batch_seconds, bench.sizes.batch_seconds) / CLIP_S)
    batches = [bench.noise([length] * per_batch)] * (5 if bench.on_cuda else 2)
    encoder_s = bench.median_s(lambda: encode_all(encoder, batches), 2)
    num = bench.sizes.written
    dtype = encoder.dtype
    writer_s = seconds(lambda: through_writers(place / "written", dtype, 4, True, num))
    return {
        f"{plan.num_workers} workers": plan.num_workers * CLIP_S / cpu_s,
        "encoder": seconds_of(batches) / encoder_s,
        "writer": num * CLIP_S / writer_s,
    }


PARTS = {
    "encoder": encoder_speed,
    "first_layer": first_layer,
    "accuracy": accuracy,
    "memory": memory,
    "faults": faults,
    "out_of_memory": out_of_memory,
    "streamed": streamed,
    "whole": whole_run,
}


def main() -> None:
    """Runs every part and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a small model and small sizes")
    parser.add_argument("--json", type=Path, default=Path("outputs/bench-gpu.json"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.exit(2, "no CUDA device; `--device cpu --small` runs the same code on a CPU\n")
    about = head()
    bench = Bench(options.device, SMALL if options.small else Sizes())
    torch.manual_seed(0)
    rows: list[Row] = []
    start = time.monotonic()
    for name in options.only:
        print(f"{time.monotonic() - start:5.0f} s  {name}", file=sys.stderr, flush=True)
        rows += guarded(name, partial(PARTS[name], bench))
        about["duration"] = f"{time.monotonic() - start:.0f} s"
        write(rows, options.json, about)  # kept if a later part is cut off
    show(rows, options.json, about)


if __name__ == "__main__":
    main()
