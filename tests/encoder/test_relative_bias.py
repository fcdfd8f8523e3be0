"""WavLM's relative positions. `test_exactness.py` holds every family against transformers."""

from math import inf

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from extract.encoder import relative_bias
from extract.encoder.encoder import Encoder
from extract.encoder.relative_bias import bucket_of
from support.models import family_model

LENGTHS = [400, 64_000, 1_234, 720, 16_000]


@pytest.fixture(scope="module")
def batch() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    waveforms = torch.randn(len(LENGTHS), max(LENGTHS), generator=generator) * 190
    for row, length in zip(waveforms, LENGTHS, strict=True):
        row[length:] = 0
    return waveforms


def alone(model: PreTrainedModel, batch: Tensor) -> list[Tensor]:
    """The yardstick: transformers' forward of each waveform."""
    pairs = zip(batch, LENGTHS, strict=True)
    return [model(row[None, :length]).last_hidden_state[0] for row, length in pairs]


def worst(encoder: Encoder, batch: Tensor, expected: list[Tensor]) -> float:
    found = [one.values[0].float() for one in encoder.encode(batch, LENGTHS)]
    assert [len(one) for one in found] == [len(one) for one in expected]
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("buckets", "farthest"), [(320, 800), (32, 128), (4, 2), (7, 9)])
def test_buckets_of_distances_are_those_of_transformers(buckets: int, farthest: int) -> None:
    attention = WavLMAttention(12, 1, num_buckets=buckets, max_distance=farthest)
    distances = torch.arange(-40_000, 40_000)
    expected = attention._relative_positions_bucket(distances)
    assert bucket_of(distances.numpy(), buckets, farthest).tolist() == expected.tolist()


@pytest.mark.parametrize("at_once", [1, 7 * 3 * 199, inf])
def test_a_bias_is_the_same_for_any_number_of_queries_at_a_time(
    at_once: float, batch: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory grows with the frames alone: scores of a few queries, never of all pairs."""
    monkeypatch.setattr(relative_bias, "SCORES_AT_ONCE", at_once)
    model = family_model("wavlm")
    assert worst(Encoder(model), batch, alone(model, batch)) <= 1e-5
