"""The forward on a card, rehearsed without one.

Torch's fake tensors have device, dtype and shape but no numbers. An operation between a card and
the host's memory raises, as it would there, and so does whatever would wait for the card: a number
read from it, a shape that depends on one.
"""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import HubertConfig

from extract import encoder, first_layer, hubert
from extract.encoder import Encoder
from extract.frames import num_frames
from extract.packing import Attention, Packing, attend_padded, attend_varlen
from extract.weights import Checkpoint, weight_shapes

CARD = torch.device("cuda", 0)
LENGTHS = [400, 7_000, 40_000, 120_000]
MODELS = {
    "base": {},
    "large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}


@pytest.fixture
def fake(monkeypatch):
    """Everything made now is fake."""

    def send(_: Packing, array: np.ndarray) -> Tensor:
        return torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, device=CARD)

    monkeypatch.setattr(Packing, "send", send)
    monkeypatch.setattr(encoder, "_usable_device", lambda device: CARD)
    monkeypatch.setattr(encoder, "_Copies", lambda device: None)  # streams want a driver
    monkeypatch.setattr(first_layer, "choose_activations", lambda layer, kernel: layer.in_steps)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def on_the_card(monkeypatch, model: str, attention: Attention, precision: str) -> Encoder:
    monkeypatch.setattr(hubert, "choose_attention", lambda *_: attention)
    config = HubertConfig(num_hidden_layers=2, **MODELS[model])
    weights = {name: torch.empty(shape) for name, shape in weight_shapes(config).items()}
    return Encoder(Checkpoint(config, weights), device="cuda", precision=precision)


def encode(found: Encoder, lengths: list[int]) -> tuple[Tensor, Tensor]:
    return found._compute(torch.empty(len(lengths), max(lengths), device=CARD), lengths)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lengths", [LENGTHS, [16_000] * 3, [400]], ids=["mixed", "equal", "one"])
@pytest.mark.parametrize(
    ("precision", "attention"),
    [
        ("fp16", attend_varlen),
        ("fp16", attend_padded),
        ("bf16", attend_varlen),
        ("fp32", attend_padded),
    ],
)
@pytest.mark.usefixtures("fake")
def test_all_of_it_stays_on_the_card_and_nothing_waits(
    monkeypatch, model, precision, attention, lengths
):
    values, finite = encode(on_the_card(monkeypatch, model, attention, precision), lengths)
    frames = sum(map(num_frames, lengths))
    assert (values.shape, values.dtype) == ((768, frames), encoder.PRECISIONS[precision])
    assert values.is_contiguous()
    assert (finite.shape, finite.dtype) == ((frames,), torch.bool)
    assert values.device == finite.device == CARD


@pytest.mark.usefixtures("fake")
def test_a_tensor_left_on_the_host_is_found(monkeypatch):
    found = on_the_card(monkeypatch, "base", attend_varlen, "fp16")
    norm = found.hubert.encoder_norm
    found.hubert.encoder_norm = (norm[0].cpu(), norm[1])
    with pytest.raises(RuntimeError, match="device"):
        encode(found, LENGTHS)


@pytest.mark.usefixtures("fake")
def test_a_step_that_waits_for_the_card_is_found(monkeypatch):
    def waiting(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
        assert float(query.max()) < 1e9
        return attend_varlen(query, key, value, packing)

    found = on_the_card(monkeypatch, "base", waiting, "fp16")
    with pytest.raises(DataDependentOutputException):
        encode(found, LENGTHS)
