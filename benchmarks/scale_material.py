"""What `benchmarks.scale` measures with: recordings, lists, finished stores, a fake encoder."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import saved_record, write_clips
from extract.config import Config, LoaderConfig, ModelConfig
from extract.data.durations import Headers, Scanned, durations
from extract.data.plan import Indices
from extract.encoder.pending import Pending
from extract.frames import HUBERT_STACK
from extract.manifest.sources import folder as of_folder
from extract.manifest.sources import jsonl
from extract.run.assembled import Job, job_of
from extract.run.observer import Silent
from extract.run.opened import opened
from extract.run.signals import Stop
from extract.shard import Shard
from extract.store import foreign
from extract.store.layout import Kept, Layout, TrainingAudio
from extract.store.layouts import gpt_sovits
from extract.values import Encoded

NUM_ORIGINALS = 8
CLIP_S = [0.2 + 0.1 * index for index in range(NUM_ORIGINALS)]
PER_FOLDER = 1000
FILE_BYTES = 1000  # of a finished utterance
WIDTH = 768


def make(folder: Path, number: int, *, finished: bool) -> None:
    """Makes recordings, lists of them, and the caches and stores of earlier runs in `folder`."""
    paths = list(_linked(folder / "recordings", number))
    with (folder / "whole.jsonl").open("w") as whole, (folder / "cuts.jsonl").open("w") as cuts:
        for index, path in enumerate(paths):
            duration_s = CLIP_S[index % NUM_ORIGINALS]
            said = {"audio_filepath": path, "duration": duration_s}
            whole.write(f"{json.dumps({'id': _id(index), **said})}\n")
            cuts.write(f"{json.dumps({'id': _id(index), **said, 'offset': 0.01})}\n")
    for kind in ("whole", "folder"):
        _note_durations(job_of(config_for(folder, kind, "new"), Shard(), Silent(), Stop()))
    if finished:
        _finish(job_of(config_for(folder, "whole", "done"), Shard(), Silent(), Stop()))


def _id(index: int) -> str:
    return f"speaker{index // PER_FOLDER:04}/{index:07}.wav"


def _linked(folder: Path, number: int) -> Iterator[str]:
    """Paths of hard links to recordings."""
    originals = folder.with_name("originals")
    write_clips(originals, CLIP_S, [32_000])
    sources = sorted(map(str, originals.iterdir()))
    for index in range(number):
        path = f"{folder}/{_id(index)}"
        if index % PER_FOLDER == 0:
            Path(path).parent.mkdir(parents=True)
        os.link(sources[index % NUM_ORIGINALS], path)
        yield path


def config_for(folder: Path, kind: str, store: str) -> Config:
    """The config of a run over one of the lists, or the folder; into one of the stores."""
    path = folder / "recordings" if kind == "folder" else folder / f"{kind}.jsonl"
    source = of_folder if kind == "folder" else jsonl
    options = gpt_sovits.Options(
        str(folder / f"{store}-{kind}"), audio=TrainingAudio.none, fsync=False
    )
    return Config(
        source.Options(name="scale", path=str(path)),
        ModelConfig("tiny", "tiny_random"),
        loader=LoaderConfig(num_workers=1),
        store=options,
        device="cpu",
    )


def _note_durations(job: Job) -> None:
    """Leaves the cache of durations that a first run leaves, without reading headers."""

    def scan(_items: Headers, chunks: list[Indices]) -> Iterator[Scanned]:
        for chunk in chunks:
            yield [(int(index), CLIP_S[index % NUM_ORIGINALS]) for index in chunk]

    path = job.cache_path("durations")
    path.parent.mkdir(parents=True, exist_ok=True)
    durations(job.manifest, path, scan, lambda _num: None)


def _finish(job: Job) -> None:
    """Leaves a store as after a run that saved every recording; its files hold zeros."""
    store = job.store
    with opened(job):
        contents = store.directory / "contents"
        contents.write_bytes(bytes(FILE_BYTES))
        with job.ledger_path.open("wb") as ledger:
            for index, entry in enumerate(job.manifest):
                name = gpt_sovits.names(entry.id)[0]
                if index % PER_FOLDER == 0:
                    (store.directory / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(contents, store.directory / name)
                file = name, 0, FILE_BYTES, 1234567890
                ledger.write(saved_record(entry.id, entry.path, [file]).line())
        contents.unlink()
        _note_durations(job)
    foreign.end(store.directory, job.shard)


class _Stack:
    stack = HUBERT_STACK


class FakeEncoder:
    """Computes nothing; its features are zeros that were there before, of HuBERT-base's width."""

    measures_gain, assign, dtype, saved_as = False, None, torch.float16, torch.float16
    architecture = _Stack

    def __init__(self) -> None:
        self._values = torch.zeros(1, WIDTH, 1 << 13, dtype=torch.float16)
        self._finite = torch.ones(1 << 13, dtype=torch.bool)

    def submit(self, waveforms: Tensor, lengths: list[int]) -> Pending:
        """The batch's packed features, (1, WIDTH, frames); `Pending` cuts them apart."""
        frames = sum(map(HUBERT_STACK.num_frames, lengths))
        computed = self._values[:, :, :frames], self._finite[:frames]
        return Pending(self, waveforms, lengths, computed)  # type: ignore[arg-type]


class NoFiles(Layout):
    """Takes utterances and writes nothing."""

    suffixes, folders = ("",), ()

    def put(self, item: Encoded) -> Iterable[Kept]:
        """Keeps it nowhere."""
        return [Kept(item.recording.id, (("4-cnhubert/x.pt", 0, FILE_BYTES, 1),))]

    def close(self, *, abandon: bool = False) -> Iterable[Kept]:
        """Nothing is held."""
        return ()
