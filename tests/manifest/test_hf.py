"""Data sets of the library `datasets`: their rows are recordings for this decoder."""

import io
import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from extract.data.dataset import AudioDataset
from extract.manifest.source import Output
from extract.manifest.sources.hf import Options, read, read_hf
from extract.opener import MISSING
from extract.values import Entry, Failure, Utterance
from support.recordings import speech_like, write_wav

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")

TEXTS = [f"你好 {n}" for n in range(4)]


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    """No bars, and no cache but here."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    datasets.enable_progress_bars()


def wav_bytes(seed: int, seconds: float = 0.3) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, speech_like(seconds, seed), 16_000, format="WAV")
    return file.getvalue()


def dataset(cells: list, **columns):
    """A data set with an `Audio` column; `Audio` itself would need a package to encode."""
    made = datasets.Dataset.from_dict({"audio": cells, **columns})
    features = made.features.copy()
    features["audio"] = datasets.Audio()
    return made.cast(features)


def four(**columns):
    cells = [{"bytes": wav_bytes(n), "path": f"clips/{n}.wav"} for n in range(4)]
    return dataset(cells, text=TEXTS, **columns)


def save(made, folder: Path) -> Path:
    made.save_to_disk(str(folder))
    return folder


def put(made, folder: Path) -> Path:
    """The same as it lies in a file: `save_to_disk` puts local files into the rows."""
    save(four(), folder)
    [file] = folder.glob("*.arrow")
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    return folder


def test_a_row_is_an_entry_and_its_bytes_are_decoded_here(tmp_path):
    manifest = read_hf(save(four(), tmp_path / "set"))
    name = f"{tmp_path}/set#audio"
    assert manifest.source == name
    extras = [f'{{"text":"{text}"}}' for text in TEXTS]
    entries = [Entry(f"{n}.wav", f"{name}/{n}", extra=extra) for n, extra in enumerate(extras)]
    assert list(manifest) == entries
    for number, item in enumerate(AudioDataset(manifest)):
        assert isinstance(item, Utterance)
        with manifest.opener.open(manifest[number].path) as file:
            assert file.read() == wav_bytes(number)
            assert file.seek(4) == 4


def test_one_split_of_several_has_to_be_named(tmp_path):
    made = datasets.DatasetDict(train=four(), test=four())
    folder = save(made, tmp_path / "sets")
    with pytest.raises(ValueError, match=r"sets: dataset\.split=null; needed test or train$"):
        read_hf(folder)
    with pytest.raises(ValueError, match=r"dataset\.split=dev; needed test or train$"):
        read_hf(folder, "dev")
    manifest = read_hf(folder, "test")
    assert manifest.source == f"{tmp_path}/sets/test#audio"
    assert read_hf(folder / "test").source == manifest.source
    with pytest.raises(ValueError, match=r"one split alone; needed no dataset\.split"):
        read_hf(folder / "test", "test")
    alone = save(datasets.DatasetDict(train=four()), tmp_path / "one")
    assert read_hf(alone).source == f"{tmp_path}/one/train#audio"


def test_ids_come_from_a_column_from_file_names_or_from_the_rows_number(tmp_path):
    cells = [{"bytes": wav_bytes(n), "path": path} for n, path in enumerate([None, "a.wav"] * 2)]
    cells[3]["path"] = "b/c.wav"
    folder = save(dataset(cells, key=["w", "x", "y", "z"], number=[7, 8, 9, 10]), tmp_path / "set")
    assert list(read_hf(folder).ids) == ["00000000", "a.wav", "00000002", "c.wav"]
    assert list(read_hf(folder, id_column="key").ids) == ["w", "x", "y", "z"]
    assert read_hf(folder, id_column="key")[0].extra == '{"number":7}'
    assert list(read_hf(folder, id_column="number").ids) == ["7", "8", "9", "10"]
    assert list(read_hf(folder, id_column="#").ids) == [f"{n:08}" for n in range(4)]
    with pytest.raises(
        ValueError, match=r"dataset\.id_column: no; needed audio or key or number or #"
    ):
        read_hf(folder, id_column="no")


def test_columns_of_bytes_are_no_extra_and_others_are_bounded(tmp_path):
    images = [{"bytes": b"x" * 100, "path": None}] * 4
    columns = {
        "image": images,
        "raw": [b"y" * 100] * 4,
        "more": [[{"bytes": b"z"}]] * 4,
        "vector": [[0.5] * 5000] * 4,
        "words": [[{"w": "a", "at": 0.5}]] * 4,
        "score": [1.5, float("nan"), None, 2.0],
    }
    manifest = read_hf(save(four(**columns), tmp_path / "set"))
    found = [json.loads(entry.extra) for entry in manifest]
    assert list(found[0]) == ["text", "vector", "words", "score"]
    assert found[0]["vector"] is None
    assert found[0]["words"] == [{"w": "a", "at": 0.5}]
    assert [one["score"] for one in found] == [1.5, None, None, 2.0]


def test_a_row_without_bytes_is_the_file_that_it_names(tmp_path, monkeypatch):
    local = write_wav(tmp_path / "local" / "a.wav", 0.3)
    write_wav(tmp_path / "set" / "beside.wav", 0.3)
    made = four().data.table
    audio = pa.array(
        [
            {"bytes": None, "path": str(local)},
            {"bytes": None, "path": "beside.wav"},
            {"bytes": None, "path": None},
            None,
        ],
        made.schema.field("audio").type,
    )
    folder = put(made.set_column(0, made.schema.field("audio"), audio), tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    manifest = read_hf(folder)
    assert list(manifest.paths) == [str(local), f"{tmp_path}/set/beside.wav"]
    assert all(isinstance(item, Utterance) for item in AudioDataset(manifest))
    status = local.stat()
    assert manifest.opener.stamp(str(local)) == (status.st_size, status.st_mtime_ns)
    assert [(one.recording.id, one.reason) for one in manifest.failures] == [
        ("set:2", "bad_line"),
        ("set:3", "bad_line"),
    ]
    assert manifest.failures[0].detail == "row 2: neither bytes nor a path; needed a recording"


def test_a_column_of_paths_is_one_of_recordings(tmp_path):
    paths = [str(write_wav(tmp_path / f"{n}.wav", 0.2)) for n in range(2)]
    made = datasets.Dataset.from_dict({"file": paths, "audio": [1, 2]})
    manifest = read_hf(save(made, tmp_path / "set"), column="file")
    assert list(manifest.paths) == paths
    assert manifest.source.endswith("/set#file"), "another column is another source"
    with pytest.raises(ValueError, match=r"dataset\.column: audio holds int64; needed recordings"):
        read_hf(tmp_path / "set")
    with pytest.raises(ValueError, match=r"dataset\.column: wav; .*/set has file or audio"):
        read_hf(tmp_path / "set", column="wav")


def test_hostile_rows_are_lost_alone(tmp_path):
    cells = [wav_bytes(0), b"", b"no recording", b"RIFF", wav_bytes(4)[:50], wav_bytes(5)]
    names = ["a.wav", "b.wav", "c.wav", "../d.wav", "e\nf.wav", ".."]
    made = dataset([{"bytes": b, "path": p} for b, p in zip(cells, names, strict=True)])
    manifest = read_hf(save(made, tmp_path / "set"))
    assert list(manifest.ids) == ["a.wav", "b.wav", "c.wav", "d.wav"]
    found = {one.recording.id: one.reason for one in manifest.failures}
    assert found == {"set:4": "bad_id", "set:5": "bad_id"}
    kinds = [getattr(item, "reason", "saved") for item in AudioDataset(manifest)]
    assert kinds == ["saved", "empty", "undecodable", "undecodable"]


# --- the opener ----------------------------------------------------------------------------------


def test_an_opener_holds_nothing_open_when_it_is_pickled(tmp_path):
    manifest = read_hf(save(four(), tmp_path / "set"))
    opener = manifest.opener
    opener.open(manifest[0].path).close()
    assert len(pickle.dumps(opener)) < 300
    again = pickle.loads(pickle.dumps(opener))
    assert again == opener
    assert again.stamp(manifest[0].path) == opener.stamp(manifest[0].path)


def test_a_worker_opens_the_data_set_itself(tmp_path):
    manifest = read_hf(save(four(), tmp_path / "set"))
    expected = [item.waveform for item in AudioDataset(manifest)]
    copy = pickle.loads(pickle.dumps(AudioDataset(manifest.share())))
    assert all(torch.equal(item.waveform, one) for item, one in zip(copy, expected, strict=True))


def test_writing_the_data_set_anew_changes_the_stamp_of_every_row(tmp_path):
    folder = save(four(), tmp_path / "set")
    manifest = read_hf(folder)
    [file] = folder.glob("*.arrow")
    status = file.stat()
    stamps = {manifest.opener.stamp(path) for path in manifest.paths}
    assert stamps == {(status.st_size, status.st_mtime_ns)}
    os.utime(file, ns=(1, status.st_mtime_ns + 1))
    assert read_hf(folder).opener.stamp(manifest[0].path) == (
        status.st_size,
        status.st_mtime_ns + 1,
    )


def test_a_row_or_a_data_set_that_is_gone_is_a_missing_recording(tmp_path):
    folder = save(four(), tmp_path / "set")
    manifest = read_hf(folder)
    with pytest.raises(FileNotFoundError):
        manifest.opener.open(f"{manifest.source}/4")
    elsewhere = pickle.loads(pickle.dumps(manifest.opener))
    folder.rename(tmp_path / "moved")
    assert elsewhere.stamp(manifest[0].path) == MISSING
    with pytest.raises(FileNotFoundError):
        elsewhere.open(manifest[0].path)


# --- the user's mistakes -------------------------------------------------------------------------


def test_without_the_package_its_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    said = (
        r"dataset=hf: needs the package datasets, which is missing: pip install 'extract-ssl\[hf\]'"
    )
    with pytest.raises(ValueError, match=said):
        read_hf(tmp_path)


def test_what_is_no_data_set_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=rf"^{path}: no data set that can be read: "):
            read_hf(path)
    folder = save(four(), tmp_path / "set")
    [file] = folder.glob("*.arrow")
    file.write_bytes(b"no Arrow")
    with pytest.raises(ValueError, match=rf"^{folder}: no data set that can be read: "):
        read_hf(folder)


def test_a_folder_of_parquet_is_read_through_the_library(tmp_path):
    """What a data set cloned from the hub is; the hub itself is not reached here."""
    import pyarrow.parquet as pq

    (tmp_path / "parquet").mkdir()
    pq.write_table(four().data.table, tmp_path / "parquet" / "train-00000-of-00001.parquet")
    manifest = read_hf(tmp_path / "parquet")
    assert manifest.source == f"{tmp_path}/parquet/train#audio"
    assert list(manifest.ids) == [f"{n}.wav" for n in range(4)]
    assert all(isinstance(item, Utterance) for item in AudioDataset(manifest))
    assert read_hf(tmp_path / "parquet", "train").source == manifest.source


def test_it_is_read_by_the_rows_without_the_recordings(tmp_path):
    rows = 2_500
    made = datasets.Dataset.from_dict({"audio": [{"bytes": b"x", "path": None}] * rows})
    options = Options(kind="hf", path=str(save(made, tmp_path / "set")))
    items = list(read(options, Output()))
    assert not any(isinstance(item, Failure) for item in items)
    assert [item.id for item in items] == [f"{n:08}" for n in range(rows)]
    assert [item.path.rpartition("/")[2] for item in items] == [str(n) for n in range(rows)]
