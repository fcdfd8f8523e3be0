"""`FeatureStore`: a store written by a loop of one's own."""

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extract import (
    AudioDataset,
    Encoded,
    Encoder,
    Failure,
    FeatureStore,
    Manifest,
    Shard,
    collate,
    load_model,
    read_folder,
)
from extract.data.dataset import identify
from extract.encoder.nearest import Nearest
from extract.store.layout import DType, TrainingAudio
from extract.store.layouts import npy, rvc, webdataset
from extract.store.lock import StoreBusy
from extract.store.store import StoreUnusable
from extract.values import Entry
from support import readers
from support.posix import START_METHODS
from support.recordings import write_wav
from support.stores import audit, ledger


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        write_wav(folder / f"{number}.wav", 0.2 + 0.1 * number, number)
    return folder


@pytest.fixture
def recordings(clips) -> AudioDataset:
    return AudioDataset(read_folder(clips))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_model("tiny_random"))


def encoded(recordings: AudioDataset, encoder: Encoder, index: int) -> Encoded:
    utterance = recordings[index]
    [features] = encoder.encode(utterance.waveform[None], [len(utterance.waveform)])
    return Encoded(utterance.recording, features, utterance.wav32k)


def saved(store: Path) -> list[str]:
    return [line["id"] for line in ledger(store) if line["status"] == "saved"]


def test_a_loop_of_ones_own_fills_a_store(recordings, encoder, tmp_path):
    lines = []
    with FeatureStore(tmp_path, encoder, recordings, model="mine", done=lines.append) as store:
        assert store.todo.tolist() == [True] * 4
        for index in range(4):
            assert store.put(encoded(recordings, encoder, index))
            assert not store.todo[index]
    audit(tmp_path, set(recordings.manifest.ids))
    assert {line.id for line in lines} == set(recordings.manifest.ids)
    about = json.loads((tmp_path / "metadata.json").read_text())
    assert about["made_with"]["model"] == "mine"
    assert not list((tmp_path / ".extract").glob("unfinished*"))  # all is done
    with FeatureStore(tmp_path, encoder, recordings) as store:
        assert not store.todo.any()
        assert store.batches() == []
    assert json.loads((tmp_path / "metadata.json").read_text()) == about
    assert not list((tmp_path / ".extract").glob("unfinished*"))


def test_a_batch_is_put_with_its_failures(clips, encoder, tmp_path):
    entries = [*read_folder(clips), Entry("gone.wav", "/gone.wav")]
    recordings = AudioDataset(Manifest.from_entries(entries, "some"))
    batch = collate([recordings[index] for index in range(5)])
    features = encoder.encode(batch.waveforms, batch.lengths.tolist())
    features[1] = replace(features[1], finite=False)
    with FeatureStore(tmp_path, encoder, recordings) as store:
        assert store.put_batch(batch, features) == 5
    reasons = {line["id"]: line["reason"] for line in ledger(tmp_path)}
    assert reasons.pop("gone.wav") == "missing"
    assert reasons.pop("1.wav") == "non_finite_features"
    assert reasons == dict.fromkeys(("0.wav", "2.wav", "3.wav"))
    assert readers.read(tmp_path).keys() == reasons.keys()
    with FeatureStore(tmp_path, encoder, recordings, retry_failed=False) as store:
        assert not store.todo.any()
    with FeatureStore(tmp_path, encoder, recordings) as store:
        assert store.todo.tolist() == [False, True, False, False, True]  # what failed


def test_features_that_are_not_finite_are_a_failure(recordings, encoder, tmp_path):
    item = encoded(recordings, encoder, 0)
    with FeatureStore(tmp_path, encoder, recordings) as store:
        store.put(replace(item, features=replace(item.features, finite=False)))
    assert [line["reason"] for line in ledger(tmp_path)] == ["non_finite_features"]


def test_nothing_is_written_twice(recordings, encoder, tmp_path):
    item = encoded(recordings, encoder, 0)
    with FeatureStore(tmp_path, encoder, recordings) as store:
        assert store.put(item)
        assert not store.put(item)
    with FeatureStore(tmp_path, encoder, recordings) as store:
        assert not store.put(item)
        silent = Failure(identify(recordings.manifest, 1), "silent", "nothing in it")
        assert store.put(silent)
    assert sorted(line["id"] for line in ledger(tmp_path)) == ["0.wav", "1.wav"]


def test_what_is_no_recording_of_the_store_is_refused(recordings, encoder, tmp_path):
    item = encoded(recordings, encoder, 0)
    with FeatureStore(tmp_path, encoder, recordings) as store:
        for wrong in ({"index": 1}, {"index": 4}, {"index": -1}, {"id": "other"}):
            with pytest.raises(ValueError, match=r"not recording .*; needed one of the 4"):
                store.put(replace(item, recording=replace(item.recording, **wrong)))
    with pytest.raises(ValueError, match="closed"):
        store.put(item)
    assert ledger(tmp_path) == []


def test_an_exception_in_the_block_keeps_what_is_whole(recordings, encoder, tmp_path):
    """An archive in progress is dropped; a file of an utterance's own is not."""
    for layout, kept in (("npy", 1), ("kaldi", 0)):
        directory = tmp_path / layout
        with pytest.raises(KeyboardInterrupt):  # noqa: SIM117, PT012
            with FeatureStore(
                directory, encoder, recordings, layout=layout, num_writers=0
            ) as store:
                store.put(encoded(recordings, encoder, 0))
                raise KeyboardInterrupt
        assert len(saved(directory)) == kept
        with FeatureStore(directory, encoder, recordings) as store:
            assert store.todo.sum() == 4 - kept
            for index in range(4):
                store.put(encoded(recordings, encoder, index))
        audit(directory, set(recordings.manifest.ids))


def test_a_store_keeps_its_options(recordings, encoder, tmp_path):
    options = rvc.Options(folder="3_feature256")
    with FeatureStore(tmp_path / "rvc", encoder, recordings, layout=options) as store:
        store.put(encoded(recordings, encoder, 0))
    with FeatureStore(tmp_path / "rvc", encoder, recordings) as store:
        store.put(encoded(recordings, encoder, 1))
    assert len(readers.rvc(tmp_path / "rvc")) == 2
    halves = npy.Options(dtype=DType.float16)
    with FeatureStore(tmp_path / "npy", encoder, recordings, layout=halves) as store:
        store.put(encoded(recordings, encoder, 0))
    with FeatureStore(tmp_path / "npy", encoder, recordings, layout="npy") as store:
        store.put(encoded(recordings, encoder, 1))
    assert {one.dtype for one in readers.npy(tmp_path / "npy").values()} == {torch.float16}


def test_audio_that_is_not_wanted_is_in_no_archive(recordings, encoder, tmp_path):
    options = webdataset.Options(audio=TrainingAudio.none)
    with FeatureStore(tmp_path, encoder, recordings, layout=options) as store:
        store.put(encoded(recordings, encoder, 0))
    [tar] = tmp_path.glob("shards/*.tar")
    with tarfile.open(tar) as members:
        assert sorted(Path(name).suffix for name in members.getnames()) == [".json", ".npy"]


def test_a_layout_that_does_not_fit_is_refused(recordings, encoder, tmp_path):
    FeatureStore(tmp_path / "npy", encoder, recordings, layout="npy").close()
    with pytest.raises(ValueError, match=r"layout +npy +rvc"):
        FeatureStore(tmp_path / "npy", encoder, recordings, layout="rvc")
    with pytest.raises(ValueError, match=r"applio: needed its option embedder_model"):
        FeatureStore(tmp_path / "applio", encoder, recordings, layout="applio")
    with pytest.raises(ValueError, match=r"nonsense: none of extract's layouts"):
        FeatureStore(tmp_path / "new", encoder, recordings, layout="nonsense")
    assert not (tmp_path / "new").exists()


def test_another_identity_is_refused_or_replaced(recordings, encoder, tmp_path):
    with FeatureStore(tmp_path, encoder, recordings) as store:
        store.put(encoded(recordings, encoder, 0))
    first = Encoder(load_model("tiny_random"), layer=1)
    with pytest.raises(ValueError, match=r"one kind of features\n.*\n +model\.layer +2 +1\n"):
        FeatureStore(tmp_path, first, recordings)
    assert saved(tmp_path) == ["0.wav"]
    with FeatureStore(tmp_path, first, recordings, overwrite=True) as store:
        assert store.todo.all()
        store.put(encoded(recordings, first, 1))
    assert saved(tmp_path) == ["1.wav"]


def test_units_are_the_commands(recordings, encoder, tmp_path):
    with_units = encoder.quantized(Nearest(torch.zeros(3, encoder.hidden_size)))
    with pytest.raises(ValueError, match="extract quantize STORE"):
        FeatureStore(tmp_path, with_units, recordings)


def test_a_shard_takes_its_part_alone(recordings, encoder, tmp_path):
    ids = recordings.manifest.ids
    with FeatureStore(tmp_path, encoder, recordings, shard=Shard(0, 2)) as one:
        with pytest.raises(StoreBusy):
            FeatureStore(tmp_path, encoder, recordings, shard=Shard(0, 2))
        with pytest.raises(StoreBusy, match=r"shard\.count=1"):
            FeatureStore(tmp_path, encoder, recordings)
        with FeatureStore(tmp_path, encoder, recordings, shard=Shard(1, 2)) as two:
            assert np.array_equal(one.todo, ~two.todo)
            assert 0 < one.todo.sum() < 4
            mine = [index for batch in one.batches() for index in batch]
            assert sorted(mine) == np.flatnonzero(one.todo).tolist()
            for index in range(4):
                taken = [store.put(encoded(recordings, encoder, index)) for store in (one, two)]
                assert taken == [Shard(at, 2).owns(ids[index]) for at in range(2)]
    audit(tmp_path, set(ids))


def test_lines_of_the_source_are_in_the_ledger_too(clips, encoder, tmp_path):
    bad = Failure.of_source("list:7", "x", "bad_line", "line 7: nothing in it")
    recordings = AudioDataset(Manifest.from_entries([bad, *read_folder(clips)], "list"))
    for _ in range(2):
        with FeatureStore(tmp_path, encoder, recordings) as store:
            store.put(encoded(recordings, encoder, 0))
        assert sorted(line["id"] for line in ledger(tmp_path)) == ["0.wav", "list:7"]


def test_names_that_are_one_file_in_the_layout_are_refused(clips, encoder, tmp_path):
    entries = [Entry("a", str(clips / "0.wav")), Entry("a.npy/b", str(clips / "1.wav"))]
    recordings = AudioDataset(Manifest.from_entries(entries, "list"))
    FeatureStore(tmp_path / "fits", encoder, recordings).close()
    with pytest.raises(ValueError, match=r"a\.npy"):
        FeatureStore(tmp_path / "not", encoder, recordings, layout="npy")


def test_a_full_disk_is_said_and_the_store_is_free_again(
    recordings, encoder, tmp_path, monkeypatch
):
    store = FeatureStore(tmp_path, encoder, recordings, num_writers=0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("extract.files.Temporary.write", full)
        with pytest.raises(StoreUnusable, match="is full"):
            store.put(encoded(recordings, encoder, 0))
        with pytest.raises(StoreUnusable):
            store.close()
    with FeatureStore(tmp_path, encoder, recordings) as store:
        assert store.todo.all()


UNCLOSED = """
import os, sys
from extract import AudioDataset, Encoder, FeatureStore, collate, load_model, read_folder
recordings = AudioDataset(read_folder(sys.argv[1]))
encoder = Encoder(load_model("tiny_random"))
store = FeatureStore(sys.argv[2], encoder, recordings)
batch = collate([recordings[index] for index in range(3)])
store.put_batch(batch, encoder.encode(batch.waveforms, batch.lengths.tolist()))
if not os.fork():
    sys.exit()  # runs what is to be done at exit; the store is its parent's
assert os.wait()[1] == 0
raise RuntimeError("a fault of the loop")
"""


@START_METHODS
def test_a_store_that_nobody_closed_is_closed_when_python_ends(clips, tmp_path):
    command = [sys.executable, "-c", UNCLOSED, str(clips), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: a fault of the loop\n")
    assert sum(line["status"] == "saved" for line in ledger(tmp_path)) == 3
    audit(tmp_path, {line["id"] for line in ledger(tmp_path)})
