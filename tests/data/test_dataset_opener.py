"""A manifest's opener is what dataset, durations and resuming use, in workers of every kind."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.data.batch import collate
from extract.data.dataset import AudioDataset, identify
from extract.data.durations import Headers, durations
from extract.data.loader import ResilientLoader
from extract.data.workers import Options
from extract.manifest.manifest import Manifest
from extract.manifest.sources.folder import read_folder
from extract.opener import LocalFiles
from extract.shard import Shard
from extract.store.ledger import Ledger, Record
from extract.store.resume import ResumePolicy, remaining
from extract.store.store import Store
from extract.values import Entry, Failure
from support.openers import Memory, TarMembers, pack_tar
from support.posix import FORKS
from support.recordings import write_coded, write_wav


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    for index in range(5):
        write_wav(folder / f"{index}.wav", 0.2 + index / 10, index)
    write_coded(folder / "5.m4a", duration_s=1.0)
    (folder / "6.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture
def packed(folder, tmp_path) -> Manifest:
    """The folder's recordings in a tar, and one that is not there."""
    opener = pack_tar(tmp_path / "all.tar", sorted(folder.iterdir()))
    entries = [Entry(name, name) for name in [*sorted(opener.members), "gone.wav"]]
    return _with(entries, opener)


def _with(entries, opener) -> Manifest:
    return replace(Manifest.from_entries(entries), opener=opener)


@pytest.mark.parametrize("start_method", [*FORKS, "spawn"])
def test_members_of_a_tar_come_out_of_workers_as_their_files_do(folder, packed, start_method):
    expected = list(AudioDataset(read_folder(folder)))
    batches = [np.arange(0, 3), np.arange(3, 8)]
    options = Options(num_workers=2, start_method=start_method)
    loader = ResilientLoader(AudioDataset(packed.share()), batches, collate, None, options)
    first, second = loader
    found = [*zip(first.waveforms, first.lengths, first.wavs(), first.recordings, strict=True)]
    found += zip(second.waveforms, second.lengths, second.wavs(), second.recordings, strict=True)
    assert len(found) == 6
    for (row, length, wav, recording), item in zip(found, expected[:6], strict=True):
        assert torch.equal(row[:length], item.waveform)
        assert torch.equal(wav, item.wav32k)
        assert recording.duration_s == item.recording.duration_s
        assert (recording.size, recording.mtime_ns) == packed.opener.stamp(recording.path)
    reasons = {failed.recording.id: failed.reason for failed in second.failures}
    assert reasons == {"6.wav": "undecodable", "gone.wav": "missing"}


def test_the_opener_stays_with_every_part_of_a_manifest(packed):
    assert Manifest.from_entries([]).opener == LocalFiles()
    parts = [packed.subset([1]), packed.share(), packed[1:3], Shard(0, 3).part_of(packed)]
    assert all(part.opener is packed.opener for part in parts)


def test_durations_are_read_through_the_opener_and_again_where_its_stamp_changes(tmp_path, packed):
    index, asked = tmp_path / "index", []

    def scan(items: Headers, chunks):
        for chunk in chunks:
            asked.extend(chunk.tolist())
            yield [items[int(number)] for number in chunk]

    for _ in range(2):
        found = durations(packed, index, scan, lambda _num: None)
        expected = [0.2, 0.3, 0.4, 0.5, 0.6, 1.0, 0.0, 0.0]
        np.testing.assert_allclose(found, expected, atol=0.05)
        assert asked == list(range(8))
    opener = packed.opener
    moved = TarMembers(opener.tar, {**opener.members, "2.wav": opener.members["4.wav"]})
    found = durations(_with(packed, moved), index, scan, lambda _num: None)
    assert asked[8:] == [2]
    assert found[2] == found[4]


def test_a_line_holds_while_the_openers_stamp_does(tmp_path):
    store = Store(tmp_path / "store")
    store.create()
    ledger = Ledger(store.directory / "ledger.jsonl", fsync=False)
    before = _with([Entry(name, name) for name in "abc"], Memory({"a": b"1", "b": b"2"}))
    for number, entry in enumerate(before):
        known = identify(before, number)
        stamps = {"source_size": known.size, "source_mtime_ns": known.mtime_ns}
        ledger.append(Record(entry.id, entry.path, "rejected", "silent", **stamps))
    ledger.close()
    assert remaining(before, store, ledger.path, ResumePolicy()).todo.tolist() == [False] * 3
    after = _with(before, Memory({"a": b"1", "b": b"20", "c": b"3"}))
    assert remaining(after, store, ledger.path, ResumePolicy()).todo.tolist() == [False, True, True]


def test_an_opener_that_is_wrong_costs_a_recording_and_is_called_a_fault_of_the_program():
    class Wrong(Memory):
        def open(self, path):
            raise KeyError(path)

    [item] = AudioDataset(_with([Entry("a", "a")], Wrong({"a": b"1"})))
    assert isinstance(item, Failure)
    assert item.reason == "internal_error"


def test_the_opener_on_the_page_of_data_reads_a_zip(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["0.wav", "3.wav", "5.m4a"]
    with zipfile.ZipFile("recordings.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(folder / name, name)
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf8")
    [example] = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    found: dict = {"__name__": "example"}
    exec(compile(example, "docs/data.md", "exec", dont_inherit=True), found)
    items = list(found["dataset"])
    assert [item.recording.id for item in items] == names
    expected = {item.recording.id: item for item in AudioDataset(read_folder(folder))}
    for item in items:
        assert torch.equal(item.waveform, expected[item.recording.id].waveform)
    opener = found["dataset"].manifest.opener
    assert opener.stamp("0.wav")[0] == (tmp_path / "recordings.zip").stat().st_size
    with pytest.raises(FileNotFoundError):
        opener.open("none.wav")
