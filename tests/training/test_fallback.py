"""Compute or load: what a store lacks is computed, and written as the command would write it."""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from extract import (
    AudioDataset,
    AudioSettings,
    Encoder,
    Failure,
    FeatureDataset,
    Manifest,
    Shard,
    StoredUtterance,
    collate_features,
    load_model,
    read_folder,
)
from extract.app import main
from extract.exits import SOME_FAILED
from extract.store.lock import StoreBusy
from extract.values import Entry
from support import posix, readers
from support.command import TINY
from support.recordings import write_wav
from support.stores import audit, contents, ledger

NUM = 9


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Recordings of different lengths; one is no recording, one is silent."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(NUM):
        write_wav(folder / f"{number}.wav", 0.2 + 0.07 * number, number)
    (folder / "broken.wav").write_text("no recording")
    return folder


class Counting(AudioDataset):
    """Notes what is asked of it."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.asked: list[str] = []

    def __getitem__(self, index):
        self.asked.append(self.manifest.ids[index])
        return super().__getitem__(index)


@pytest.fixture
def recordings(clips) -> Counting:
    return Counting(read_folder(clips))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_model("tiny_random"))


def run(clips: Path, store: Path, *options: str) -> int:
    """The command over the clips."""
    where = ["dataset=folder", f"dataset.path={clips}", f"store.dir={store}", "store.fsync=false"]
    return main([*where, *TINY, "loader.num_workers=0", *options])


@pytest.fixture(scope="module")
def by_command(clips, tmp_path_factory) -> Path:
    """What the command writes; not to be changed."""
    store = tmp_path_factory.mktemp("by_command")
    assert run(clips, store) == SOME_FAILED.code
    return store


def without(store: Path, target: Path, ids: set[str]) -> Path:
    """A copy of a store of one layout's files without some utterances."""
    for path in store.rglob("*"):
        if path.is_file() and ".extract" not in path.parts:
            copied = target / path.relative_to(store)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())
    lines = [line for line in ledger(target) if line["id"] not in ids]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (target / "ledger.jsonl").write_text(text)
    for id_ in ids:
        (target / "4-cnhubert" / f"{id_}.pt").unlink(missing_ok=True)
        (target / "5-wav32k" / id_).unlink(missing_ok=True)
    return target


def utterances(dataset: FeatureDataset) -> list[StoredUtterance]:
    return [item for item in dataset if not isinstance(item, Failure)]


def saved(store: Path) -> dict[str, dict]:
    return {line["id"]: line for line in ledger(store) if line["status"] == "saved"}


# --- what is computed ----------------------------------------------------------------------------


def test_only_what_the_store_lacks_is_computed(by_command, encoder, recordings, tmp_path):
    store = without(by_command, tmp_path, {"2.wav", "5.wav"})
    before = contents(store)
    dataset = FeatureDataset(store, encoder, recordings=recordings)
    assert len(dataset) == NUM + 1  # one for each recording
    items, found = list(dataset), readers.read(by_command)
    assert sorted(recordings.asked) == ["2.wav", "5.wav"]
    for item, id_ in zip(items, recordings.manifest.ids, strict=True):
        if id_ == "broken.wav":
            assert isinstance(item, Failure)
            assert item.reason == "undecodable"
        else:
            assert item.recording.id == id_
            assert torch.allclose(item.features, found[id_][0], atol=1e-5)
    assert contents(store) == before  # nothing is written without `write`
    assert list(dataset)[2].recording == items[2].recording
    assert recordings.asked == ["2.wav", "5.wav"] * 2


def test_without_a_store_everything_is_computed(encoder, recordings, tmp_path):
    dataset = FeatureDataset(tmp_path / "none", encoder, recordings=recordings)
    assert all(item.features.shape[1] == 32 for item in dataset if not isinstance(item, Failure))
    assert len(recordings.asked) == NUM + 1
    assert not (tmp_path / "none").exists()
    failed = [item for item in dataset if isinstance(item, Failure)]
    assert [item.reason for item in failed] == ["undecodable"]
    assert recordings.asked.count("broken.wav") == 1  # a failure is not tried again


def test_a_recording_that_changed_is_computed_anew(encoder, tmp_path):
    folder, store = tmp_path / "in", tmp_path / "out"
    for number in range(3):
        write_wav(folder / f"{number}.wav", 0.3, number)
    run(folder, store)
    write_wav(folder / "1.wav", 0.5, 77)
    recordings = Counting(read_folder(folder))
    items = list(FeatureDataset(store, encoder, recordings=recordings))
    assert recordings.asked == ["1.wav"]
    assert items[1].recording.duration_s == 0.5
    assert len(items[1].features) > len(items[0].features)


def test_durations_are_those_of_headers_on_every_rank(by_command, encoder, recordings, tmp_path):
    store = without(by_command, tmp_path, {"2.wav", "5.wav"})
    dataset = FeatureDataset(store, encoder, recordings=recordings)
    *seconds, broken = dataset.durations_s.tolist()
    assert np.allclose(seconds, 0.2 + 0.07 * np.arange(NUM), atol=1e-3)
    assert broken == 0
    nowhere = FeatureDataset(tmp_path / "none", encoder, recordings=recordings)
    assert nowhere.durations_s.tolist() == [*seconds, broken]
    assert recordings.asked == []


# --- identity ------------------------------------------------------------------------------------


def test_another_identity_is_refused_side_by_side(by_command, recordings, clips):
    louder = AudioDataset(read_folder(clips), AudioSettings(alpha=0.25))
    refused = r"made with other settings.*\n +in the store +this run\n +audio\.alpha +0\.5 +0\.25\n"
    with pytest.raises(ValueError, match=refused):
        FeatureDataset(by_command, Encoder(load_model("tiny_random")), recordings=louder)
    other = Encoder(load_model("tiny_random", seed=1), layer=1)
    with pytest.raises(ValueError, match=r"model\.weights .*\n +model\.layer +2 +1\n"):
        FeatureDataset(by_command, other, recordings=recordings)
    normed = AudioDataset(read_folder(clips), unit_variance=True)
    with pytest.raises(ValueError, match=r"model\.input_norm +none +unit_variance"):
        FeatureDataset(by_command, Encoder(load_model("tiny_random")), recordings=normed)
    another = AudioDataset(Manifest.from_entries([Entry("0.wav", str(clips / "0.wav"))], "list"))
    npy = by_command.parent / "npy"
    assert run(clips, npy, "store=npy") == SOME_FAILED.code
    with pytest.raises(ValueError, match=r"dataset\.path .* list"):
        FeatureDataset(npy, Encoder(load_model("tiny_random")), recordings=another)


def test_what_cannot_be_carried_out_is_refused(by_command, encoder, recordings, clips, tmp_path):
    with pytest.raises(ValueError, match=r"needed recordings=AudioDataset"):
        FeatureDataset(by_command, encoder, recordings=read_folder(clips))
    with pytest.raises(ValueError, match=r"write=True: needed fallback"):
        FeatureDataset(by_command, write=True)
    augmented = AudioDataset(read_folder(clips), augment=lambda samples, rate, rng: samples)
    with pytest.raises(ValueError, match="augment"):
        FeatureDataset(by_command, encoder, recordings=augmented)
    with pytest.raises(ValueError, match="needed fallback"):
        FeatureDataset(by_command, encoder, recordings=recordings).fill()
    several = Encoder(load_model("tiny_random"), layer=[1, 2])
    with pytest.raises(
        ValueError, match=r"layers \[1, 2\]: a file of the layout gpt_sovits holds one"
    ):
        FeatureDataset(tmp_path / "new", several, recordings=recordings)
    with pytest.raises(ValueError, match=r"audio=True: needed a store that keeps training audio"):
        FeatureDataset(tmp_path / "new", encoder, recordings=recordings, audio=True, layout="npy")


def test_audio_is_no_matter_where_features_alone_are_read(by_command, encoder, clips):
    plain = AudioDataset(read_folder(clips), training_audio=False)
    dataset = FeatureDataset(by_command, encoder, recordings=plain)
    assert len(list(dataset)) == NUM + 1
    with pytest.raises(ValueError, match=r"store\.audio +wav32k +none"):
        FeatureDataset(by_command, encoder, True, recordings=plain)


# --- written through -----------------------------------------------------------------------------


def nothing_to_do(clips: Path, store: Path, capsys, *options: str) -> None:
    """Asserts that the command finds all of it done, and leaves every byte as it is."""
    before, known = contents(store), readers.identity(store)
    capsys.readouterr()
    assert run(clips, store, "retry_failed=false", *options) == SOME_FAILED.code
    said = capsys.readouterr()
    assert f"0 of {NUM + 1} recordings to do" in said.out + said.err
    assert readers.identity(store) == known
    assert contents(store) == before


@pytest.mark.parametrize("layout", ["gpt_sovits", "npy", "webdataset", "kaldi", "ddsp_svc"])
def test_after_one_pass_the_command_has_nothing_to_do(
    clips, encoder, recordings, layout, tmp_path, capsys
):
    with FeatureDataset(tmp_path, encoder, True, recordings=recordings, layout=layout) as dataset:
        computed = utterances(dataset)
    audit(tmp_path, set(recordings.manifest.ids))
    assert len(recordings.asked) == NUM + 1
    again = FeatureDataset(tmp_path, encoder, True, recordings=recordings)
    for one, two in zip(
        computed, (item for item in again if not isinstance(item, Failure)), strict=True
    ):
        assert one.recording == two.recording
        assert torch.equal(one.features, two.features)
    assert len(recordings.asked) == NUM + 1
    nothing_to_do(clips, tmp_path, capsys, f"store={layout}")


def lines(store: Path, layout: str) -> dict[str, dict]:
    """A store's lines by their ids, without the names of archives, which are drawn."""
    drawn = ("files",) if layout in ("kaldi", "webdataset") else ()
    return {line["id"]: line | dict.fromkeys(drawn) for line in ledger(store)}


@pytest.mark.parametrize("layout", ["gpt_sovits", "npy", "kaldi", "webdataset"])
def test_filled_in_batches_it_is_the_commands_store_to_the_last_bit(
    clips, encoder, recordings, layout, tmp_path, capsys
):
    by_command, by_us = tmp_path / "command", tmp_path / "us"
    assert run(clips, by_command, f"store={layout}") == SOME_FAILED.code
    with FeatureDataset(by_us, encoder, True, recordings=recordings, layout=layout) as dataset:
        assert dataset.fill(num_workers=0) == NUM + 1
        assert dataset.failed == {"undecodable": 1}
    assert contents(by_us) == contents(by_command)
    assert lines(by_us, layout) == lines(by_command, layout)
    ours, theirs = (json.loads((one / "metadata.json").read_text()) for one in (by_us, by_command))
    assert ours.pop("made_with").keys() < theirs.pop("made_with").keys()
    assert ours == theirs
    nothing_to_do(clips, by_us, capsys, f"store={layout}")


def test_what_was_written_is_read_back_and_not_computed_again(encoder, recordings, tmp_path):
    with FeatureDataset(tmp_path, encoder, True, recordings=recordings, layout="npy") as dataset:
        first = dataset[3]
        assert len(saved(tmp_path)) == 1
        path = tmp_path / f"{first.recording.id}.npy"
        changed = np.load(path) + 1
        np.save(path, changed)
        assert torch.equal(dataset[3].features, torch.from_numpy(changed))
        assert recordings.asked == [first.recording.id]
        dataset.refresh()  # its bytes are as many as before
        assert torch.equal(dataset[3].features, torch.from_numpy(changed))


def test_notes_are_taken_into_the_index_once_they_are_many(
    encoder, recordings, tmp_path, monkeypatch
):
    monkeypatch.setattr("extract.training.features.MAX_NOTED", 2)
    with FeatureDataset(tmp_path, encoder, True, recordings=recordings) as dataset:
        for index in range(len(dataset)):
            dataset[index]
            assert len(dataset._written) < 2
        assert len(list(dataset)) == NUM + 1
    assert len(recordings.asked) == NUM + 1


def test_a_failure_of_the_writer_is_one_of_the_ledger(encoder, recordings, tmp_path):
    (tmp_path / "4-cnhubert" / "2.wav.pt" / "x").mkdir(parents=True)
    with FeatureDataset(tmp_path, encoder, True, recordings=recordings) as dataset:
        assert len(list(dataset)) == NUM + 1
    reasons = {line["id"]: line["reason"] for line in ledger(tmp_path)}
    assert reasons["2.wav"] == "write_failed"
    assert reasons["broken.wav"] == "undecodable"
    assert len(reasons) == len(ledger(tmp_path)) == NUM + 1


def test_fill_tries_again_what_failed(encoder, tmp_path):
    folder, store = tmp_path / "in", tmp_path / "out"
    for number in range(3):
        write_wav(folder / f"{number}.wav", 0.3, number)
    path = folder / "1.wav"
    whole, then = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(bytes(len(whole)))
    os.utime(path, ns=(then, then))
    recordings = AudioDataset(read_folder(folder))
    with FeatureDataset(store, encoder, True, recordings=recordings) as dataset:
        assert dataset.fill() == 3
        path.write_bytes(whole)
        os.utime(path, ns=(then, then))  # as it was: only the ledger says that it failed
        dataset.refresh()
        assert isinstance(dataset[1], Failure)
        assert dataset.fill() == 1
        assert dataset[1].recording.id == "1.wav"
    audit(store, {"0.wav", "1.wav", "2.wav"})
    assert not dataset.failed


# --- processes -----------------------------------------------------------------------------------


def in_a_worker(dataset: FeatureDataset) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=3,
        collate_fn=collate_features,
        num_workers=1,
        multiprocessing_context="fork",
    )


@posix.START_METHODS
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_worker_computes_nothing(by_command, encoder, recordings, tmp_path):
    store = without(by_command, tmp_path, {"2.wav"})
    dataset = FeatureDataset(store, encoder, recordings=recordings)
    with pytest.raises(ValueError, match=r"lacks 2\.wav, and only the process that made"):
        dataset.shared()[2]
    with pytest.raises(ValueError, match=r"lacks 2\.wav, and only the process that made"):
        list(in_a_worker(dataset))
    with FeatureDataset(store, encoder, True, recordings=recordings) as dataset:
        assert dataset.fill() == 2  # and what failed
        assert sum(map(len, in_a_worker(dataset))) == NUM


def test_the_shard_is_locked_until_all_is_written(by_command, encoder, recordings, tmp_path):
    store = without(by_command, tmp_path, {"2.wav", "4.wav"})
    dataset = FeatureDataset(store, encoder, True, recordings=recordings)
    with pytest.raises(StoreBusy, match=r"process \d+ on .* has been working here"):
        FeatureDataset(store, encoder, True, recordings=recordings)
    FeatureDataset(store, encoder, recordings=recordings)  # reading needs no lock
    list(dataset)
    second = FeatureDataset(store, encoder, True, recordings=recordings)
    assert second._out is None  # nothing to write
    third = FeatureDataset(store, encoder, True, recordings=recordings)
    assert len(list(third)) == NUM + 1


def test_an_unfinished_pass_gives_the_store_free_when_closed(encoder, recordings, tmp_path):
    dataset = FeatureDataset(tmp_path, encoder, True, recordings=recordings, layout="webdataset")
    first = dataset[0]
    assert saved(tmp_path) == {}  # its archive is open
    dataset.close()
    assert saved(tmp_path).keys() == {first.recording.id}
    assert dataset[1].recording.id != first.recording.id  # computed still, and not written
    with FeatureDataset(tmp_path, encoder, True, recordings=recordings) as again:
        assert len(list(again)) == NUM + 1
    audit(tmp_path, set(recordings.manifest.ids))


def _fill(store: Path, clips: Path, index: int, done) -> None:
    torch.set_num_threads(1)
    recordings = Counting(read_folder(clips))
    encoder = Encoder(load_model("tiny_random"))
    with FeatureDataset(store, encoder, True, recordings=recordings, shard=Shard(index, 2)) as mine:
        done.wait()  # both have the store open
        mine.fill()
        done.wait()
        mine.refresh()
        assert not [
            item for item in mine if not isinstance(item, Failure) and item.features is None
        ]
        owned = [id_ for id_ in recordings.manifest.ids if Shard(index, 2).owns(id_)]
        assert sorted(recordings.asked) == sorted(owned)


@posix.START_METHODS
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_two_ranks_write_one_store_at_once(clips, encoder, recordings, tmp_path, capsys):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2, timeout=120)
    ranks = [
        context.Process(target=_fill, args=(tmp_path, clips, index, barrier)) for index in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(240)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    audit(tmp_path, set(recordings.manifest.ids))
    nothing_to_do(clips, tmp_path, capsys)


def test_an_item_of_another_shard_is_computed_and_not_written(encoder, recordings, tmp_path):
    shard = Shard(0, 2)
    with FeatureDataset(tmp_path, encoder, True, recordings=recordings, shard=shard) as dataset:
        assert len(list(dataset)) == NUM + 1
    owned = {id_ for id_ in recordings.manifest.ids if shard.owns(id_)}
    assert 0 < len(owned) < NUM
    assert {line["id"] for line in ledger(tmp_path)} == owned
