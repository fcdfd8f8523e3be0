"""What only a card can show; skipped where there is none."""

import gc

import pytest
import torch
from transformers import HubertConfig

from extract.data.batch import collate
from extract.encoder.encoder import Encoder
from extract.models.families import hubert
from extract.models.load import load_model
from extract.models.weights import random_checkpoint
from extract.training.stream import stream_features
from extract.values import Recording, Utterance

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

RATE = 16_000


@pytest.fixture(scope="module")
def model():
    from transformers import HubertModel

    torch.manual_seed(0)
    return HubertModel(HubertConfig(num_hidden_layers=4)).eval()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [400, 7_000, 40_000, 15 * RATE, 20 * RATE]
    waveforms = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(waveforms, lengths, strict=True):
        row[:length] = 300 * torch.randn(length, generator=generator)
    return waveforms, lengths


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def test_fp32_on_the_card_is_fp32_on_the_cpu(model, batch):
    here = Encoder(model, device="cpu").encode(*batch)
    there = Encoder(model, device="cuda", precision="fp32").encode(*batch)
    for ours, theirs in zip(there, here, strict=True):
        assert relative(ours.values, theirs.values) < 1e-4


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 1e-2), ("bf16", 5e-2)])
def test_half_precision_is_near_fp32(model, batch, precision, bound):
    exact = Encoder(model, device="cpu").encode(*batch)
    half = Encoder(model, device="cuda", precision=precision).encode(*batch)
    for ours, theirs in zip(half, exact, strict=True):
        assert ours.finite
        assert not ours.retried_fp32
        assert relative(ours.values, theirs.values) < bound


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_first_layers_kernel_works_here(norm, precision):
    settings = {"feat_extract_norm": norm, "conv_bias": norm == "layer", "num_hidden_layers": 1}
    model = random_checkpoint(hubert.architecture(settings), seed=0)
    encoder = Encoder(model, device="cuda", precision=precision)
    first = encoder.exact.convolutions.first
    assert first.activations == first.in_one, "it was tried and left: see the warning"
    batch = first.fold(torch.randn(3, 9_000, device="cuda") * 300, [9_000, 5_000, 400], 27)
    arguments = batch.windows(2, 9), batch.weight, batch.bias
    found, expected = (way(*arguments).float() for way in (first.in_one, first.in_steps))
    bound = {"fp32": 1e-4, "fp16": 4e-3, "bf16": 2e-2}[precision]
    assert ((found - expected) / (1 + expected.abs())).abs().max() < bound


def test_padding_does_not_change_features_in_fp16(model, batch):
    encoder = Encoder(model, device="cuda")
    waveforms, lengths = batch
    together = encoder.encode(waveforms, lengths)
    for row, length, features in zip(waveforms, lengths, together, strict=True):
        alone = encoder.encode(row[None, :length].contiguous(), [length])[0]
        assert relative(features.values, alone.values.float()) < 2e-3


def test_two_batches_in_flight_do_not_meet(model, batch):
    encoder = Encoder(model, device="cuda")
    waveforms, lengths = batch
    pinned = waveforms.pin_memory()
    expected = encoder.encode(pinned, lengths)
    other = (2 * waveforms.flip(0)).pin_memory()
    pending = [encoder.submit(pinned, lengths), encoder.submit(other, lengths[::-1])]
    for _ in range(20):
        pending.append(encoder.submit(pinned, lengths))
        assert all(features.finite for features in pending.pop(0).result())
    for features, first in zip(pending[-1].result(), expected, strict=True):
        torch.testing.assert_close(features.values, first.values)


def test_memory_is_given_back_after_running_out_of_it(model, batch):
    encoder = Encoder(model, device="cuda")
    encoder.encode(*batch)
    gc.collect()
    base = torch.cuda.memory_allocated()
    free, _total = torch.cuda.mem_get_info()
    rows = int(free / (6e6 * 20)) * 4 + 64
    raised = False
    try:
        encoder.encode(torch.zeros(rows, 20 * RATE) + 1e-3, [20 * RATE] * rows)
    except torch.OutOfMemoryError:
        raised = True
    gc.collect()
    assert raised
    assert torch.cuda.memory_allocated() == base


def test_non_finite_features_leave_nothing_allocated(batch):
    model = load_model("tiny_random")
    encoder = Encoder(model, device="cuda")
    waveforms, lengths = batch
    encoder.encode(waveforms, lengths)
    base = torch.cuda.memory_allocated()
    broken = waveforms.clone()
    broken[1, 5] = float("nan")
    features = encoder.encode(broken, lengths)
    assert [some.finite for some in features] == [True, False, True, True, True]
    assert torch.cuda.memory_allocated() == base


def test_streamed_features_are_those_of_the_cpu_while_the_card_is_busy_training(model, batch):
    """Memory that the trainer's stream reads is not reused by the encoder's."""
    waveforms, lengths = batch
    items = [
        Utterance(Recording(n, f"{n}", ""), row[:length].clone(), torch.zeros(2 * length).short())
        for n, (row, length) in enumerate(zip(waveforms, lengths, strict=True))
    ]
    batches = [collate(items[n:] + items[:n]) for n in range(len(items))] * 6
    exact = Encoder(model, device="cpu").encode(waveforms, lengths)
    stream = stream_features(batches, Encoder(model, device="cuda", precision="fp32"))
    weight = torch.randn(4096, 4096, device="cuda")
    for given in stream:
        assert given.features.is_cuda
        for _ in range(4):  # queued: the features are read after this
            weight = torch.tanh(weight @ weight)
        later = given.features * 1.0
        for recording, row, length in zip(
            given.recordings, later, given.feature_lengths.tolist(), strict=True
        ):
            assert relative(row[:length].cpu(), exact[recording.index].values[0]) < 1e-4
    del given, later, row
    gc.collect()
    base = torch.cuda.memory_allocated()
    for _ in range(3):
        for _given in stream:
            pass
    del _given
    gc.collect()
    assert torch.cuda.memory_allocated() == base


def test_a_streamed_batch_that_does_not_fit_the_card_is_halved(model, monkeypatch):
    encoder = Encoder(model, device="cuda")
    waveform = 300 * torch.randn(5 * RATE, generator=torch.Generator().manual_seed(0))
    silence = torch.zeros(10 * RATE).short()
    items = [Utterance(Recording(n, f"{n}", ""), waveform, silence) for n in range(8)]
    [whole] = stream_features([collate(items)], encoder)
    submit = Encoder.submit

    def small(self, waveforms, lengths):
        pending = submit(self, waveforms, lengths)
        if len(lengths) > 3:
            raise torch.OutOfMemoryError("made up")
        return pending

    monkeypatch.setattr(Encoder, "submit", small)
    stream = stream_features([collate(items)] * 3, encoder)
    for given in stream:
        assert len(given) == 8
        assert relative(given.features, whole.features.float()) < 2e-3
    assert not stream.failed
