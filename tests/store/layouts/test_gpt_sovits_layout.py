"""GPT-SoVITS's two folders: these bytes, read back as they were put."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from extract.data.dataset import AudioDataset
from extract.manifest.manifest import Manifest
from extract.manifest.sources.folder import read_folder
from extract.shard import Shard
from extract.store.layout import Kept
from extract.store.resharding import reshard
from extract.store.resume import ResumePolicy, remaining
from extract.store.store import Store
from extract.values import AudioSettings, Entry
from support.command import TINY
from support.recordings import DEMO
from support.stores import encoded, ledger, put

GOLDEN = Path(__file__).parent / "golden_files"
DTYPES = [torch.float16, torch.float32, torch.bfloat16]
# (1, num_frames, hidden_size) and samples, of which the golden files are made
VALUES = ((torch.arange(12, dtype=torch.float32) - 3.5) / 8).view(1, 3, 4).mT
WAV = torch.arange(-3, 4, dtype=torch.int16) * 4681
# What the demo's store holds: frames, and bytes of the training audio.
DEMO_STORE = {
    "en_all-circuits-busy-now.wav": (89, 115_334),
    "en_demo-nomatch.wav": (182, 234_220),
    "en_something-terribly-wrong.mp3": (135, 174_100),
    "en_tt-weasels.wav": (147, 188_908),
    "en_vm-nonumber.wav": (149, 191_724),
    "es_dir-welcome.wav": (95, 122_316),
    "es_tt-somethingwrong.wav": (119, 153_868),
    "es_vm-savemessage.ogg": (138, 177_356),
    "fr_demo-moreinfo.wav": (115, 148_564),
    "fr_queue-quantity2.flac": (148, 191_012),
    "fr_queue-youarenext.wav": (142, 183_284),
    "fr_tt-monkeysintro.wav": (111, 142_796),
}
WAV_HEADER = "<4sI4s4sIHHIIHH4sI"


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "store", fsync=False)
    store.create()
    return store


def save(store: Store, id_: str, features=VALUES, wav=WAV) -> Kept:
    [kept] = store.layout.put(encoded(id_, features, wav))
    return kept


# --- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_files_are_made_of_these_bytes(store, dtype):
    """Stores outlive versions. Another torch writes another archive around the same numbers."""
    kept = save(store, "a.wav", VALUES.to(dtype))
    feature, wav = (store.directory / name for name, *_ in kept.files)
    assert wav.read_bytes() == (GOLDEN / "audio.wav").read_bytes()
    golden = GOLDEN / f"{str(dtype).removeprefix('torch.')}.pt"
    if torch.__version__.startswith("2.11."):
        assert feature.read_bytes() == golden.read_bytes()
    for path in (feature, golden):
        assert torch.equal(torch.load(path, weights_only=True), VALUES.to(dtype).mT)


def test_the_demos_store_is_what_it_always_was(command, tmp_path):
    assert command("dataset=demo", *TINY, "store.dir=out", "loader.num_workers=0") == 0
    records = {record["id"]: record for record in ledger(tmp_path / "out")}
    prepared = AudioDataset(read_folder(DEMO), AudioSettings())
    samples = {one.recording.id: one.wav32k for one in prepared}
    found = {}
    for id_, record in records.items():
        (feature, _, _, feature_crc), (wav, _, wav_bytes, wav_crc) = record["files"]
        assert (feature, wav) == (f"4-cnhubert/{id_}.pt", f"5-wav32k/{id_}")
        data, sound = ((tmp_path / "out" / name).read_bytes() for name in (feature, wav))
        assert [zlib.crc32(data), zlib.crc32(sound)] == [feature_crc, wav_crc]
        features = torch.load(io.BytesIO(data), weights_only=True)
        assert (features.dtype, features.shape) == (torch.float32, (1, 32, record["num_frames"]))
        pcm = samples[id_].numpy().astype("<i2").tobytes()
        assert sound == b"".join((header(len(pcm)), pcm))
        found[id_] = (record["num_frames"], wav_bytes)
    assert found == DEMO_STORE
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("4-cnhubert", "5-wav32k", "ledger.jsonl", "metadata.json", ".extract")
    }


def header(num_bytes: int) -> bytes:
    """Of a WAV with so many bytes of int16 mono samples at 32 kHz."""
    form = (b"fmt ", 16, 1, 1, 32_000, 64_000, 2, 16)
    return struct.pack(WAV_HEADER, b"RIFF", 36 + num_bytes, b"WAVE", *form, b"data", num_bytes)


NO_WAV = torch.empty(0, dtype=torch.int16)


@pytest.mark.parametrize("checksum", [False, True])
def test_without_training_audio_the_features_alone_are_written_and_kept(store, checksum):
    kept = save(store, "a.wav", wav=NO_WAV)
    assert [name for name, *_ in kept.files] == ["4-cnhubert/a.wav.pt"]
    files = [path for path in store.directory.rglob("*") if path.is_file()]
    assert files == [store.directory / "4-cnhubert" / "a.wav.pt"]
    line = {"id": "a.wav", "files": [list(file) for file in kept.files]}
    assert store.layout.kept(line) == kept
    assert store.intact({**line, "status": "saved"}, checksum=checksum)
    assert store.layout.has_files("a.wav")
    assert list(store.layout.ids_of_files()) == ["a.wav"]
    assert torch.equal(store.layout.read(kept), VALUES)
    files[0].write_bytes(files[0].read_bytes()[:-1])
    assert not store.intact({**line, "status": "saved"}, checksum=checksum)
    store.layout.discard("a.wav")
    assert not files[0].exists()


def test_a_line_names_features_alone_or_with_the_training_audio_and_nothing_else(store):
    feature, wav = save(store, "a.wav").files
    for files in ([wav], [wav, feature], [feature, feature], [feature, wav, wav], []):
        assert store.layout.kept({"id": "a.wav", "files": files}) is None
    for files in ([feature], [feature, wav]):
        assert store.layout.kept({"id": "a.wav", "files": files}).files == tuple(files)


def test_a_second_of_audio_takes_what_is_said(store):
    features = torch.zeros(1, 768, 500, dtype=torch.float16).mT  # 10 s
    kept = save(store, "a.wav", features, torch.zeros(320_000, dtype=torch.int16))
    taken = sum(size for _name, _offset, size, _crc in kept.files)
    assert 10 * store.layout.bytes_per_second(768, 2, 50) == pytest.approx(taken, rel=0.01)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_features_are_read_as_they_were_put(store, dtype):
    features = torch.randn(1, 50, 8).to(dtype)
    found = store.layout.read(save(store, "deep/a.wav", features))
    assert found.dtype == dtype
    assert torch.equal(found, features)


def test_a_line_of_the_first_version_leads_to_its_features(store):
    (_, _, feature_bytes, _), (_, _, wav_bytes, wav_crc32) = save(store, "a.wav").files
    old = {"id": "a.wav", "feature_bytes": feature_bytes, "wav_bytes": wav_bytes}
    kept = store.layout.kept(old | {"wav_crc32": wav_crc32})
    assert store.layout.intact(kept, checksum=True)
    assert torch.equal(store.layout.read(kept), VALUES)
    for lines in ({"feature_bytes": "9"}, {"wav_bytes": None}, {"wav_crc32": 7}):
        assert not store.intact(old | {"wav_crc32": wav_crc32} | lines, checksum=True)


def test_a_file_that_cannot_be_read_is_named(store):
    kept = save(store, "a.wav")
    path = store.directory / "4-cnhubert" / "a.wav.pt"
    whole = path.read_bytes()
    for damaged in (whole[:-50], b"", b"text", whole.replace(b"PK", b"KP")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"4-cnhubert/a\.wav\.pt"):
            store.layout.read(kept)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match=r"a\.wav\.pt: needed a tensor \(1, dimensions, frames\)"):
        store.layout.read(kept)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        store.layout.read(kept)


def test_nothing_is_read_through_a_link(store, tmp_path):
    kept = save(store, "a.wav")
    path = store.directory / "4-cnhubert" / "a.wav.pt"
    path.rename(tmp_path / "elsewhere.pt")
    path.symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(OSError, match="Not a regular file"):
        store.layout.read(kept)


def test_the_ids_of_all_files_are_told_whoever_wrote_them(store):
    save(store, "deep/a.wav")
    for name in ("4-cnhubert/b.wav.pt", "5-wav32k/c.wav", "4-cnhubert/no features", "5-wav32k/d"):
        (store.directory / name).touch()
    (store.directory / "5-wav32k" / ".tmp-notes").touch()
    assert set(store.layout.ids_of_files()) == {"deep/a.wav", "b.wav", "c.wav", "d"}
    there = [id_ for id_ in ("deep/a.wav", "b.wav", "c.wav", "e") if store.layout.has_files(id_)]
    assert there == ["deep/a.wav", "b.wav", "c.wav"]


def test_a_line_that_names_another_utterances_files_is_not_read(store):
    """A byte of the id changed: the line would say that an utterance is saved which is not."""
    files = put(store, "x.wav", VALUES, WAV)
    path = store.directory / "ledger.jsonl"
    record = {"path": "/there", "status": "saved", "files": files}
    path.write_text("".join(json.dumps(record | {"id": id_}) + "\n" for id_ in ("x.wav", "y.wav")))
    assert [record["id"] for _line, record in store.read_lines(path)] == ["x.wav"]
    both = path.read_text()
    reshard(store, Shard(0, 2))
    assert [record["id"] for record in ledger(store.directory)] == ["x.wav"]
    for old in store.directory.glob("ledger*"):
        old.unlink()
    path.write_text(both)
    manifest = Manifest.from_entries([Entry("x.wav", "/there")])
    assert not remaining(manifest, store, path, ResumePolicy()).todo.any()
    assert [record["id"] for record in ledger(store.directory)] == ["x.wav"]


def test_the_options_are_read_without_torch():
    """`--help` is the options of every layout."""
    code = "import sys, extract.store.layouts.gpt_sovits; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
