"""Recordings at URLs come out of workers of every kind, whatever the main process has open."""

import pickle
import sys
import zipfile
from multiprocessing import forkserver

import numpy as np
import pytest
import torch

from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.data.loader import ResilientLoader
from extract.data.workers import Options
from extract.manifest.manifest import Manifest
from extract.opener import LocalFiles
from extract.remote.opener import AnyFiles
from extract.values import Entry, Failure
from support.recordings import write_wav

NUM = 12
SPAWN = pytest.param("spawn", marks=pytest.mark.slow)


@pytest.fixture
def manifest(web, s3, tmp_path):
    """Recordings of this machine, on a server, in a bucket and in a zip, in turn."""
    bucket, entries = s3(), []
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(NUM):
            path = write_wav(tmp_path / f"{number:02}.wav", 0.2 + number / 20, number)
            archive.write(path, path.name)
            web.files[f"/{path.name}"] = path.read_bytes()
            urls = (
                str(path),
                f"{web.url}/{path.name}",
                bucket.put(path.name, path.read_bytes()),
                f"zip://{path.name}::{tmp_path}/all.zip",
            )
            entries.append(Entry(path.name, urls[number % 4]))
    return Manifest.from_entries(entries)


@pytest.mark.parametrize("start_method", ["fork", "forkserver", SPAWN])
def test_they_come_out_of_workers_as_files_do(manifest, tmp_path, start_method):
    forkserver._forkserver._stop()  # one that an earlier test started lacks the server's address
    entries = [Entry(entry.id, str(tmp_path / entry.id)) for entry in manifest]
    expected = list(AudioDataset(Manifest.from_entries(entries)))
    opener = manifest.opener
    for entry in manifest:  # the main process has a session, its thread, and the archive open
        opener.stamp(entry.path)
        with opener.open(entry.path) as file:
            assert file.read(4) == b"RIFF"
    num_workers = 2 if start_method == "fork" else 1  # others take seconds to start
    options = Options(num_workers, timeout_s=60, start_method=start_method)
    dataset = AudioDataset(manifest if start_method == "fork" else manifest.share())
    batches = [np.array([number]) for number in range(NUM)]
    for number, batch in enumerate(ResilientLoader(dataset, batches, collate, None, options)):
        assert not batch.failures
        assert torch.equal(batch.waveforms[0], expected[number].waveform)
        recording = batch.recordings[0]
        assert (recording.size, recording.mtime_ns) == opener.stamp(manifest[number].path)
    with opener.open(manifest[3].path) as file:  # and the main process goes on
        assert file.read(4) == b"RIFF"


def test_a_server_that_hangs_costs_its_recordings_and_no_other(web, tmp_path):
    content = write_wav(tmp_path / "a.wav", 0.3).read_bytes()
    web.files = {"/hangs.wav": content, "/good.wav": content}
    web.faults = {"/hangs.wav": "hang"}
    names = ("hangs.wav", "good.wav")
    manifest = Manifest.from_entries(Entry(name, f"{web.url}/{name}?token=1") for name in names)

    def crashed(index, cause):
        return index, cause

    options = Options(num_workers=1, timeout_s=1.0, start_method="fork")
    items = AudioDataset(manifest)
    found = list(ResilientLoader(items, [np.array([0, 1])], list, crashed, options))
    assert (0, "hung for 1 s (loader.timeout_s)") in found
    assert [batch[0].recording.id for batch in found if isinstance(batch, list)] == ["good.wav"]


def test_an_opener_is_chosen_by_the_paths():
    assert Manifest.from_entries([Entry("a:b.wav", "/in/a:b.wav")]).opener == LocalFiles()
    entries = [Entry("a.wav", "/in/a.wav"), Entry("b.wav", "memory://in/b.wav")]
    manifest = Manifest.from_entries(entries)
    assert isinstance(manifest.opener, AnyFiles)
    assert isinstance(manifest.subset([0]).opener, AnyFiles)
    assert isinstance(pickle.loads(pickle.dumps(manifest)).opener, AnyFiles)


def test_secrets_are_in_no_record_of_a_recording(web, tmp_path):
    web.files["/good.wav"] = write_wav(tmp_path / "a.wav", 0.3).read_bytes()
    web.faults = {"/bad.wav": 403}
    host = web.url.removeprefix("http://")
    urls = [f"http://me:s3cret@{host}/{name}.wav?sig=s3cret" for name in ("good", "bad", "none")]
    urls.append(f"http://me:s3cret@{host}/good.wav?sig=s3cret")
    names = ["good.wav", "bad.wav", "none.wav", "bad\0id"]
    manifest = Manifest.from_entries(map(Entry, names, urls))
    items = [*AudioDataset(manifest), *manifest.failures]
    reasons = [item.reason if isinstance(item, Failure) else None for item in items]
    assert reasons == [None, "undecodable", "missing", "bad_id"]
    assert "s3cret" not in repr([item.recording for item in items] + items[1:])
    assert items[0].recording.path == f"http://***@{host}/good.wav?sig=***"
    with pytest.raises(ValueError, match=r"sig=\*\*\*") as caught:
        Manifest.from_entries(Entry("a.wav", url) for url in urls)
    assert "s3cret" not in str(caught.value)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    with pytest.raises(ValueError, match="needs the package gcsfs, which is missing"):
        Manifest.from_entries([Entry("a.wav", "gs://bucket/a.wav")])
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ValueError, match=r"fsspec, which is missing: pip install 'extract-ssl\[re"):
        Manifest.from_entries([Entry("a.wav", "https://me:s3cret@host/a.wav")])
    Manifest.from_entries([Entry("a.wav", "/in/a.wav")])
