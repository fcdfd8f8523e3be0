"""Decoded recordings that jobs share: the same bits, whole or not there, within their room."""

import errno
import multiprocessing
import os
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from extract import files
from extract.audio.decode import Decoded
from extract.data import dataset as module
from extract.data.dataset import AudioDataset
from extract.data.decoded import BLOCK_BYTES, HEAD, DecodedCache, is_worth_keeping, name_of
from extract.manifest.manifest import Manifest
from extract.values import AudioSettings, Entry, Failure, Recording, Utterance
from support.disks import tmpfs
from support.recordings import speech_like, write_coded, write_wav

PLAIN = AudioSettings(rate_path="direct", mix="mean", gain="none", scale=1.0, max_peak=None)
RECORDING = Recording(0, "a", "a.wav", 100, 7)
ENTRY = Entry("a", "a.wav")


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "kept").mkdir()
    return DecodedCache(str(tmp_path / "kept"), most_bytes=100 << 20)


def kept(cache: DecodedCache) -> set[str]:
    return {path.name for path in Path(cache.folder).iterdir()} - {"used"}


def decoded(num_samples: int, seed: int = 0) -> Decoded:
    samples = np.random.default_rng(seed).standard_normal(num_samples, np.float32)
    return Decoded(samples, 32_000, num_samples)


def recordings(folder: Path) -> Manifest:
    """Recordings of each kind whose decoding takes long, and a cut of one of them."""
    write_coded(folder / "a.mp3", duration_s=0.7)
    write_coded(folder / "b.m4a", duration_s=0.7)
    stereo = np.stack([speech_like(0.5, 1, 44_100), speech_like(0.5, 2, 44_100)], axis=1)
    soundfile.write(folder / "c.flac", stereo, 44_100)
    soundfile.write(folder / "d.wav", stereo, 44_100)
    entries = [Entry(path.name, str(path)) for path in sorted(folder.glob("?.*"))]
    cut = Entry("cut", str(folder / "c.flac"), 0.1, 0.2)
    return Manifest.from_entries([*entries, cut])


def assert_same(one: Utterance, other: Utterance) -> None:
    assert one.recording == other.recording
    assert torch.equal(one.waveform, other.waveform)
    assert torch.equal(one.wav32k, other.wav32k)


@pytest.mark.parametrize("first", [AudioSettings(), replace(PLAIN, rate_path="via_44k"), PLAIN])
def test_items_made_of_what_was_kept_are_those_of_the_recording(
    tmp_path, cache, monkeypatch, first
):
    manifest = recordings(tmp_path)
    assert all(isinstance(item, Utterance) for item in AudioDataset(manifest, first, decoded=cache))
    later = replace(first, alpha=0.9, maxx=0.4, scale=3.0)
    expected = list(AudioDataset(manifest, later))
    monkeypatch.setattr(module, "prepare", lambda *_, **_options: 1 / 0)
    again = pickle.loads(pickle.dumps(AudioDataset(manifest, later, decoded=cache)))
    for one, other in zip(again, expected, strict=True):
        assert_same(one, other)


def test_a_worker_that_is_spawned_reads_what_another_kept(cache):
    cache.put("name", decoded(1_000))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(cache.get, ("name",))
    assert np.array_equal(found.samples, decoded(1_000).samples)
    assert (found.rate_hz, found.end) == (32_000, 1_000)
    assert found.samples.flags.writeable


def test_a_recording_that_changed_is_decoded_anew(tmp_path, cache):
    manifest = recordings(tmp_path)
    before = AudioDataset(manifest, decoded=cache)[3]
    soundfile.write(tmp_path / "d.wav", speech_like(0.5, 3, 44_100), 44_100)
    assert_same(AudioDataset(manifest, decoded=cache)[3], AudioDataset(manifest)[3])
    assert not torch.equal(AudioDataset(manifest, decoded=cache)[3].wav32k, before.wav32k)


def test_a_wav_that_is_read_as_it_lies_is_not_kept(tmp_path, cache):
    paths = [write_wav(tmp_path / f"{rate}.wav", rate=rate) for rate in (32_000, 16_000)]
    manifest = Manifest.from_entries([Entry(path.name, str(path)) for path in paths])
    assert len(list(AudioDataset(manifest, decoded=cache))) == 2
    assert len(kept(cache)) == 1  # that at 16 kHz is resampled to 32 kHz
    assert len(list(AudioDataset(manifest, PLAIN, decoded=cache))) == 2
    assert len(kept(cache)) == 1  # both at their own rate
    lies = replace(decoded(9), as_it_lies=True)
    assert not is_worth_keeping(lies, "/a.wav")
    assert is_worth_keeping(lies, "s3://bucket/a.wav")


def test_what_a_later_job_refuses_is_said_as_without_what_was_kept(tmp_path, cache):
    """That channels cancel is seen in the recording alone."""
    wave = speech_like(0.5, rate=44_100)
    soundfile.write(tmp_path / "a.flac", np.stack([wave, -wave], axis=1), 44_100)
    write_coded(tmp_path / "b.mp3", duration_s=0.7)
    paths = [tmp_path / name for name in ("a.flac", "b.mp3")]
    manifest = Manifest.from_entries([Entry(path.name, str(path)) for path in paths])
    allowed = AudioSettings(gain="none", max_peak=None)
    assert all(isinstance(one, Utterance) for one in AudioDataset(manifest, allowed, decoded=cache))
    for settings in (AudioSettings(max_peak=0.1), AudioSettings(min_duration_s=9)):
        expected = list(AudioDataset(manifest, settings))
        assert list(AudioDataset(manifest, settings, decoded=cache)) == expected
        assert {type(one) for one in expected} == {Failure}
    silent, _ = AudioDataset(manifest, decoded=cache)
    assert "where they cancel" in silent.detail


@pytest.mark.parametrize(
    ("source", "entry", "recording", "settings"),
    [
        ("other", ENTRY, RECORDING, AudioSettings()),
        ("", ENTRY._replace(path="b.wav"), RECORDING, AudioSettings()),
        ("", ENTRY._replace(offset_s=0.5), RECORDING, AudioSettings()),
        ("", ENTRY._replace(duration_s=0.5), RECORDING, AudioSettings()),
        ("", ENTRY, replace(RECORDING, size=101), AudioSettings()),
        ("", ENTRY, replace(RECORDING, mtime_ns=8), AudioSettings()),
        ("", ENTRY, RECORDING, AudioSettings(mix="mean")),
        ("", ENTRY, RECORDING, AudioSettings(rate_path="direct")),
        ("", ENTRY, RECORDING, AudioSettings(max_duration_s=1)),
    ],
)
def test_what_decides_the_samples_is_in_their_name(source, entry, recording, settings):
    name = name_of("", ENTRY, RECORDING, AudioSettings())
    assert name_of(source, entry, recording, settings) != name
    louder = AudioSettings(alpha=0, maxx=0.1, scale=1, max_peak=None, min_duration_s=1)
    assert name_of("", ENTRY._replace(id="b"), replace(RECORDING, index=5), louder) == name


def test_a_recording_without_a_stamp_has_no_name():
    assert name_of("", ENTRY, replace(RECORDING, size=-1, mtime_ns=-1), AudioSettings()) is None


def test_all_workers_together_stay_within_the_room(cache):
    """Each is given a copy of the cache."""
    small = replace(cache, most_bytes=10 * BLOCK_BYTES)
    workers = [pickle.loads(pickle.dumps(small)) for _ in range(3)]
    for number in range(30):
        workers[number % 3].put(str(number), decoded(2 * BLOCK_BYTES // 4 - HEAD.size // 4))
    sizes = [Path(cache.folder, name).stat().st_size for name in kept(cache)]
    assert sizes == [2 * BLOCK_BYTES] * 5
    replace(cache, most_bytes=10 * BLOCK_BYTES).put("one more", decoded(1))
    assert "one more" not in kept(cache)


def test_workers_that_find_room_at_the_same_moment_do_not_exceed_it(cache, monkeypatch):
    small = replace(cache, most_bytes=2 * BLOCK_BYTES)
    monkeypatch.setattr(os, "fstat", lambda descriptor: SimpleNamespace(st_size=0))
    for number in range(4):
        small.put(str(number), decoded(100))
    assert kept(cache) == {"0", "1"}


def test_one_that_is_too_large_leaves_the_room_to_others(cache):
    small = replace(cache, most_bytes=2 * BLOCK_BYTES)
    small.put("large", decoded(BLOCK_BYTES))
    small.put("small", decoded(100))
    assert kept(cache) == {"small"}


def test_what_has_to_stay_free_stays_free(cache):
    replace(cache, spare_bytes=1 << 60).put("name", decoded(100))
    assert not kept(cache)


def test_a_full_disk_costs_what_did_not_fit_alone(tmp_path):
    with tmpfs(tmp_path / "small", "size=1m"):
        cache = DecodedCache(str(tmp_path / "small"), most_bytes=1 << 30)
        for number in range(3):
            cache.put(str(number), decoded(150_000, number))
        assert kept(cache) == {"0"}
        assert np.array_equal(cache.get("0").samples, decoded(150_000, 0).samples)


def test_an_entry_is_whole_or_not_there(cache, monkeypatch):
    def full(descriptor, parts):
        os.write(descriptor, bytes(parts[0])[:50])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", full)
        cache.put("name", decoded(100))
        assert not kept(cache)
    assert cache.get("name") is None
    cache.put("name", decoded(100))
    whole = Path(cache.folder, "name").read_bytes()
    for damaged in (whole[:-1], whole[:10], b"", b"x" + whole[1:]):
        Path(cache.folder, "name").write_bytes(damaged)
        assert cache.get("name") is None


def test_a_folder_that_is_gone_is_no_error(cache):
    Path(cache.folder).rmdir()
    cache.put("name", decoded(100))
    assert cache.get("name") is None
    assert not Path(cache.folder).exists()
