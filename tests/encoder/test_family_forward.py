"""Every family against transformers' own forward of one utterance, in batches of all lengths."""

from math import inf

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from extract.encoder import relative_bias
from extract.encoder.encoder import Encoder
from extract.encoder.relative_bias import bucket_of
from support.models import FAMILIES, family_model

LENGTHS = [400, 64_000, 1_234, 720, 16_000]


@pytest.fixture(scope="module")
def batch() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    waveforms = torch.randn(len(LENGTHS), max(LENGTHS), generator=generator) * 190
    for row, length in zip(waveforms, LENGTHS, strict=True):
        row[length:] = 0
    return waveforms


def alone(model: PreTrainedModel, batch: Tensor, layer: int | None = None) -> list[Tensor]:
    """The yardstick: transformers' forward of each waveform."""
    found = []
    for row, length in zip(batch, LENGTHS, strict=True):
        out = model(row[None, :length], output_hidden_states=True)
        hidden = out.last_hidden_state if layer is None else out.hidden_states[layer]
        found.append(hidden[0])
    return found


def worst(encoder: Encoder, batch: Tensor, expected: list[Tensor]) -> float:
    found = [one.values.float() for one in encoder.encode(batch, LENGTHS)]
    assert [len(one) for one in found] == [len(one) for one in expected]
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_what_each_utterance_gives_alone(family: str, batch: Tensor) -> None:
    model = family_model(family)
    assert worst(Encoder(model), batch, alone(model, batch)) <= 1e-5
    first = Encoder(model, layer=1)
    assert worst(first, batch, alone(model, batch, layer=1)) <= 1e-5


@pytest.mark.parametrize("family", ["mhubert", "wavlm", "wavlm_large", "data2vec_audio"])
def test_half_precision_is_near(
    family: str, batch: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated where the processor has none."""
    monkeypatch.setattr("extract.encoder.encoder.arithmetic", lambda dtype, device: dtype)
    model = family_model(family)
    expected = alone(model, batch)
    norms = [float(one.norm() / one.numel() ** 0.5) for one in expected]
    assert worst(Encoder(model, precision="bf16"), batch, expected) <= 0.2 * max(norms)


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
