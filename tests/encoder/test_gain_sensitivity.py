"""How far eps and rounding move the first norm's output, against that norm itself in float64."""

import pytest
import torch
from torch import Tensor

from extract.encoder.encoder import Encoder
from support.models import small_model

EPS = 1e-5  # torch's


@pytest.fixture(scope="module")
def model():
    return small_model("group")


def sensitivity(model, waveforms: Tensor, lengths: list[int], **options) -> list[float]:
    encoder = Encoder(model, **options).measuring_gain()
    return [features.gain_sensitivity for features in encoder.encode(waveforms, lengths)]


def moved_by_eps(model, waveform: Tensor) -> float:
    """Root mean square of what eps does to the norm's output, over that of its weight."""
    layer = model.feature_extractor.conv_layers[0]
    rows = torch.nn.functional.conv1d(
        waveform.double()[None, None], layer.conv.weight.double(), stride=layer.conv.stride
    )[0]
    centred, gamma = rows - rows.mean(1, keepdim=True), layer.layer_norm.weight.double()
    variance = centred.square().mean(1, keepdim=True)
    moved = centred / variance.sqrt() - centred / (variance + EPS).sqrt()
    return float((moved * gamma[:, None]).square().mean().sqrt() / gamma.square().mean().sqrt())


@pytest.mark.parametrize("level", [1e-4, 0.01, 0.1, 1.0])
def test_it_is_what_eps_does_to_the_norms_output(model, level):
    waveform = level * torch.randn(8_000, generator=torch.Generator().manual_seed(0))
    [found] = sensitivity(model, waveform[None], [8_000])
    assert found == pytest.approx(moved_by_eps(model, waveform), rel=1e-2, abs=2e-7)


def test_it_is_of_each_utterance_alone_in_any_precision(model):
    draw = torch.Generator().manual_seed(0)
    waveforms = torch.tensor([[1.0], [0.1], [10.0]]) * torch.randn(3, 9_000, generator=draw)
    lengths = [9_000, 4_000, 400]
    together = sensitivity(model, waveforms, lengths)
    for waveform, length, found in zip(waveforms, lengths, together, strict=True):
        alone = sensitivity(model, waveform[None, :length], [length])
        assert alone == pytest.approx([found], rel=1e-4)
    assert sensitivity(model, waveforms, lengths, precision="bf16") == together


def test_at_a_lower_gain_it_is_no_more_than_the_square_of_the_ratio(model):
    waveform = torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0))
    for level in (1e-3, 0.1, 100.0):
        [high] = sensitivity(model, level * waveform, [8_000])
        [low] = sensitivity(model, level / 3 * waveform, [8_000])
        assert high <= 1.001 * low
        assert low <= 1.001 * 9 * high


def test_rounding_beside_a_large_offset_counts(model):
    """The samples are float32: beside an offset of 1e5 they have steps of 0.008."""
    waveform = 100 * torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0))
    [plain], [offset] = (sensitivity(model, waveform + by, [8_000]) for by in (0, 1e5))
    assert plain < 1e-6
    assert offset > 1e-5


def test_silence_and_a_constant_are_as_sensitive_as_can_be(model):
    for waveform in (torch.zeros(1, 800), torch.full((1, 800), 300.0)):
        [found] = sensitivity(model, waveform, [800])
        assert 1 <= found <= 2


def test_without_a_norm_over_time_and_where_it_is_not_wanted_there_is_none(model):
    waveform = torch.ones(1, 800)
    assert sensitivity(small_model("layer"), waveform, [800]) == [None]
    assert Encoder(model).encode(waveform, [800])[0].gain_sensitivity is None
    assert sensitivity(model, waveform[:0], []) == []


def test_the_way_of_a_card_measures_the_same(model):
    """All utterances of a batch at once, which a CPU can do too."""
    draw = torch.Generator().manual_seed(0)
    waveforms, lengths = 0.3 * torch.randn(3, 9_000, generator=draw), [9_000, 4_000, 400]
    waveforms[1, 4_000:] = waveforms[2, 400:] = 0
    encoder = Encoder(model)
    convolutions, found = encoder.exact.convolutions, torch.zeros(3)
    shape = 3, encoder.architecture.stack.num_frames(9_000), convolutions.channels
    with torch.inference_mode():
        convolutions.fill(waveforms, lengths, torch.empty(shape), found)
    assert found.tolist() == pytest.approx(sensitivity(model, waveforms, lengths), rel=1e-4)
