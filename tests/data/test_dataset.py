"""`AudioDataset`: every index gives a value, and a bad recording costs itself alone."""

import errno
import pickle
import re
from pathlib import Path

import psutil
import pytest
import torch

from extract.audio import prepare as prepare_module
from extract.audio import rates
from extract.data import dataset as module
from extract.data.dataset import AudioDataset
from extract.manifest.manifest import Manifest
from extract.manifest.sources.folder import read_folder
from extract.values import AudioSettings, Entry, Failure, Utterance
from support.decoding import prepare
from support.recordings import write_wav


@pytest.fixture
def recordings_of_all_kinds(tmp_path):
    write_wav(tmp_path / "a.wav", 0.5)
    write_wav(tmp_path / "short.wav", 0.01)
    (tmp_path / "text.wav").write_text("no recording")
    (tmp_path / "nowhere.wav").symlink_to(tmp_path / "nothing")
    return tmp_path


def test_a_recording_is_an_utterance_with_all_that_is_known_of_it(recordings_of_all_kinds):
    path = recordings_of_all_kinds / "a.wav"
    [item] = [
        item for item in AudioDataset(read_folder(path.parent)) if item.recording.id == "a.wav"
    ]
    assert isinstance(item, Utterance)
    expected = prepare(path, AudioSettings())
    assert torch.equal(item.waveform, torch.from_numpy(expected.waveform))
    assert torch.equal(item.wav32k, torch.from_numpy(expected.wav32k))
    recording = item.recording
    assert (recording.peak, recording.duration_s) == (expected.peak, 0.5)
    assert recording.size == path.stat().st_size
    assert recording.mtime_ns == path.stat().st_mtime_ns
    assert recording.path == str(path)


def test_without_training_audio_an_utterance_has_none_and_the_same_waveform(
    recordings_of_all_kinds,
):
    manifest = read_folder(recordings_of_all_kinds)
    with_it, without = AudioDataset(manifest)[0], AudioDataset(manifest, training_audio=False)
    assert len(with_it.wav32k) == 16_000
    for item in (without[0], without.shared()[0]):
        assert item.wav32k.shape == (0,)
        assert torch.equal(item.waveform, with_it.waveform)
        assert item.recording == with_it.recording


def test_a_recording_that_cannot_be_used_is_a_value_too(recordings_of_all_kinds):
    items = AudioDataset(read_folder(recordings_of_all_kinds))
    reasons = {item.recording.id: item.reason for item in items if isinstance(item, Failure)}
    assert reasons == {
        "short.wav": "too_short",
        "text.wav": "undecodable",
        "nowhere.wav": "missing",
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out_of_memory"),
        (OSError(errno.EIO, "Input/output error"), "undecodable"),
        (TypeError("open() got an unexpected keyword argument"), "internal_error"),
        (ZeroDivisionError("rate"), "internal_error"),
    ],
)
def test_whatever_is_raised_is_a_value_and_a_fault_of_ours_is_never_the_files(
    recordings_of_all_kinds, monkeypatch, error, reason
):
    def surprise(*_arguments, **_options):
        raise error

    monkeypatch.setattr(module, "prepare", surprise)
    item = AudioDataset(read_folder(recordings_of_all_kinds))[0]
    assert isinstance(item, Failure)
    assert item.reason == reason
    assert item.detail.startswith(str(recordings_of_all_kinds))


def test_an_internal_error_names_the_line_of_ours_that_led_to_it(
    recordings_of_all_kinds, monkeypatch
):
    def resample(*args, **options):
        raise TypeError("no such quality")

    monkeypatch.setattr(rates.soxr, "resample", resample)
    item = AudioDataset(read_folder(recordings_of_all_kinds))[0]
    path = recordings_of_all_kinds / "a.wav"
    said = re.fullmatch(rf"{path}: TypeError: no such quality \(rates\.py:(\d+)\)", item.detail)
    line = Path(rates.__file__).read_text().splitlines()[int(said[1]) - 1]
    assert "soxr.resample(" in line


def test_an_index_past_the_end_raises_index_error(recordings_of_all_kinds):
    items = AudioDataset(read_folder(recordings_of_all_kinds))
    assert len(items) == len(list(items)) == 4
    with pytest.raises(IndexError):
        items[4]


def test_the_settings_are_followed(recordings_of_all_kinds):
    manifest = read_folder(recordings_of_all_kinds)
    items = AudioDataset(manifest, AudioSettings(max_duration_s=0.4))
    assert items[0].reason == "too_long"
    plain = AudioDataset(manifest)[0]
    quiet = AudioDataset(manifest, AudioSettings(alpha=0.0))[0]
    assert not torch.equal(plain.wav32k, quiet.wav32k)


def test_an_item_may_have_no_training_audio_and_be_of_unit_variance(recordings_of_all_kinds):
    manifest = read_folder(recordings_of_all_kinds)
    plain = AudioSettings(rate_path="direct", mix="mean", gain="none", scale=1.0, max_peak=None)
    for dataset in (
        AudioDataset(manifest, plain, unit_variance=True),
        AudioDataset(manifest, plain, unit_variance=True).shared(),
    ):
        item = dataset[0]
        assert isinstance(item, Utterance)
        assert (item.wav32k.shape, item.wav32k.dtype) == ((0,), torch.int16)
        assert abs(float(item.waveform.mean())) < 1e-5
        assert float(item.waveform.var()) == pytest.approx(1, abs=1e-3)
        assert item.recording.clipped_samples == 0
    raw = AudioDataset(manifest, plain)[0]
    assert isinstance(raw, Utterance)
    assert raw.recording == item.recording
    assert float(raw.waveform.var()) < 0.5


def test_size_and_time_are_those_before_decoding(tmp_path, monkeypatch):
    """So that a recording which changes in mid-decode is seen as changed by the next run."""
    path = write_wav(tmp_path / "a.wav", 0.5)
    before = path.stat()

    def prepare_while_it_changes(*arguments, **options):
        prepared = prepare_module.prepare(*arguments, **options)
        write_wav(path, 0.9)
        return prepared

    monkeypatch.setattr(module, "prepare", prepare_while_it_changes)
    item = AudioDataset(read_folder(tmp_path))[0]
    assert (item.recording.size, item.recording.mtime_ns) == (before.st_size, before.st_mtime_ns)


def open_files() -> int:
    return psutil.Process().num_fds() if hasattr(psutil.Process, "num_fds") else 0


def test_a_dataset_travels_to_workers_and_holds_nothing_open(recordings_of_all_kinds):
    items = AudioDataset(read_folder(recordings_of_all_kinds))
    before = open_files()
    first = items[0]
    copy = pickle.loads(pickle.dumps(items))
    assert torch.equal(copy[0].waveform, first.waveform)
    assert open_files() == before


def test_a_path_that_no_file_can_have_is_missing_or_undecodable():
    manifest = Manifest.from_entries(
        [Entry("a.wav", "/no\0where"), Entry("b.wav", "/" + "x" * 5000)]
    )
    for item in AudioDataset(manifest):
        assert isinstance(item, Failure)
        assert item.reason in {"missing", "undecodable"}
        assert item.recording.size == -1
