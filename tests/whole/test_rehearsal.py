"""The forward on a card, rehearsed without one.

Torch's fake tensors have device, dtype and shape but no numbers. An operation between a card and
the host's memory raises, as it would there, and so does whatever would wait for the card: a number
read from it, a shape that depends on one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from extract.encoder import encoder
from extract.encoder.encoder import Encoder
from extract.encoder.packing import Attention, Packing, attend_padded, attend_varlen
from extract.frames import num_frames
from extract.models.family import find_family
from support.card import CARD, encoder_on_card, fake_card

LENGTHS = [400, 7_000, 40_000, 120_000]
MODELS = {
    "base": {},
    "large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "mhubert": {"conv_pos_batch_norm": True},
    "wavlm": {"model_type": "wavlm"},
    "data2vec": {"model_type": "data2vec-audio"},
}


@pytest.fixture
def on_the_card() -> Iterator[Callable[..., Encoder]]:
    """An encoder on the fake card; everything made from then on is fake."""
    with ExitStack() as stack:

        def on_the_card(model: str, attention: Attention, precision: str) -> Encoder:
            stack.enter_context(fake_card(attention))
            settings = {"model_type": "hubert", "num_hidden_layers": 2, **MODELS[model]}
            architecture = find_family(settings["model_type"]).architecture(settings)
            return encoder_on_card(architecture, precision)

        yield on_the_card


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
def test_all_of_it_stays_on_the_card_and_nothing_waits(
    on_the_card, model, precision, attention, lengths
):
    values, finite = encode(on_the_card(model, attention, precision), lengths)
    frames = sum(map(num_frames, lengths))
    assert (values.shape, values.dtype) == ((1, 768, frames), encoder.PRECISIONS[precision])
    assert values.is_contiguous()
    assert (finite.shape, finite.dtype) == ((frames,), torch.bool)
    assert values.device == finite.device == CARD


def test_a_tensor_left_on_the_host_is_found(on_the_card):
    found = on_the_card("base", attend_varlen, "fp16")
    norm = found.exact.encoder_norm
    found.exact.encoder_norm = (norm[0].cpu(), norm[1])
    with pytest.raises(RuntimeError, match="device"):
        encode(found, LENGTHS)


def test_a_step_that_waits_for_the_card_is_found(on_the_card):
    def waiting(qkv: Sequence[Tensor], packing: Packing) -> Tensor:
        assert float(qkv[0].max()) < 1e9
        return attend_varlen(qkv, packing)

    found = on_the_card("base", waiting, "fp16")
    with pytest.raises(DataDependentOutputException):
        encode(found, LENGTHS)
