"""`stream_features`: the stored features of the same audio, all failures, nothing held."""

import gc
import json
import multiprocessing
import socket
from collections import Counter
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.encoder.encoder import Encoder
from extract.frames import num_frames
from extract.internal import GIVE_UP_AFTER
from extract.manifest.sources.folder import read_folder
from extract.models.load import load_model
from extract.training.batch import FeatureBatch
from extract.training.kmeans import fit_kmeans
from extract.training.loader import make_loader
from extract.training.stream import stream_features
from extract.values import Recording, Utterance
from support import posix
from support.augments import broken, shorter
from support.recordings import write_floats, write_wav
from support.stores import ledger
from support.units import by_scikit_learn

BROKEN = "broken.wav"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten recordings, and one that is none, in the middle."""
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(10):
        write_wav(folder / f"{index}.wav", 0.2 + index / 25, index)
    (folder / BROKEN).write_text("no recording")
    return folder


@pytest.fixture(scope="module")
def manifest(folder):
    return read_folder(folder)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(load_model("tiny_random"))


def loader_of(manifest, **options):
    wanted = {"batch_seconds": 2.0, "num_workers": 0, "shuffle": True} | options
    return make_loader(AudioDataset(manifest), **wanted)


def threes(manifest, **options):
    """Batches of three, in order; the recording that is none comes with two others."""
    batches = [range(start, min(len(manifest), start + 3)) for start in range(0, len(manifest), 3)]
    return make_loader(AudioDataset(manifest), batches=batches, num_workers=0, **options)


def by_id(batches) -> dict[str, torch.Tensor]:
    """Each utterance's features, (frames, dim), without padding, which is checked to be zeros."""
    found = {}
    for batch in batches:
        rows = zip(batch.recordings, batch.features, batch.feature_lengths.tolist(), strict=True)
        for recording, features, length in rows:
            assert recording.id not in found
            assert not features[length:].any()
            found[recording.id] = features[:length]
    return found


def ids(batches) -> list[str]:
    return [recording.id for batch in batches for recording in batch.recordings]


def failed(batches) -> list[tuple[str, str]]:
    return [(one.recording.id, one.reason) for batch in batches for one in batch.failures]


def test_features_on_the_fly_are_those_of_a_store(folder, extract_folder, tmp_path, encoder):
    extract_folder(folder, "loader.num_workers=0")
    store = tmp_path / "out"
    batches = list(stream_features(loader_of(read_folder(folder)), encoder))
    found = by_id(batches)
    assert len(found) == 10
    for name, features in found.items():
        stored = torch.load(store / "4-cnhubert" / f"{name}.pt")[0].T
        assert features.dtype == stored.dtype == torch.float32
        torch.testing.assert_close(features, stored, rtol=0, atol=1e-5)
    assert [one["id"] for one in ledger(store) if one["status"] == "failed"] == [BROKEN]


def test_a_batch_holds_what_belongs_together(manifest, encoder):
    """Also where a recording in its middle gives no features."""
    plain = {
        item.recording.id: item for item in AudioDataset(manifest) if isinstance(item, Utterance)
    }
    for batch in stream_features(threes(manifest), encoder):
        size = len(batch.recordings)
        assert len(batch) == size == len(batch.lengths) == len(batch.wavs)
        assert batch.features.shape == (size, int(batch.feature_lengths.max()), 32)
        assert batch.waveforms.shape == (size, int(batch.lengths.max()))
        audio, lengths = batch.audio()
        assert audio.shape == (size, int(lengths.max()))
        for row, recording in enumerate(batch.recordings):
            item, length = plain[recording.id], int(batch.lengths[row])
            assert torch.equal(batch.waveforms[row, :length], item.waveform)
            assert int(batch.feature_lengths[row]) == num_frames(length)
            assert torch.equal(batch.wavs[row], item.wav32k)
            assert torch.equal(audio[row, : lengths[row]] * 32768, item.wav32k.float())
            assert not audio[row, lengths[row] :].any()


def test_a_model_is_trained_on_features(manifest, encoder):
    """Inference tensors would refuse to be saved for backward."""
    linear = torch.nn.Linear(32, 1)
    for batch in stream_features(loader_of(manifest), encoder):
        assert not batch.features.is_inference()
        assert not batch.features.requires_grad
        linear(batch.features).square().mean().backward()
    assert linear.weight.grad.any()


def test_features_of_several_layers_have_a_dimension_for_them(manifest, encoder):
    several = Encoder(load_model("tiny_random"), layer=[0, 2])
    last = Encoder(load_model("tiny_random"), layer=2)
    pairs = zip(
        stream_features(threes(manifest), several),
        stream_features(threes(manifest), last),
        strict=True,
    )
    for both, one in pairs:
        assert both.features.shape == (len(one), 2, *one.features.shape[1:])
        assert torch.equal(both.features[:, 1], one.features)


def test_centres_are_learned_of_a_stream_in_the_order_of_each_epoch(manifest, encoder):
    stream = stream_features(loader_of(manifest, batch_seconds=0.8), encoder)
    small = {"clusters": 4, "batch_size": 10, "seed": 0}
    epochs = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        epochs.append([torch.cat([*by_id([batch]).values()]).numpy() for batch in stream])
    assert [*map(len, epochs[0])] != [*map(len, epochs[1])]
    expected = by_scikit_learn(epochs, **small).cluster_centers_
    stream.set_epoch(7)
    assert np.array_equal(fit_kmeans(stream, **small, epochs=2).centres, expected)
    assert stream.epoch == 1


def sick_of(monkeypatch, num_samples: int) -> None:
    """Makes the encoder give NaN in an utterance of so many samples."""
    compute = Encoder._compute

    def sick(self, waveforms, lengths):
        values, finite = compute(self, waveforms, lengths)
        first = sum(map(num_frames, lengths[: lengths.index(num_samples)]))
        finite[first] = False
        return [values, finite]

    monkeypatch.setattr(
        Encoder, "_compute", lambda *args: (sick if num_samples in args[2] else compute)(*args)
    )


def test_failures_of_every_stage_cost_only_themselves_and_are_counted(
    manifest, encoder, monkeypatch
):
    expected = by_id(stream_features(threes(manifest), encoder))
    sick_of(monkeypatch, round(0.2 * 16_000) + 4 * 640)
    stream = stream_features(threes(manifest), encoder)
    batches = list(stream)
    assert failed(batches) == [("4.wav", "non_finite_features"), (BROKEN, "undecodable")]
    assert stream.failed == {"undecodable": 1, "non_finite_features": 1}
    found = by_id(batches)
    assert found.keys() == expected.keys() - {"4.wav"}
    for name, features in found.items():
        assert torch.equal(features, expected[name])
    [batch] = [batch for batch in batches if "3.wav" in ids([batch])]
    assert ids([batch]) == ["3.wav", "5.wav"]
    assert [*map(num_frames, batch.lengths.tolist())] == batch.feature_lengths.tolist()
    assert batch.waveforms.shape == (2, int(batch.lengths.max()))
    assert batch.waveforms[1, batch.lengths[1] - 1] != 0
    assert len(list(stream)) == 4
    assert stream.failed.total() == 2, "of this pass alone"


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_batch_that_does_not_fit_is_halved_and_comes_whole(manifest, encoder, monkeypatch, ahead):
    expected = by_id(stream_features(threes(manifest), encoder))
    submit, sizes = Encoder.submit, []

    def small(self, waveforms, lengths):
        sizes.append(len(lengths))
        if waveforms.numel() > 0.9 * 16_000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return submit(self, waveforms, lengths)

    monkeypatch.setattr(Encoder, "submit", small)
    stream = stream_features(threes(manifest), encoder)
    stream._encode.depth = ahead
    batches = list(stream)
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    found = by_id(batches)
    assert list(found) == list(expected)
    for name, features in found.items():
        torch.testing.assert_close(features, expected[name], rtol=0, atol=1e-5)
    assert stream._encode.times_out_of_memory == 1, "the smaller budget holds"
    list(stream)
    assert stream._encode.times_out_of_memory == 1, "for the next epoch too"


def test_what_does_not_fit_alone_is_a_failure(manifest, encoder, monkeypatch):
    submit = Encoder.submit

    def small(self, waveforms, lengths):
        if waveforms.numel() > 0.5 * 16_000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return submit(self, waveforms, lengths)

    monkeypatch.setattr(Encoder, "submit", small)
    stream = stream_features(threes(manifest), encoder)
    batches = list(stream)
    assert stream.failed == {"out_of_memory": 2, "undecodable": 1}
    assert ids(batches) == [f"{n}.wav" for n in range(8)]


def test_a_batch_of_failures_alone_is_left_out_or_kept(manifest, encoder):
    """Left out, its failures come with the next batch, and those at the end are counted."""
    broken = len(manifest) - 1
    assert manifest[broken].id == BROKEN
    batches = [[broken], [0, broken], [1], [broken]]
    loader = make_loader(AudioDataset(manifest), batches=batches, num_workers=0)
    stream = stream_features(loader, encoder)
    given = list(stream)
    assert [ids([batch]) for batch in given] == [["0.wav"], ["1.wav"]]
    assert [len(batch.failures) for batch in given] == [2, 0]
    assert stream.failed == {"undecodable": 3}

    kept = list(stream_features(loader, encoder, keep_empty=True))
    assert [len(batch) for batch in kept] == [0, 1, 1, 0]
    assert [len(batch.failures) for batch in kept] == [1, 1, 0, 1]
    empty = kept[0]
    assert empty.features.shape == (0, 0, 32)
    assert empty.feature_lengths.shape == empty.lengths.shape == (0,)
    assert empty.audio()[0].shape == (0, 0)
    assert len(stream) == 4


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_state_goes_on_after_the_batch_that_was_given(manifest, encoder, ahead):
    """Of two batches the loader has given both before the stream gives the first."""
    stream = stream_features(loader_of(manifest), encoder)
    stream._encode.depth = ahead
    stream.set_epoch(1)
    whole = ids(stream)
    batches = iter(stream)
    given = ids(islice(batches, 2))
    state = json.loads(json.dumps(stream.state_dict()))
    batches.close()
    assert stream.state_dict() == state

    other = stream_features(loader_of(manifest), encoder)
    other.load_state_dict(state)
    assert given + ids(other) == whole
    assert other.state_dict()["next"] == len(other.loader)


def test_the_next_batch_is_submitted_before_this_one_is_given_but_on_a_cpu(
    manifest, encoder, monkeypatch
):
    submit, submitted = Encoder.submit, []

    def noted(self, waveforms, lengths):
        submitted.append(len(lengths))
        return submit(self, waveforms, lengths)

    monkeypatch.setattr(Encoder, "submit", noted)
    for ahead, expected in ((None, [1, 2, 3, 4]), (2, [2, 3, 4, 4])):
        stream = stream_features(threes(manifest), encoder)
        if ahead:
            stream._encode.depth = ahead
        submitted.clear()
        assert [len(submitted) for _ in stream] == expected


def test_features_that_stay_do_not_go_through_the_host(encoder, manifest):
    """A stand-in for the copies beside a GPU: what comes down, and what does not."""
    down = []

    class Copies:
        def upload(self, host):
            return host

        def download(self, *tensors):
            down.append([tensor.dtype for tensor in tensors])
            return list(tensors), type("Event", (), {"synchronize": lambda self: None})()

    batch = collate([AudioDataset(manifest)[0], AudioDataset(manifest)[1]])
    arguments = batch.waveforms, batch.lengths.tolist()
    expected = encoder.encode(*arguments)
    on_card = Encoder(load_model("tiny_random"))
    on_card.copies = Copies()
    for one, other in zip(on_card.staying().encode(*arguments), expected, strict=True):
        assert torch.equal(one.values, other.values)
    on_card.encode(*arguments)
    assert down == [[torch.bool], [torch.float32, torch.bool]]


def test_an_utterance_in_float32_makes_its_batch_float32(manifest, monkeypatch):
    """What half precision cannot hold was computed again, and is kept in float32."""
    encoder = Encoder(load_model("tiny_random"), precision="bf16")
    batches = list(stream_features(threes(manifest), encoder))
    assert {batch.features.dtype for batch in batches} == {torch.bfloat16}
    submit = Encoder.submit

    def with_one_in_float32(self, waveforms, lengths):
        pending = submit(self, waveforms, lengths)
        values = pending.result()[-1].values.float() + 1e-6
        pending.result()[-1] = replace(pending.result()[-1], values=values)
        return pending

    monkeypatch.setattr(Encoder, "submit", with_one_in_float32)
    for batch, plain in zip(stream_features(threes(manifest), encoder), batches, strict=True):
        assert batch.features.dtype == torch.float32
        assert torch.equal(batch.features[:-1], plain.features[:-1].float())
        last = batch.features[-1, : batch.feature_lengths[-1]]
        assert not torch.equal(last, last.bfloat16().float()), "not rounded"


def test_a_function_that_always_fails_ends_the_stream(tmp_path, encoder, caplog):
    for index in range(GIVE_UP_AFTER + 4):
        write_floats(tmp_path / f"{index:02}.wav", [0.1] * 1000)
    dataset = AudioDataset(read_folder(tmp_path), augment=broken)
    batches = [[index] for index in range(len(dataset))]
    stream = stream_features(make_loader(dataset, batches=batches, num_workers=0), encoder)
    with pytest.raises(RuntimeError, match=r"20 recordings, and none was read.*ZeroDivisionError"):
        list(stream)
    assert caplog.text.count("ZeroDivisionError") == 1


def test_ten_epochs_of_new_lengths_hold_no_more_than_two(manifest, encoder):
    """Each epoch cuts each recording to another length, so that no length comes again."""
    dataset = AudioDataset(manifest, augment=shorter)
    loader = make_loader(dataset, batch_seconds=2.0, num_workers=0, shuffle=True)
    stream = stream_features(loader, encoder)
    held, lengths = [], Counter()
    for epoch in range(10):
        stream.set_epoch(epoch)
        for batch in stream:
            lengths.update(map(len, batch.wavs))
        del batch
        if epoch in (1, 9):
            gc.collect()
            tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
            held.append((len(tensors), sum(one.numel() for one in tensors)))
    assert len(lengths) > 0.95 * 10 * 10
    assert held[0] == held[1], "tensors, and the numbers in them"


def steps_of_a_rank(rank: int, port: int, manifest, encoder, results) -> None:
    """Two epochs of a model in DistributedDataParallel, whose backward waits for both ranks."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    model = DistributedDataParallel(torch.nn.Linear(32, 1))
    stream = stream_features(loader_of(manifest, batch_seconds=0.01), encoder)
    seen = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        steps = 0
        for batch in stream:
            steps += 1
            model(batch.features).square().sum().backward()
            seen += [(epoch, name) for name in ids([batch])]
            seen += [(epoch, name) for name, _reason in failed([batch])]
        assert steps == len(stream)
    results.put((rank, seen, model.module.weight.grad.tolist()))
    torch.distributed.destroy_process_group()


@posix.START_METHODS
def test_two_ranks_see_every_utterance_once_an_epoch_and_end_together(manifest, encoder):
    """One rank's step has no utterance, since the recording in it is broken: it takes it too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = port, manifest, encoder, results
    processes = [context.Process(target=steps_of_a_rank, args=(n, *arguments)) for n in (0, 1)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    seen = Counter(chain.from_iterable(one[1] for one in found))
    again = Counter({one: num - 1 for one, num in seen.items() if num > 1})
    assert {name for _epoch, name in seen} == set(manifest.ids)
    assert all(num == 1 for num in again.values())
    assert len(again) == 2, "an odd number of batches of one: the shortest comes again"
    assert found[0][2] == found[1][2], "gradients of the same steps"


def test_a_batch_moves_with_its_features():
    batch = FeatureBatch(
        (Recording(0, "a", "a"),),
        torch.zeros(1, 2, 3),
        torch.tensor([2]),
        torch.zeros(1, 800),
        torch.tensor([800]),
        (torch.zeros(1600, dtype=torch.int16),),
    )
    moved = batch.to("meta")
    assert moved.features.device.type == moved.feature_lengths.device.type == "meta"
    assert moved.wavs[0].device.type == "cpu"
