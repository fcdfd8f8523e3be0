"""Measures how fast utterances are saved: `python -m benchmarks.writer`.

`Writers` with store and ledger save features and training audio of HuBERT-base utterances of 5 s.
In turns with it as many threads write the same bytes to as many files by `os.open`, `os.write` and,
if the store uses it, `os.fsync`: the disk's own rate.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import torch

from benchmarks.common import SHM, Row, in_turns, run_alone
from extract.frames import num_frames
from extract.store.files import num_bytes
from extract.store.formats import encode_features, encode_wav
from extract.store.ledger import Ledger
from extract.store.store import Store
from extract.store.writers import Writers
from extract.values import Encoded, Features, Recording

DURATION_S = 5
HIDDEN_SIZE = 768
GOAL_PER_S = 3000
KEPT = 128  # file names, more than are in flight; later files replace earlier ones, to save memory


def utterance(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, as the encoder gives them, and training audio of one utterance."""
    features = torch.randn(HIDDEN_SIZE, num_frames(DURATION_S * 16_000)).to(dtype).t()[None]
    wav32k = torch.randint(-9000, 9000, (DURATION_S * 32_000,), dtype=torch.int16)
    return features, wav32k


def through_writers(
    folder: Path, dtype: torch.dtype, num_threads: int, fsync: bool, num_utterances: int
) -> None:
    """Saves `num_utterances` through `Writers` and waits for the last."""
    features, wav32k = utterance(dtype)
    store = Store(folder, fsync=fsync)
    store.create()
    ledger = Ledger(folder / "ledger.jsonl")
    writers = Writers(store, ledger, num_threads=num_threads)
    for index in range(num_utterances):
        recording = Recording(index, f"{index % KEPT}.wav", "a.wav", 1, 1, 0.5, DURATION_S, 0)
        writers.put(Encoded(recording, Features(features, True, False), wav32k))
    writers.close()
    ledger.close()


def raw(
    folder: Path, dtype: torch.dtype, num_threads: int, fsync: bool, num_utterances: int
) -> None:
    """Writes the same bytes to as many files, under as many names, by system calls."""
    features, wav32k = utterance(dtype)
    contents = (b"".join(encode_features(features)), b"".join(encode_wav(wav32k)))
    folder.mkdir(exist_ok=True)
    names = count()

    def write(index: int) -> None:
        for kind, content in enumerate(contents):
            temporary = f"{folder}/{next(names)}"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(descriptor, content)
            if fsync:
                os.fsync(descriptor)
            os.close(descriptor)
            Path(temporary).replace(folder / f"{kind}-{index % KEPT}")

    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(write, range(num_utterances)):
            pass


def rows_of(
    title: str, place: Path, dtype: torch.dtype, num_threads: int, fsync: bool, num: int
) -> Row:
    """The row of one dtype, disk and number of threads."""
    with tempfile.TemporaryDirectory(prefix="extract-benchmark-", dir=place) as name:
        ours = partial(through_writers, Path(name) / "store", dtype, num_threads, fsync, num)
        own = partial(raw, Path(name) / "raw", dtype, num_threads, fsync, num)
        ours(), own()  # warm-up: the first files of a folder take longer
        taken = in_turns({"own": own, "ours": ours}, repeats=7)
    features, wav32k = utterance(dtype)
    size = num_bytes(encode_features(features)) + num_bytes(encode_wav(wav32k))
    per_s, own_per_s = (num / median(taken[name]) for name in ("ours", "own"))
    measured = (
        f"{per_s:,.0f}/s, {per_s * size / 1e6:,.0f} MB/s "
        f"(the disk's own: {own_per_s:,.0f}/s, {own_per_s * size / 1e6:,.0f} MB/s)"
    )
    kind = str(dtype).removeprefix("torch.")
    what = f"writer, {title}, 5 s in {kind}, {num_threads} thread{'s'[: num_threads > 1]}"
    if num_threads == 1:
        return Row(what, "", measured, None, per_s)
    met = per_s >= min(GOAL_PER_S, 0.9 * own_per_s)
    return Row(what, f">= {GOAL_PER_S:,}/s or the disk's own", measured, met, per_s)


def measure() -> list[Row]:
    """Rows for /dev/shm and the temporary folder's disk, float16 and float32, 1 and 4 threads."""
    places = [("local disk, fsync", Path(tempfile.gettempdir()), True, 64)]
    if SHM.is_dir():
        places.insert(0, ("tmpfs", SHM, False, 600))
    return [
        rows_of(title, place, dtype, num_threads, fsync, num)
        for title, place, fsync, num in places
        for dtype in (torch.float16, torch.float32)
        for num_threads in (1, 4)
    ]


if __name__ == "__main__":
    run_alone(__doc__, measure)
