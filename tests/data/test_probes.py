"""What headers say: of cuts, of recordings that are no files, and of what cannot be read."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from extract import internal
from extract.data import probes as module
from extract.data.durations import CHUNK, durations
from extract.data.probes import Probes, read_headers
from extract.internal import InternalErrors
from extract.manifest.manifest import Manifest
from extract.values import Entry
from support.openers import BareMemory
from support.recordings import pack, signal, wav_bytes


def wav(seconds: float, rate_hz: int = 16_000, num_channels: int = 1) -> bytes:
    values = signal(round(rate_hz * seconds) * num_channels)
    return wav_bytes(pack(values, "s16"), "s16", rate_hz, num_channels)


MEMORY = {
    "a.wav": wav(2.0),
    "b.wav": wav(0.3, 44_100, 2),
    "broken.wav": b"RIFF but not really",
    "empty.wav": b"",
}
CUTS = [
    Entry("one", "a.wav", 0.0, 0.5),
    Entry("whole", "b.wav"),
    Entry("two", "a.wav", 1.5, 1.0),  # of which the file holds half a second
    Entry("rest", "a.wav", 0.25),
    Entry("behind", "a.wav", 2.5, 1.0),
    Entry("bad", "broken.wav", 0.0, 1.0),
    Entry("gone", "gone.wav"),
    Entry("nothing", "empty.wav"),
]


def manifest_of(entries: list[Entry]) -> Manifest:
    return replace(Manifest.from_entries(entries), opener=BareMemory(MEMORY))


def probed(manifest: Manifest, errors: InternalErrors | None = None):
    read: list[int] = []

    def scan(items, chunks):
        for chunk in chunks:
            assert len(chunk) <= CHUNK
            read.extend(map(int, chunk))
            yield [items[int(index)] for index in chunk]

    told: list[int] = []
    found = read_headers(manifest, scan, told.append, errors)
    assert sum(told) == len(read)
    return found, read


def test_a_file_of_many_cuts_is_read_once_and_each_cut_is_counted():
    found, read = probed(manifest_of(CUTS))
    assert read == [0, 1, 5, 6, 7]
    assert found.rates == {16_000: 4, 44_100: 1}
    assert found.channels == {1: 4, 2: 1}
    assert found.codecs == {"pcm_s16le": 5}
    assert found.counted.tolist() == [True] * 5 + [False] * 3
    np.testing.assert_allclose(found.held_s, [0.5, 0.3, 0.5, 1.75, 0, 0, 0, 0], atol=1e-6)


def test_the_plans_seconds_are_those_of_a_run():
    manifest = manifest_of(CUTS)

    def scan(items, chunks):
        yield from ([items[int(index)] for index in chunk] for chunk in chunks)

    of_a_run = durations(manifest, None, scan, lambda _num: None)
    assert np.array_equal(probed(manifest)[0].planned_s, of_a_run)


def test_every_entry_that_cannot_be_read_is_a_failure_with_its_reason():
    found, _read = probed(manifest_of([*CUTS, Entry("bad too", "broken.wav", 1.0, 1.0)]))
    named = [(one.recording.id, one.recording.index, one.reason) for one in found.failures]
    assert sorted(named, key=lambda item: item[1]) == [
        ("behind", 4, "empty"),
        ("bad", 5, "undecodable"),
        ("gone", 6, "missing"),
        ("nothing", 7, "empty"),
        ("bad too", 8, "undecodable"),
    ]
    assert found.is_read.tolist() == [True] * 4 + [False] * 5


def test_nothing_is_nothing():
    found, read = probed(manifest_of([]))
    assert (read, found.failures, found.rates) == ([], [], Counter())
    assert len(found.planned_s) == len(found.is_read) == 0


@pytest.mark.parametrize("give_up_after", [2, 20])
def test_a_fault_of_ours_is_counted_and_many_end_it(monkeypatch, give_up_after):
    monkeypatch.setattr(internal, "GIVE_UP_AFTER", give_up_after)
    monkeypatch.setattr(module, "CHUNK", 1)
    monkeypatch.setattr(module, "probe", lambda file, where: 1 / 0)
    errors = InternalErrors()
    found, read = probed(manifest_of([Entry(str(n), "a.wav") for n in range(5)]), errors)
    assert len(read) == min(5, give_up_after)
    assert {one.reason for one in found.failures} == {"internal_error"}
    assert errors.num == len(read)


def test_an_item_is_a_value_of_a_dataset():
    items = Probes(manifest_of(CUTS))
    assert len(items) == len(CUTS)
    index, header = items[1]
    assert (index, header.rate_hz, header.num_channels, header.counted) == (1, 44_100, 2, True)
