"""`store.subfolders`: where files are, by SHA-256 alone, and what chooses the number of levels."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from extract import AudioDataset, Encoder, FeatureDataset, FeatureStore, load_model, read_folder
from extract.audit.forms import form
from extract.commands import audit as audit_command
from extract.commands import fairseq, quantize
from extract.commands import kmeans as kmeans_command
from extract.manifest.strings import PackedStrings
from extract.report.run import found
from extract.store import subfolders
from extract.store.files import WriteFailed
from extract.store.layout import TrainingAudio
from extract.store.layouts import npy
from extract.store.ledger import Ledger, Record
from extract.store.store import Store
from support.command import TINY, start
from support.layouts import EVERY, VARIANTS
from support.recordings import write_wav
from support.stores import audit, encoded, ids_of, ledger

NUM = 6
DIGITS = {  # printf %s ID | sha256sum
    "a.wav": "bc30",
    "speaker/a.wav": "cd7d",
    "录音.wav": "daaa",
}
FEATURES = torch.arange(12, dtype=torch.float32).view(1, 4, 3)
NO_WAV = torch.empty(0, dtype=torch.int16)


@pytest.fixture
def clips(tmp_path) -> Path:
    for number in range(NUM):
        write_wav(tmp_path / "in" / f"{number}.wav", 0.2 + 0.05 * number, number)
    return tmp_path / "in"


@pytest.fixture
def run(extract_folder, clips):
    def run(*options: str) -> int:
        few = ("store=npy", "loader.num_workers=0", "store.fsync=false")
        return extract_folder(clips, *few, *options)

    return run


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def small_limits(monkeypatch):
    """`auto` makes one level above 4 recordings in one folder, two above 8."""
    monkeypatch.setattr(subfolders, "MOST_WITHOUT", 4)
    monkeypatch.setattr(subfolders, "MOST_OF_ONE_LEVEL", 8)


def store_of(directory: Path, levels: int, **more) -> Store:
    store = Store(directory, options=npy.Options(str(directory), subfolders=levels, **more))
    store.create()
    return store


def levels(store: Path) -> int:
    identity = json.loads((store / "metadata.json").read_text())["identity"]
    return identity.get("store.subfolders", 0)


def places(store: Path) -> dict[str, str]:
    """Where each recording's features are; by no code of the package."""
    found = [path.relative_to(store) for path in store.rglob("*.npy")]
    assert all(np.load(store / path).ndim == 2 for path in found)
    names = Counter(path.name.removesuffix(".npy") for path in found)
    assert set(names.values()) == {1}, "an utterance is there twice"
    return {path.name.removesuffix(".npy"): str(path.parent) for path in found}


def by_hash(ids: set[str], num_levels: int) -> dict[str, str]:
    digits = {id_: hashlib.sha256(id_.encode()).hexdigest() for id_ in ids}
    return {
        id_: "/".join(text[2 * n : 2 * n + 2] for n in range(num_levels)) or "."
        for id_, text in digits.items()
    }


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_", DIGITS)
@pytest.mark.parametrize("num_levels", [0, 1, 2])
def test_files_lie_where_sha256_of_the_id_says(tmp_path, id_, num_levels):
    store = store_of(tmp_path, num_levels, audio=TrainingAudio.wav32k)
    wav = torch.ones(7, dtype=torch.int16)
    [kept] = store.layout.put(encoded(id_, FEATURES, wav))
    one, two = DIGITS[id_][:2], DIGITS[id_][2:]
    below = ("", f"{one}/", f"{one}/{two}/")[num_levels]
    assert [name for name, *_ in kept.files] == [f"{below}{id_}.npy", f"wav32k/{below}{id_}.wav"]
    assert np.array_equal(np.load(tmp_path / f"{below}{id_}.npy"), FEATURES[0])
    assert torch.equal(store.layout.read(kept), FEATURES)
    assert list(store.layout.ids_of_files()) == [id_, id_]
    assert store.layout.has_files(id_)
    assert form("npy", "", num_levels).names(id_) == [name for name, *_ in kept.files]
    line = {"id": id_, "files": kept.files}
    assert store.layout.kept(line) == kept
    assert store_of(tmp_path, (num_levels + 1) % 3).layout.kept(line) is None
    store.layout.discard(id_)
    assert not store.layout.has_files(id_)


def test_a_file_that_lies_elsewhere_is_no_utterances(tmp_path):
    store = store_of(tmp_path, 1)
    for name in ("a.wav.npy", "00/a.wav.npy", "bc/a.wav.npy", "bc/.npy", "bc.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(store.layout.ids_of_files()) == ["a.wav"]


def test_the_stores_own_names_are_kept_free(tmp_path):
    with pytest.raises(WriteFailed, match="the store itself uses"):
        store_of(tmp_path, 1).layout.put(encoded(".extract/a", FEATURES, NO_WAV))
    store_of(tmp_path, 1).layout.put(encoded("metadata.json/a", FEATURES, NO_WAV))  # below `ab/`


def test_a_new_sub_folders_name_is_on_the_disk_before_the_line(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(
        "extract.store.files.sync_folder",
        lambda path: events.append(str(path.relative_to(tmp_path))),
    )
    append = Ledger.append
    monkeypatch.setattr(
        Ledger, "append", lambda self, one: (events.append(one.id), append(self, one))
    )
    book = Ledger(tmp_path / "ledger.jsonl")
    for store in (store_of(tmp_path, 2), store_of(tmp_path, 2)):  # the second finds the folders
        for _again in range(2):
            [kept] = store.layout.put(encoded("a.wav", FEATURES, NO_WAV))
            book.append(Record(kept.id, "/a.wav", "saved", files=kept.files))
    assert events == [".", "bc", "a.wav", "a.wav"] * 2
    events.clear()
    unsynced = Store(tmp_path, fsync=False, options=npy.Options(str(tmp_path), subfolders=2))
    unsynced.layout.put(encoded("a.wav", FEATURES, NO_WAV))
    assert not events


# --- auto ----------------------------------------------------------------------------------------


def test_auto_counts_the_fullest_folder_of_the_list(small_limits):
    def fullest(*ids: str) -> int:
        return subfolders.fullest(PackedStrings.from_iterable(ids))

    assert fullest(*(f"{n}.wav" for n in range(9))) == 9
    assert fullest(*(f"{n}/a.wav" for n in range(9))) == 1
    assert fullest(*(f"{n}/{m}.wav" for n in range(2) for m in range(3)), "0/3.wav") == 4


def test_auto_makes_a_level_above_fifty_thousand_and_two_above_a_million():
    numbers = (0, 50_000, 50_001, 1_000_000, 1_000_001)
    assert [*map(subfolders.levels_for, numbers)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("first", [3, NUM])
def test_a_store_keeps_its_levels_as_the_list_grows_and_shrinks(
    run, clips, out, small_limits, capfd, first
):
    aside = clips.with_name("aside")
    aside.mkdir()
    for number in range(first, NUM):
        (clips / f"{number}.wav").rename(aside / f"{number}.wav")
    assert run("store.subfolders=auto") == 0
    begun = int(first > 4)
    assert f"store.subfolders=auto: {begun}, {first} recordings would lie" in capfd.readouterr().err
    assert levels(out) == begun
    for path in aside.iterdir():
        path.rename(clips / path.name)
    if first == NUM:
        for number in (3, 4, 5):
            (clips / f"{number}.wav").unlink()
        write_wav(clips / "new.wav", 0.3)
    assert run("store.subfolders=auto") == 0
    assert f"auto: {begun}, as this store has it" in capfd.readouterr().err
    assert levels(out) == begun
    everything = ids_of(clips) | ({f"{number}.wav" for number in range(first)})
    assert places(out) == by_hash(everything, begun)
    audit(out, everything)


def test_shards_that_start_together_choose_alike(clips, out, small_limits, tmp_path):
    """Each has fewer recordings than the limit; the list has more."""
    log = tmp_path / "log"
    words = ["dataset=folder", f"dataset.path={clips}", f"store.dir={out}", *TINY]
    words += ["store=npy", "store.subfolders=auto", "loader.num_workers=0", "shard.count=3"]
    shards = [start([*words, f"shard.index={one}"], tmp_path, log) for one in range(3)]
    for shard in shards:
        shard.join(120)
    assert [shard.exitcode for shard in shards] == [0, 0, 0], log.read_text()
    assert levels(out) == 1
    assert max(Counter(line["id"] for line in ledger(out)).values()) == 1
    assert places(out) == by_hash(ids_of(clips), 1)
    audit(out, ids_of(clips))


# --- another number of levels --------------------------------------------------------------------


def test_another_number_is_refused_and_overwrite_leaves_nothing_twice(run, clips, out, capfd):
    assert run() == 0
    flat = places(out)
    assert run("store.subfolders=1") == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "store.subfolders 0 1" in said
    assert places(out) == flat
    for number in (1, 2, 0):
        assert run(f"store.subfolders={number}", "overwrite=true") == 0
        assert places(out) == by_hash(ids_of(clips), number)
        audit(out, ids_of(clips))


def test_overwrite_finds_what_a_killed_run_had_just_written(run, clips, out):
    assert run() == 0
    path = out / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"5.wav"' not in line and '"4' not in line))
    (out / ".extract" / "unfinished-0-of-1").write_text("5.wav")  # another program's
    assert run("store.subfolders=1", "overwrite=true") == 0
    assert sorted(path.name for path in out.glob("*.npy")) == ["5.wav.npy"]
    (out / "5.wav.npy").unlink()
    assert places(out) == by_hash(ids_of(clips), 1)


def test_overwrite_by_one_shard_finds_what_a_killed_run_of_another_had_just_written(
    run, clips, out, capfd
):
    shards = [[f"shard.index={index}", "shard.count=2"] for index in range(2)]
    assert [run(*words) for words in shards] == [0, 0]
    book = out / "ledger.1-of-2.jsonl"
    lost, foreign = [line["id"] for line in map(json.loads, book.read_text().splitlines())][:2]
    lines = book.read_text().splitlines(keepends=True)
    book.write_text("".join(lines[2:]))
    (out / ".extract" / "unfinished-1-of-2").write_text(foreign)  # another program's
    (clips / f"{lost}").unlink()  # nor is it in the list any more
    again = ["store.subfolders=1", "overwrite=true"]
    assert [run(*words, *again) for words in shards] == [0, 0]
    assert [path.name for path in out.glob("*.npy")] == [f"{foreign}.npy"]
    (out / f"{foreign}.npy").unlink()
    assert places(out) == by_hash(ids_of(clips), 1)
    assert audit_command.main([str(out)]) == 0, capfd.readouterr().out


@pytest.mark.parametrize("text", [None, "{"])
def test_overwrite_finds_the_files_where_no_metadata_say_how_they_are_named(run, clips, out, text):
    assert run("store.subfolders=2") == 0
    (out / "metadata.json").unlink()
    if text:
        (out / "metadata.json").write_text(text)
    assert run("store.subfolders=1", "overwrite=true") == 0
    assert places(out) == by_hash(ids_of(clips), 1)
    audit(out, ids_of(clips))


def test_files_of_rvc_go_with_the_folder_that_is_replaced(run, clips, out):
    assert run("store=rvc") == 0
    assert run("store=rvc", "store.folder=3_feature256", "overwrite=true") == 0
    assert {path.parent.name for path in out.rglob("*.npy")} == {"3_feature256"}


@pytest.mark.parametrize("layout", sorted(set(EVERY) - {"npy", *VARIANTS}))
@pytest.mark.parametrize("value", [1, "auto"])
def test_layouts_whose_readers_need_one_folder_refuse_it(command, tmp_path, capfd, layout, value):
    asked = f"store={layout}", f"store.subfolders={value}", f"store.dir={tmp_path / 'out'}"
    assert command("dataset=folder", "dataset.path=nowhere", "model=tiny_random", *asked) == 2
    said = " ".join(capfd.readouterr().err.split())
    many = layout in ("kaldi", "webdataset")
    why = "its archives hold many utterances each" if many else "by the recording's name alone"
    assert f"store.subfolders={value}: the layout {layout} has none, since " in said
    assert why in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["3", "-1", "1.0", "none", "true", "null"])
def test_other_values_are_refused(run, out, capfd, value):
    assert run(f"store.subfolders={value}") == 2
    assert "needed 0, 1, 2 or auto" in capfd.readouterr().err
    assert not out.exists()


# --- readers -------------------------------------------------------------------------------------


def test_every_reader_of_a_store_finds_the_files(run, clips, out, tmp_path, capsys):
    assert run("store.subfolders=2", "model.layer=1") == 0
    found_by_us = {one.recording.id: one.features for one in FeatureDataset(out)}
    where = places(out)
    for id_, features in found_by_us.items():
        assert np.array_equal(features, np.load(out / where[id_] / f"{id_}.npy"))
    assert found_by_us.keys() == where.keys()
    tsv = tmp_path / "train.tsv"
    tsv.write_text("".join([f"{clips}\n", *(f"{n}.wav\t6400\n" for n in range(NUM))]))
    assert fairseq.main([str(out), str(tsv), str(tmp_path / "dump")]) == 0
    dumped = np.load(tmp_path / "dump" / "train_0_1.npy")
    assert np.array_equal(dumped, torch.cat([found_by_us[f"{n}.wav"] for n in range(NUM)]))
    centres = tmp_path / "centres.npy"
    assert kmeans_command.main([str(out), "--clusters", "3", "--output", str(centres)]) == 0
    asked = ["--quantizer", "kmeans", "--path", str(centres), "--format", "gslm"]
    assert quantize.main([str(out), *asked]) == 0
    assert all(line["units"] for line in ledger(out))
    assert found(out).store.layout.kept(ledger(out)[0]) is not None  # of `report`
    assert audit_command.main([str(out)]) == 0
    (out / "00" / "00").mkdir(parents=True)  # empty: no breach
    assert audit_command.main([str(out)]) == 0
    (out / "0.wav.npy").write_bytes((out / where["0.wav"] / "0.wav.npy").read_bytes())
    assert audit_command.main([str(out)]) == 1
    assert "stray" in capsys.readouterr().out


def test_a_loop_of_ones_own_writes_what_the_command_goes_on_with(clips, out, run, small_limits):
    encoder, recordings = Encoder(load_model("tiny_random")), AudioDataset(read_folder(clips))
    options = npy.Options(str(out), subfolders="auto")
    with FeatureStore(out, encoder, recordings, layout=options) as store:
        for item in recordings:
            [features] = encoder.encode(item.waveform[None], [len(item.waveform)])
            assert store.put_batch(*as_batch(item, features))
    assert places(out) == by_hash(ids_of(clips), 1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert run("store.subfolders=auto") == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")} == before
    dataset = FeatureDataset(out, recordings=recordings, fallback=encoder, write=True)
    assert len(dataset) == NUM


def as_batch(item, features):
    from extract.data.batch import collate

    return collate([item]), [features]


def test_jobs_of_a_sweep_link_their_files(command, clips, tmp_path):
    words = ["dataset=folder", f"dataset.path={clips}", *TINY, "store=npy", "store.subfolders=1"]
    words += ["loader.num_workers=0", "audio.alpha=0.3,0.5", "-m"]
    assert command(*words) == 0
    stores = [path.parent for path in tmp_path.rglob("metadata.json")]
    assert len(stores) == 2
    for store in stores:
        assert places(store) == by_hash(ids_of(clips), 1)
        audit(store, ids_of(clips))
    shared = [line for store in stores for line in ledger(store) if line.get("shared")]
    assert len(shared) == NUM
    one, other = ({path.stat().st_ino for path in store.rglob("*.npy")} for store in stores)
    assert one == other
