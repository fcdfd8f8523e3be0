"""Sweeps: `python -m benchmarks.sweep [--size small] [--copies N] [--pairs N]`.

A sweep over three values of `audio.alpha` and three of `audio.maxx` against one run of the same:
whole processes, start-up included, in turns. The recordings are those of the demo, each a few dozen
times under other names; the model is HuBERT-base with random weights on disk.

Then a dataset item of a later job of a sweep, whose samples the first job kept in memory, against
the same item decoded: processor time, the best of 15 runs.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.audio import FORMATS, best_times_s, write_recording
from benchmarks.common import Row, head, in_turns, random_hubert, ratio, show, work_dir
from benchmarks.run import in_process, ours
from extract.data.dataset import AudioDataset
from extract.data.decoded import DecodedCache, is_worth_keeping
from extract.manifest.manifest import Manifest
from extract.values import Entry

DEMO = Path(__file__).resolve().parents[1] / "extract" / "demo"
SETTINGS = ("audio.alpha=0.3,0.5,0.7", "audio.maxx=0.85,0.9,0.95")
NUM_JOBS, NAME = 9, "store.dir={out}/${{audio.alpha}}-${{audio.maxx}}"
COPIES, PAIRS, GOAL = 25, 2, 1.3
REPEATS = 15


def measure(size: str = "base", copies: int = COPIES, pairs: int = PAIRS) -> list[Row]:
    """Rows for a sweep against one run, and for items that are read from memory."""
    return [_against_one_run(size, copies, pairs), *_from_memory()]


def write_demo(folder: Path, copies: int) -> int:
    """The demo's recordings, `copies` of each; returns how many there are."""
    folder.mkdir(parents=True)
    originals = [path for path in DEMO.iterdir() if path.suffix not in ("", ".md")]
    for path in originals:
        for copy in range(copies):
            shutil.copy(path, folder / f"{copy:03}-{path.name}")
    return len(originals) * copies


def _against_one_run(size: str, copies: int, pairs: int) -> Row:
    model = random_hubert(size)
    with work_dir(Path(tempfile.gettempdir())) as name:
        folder, one, nine = (Path(name) / part for part in ("recordings", "one", "nine"))
        number = write_demo(folder, copies)
        plain = ("device=cpu", "precision=fp32")
        sweep = ours(folder, nine, model, *plain, *SETTINGS, NAME.format(out=nine))
        sweep.insert(2, "-m")
        cpu_s: dict[str, list[float]] = {"run": [], "sweep": []}
        commands = {"run": (ours(folder, one, model, *plain), one), "sweep": (sweep, nine)}
        works: dict[str, Callable[[], object]] = {
            name: partial(_in_process, *command, cpu_s[name]) for name, command in commands.items()
        }
        taken = in_turns(works, pairs)
        saved, shared = zip(
            *map(_counted, [path.parent for path in sorted(nine.glob("*/ledger.jsonl"))]),
            strict=True,
        )
        assert saved == (number,) * NUM_JOBS
    times = ", ".join(
        f"{a:.1f} s to {b:.1f} s" for a, b in zip(taken["run"], taken["sweep"], strict=True)
    )
    later = number * (NUM_JOBS - 1)
    by_cpu = f"{ratio(cpu_s['sweep'], cpu_s['run']):.2f}x by processor time"
    note = f"{times}; {by_cpu}; features of {sum(shared):,} of {later:,} shared"
    what = f"sweep of 3 x 3 gains, {number} utterances of the demo, HuBERT-{size}, against one run"
    return Row.at_most(what, ratio(taken["sweep"], taken["run"]), GOAL, "x", note)


def _in_process(command: list[str], out: Path, cpu_s: list[float]) -> None:
    """Runs a command, and adds the processor seconds of it and of its workers to `cpu_s`."""
    before = os.times()
    in_process(command, out)
    after = os.times()
    cpu_s.append(sum(after[2:4]) - sum(before[2:4]))


def _counted(store: Path) -> tuple[int, int]:
    """Utterances of a store that are saved, and those of them whose features were shared."""
    lines = map(json.loads, (store / "ledger.jsonl").read_text("utf8").splitlines())
    saved = [record for record in lines if record["status"] == "saved"]
    return len(saved), sum("shared" in record for record in saved)


def _from_memory() -> list[Row]:
    rows = []
    with work_dir() as folder:
        cache = DecodedCache(folder, most_bytes=1 << 40)
        for title, (name, *recording) in FORMATS.items():
            path = Path(folder) / name
            write_recording(path, *recording)
            manifest = Manifest.from_entries([Entry("a", str(path))])
            rows.append(_item(title, AudioDataset(manifest, decoded=cache), Path(folder)))
    return rows


def _item(title: str, dataset: AudioDataset, folder: Path) -> Row:
    """A row for the one item of a dataset."""
    what = f"item of a later job of a sweep, {title}, against decoding it"
    anew, cache = AudioDataset(dataset.manifest), dataset.decoded
    expected, found = anew[0], [dataset[0], dataset[0]][1]
    assert torch.equal(expected.waveform, found.waveform)
    kept = [path for path in folder.iterdir() if len(path.name) == 32]
    if not kept:
        return Row(what, "", "not kept: the WAV is read as it lies")
    samples = cache.get(kept[0].name)
    assert is_worth_keeping(samples, "")
    works = [partial(anew.__getitem__, 0), partial(dataset.__getitem__, 0)]
    works.append(partial(cache.put, kept[0].name, samples))
    decoded_s, read_s, put_s = best_times_s(works, REPEATS)
    kept[0].unlink()
    times = ", ".join(f"{1e3 * seconds:.2f} ms" for seconds in (decoded_s, read_s, put_s))
    note = f"decoded, read, and what keeping costs: {times}"
    return Row.plain(what, decoded_s / read_s, "x", note)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=("base", "small"), default="base")
    parser.add_argument("--copies", type=int, default=COPIES, help="of each recording of the demo")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how often both are run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = head()
    show(measure(options.size, options.copies, options.pairs), options.json, about)
