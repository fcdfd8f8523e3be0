"""Cuts of recordings: a function of the recording and the cut's times, through every stage."""

import numpy as np
import pytest
import torch

from extract.data.dataset import AudioDataset, identify, stamp
from extract.data.durations import durations
from extract.opener import LocalFiles
from extract.store.ledger import Ledger, Record
from extract.store.resume import ResumePolicy, remaining
from extract.store.store import Store
from extract.values import AudioSettings, Entry, Failure, Utterance
from support.decoding import decode, prepare
from support.openers import Entries
from support.recordings import speech_like, write_coded, write_floats, write_wav

CUTS = [(0.0, None), (0.5, 0.4), (0.25001, 1.3), (1.0, None), (2.0, 9.0)]


@pytest.fixture(params=["a.wav", "a.mp3", "a.m4a"])
def path(request, tmp_path):
    path = tmp_path / request.param
    return write_wav(path, 3.1, rate=32_000) if path.suffix == ".wav" else write_coded(path)


def cuts(path, times=CUTS, opener=None):
    entries = [Entry(f"{number}", str(path), *ends) for number, ends in enumerate(times)]
    return Entries(entries, opener or LocalFiles())


def test_a_cut_is_what_a_file_of_its_samples_alone_would_be(path, tmp_path):
    whole = decode(path)
    for item, (offset_s, duration_s) in zip(AudioDataset(cuts(path)), CUTS, strict=True):
        assert isinstance(item, Utterance)
        stop = None if duration_s is None else round((offset_s + duration_s) * 32_000)
        alone = write_floats(tmp_path / "alone.wav", whole[round(offset_s * 32_000) : stop])
        expected = prepare(alone, AudioSettings())
        assert torch.equal(item.waveform, torch.from_numpy(expected.waveform))
        assert torch.equal(item.wav32k, torch.from_numpy(expected.wav32k))
        known = item.recording
        assert (known.peak, known.duration_s) == (expected.peak, expected.duration_s)
        assert known.clipped_samples == expected.clipped_samples
        assert known.path == str(path)


def test_a_cut_that_cannot_be_used_is_named_with_its_times(path):
    items = list(AudioDataset(cuts(path, [(5.0, 1.0), (5.0, None), (1.0, 0.01), (0.0, None)])))
    reasons = [item.reason for item in items if isinstance(item, Failure)]
    assert reasons == ["empty", "empty", "too_short"]
    assert items[0].detail.startswith(f"{path} from 5 s to 6 s: the recording ends at 3.")
    assert items[1].detail.startswith(f"{path} from 5 s to the end: the recording ends at 3.")
    assert items[2].detail.startswith(f"{path} from 1 s to 1.01 s: ")
    assert isinstance(items[3], Utterance)


def test_the_gates_are_asked_of_the_cut(path):
    settings = AudioSettings(min_duration_s=0.5, max_duration_s=1.5)
    items = AudioDataset(cuts(path), settings)
    reasons = [item.reason if isinstance(item, Failure) else None for item in items]
    assert reasons == ["too_long", "too_short", None, "too_long", None]


# --- the plan ------------------------------------------------------------------------------------


def test_a_cut_that_says_how_long_it_is_needs_no_header_and_an_open_one_its_recordings(tmp_path):
    path = write_wav(tmp_path / "a.wav", 3.0)
    manifest = cuts(path, [(0.5, 0.4), (0.0, None), (1.0, None), (2.0, 9.0), (7.0, None)])
    asked = []

    def scan(items, chunks):
        for chunk in chunks:
            asked.extend(chunk.tolist())
            yield [items[int(index)] for index in chunk]

    expected = [0.4, 3.0, 2.0, 9.0, 0.0]
    for _ in range(2):
        found = durations(manifest, tmp_path / "index", scan, lambda _num: None)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert asked == [1, 2, 4], "and none the second time"
    whole = durations(cuts(path, [(0.0, None)]), tmp_path / "index", scan, lambda _num: None)
    assert (whole.tolist(), len(asked)) == ([3.0], 3), "its row is that of the recording"


def test_cuts_of_known_length_are_planned_without_a_look_at_their_recordings(tmp_path):
    class NoOpener:
        """Every call is an error."""

    manifest = cuts("nowhere.wav", [(0.0, 2.0), (2.0, 1.0)], NoOpener())
    found = durations(manifest, tmp_path / "index", None, None)
    assert found.tolist() == [2.0, 1.0]


# --- running again -------------------------------------------------------------------------------


def test_a_whole_recordings_stamp_is_its_files_and_a_cuts_its_own(tmp_path):
    path = write_wav(tmp_path / "a.wav", 1.0)
    status = path.stat()
    whole = identify(cuts(path), 0)
    assert (whole.size, whole.mtime_ns) == (status.st_size, status.st_mtime_ns)
    entries = [Entry("a", str(path), *ends) for ends in [*CUTS, (0.5, 0.4001), (0.5, None)]]
    stamps = [stamp(entry, LocalFiles()) for entry in entries]
    assert len(set(stamps)) == len(stamps)
    for size, mtime_ns in stamps:
        assert size == status.st_size
        assert abs(mtime_ns - status.st_mtime_ns) < 2**32
    again = Entry("b", str(path), 0.5, 0.400001)  # rounded, the same samples
    assert stamp(again, LocalFiles()) == stamps[1]
    assert stamp(Entry("a", str(tmp_path / "none"), 0.5, 0.4), LocalFiles()) == (-1, -1)
    assert stamp(Entry("a", str(path), 0, None), LocalFiles()) == stamps[0]


def test_a_cut_whose_times_moved_is_made_again(tmp_path):
    path = tmp_path / "a.wav"
    write_floats(path, speech_like(3.0, rate=32_000))
    store = Store(tmp_path / "store")
    store.create()
    ledger = Ledger(store.directory / "ledger.jsonl", fsync=False)
    times = [(0.0, 1.0), (1.0, 1.0), (2.0, None)]
    for index, entry in enumerate(manifest := cuts(path, times)):
        recording = identify(manifest, index)
        ledger.append(
            Record(
                entry.id,
                entry.path,
                "rejected",
                "silent",
                source_size=recording.size,
                source_mtime_ns=recording.mtime_ns,
            )
        )
    ledger.close()

    def todo(times) -> list[bool]:
        manifest = cuts(path, times)
        return remaining(manifest, store, ledger.path, ResumePolicy()).todo.tolist()

    assert todo(times) == [False, False, False]
    assert todo([(0.0, 1.0), (1.0, 0.9), (2.0, None)]) == [False, True, False]
