"""Measures how fast cached features are loaded: `python -m benchmarks.reading`.

A `FeatureDataset` reads a store of HuBERT-base utterances of 1 to 3 s, all of them in the page
cache, in turns with a loop over the same files: `torch.load` of GPT-SoVITS's, `np.load` of NumPy's.
Both copy each utterance's frames into one array, so that mapped files are read too. A ledger of
many lines, without files, gives the memory and the time of the index.
"""

import json
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Row, in_turns, ratio, run_alone, seconds, work_dir
from extract import Encoded, FeatureDataset, Features
from extract.choices import find
from extract.store import metadata
from extract.store.ledger import Ledger
from extract.store.store import Store
from extract.store.writers import Writers
from extract.values import Recording

HIDDEN_SIZE, LEAST_FRAMES, MOST_FRAMES = 768, 50, 150
NUM_UTTERANCES, NUM_LINES = 2000, 50_000
GOAL = 0.9  # of the bare loop's rate


def store_of(directory: Path, layout: str) -> Path:
    """A store of random float16 features, (frames, 768)."""
    store = Store(directory, fsync=False, options=find("layouts", layout).Options(layout=layout))
    store.create()
    metadata.write(directory, {"layout": layout, "store.audio": "none"}, {}, fsync=False)
    ledger = Ledger(directory / "ledger.jsonl", fsync=False)
    writers = Writers(store, ledger)
    torch.manual_seed(0)
    for index in range(NUM_UTTERANCES):
        frames = LEAST_FRAMES + index % (MOST_FRAMES - LEAST_FRAMES)
        features = Features(torch.randn(HIDDEN_SIZE, frames).half().t()[None], True, False)
        recording = Recording(index, f"speaker/{index:05}.wav", f"/x/speaker/{index:05}.wav")
        writers.put(Encoded(recording, features, torch.empty(0, dtype=torch.int16)))
    writers.close()
    ledger.close()
    return directory


def copied(number: int, read: Callable[[int], Tensor], into: Tensor) -> None:
    """Reads utterances one after the other, each into the same array."""
    for index in range(number):
        frames = read(index)
        into[: len(frames)] = frames


def compared(layout: str, name: str, bare: Callable[[Path], Tensor]) -> Row:
    """The row of a layout: the rate of a `FeatureDataset` over that of `bare` on the same files."""
    with work_dir() as directory:
        dataset = FeatureDataset(store_of(Path(directory), layout))
        ids = [dataset[index].recording.id for index in range(len(dataset))]
        folder, suffix = ("4-cnhubert", ".pt") if layout == "gpt_sovits" else ("", ".npy")
        paths = [Path(directory, folder, f"{id_}{suffix}") for id_ in ids]
        into = torch.empty(MOST_FRAMES, HIDDEN_SIZE, dtype=torch.float16)
        ours = partial(copied, len(ids), lambda index: dataset[index].features, into)
        own = partial(copied, len(ids), lambda index: bare(paths[index]), into)
        own(), ours()  # the files into the page cache
        taken = in_turns({"own": own, "ours": ours}, repeats=9)
    what = f"loading cached features, {layout}, against `{name}` in a loop"
    note = f"{NUM_UTTERANCES / min(taken['ours']):,.0f} utterances/s"
    return Row.at_least(what, ratio(taken["own"], taken["ours"]), GOAL, "x", note)


def torch_load(path: Path) -> Tensor:
    """(frames, dimensions) of a file of GPT-SoVITS's."""
    return torch.load(path, weights_only=True)[0].mT


def np_load(path: Path) -> Tensor:
    """(frames, dimensions) of a NumPy file."""
    return torch.from_numpy(np.load(path))


def index_rows() -> list[Row]:
    """Memory and time of the index, for each line of a ledger."""
    line = {"status": "saved", "peak": 0.5, "duration_s": 5.0, "num_frames": 249}
    line |= {"dtype": "float16", "source_size": 160_044, "source_mtime_ns": 1}
    with work_dir() as name:
        directory = Path(name)
        metadata.write(directory, {"layout": "gpt_sovits"}, {}, fsync=False)
        with (directory / "ledger.jsonl").open("w") as file:
            for number in range(NUM_LINES):
                id_ = f"speaker{number % 997}/{number:08}.wav"
                files = [
                    [f"4-cnhubert/{id_}.pt", 0, 383_744, 1],
                    [f"5-wav32k/{id_}", 0, 320_044, 1],
                ]
                one = {"id": id_, "path": f"/corpus/{id_}", **line, "files": files}
                file.write(json.dumps(one) + "\n")
        took_s = min(seconds(lambda: FeatureDataset(directory)) for _ in range(3))
        tracemalloc.start()
        dataset = FeatureDataset(directory)
        held, _peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    per_line = held / len(dataset)
    return [
        Row.at_most("index of a store, for each utterance", per_line, 200, " bytes"),
        Row.plain("index of a store, time to open", took_s / NUM_LINES * 1e6, " us a line"),
    ]


def measure() -> list[Row]:
    """Rows for a file of torch's and one of NumPy's, and for the index."""
    return [
        compared("gpt_sovits", "torch.load", torch_load),
        compared("npy", "np.load", np_load),
        *index_rows(),
    ]


if __name__ == "__main__":
    run_alone(__doc__, measure)
