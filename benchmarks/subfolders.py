"""Many small files, in one folder and in sub-folders: `python -m benchmarks.subfolders`.

Not one of `python -m benchmarks`: 200,000 files three times take minutes on a slow disk.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from extract.store.layout import Kept
from extract.store.layouts import npy
from extract.store.store import Store
from extract.values import Encoded, Features, Recording

VALUES = Features(torch.zeros(1, 10, 8), True, False)  # 448 bytes a file
NO_WAV = torch.empty(0, dtype=torch.int16)


@contextmanager
def timed(what: str, num: int) -> Iterator[None]:
    """Prints how long the block took, in all and for each of `num` files."""
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    print(f"  {what:32} {seconds:7.1f} s {1e6 * seconds / num:8.0f} us a file", flush=True)


def measure(folder: Path, num: int, levels: int, fsync: bool) -> None:
    """Saves `num` utterances, examines them as a resumed run does, lists and removes them."""
    options = npy.Options(str(folder), subfolders=levels, fsync=fsync)
    print(f"store.subfolders={levels} store.fsync={fsync}, {num:,} utterances")
    store, kept = Store(folder, fsync=fsync, options=options), list[Kept]()
    store.create()
    with timed("save, one thread", num):
        for number in range(num):
            recording = Recording(number, f"{number:08}.wav", "")
            kept += store.layout.put(Encoded(recording, VALUES, NO_WAV))
    lines = [{"id": one.id, "files": one.files} for one in kept]
    again = Store(folder, options=options)
    with timed("resume: are all files whole?", num):
        assert all(map(again.intact, lines))
    with timed("list all files", num):
        assert sum(len(names) for _root, _folders, names in os.walk(folder)) == num
    with timed("remove all", num):
        shutil.rmtree(folder)


def main() -> None:
    """Measures all three numbers of levels, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=200_000)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--fsync", action="store_true")
    options = parser.parse_args()
    for levels in (0, 1, 2):
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            measure(Path(folder) / "store", options.num, levels, options.fsync)


if __name__ == "__main__":
    main()
