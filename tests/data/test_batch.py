"""`collate` and `Batch`: padding is zeros, nothing is lost or mixed up on the way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from extract.data import durations as durations_module
from extract.data import transport
from extract.data.batch import Batch, collate
from extract.data.dataset import AudioDataset
from extract.data.plan import QUADRATIC_S, plan_batches
from extract.manifest.sources.folder import read_folder
from extract.opener import LocalFiles
from extract.training.loader import make_loader
from extract.values import Entry, Failure, Recording, Utterance
from support.openers import Entries
from support.recordings import write_wav


def utterance(index: int, num_samples: int) -> Utterance:
    waveform = torch.full((num_samples,), index + 1.0)
    return Utterance(Recording(index, f"{index}", ""), waveform, waveform.repeat(2).short())


def failure(index: int) -> Failure:
    return Failure(Recording(index, f"{index}", ""), "missing", "")


def check(batch: Batch) -> list[int]:
    """Indices in the batch; everything that belongs to each is checked."""
    assert batch.waveforms.shape[0] == len(batch) == len(batch.wavs())
    for row, length, wav, recording in zip(
        batch.waveforms, batch.lengths, batch.wavs(), batch.recordings, strict=True
    ):
        assert (row[:length] == recording.index + 1).all()
        assert not row[length:].any()
        assert len(wav) == 2 * length
        assert (wav == recording.index + 1).all()
    if len(batch):
        assert batch.waveforms.shape[1] == batch.lengths.max(), "no more padding than needed"
    return [recording.index for recording in batch.recordings]


def test_a_batch_without_training_audio_carries_nothing_for_it():
    quiet = [
        replace(utterance(index, 400 + index), wav32k=torch.empty(0, dtype=torch.int16))
        for index in range(3)
    ]
    batch = collate([quiet[0], failure(7), *quiet[1:]])
    assert batch.wav32k.shape == (0,)
    assert batch.wav32k.dtype == torch.int16
    assert batch.wav_lengths.tolist() == [0, 0, 0]
    assert batch.lengths.tolist() == [400, 401, 402]
    for part in (batch, *batch.split(0.05), batch.rows(1, 3)):
        assert [len(wav) for wav in part.wavs()] == [0] * len(part)
        assert part.wav32k.numel() == 0
    assert [len(part) for part in batch.split(0.05)] == [1, 1, 1]


def test_failures_travel_beside_the_utterances():
    batch = collate([failure(0), utterance(1, 500), failure(2), utterance(3, 700)])
    assert check(batch) == [1, 3]
    assert [failed.recording.index for failed in batch.failures] == [0, 2]
    assert batch.padded_seconds == pytest.approx(2 * 700 / 16_000)


def test_a_batch_may_hold_nothing_but_failures():
    batch = collate([failure(0), failure(1)])
    assert check(batch) == []
    assert len(batch.failures) == 2
    assert batch.cost_s() == batch.padded_seconds == 0
    assert list(batch.split(1.0)) == []


@given(st.lists(st.integers(400, 3000), min_size=1, max_size=12), st.data())
def test_rows_keep_what_they_name(sizes, data):
    batch = collate([utterance(index, size) for index, size in enumerate(sizes)])
    start = data.draw(st.integers(0, len(sizes) - 1))
    stop = data.draw(st.integers(start + 1, len(sizes)))
    assert check(batch.rows(start, stop)) == list(range(start, stop))


@given(
    st.lists(st.integers(400, 30_000), min_size=1, max_size=12),
    st.floats(0.01, 20),
    st.sampled_from([QUADRATIC_S, 0.5]),
)
def test_parts_keep_everyone_in_order_and_the_budget(sizes, budget, quadratic_s):
    batch = collate([utterance(index, size) for index, size in enumerate(sizes)])
    parts = list(batch.split(budget, quadratic_s))
    assert [index for part in parts for index in check(part)] == list(range(len(sizes)))
    assert all(len(part) == 1 or part.cost_s(quadratic_s) <= budget for part in parts)


def test_a_batch_within_the_budget_is_not_copied():
    batch = collate([utterance(0, 500), utterance(1, 400)])
    assert list(batch.split(10.0)) == [batch]


def test_page_locked_memory_is_asked_for_the_waveforms_alone(monkeypatch):
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self.shape) or self)
    batch = collate([utterance(0, 500), failure(1)]).pin_memory()
    assert check(batch) == [0]
    assert len(batch.failures) == 1
    assert pinned == [(1, 500)]


@pytest.fixture
def dataset(tmp_path):
    for index, seconds in enumerate(np.random.default_rng(0).uniform(0.1, 0.5, 12)):
        write_wav(tmp_path / f"{index:02}.wav", seconds, index)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    return AudioDataset(read_folder(tmp_path))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_gives_the_plans_batches(dataset, num_workers):
    plan = plan_batches([0.3] * len(dataset), 1.0)
    loader = make_loader(dataset, batches=plan, num_workers=num_workers)
    seen = []
    for batch, indices in zip(loader, plan, strict=True):
        gone = [failed.recording.index for failed in batch.failures]
        here = [recording.index for recording in batch.recordings]
        assert sorted(here + gone) == sorted(indices.tolist())
        for row, length, recording in zip(
            batch.waveforms, batch.lengths, batch.recordings, strict=True
        ):
            assert torch.equal(row[:length], dataset[recording.index].waveform)
        seen += here
    assert len(seen) == 12


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("chunk", [4, 64])
def test_a_loader_plans_by_the_headers_that_it_reads(dataset, monkeypatch, num_workers, chunk):
    monkeypatch.setattr(durations_module, "CHUNK", chunk)
    seconds = [item.recording.duration_s or 0.0 for item in dataset]
    plan = plan_batches(seconds, 1.0)
    assert len(plan) > 3
    loader = make_loader(dataset, batch_seconds=1.0, num_workers=num_workers)
    assert [batch.tolist() for batch in plan] == list(loader.batch_sampler)
    num_seen = 0
    for batch, indices in zip(loader, plan, strict=True):
        gone = [failed.recording.index for failed in batch.failures]
        assert sorted([one.index for one in batch.recordings] + gone) == sorted(indices)
        num_seen += len(batch)
    assert num_seen == 12


def test_a_loader_over_cuts_plans_by_their_times(dataset):
    path = dataset.manifest[0].path
    entries = [Entry(f"{n}", path, 0.01 * n, 0.05 + 0.001 * n) for n in range(8)]
    cuts = AudioDataset(Entries(entries, LocalFiles()))
    [batch] = make_loader(cuts, num_workers=0)
    assert [one.index for one in batch.recordings] == list(range(7, -1, -1))
    for recording in batch.recordings:
        wanted = entries[recording.index].duration_s
        assert recording.duration_s == pytest.approx(wanted, abs=1 / 32_000)


def test_a_loader_whose_plan_is_given_reads_no_header(dataset, monkeypatch):
    monkeypatch.delattr(durations_module, "probe_duration_s")
    plan = [np.array([2, 0]), np.array([1])]
    loader = make_loader(dataset, batches=plan, num_workers=0)
    assert [[one.index for one in batch.recordings] for batch in loader] == [[2, 0], [1]]


def test_a_fault_of_ours_in_a_header_is_said_and_costs_only_the_plan(dataset, monkeypatch, caplog):
    def wrong(file, where):
        raise TypeError("a mistake of ours")

    monkeypatch.setattr(durations_module, "probe_duration_s", wrong)
    assert sum(len(batch) for batch in make_loader(dataset, num_workers=0)) == 12
    assert caplog.text.count("please report it") == 1


@pytest.mark.parametrize("full", [False, True])
def test_a_worker_collates_into_shared_memory_where_there_is_room(monkeypatch, full):
    monkeypatch.setattr(transport, "get_worker_info", lambda: "of a worker")
    if full:

        def no_room(num_bytes: int) -> None:
            raise RuntimeError("unable to allocate shared memory(shm): temporarily unavailable")

        monkeypatch.setattr(torch.UntypedStorage, "_new_shared", no_room)
    batch = collate([utterance(0, 700), failure(1), utterance(2, 400)])
    assert check(batch) == [0, 2]
    assert batch.waveforms.is_shared() == batch.wav32k.is_shared() == (not full)
    assert check(collate([failure(0)])) == []


def test_without_torchs_private_storage_batches_are_the_same(tmp_path, monkeypatch):
    for index in range(4):
        write_wav(tmp_path / f"{index}.wav", 0.2 + index / 10, index)
    dataset = AudioDataset(read_folder(tmp_path))
    batches = plan_batches([0.2, 0.3, 0.4, 0.5], 0.8)
    expected = list(make_loader(dataset, batches=batches, num_workers=1))
    for kind in torch.UntypedStorage.__mro__:
        if "_new_shared" in vars(kind):
            monkeypatch.delattr(kind, "_new_shared")
    found = list(make_loader(dataset, batches=batches, num_workers=1))
    assert len(found) == len(expected) == len(batches)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.waveforms, other.waveforms)
        assert torch.equal(one.wav32k, other.wav32k)
        assert one.waveforms.is_shared()
