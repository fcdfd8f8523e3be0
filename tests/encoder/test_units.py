"""Units of an encoder's features, in the same pass."""

import pytest
import torch

from extract.data.batch import collate
from extract.encoder.batches import BatchEncoder
from extract.encoder.encoder import Encoder
from extract.encoder.nearest import Nearest
from extract.models.load import load_model
from extract.values import Encoded, Recording, Utterance
from support.semantic import CODEBOOK, s2g

LENGTHS = [400, 719, 720, 1_100, 4_000, 16_000, 9_999]


@pytest.fixture(scope="module")
def assign() -> Nearest:
    weight = s2g()
    return Nearest(weight[CODEBOOK], (weight["ssl_proj.weight"], weight["ssl_proj.bias"]))


@pytest.fixture(scope="module")
def waveforms() -> torch.Tensor:
    padded = torch.randn(len(LENGTHS), max(LENGTHS), generator=torch.Generator().manual_seed(0))
    for row, length in zip(padded, LENGTHS, strict=True):
        row[length:] = 0
    return padded * 300


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_units_are_those_of_the_features_that_are_returned(assign, waveforms, precision):
    plain = Encoder(load_model("tiny_random"), precision=precision)
    expected = plain.encode(waveforms, LENGTHS)
    found = plain.quantized(assign).encode(waveforms, LENGTHS)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.values, other.values)
        assert other.units is None
        assert one.units.dtype == torch.int64
        assert len(one.units) == one.values.shape[1] // 2
        assert torch.equal(one.units, assign(one.values[0].T, [one.values.shape[1]]))
    assert len({tuple(one.units.tolist()) for one in found}) > 4


def test_features_that_are_computed_again_give_their_units(assign, waveforms, monkeypatch):
    """Where half precision overflows, units are those of the features that are saved instead."""
    encoder = Encoder(load_model("tiny_random"), precision="fp16").quantized(assign)
    forward = encoder.exact.forward

    def overflowing(*args):
        values = forward(*args)
        values[:, :, 3] = torch.inf  # the third utterance: frames 1, 2 and 2 come before
        return values

    monkeypatch.setattr(encoder.exact, "forward", overflowing)
    monkeypatch.setattr(encoder, "redo", lambda waveforms: [forward(waveforms[0][None], [720])])
    found = encoder.encode(waveforms, LENGTHS)
    assert [one.retried_fp32 for one in found] == [False, False, True, *[False] * 4]
    for one in found:
        assert torch.equal(one.units, assign(one.values[0].T, [one.values.shape[1]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_units_are_those_of_features_in_the_dtype_that_is_saved(waveforms, monkeypatch, dtype):
    """An utterance that does not fit into it is saved, and quantised, in float32."""
    assign = Nearest(2_000 + torch.randn(200, 32, generator=torch.Generator().manual_seed(0)))
    encoder = Encoder(load_model("tiny_random")).quantized(assign, dtype)
    forward = encoder.exact.forward

    def too_large(*args):
        values = forward(*args) + 2_000  # where numbers of half precision are far apart
        values[:, :, 3] = 70_000.0  # the third utterance
        return values

    monkeypatch.setattr(encoder.exact, "forward", too_large)
    found, differing = encoder.encode(waveforms, LENGTHS), 0
    for index, one in enumerate(found):
        fits = index != 2 or dtype is torch.bfloat16
        saved = one.values.to(dtype) if fits else one.values
        assert torch.equal(one.units, assign(saved[0].T, [one.values.shape[1]]))
        differing += not torch.equal(one.units, assign(one.values[0].T, [one.values.shape[1]]))
    assert differing


def test_the_encoder_on_the_cpu_has_the_quantizer_too(assign):
    encoder = Encoder(load_model("tiny_random"), precision="bf16")
    assert encoder.quantized(assign).on_cpu().assign is assign
    assert encoder.on_cpu().assign is None
    assert encoder.assign is None


def test_several_layers_are_refused(assign):
    encoder = Encoder(load_model("tiny_random"), layer=[1, 2])
    with pytest.raises(ValueError, match=r"model.layer=\[1, 2\]: a quantizer takes one layer"):
        encoder.quantized(assign)


def test_a_batch_in_halves_gives_the_same_units(assign, waveforms):
    items = [
        Utterance(Recording(i, f"{i}", ""), row[:length], torch.empty(0, dtype=torch.int16))
        for i, (row, length) in enumerate(zip(waveforms, LENGTHS, strict=True))
    ]
    encoder = Encoder(load_model("tiny_random")).quantized(assign)

    def units(batch_seconds: float) -> dict[str, list[int]]:
        found = BatchEncoder(encoder, batch_seconds)([collate(items)])
        return {one.recording.id: one.units.tolist() for one in found if isinstance(one, Encoded)}

    assert units(60) == units(0.5)
    assert len(units(60)) == len(LENGTHS)
