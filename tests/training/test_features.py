"""Reading stores in training: every layout, damaged files, workers, a large index."""

import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from extract import (
    AudioDataset,
    Encoder,
    Failure,
    FeatureDataset,
    FeatureStore,
    LengthBatchSampler,
    collate_features,
    fit_kmeans,
    load_model,
    make_loader,
    read_folder,
)
from extract.store.layouts import applio
from support import posix, readers
from support.layouts import options as options_of
from support.recordings import write_wav
from support.stores import ledger
from support.units import by_scikit_learn

NUM = 7


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Recordings of different lengths, one in a folder below; one is no recording."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(NUM):
        name = f"below/{number}.wav" if number == 3 else f"{number}.wav"
        write_wav(folder / name, 0.2 + 0.05 * number, number)
    (folder / "broken.wav").write_text("no recording")
    return folder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_model("tiny_random"))


def put_all(directory: Path, clips: Path, encoder: Encoder, layout: object = None) -> AudioDataset:
    """Puts all clips into a store by a loop of one's own."""
    recordings = AudioDataset(read_folder(clips))
    with FeatureStore(directory, encoder, recordings, layout=layout) as store:
        store.store.files.fsync = False
        for batch in make_loader(recordings, batches=store.batches(), num_workers=0):
            features = encoder.encode(batch.waveforms, batch.lengths.tolist())
            store.put_batch(batch, features)
        assert not store.todo.any()
    return recordings


@pytest.fixture(scope="module")
def store(clips, encoder, tmp_path_factory) -> Path:
    """A store of GPT-SoVITS's layout, with training audio; not to be changed."""
    directory = tmp_path_factory.mktemp("store")
    put_all(directory, clips, encoder)
    return directory


@pytest.fixture
def damaged(clips, encoder, tmp_path):
    """Makes a store of a layout, for a test to damage."""

    def make(layout: str) -> Path:
        put_all(tmp_path / layout, clips, encoder, layout)
        return tmp_path / layout

    return make


def saved_lines(store: Path) -> list[dict]:
    return [line for line in ledger(store) if line["status"] == "saved"]


# --- every layout --------------------------------------------------------------------------------


@pytest.mark.each_layout
def test_features_are_those_that_other_programs_read(clips, encoder, layout, tmp_path):
    options = applio.Options(embedder_model="custom") if layout == "applio" else options_of(layout)
    put_all(tmp_path, clips, encoder, options)
    found = readers.read(tmp_path)
    assert len(found) == NUM
    for mmap in ("auto", True, False):
        dataset = FeatureDataset(tmp_path, mmap=mmap)
        assert len(dataset) == NUM
        assert dataset.failed == {"undecodable": 1}
        for item in dataset:
            assert item.features.dim() == 2
            assert torch.equal(item.features, found[item.recording.id][0])
            item.features.add_(1)  # of its own, even where the file is mapped
        assert {item.recording.id for item in dataset} == found.keys()
    assert torch.equal(dataset[0].features, found[dataset[0].recording.id][0])


@pytest.mark.parametrize("layout", ["npy", "webdataset"])
def test_several_layers_stay_apart(clips, layout, tmp_path):
    both = Encoder(load_model("tiny_random"), layer=[1, 2])
    put_all(tmp_path, clips, both, layout)
    item = FeatureDataset(tmp_path, recordings=["2.wav"])[0]
    recordings = AudioDataset(read_folder(clips))
    waveform = recordings[list(recordings.manifest.ids).index("2.wav")].waveform
    [alone] = both.encode(waveform[None], [len(waveform)])
    assert torch.allclose(item.features, alone.values, atol=1e-5)
    assert item.features.shape[0] == 2
    assert collate_features([item, item]).features.shape == (2, *item.features.shape)


def test_an_item_says_what_is_known_of_its_recording(clips, store):
    recordings = AudioDataset(read_folder(clips))
    for item in FeatureDataset(store):
        same = next(one for one in recordings if one.recording.id == item.recording.id)
        assert vars(item.recording) | {"index": 0} == vars(same.recording) | {"index": 0}
        assert item.wav32k is None


@pytest.mark.parametrize("layout", ["gpt_sovits", "webdataset"])
def test_training_audio_comes_when_it_is_asked_for(clips, encoder, layout, tmp_path):
    recordings = AudioDataset(read_folder(clips))
    wanted = {one.recording.id: one for one in recordings if not isinstance(one, Failure)}
    put_all(tmp_path, clips, encoder, layout if layout == "gpt_sovits" else with_audio(layout))
    dataset = FeatureDataset(tmp_path, audio=True)
    for item in dataset:
        assert torch.equal(item.wav32k, wanted[item.recording.id].wav32k)
    batch = collate_features(list(dataset))
    assert [len(wav) for wav in batch.wavs] == [len(item.wav32k) for item in dataset]


def with_audio(layout: str):
    from extract import choices
    from extract.store.layout import TrainingAudio

    options = choices.find("layouts", layout).Options
    return options(layout=layout, audio=TrainingAudio.wav32k)


def test_audio_that_the_store_has_not_is_refused(clips, encoder, tmp_path):
    put_all(tmp_path, clips, encoder, "npy")
    with pytest.raises(ValueError, match=r"\.npy: no training audio beside it"):
        FeatureDataset(tmp_path, audio=True)[0]


# --- which items, in which order -----------------------------------------------------------------


def test_the_order_is_the_ledgers_or_that_of_what_is_named(clips, store):
    saved = [line["id"] for line in ledger(store) if line["status"] == "saved"]
    assert [item.recording.id for item in FeatureDataset(store)] == saved
    ids = ["5.wav", "below/3.wav", "0.wav"]
    named = FeatureDataset(store, recordings=ids)
    assert [item.recording.id for item in named] == ids
    assert named.failed == {}
    manifest = read_folder(clips)
    of_manifest = FeatureDataset(store, recordings=manifest)
    assert [item.recording.id for item in of_manifest] == [
        id_ for id_ in manifest.ids if id_ != "broken.wav"
    ]
    assert of_manifest.failed == {"undecodable": 1}
    assert named[-1].recording.id == "0.wav"
    with pytest.raises(IndexError):
        named[3]


def test_a_recording_of_which_no_ledger_has_a_line_is_named(store):
    with pytest.raises(ValueError, match=r"no line of 2 recordings: 8\.wav, 9\.wav\. Ways out"):
        FeatureDataset(store, recordings=["0.wav", "8.wav", "9.wav"])


def test_what_is_no_store_of_features_is_refused(tmp_path, store):
    with pytest.raises(ValueError, match=r"no metadata\.json or no ledger here"):
        FeatureDataset(tmp_path)
    for name in ("metadata.json", "ledger.jsonl"):
        (tmp_path / name).write_bytes((store / name).read_bytes())
    about = json.loads((tmp_path / "metadata.json").read_text())
    about["identity"]["features"] = False
    (tmp_path / "metadata.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="keeps units alone"):
        FeatureDataset(tmp_path)


def test_of_an_id_with_two_lines_the_later_one_is_read(store, tmp_path):
    for name in ("metadata.json", "ledger.jsonl"):
        (tmp_path / name).write_bytes((store / name).read_bytes())
    [first, *_] = saved_lines(store)
    last = first | {"duration_s": 77.0}
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write(json.dumps(last) + "\n")
        file.write('{"id":"torn')
    dataset = FeatureDataset(tmp_path)
    assert len(dataset) == NUM
    assert dataset.durations_s.tolist().count(77.0) == 1


# --- damaged files -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["gpt_sovits", "npy", "kaldi", "webdataset", "so_vits_svc"])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_truncated_file_is_named_with_what_was_found(damaged, layout, mmap):
    directory = damaged(layout)
    dataset = FeatureDataset(directory, mmap=mmap)
    line = saved_lines(directory)[-1]
    name, offset, size, _crc = max(line["files"], key=lambda file: file[1])
    position = [item.recording.id for item in dataset].index(line["id"])
    path = directory / name
    with path.open("r+b") as file:
        file.truncate(offset + size // 2)
    was_cut = f"{path} was cut: {offset + size // 2:,} bytes; its line needs {offset + size:,}"
    with pytest.raises(ValueError, match=path.name) as caught:
        dataset[position]
    assert was_cut in str(caught.value)
    path.unlink()
    with pytest.raises(OSError, match=path.name):
        dataset[position]


@pytest.mark.parametrize("layout", ["gpt_sovits", "npy", "webdataset"])
def test_changed_bytes_are_named_where_checksums_are_compared(damaged, layout):
    directory = damaged(layout)
    line = saved_lines(directory)[-1]
    name, offset, size, _crc = line["files"][0]
    position = list(FeatureDataset(directory)._index.saved.ids).index(line["id"])
    with (directory / name).open("r+b") as file:
        file.seek(offset + size // 2 + 700)
        file.write(b"\x7f")
    with pytest.raises(
        ValueError, match=f"{Path(name).name}: other bytes than its line's checksum"
    ):
        FeatureDataset(directory, checksum=True)[position]
    others = set(range(NUM)) - {position}
    assert all(FeatureDataset(directory, checksum=True)[other] for other in others)


def test_another_tensor_in_a_files_place_is_named(damaged):
    directory = damaged("gpt_sovits")
    dataset = FeatureDataset(directory)
    path = directory / "4-cnhubert" / "0.wav.pt"
    torch.save({"a": torch.zeros(3)}, path)
    position = list(dataset._index.saved.ids).index("0.wav")
    with pytest.raises(ValueError, match=r"0\.wav\.pt: needed a tensor"):
        dataset[position]


# --- loaders -------------------------------------------------------------------------------------


def test_a_batch_is_padded_and_keeps_its_failures(store):
    dataset = FeatureDataset(store)
    items = [dataset[0], dataset[3], dataset[5]]
    failure = Failure(items[0].recording, "missing", "gone")
    batch = collate_features([items[0], failure, *items[1:]])
    assert [one.id for one in batch.recordings] == [item.recording.id for item in items]
    assert batch.failures == (failure,)
    assert batch.feature_lengths.tolist() == [len(item.features) for item in items]
    for row, item, frames in zip(batch.features, items, batch.feature_lengths, strict=True):
        assert torch.equal(row[:frames], item.features)
        assert not row[frames:].any()
    nothing = collate_features([failure])
    assert len(nothing) == 0
    assert nothing.failures == (failure,)


def test_a_batch_of_two_dtypes_has_the_wider_one(store):
    item = FeatureDataset(store)[0]
    half = type(item)(item.recording, item.features.half())
    assert collate_features([half, item]).features.dtype == torch.float32
    assert collate_features([half, half]).features.dtype == torch.float16


def by_id(batches) -> dict[str, torch.Tensor]:
    return {
        recording.id: features[:frames].clone()
        for batch in batches
        for recording, features, frames in zip(
            batch.recordings, batch.features, batch.feature_lengths.tolist(), strict=True
        )
    }


@pytest.mark.parametrize(
    ("method", "num_workers"),
    [(None, 0), pytest.param("fork", 2, marks=posix.START_METHODS), ("spawn", 1)],
)
def test_workers_read_the_same_however_they_start(store, method, num_workers):
    dataset = FeatureDataset(store)
    sampler = LengthBatchSampler(dataset.durations_s, batch_seconds=1.0, seed=3)
    loader = DataLoader(
        dataset.shared() if method == "spawn" else dataset,
        batch_sampler=sampler,
        collate_fn=collate_features,
        num_workers=num_workers,
        multiprocessing_context=method,
    )
    read, found = by_id(loader), readers.read(store)
    assert read.keys() == found.keys()
    assert all(torch.equal(features, found[id_][0]) for id_, features in read.items())


def test_batches_of_files_give_the_centres_of_their_frames(store):
    dataset, files = FeatureDataset(store), readers.read(store)
    sampler = LengthBatchSampler(dataset.durations_s, batch_seconds=1.0, shuffle=False)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_features)
    ids = [[recording.id for recording in batch.recordings] for batch in loader]
    assert max(map(len, ids)) > 1
    frames = [np.concatenate([files[id_][0].numpy() for id_ in batch]) for batch in ids]
    small = {"clusters": 4, "batch_size": 10, "seed": 0}
    expected = by_scikit_learn([frames] * 2, **small).cluster_centers_
    assert np.array_equal(fit_kmeans(loader, **small, epochs=2).centres, expected)


@pytest.mark.each_layout
def test_a_dataset_is_picklable(clips, encoder, layout, tmp_path):
    options = applio.Options(embedder_model="custom") if layout == "applio" else options_of(layout)
    put_all(tmp_path, clips, encoder, options)
    dataset = FeatureDataset(tmp_path)
    dataset[0]
    copied = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copied[1].features, dataset[1].features)


def test_durations_are_those_of_the_ledger(store):
    dataset = FeatureDataset(store)
    lines = {line["id"]: line for line in ledger(store)}
    wanted = [lines[item.recording.id]["duration_s"] for item in dataset]
    assert np.allclose(dataset.durations_s, wanted, atol=0)


# --- the index -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(store, tmp_path_factory) -> Path:
    """A store's metadata, and a ledger of 4,000 lines without their files."""
    directory, [line, *_] = tmp_path_factory.mktemp("large"), saved_lines(store)
    (directory / "metadata.json").write_bytes((store / "metadata.json").read_bytes())
    rest, more = (file[1:] for file in line["files"])
    with (directory / "ledger.jsonl").open("w") as file:
        for number in range(4_000):
            id_ = f"speaker{number % 97}/{number:07}.wav"
            files = [[f"4-cnhubert/{id_}.pt", *rest], [f"5-wav32k/{id_}", *more]]
            path = f"/corpora/a/rather/deep/folder/{id_}"
            file.write(json.dumps(line | {"id": id_, "path": path, "files": files}) + "\n")
    return directory


def test_a_million_entries_fit_into_two_hundred_megabytes(large):
    tracemalloc.start()
    dataset = FeatureDataset(large)
    held, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == 4_000
    assert held / len(dataset) < 200
    assert len(pickle.dumps(dataset)) / len(dataset) < 200
    assert dataset._index.saved.recording(3_999).path.endswith("/folder/speaker22/0003999.wav")


def test_paths_that_follow_from_no_id_are_kept_too(large, tmp_path):
    """Also `extra`, which only some lines have."""
    (tmp_path / "metadata.json").write_bytes((large / "metadata.json").read_bytes())
    lines = ledger(large)[:5]
    for number, line in enumerate(lines):
        if number > 1:
            line |= {"path": f"/elsewhere/{number}.flac", "extra": {"speaker": f"s{number}é"}}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "ledger.jsonl").write_text(text)
    saved = FeatureDataset(tmp_path)._index.saved
    found = [saved.recording(row) for row in range(5)]
    assert [one.path for one in found] == [line["path"] for line in lines]
    assert [one.extra for one in found] == [
        *(None, None),
        *(f'{{"speaker":"s{number}é"}}' for number in range(2, 5)),
    ]
    assert [saved.kept(row).files for row in range(5)] == [
        tuple(map(tuple, line["files"])) for line in lines
    ]


def test_a_starting_worker_is_handed_shared_memory(large, monkeypatch):
    dataset = FeatureDataset(large)
    shared = dataset.shared()
    assert len(pickle.dumps(shared)) >= 90 * len(dataset)  # copied for any other purpose
    for module in ("manifest.strings", "store.saved"):
        monkeypatch.setattr(f"extract.{module}.get_spawning_popen", lambda: "a process that starts")
    index = shared.__getstate__()["_index"]
    parts = [index.rows, index.saved.table, index.saved.files, index.saved.ids, index.saved.names]
    for part in parts:
        assert part._shared is not None
        state = part.__getstate__()
        assert not any(isinstance(value, np.ndarray) for value in state)
        twin = type(part).__new__(type(part))
        twin.__setstate__(state)
        assert pickle.dumps(vars(twin).get("rows")) == pickle.dumps(vars(part).get("rows"))
    assert index.saved.kept(777) == dataset._index.saved.kept(777)
