"""What follows from an architecture, against numbers that are not of our making."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertModel

from extract.data.plan import QUADRATIC_S, plan_batches
from extract.models.architecture import Architecture, PositionNorm, Positions, RelativeBias
from extract.models.families import hubert
from extract.models.fingerprint import feature_settings
from extract.models.load import TINY
from extract.models.weights import weight_shapes
from support.models import small_model

STACK_25_HZ = {
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2, 2),
    "conv_dim": (32, 24, 32, 32, 16, 32, 32, 40),
}


def architecture_of(model: HubertModel) -> Architecture:
    return hubert.architecture(model.config.to_dict())


def test_it_is_a_value() -> None:
    again = replace(TINY)
    assert again == TINY
    assert hash(again) == hash(TINY)
    with pytest.raises(AttributeError):
        again.width = 4  # type: ignore[misc]


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_weights_of_other_convolutions_are_those_of_transformers(norm: str) -> None:
    model = small_model(norm, **STACK_25_HZ)
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    del expected["masked_spec_embed"]
    assert weight_shapes(architecture_of(model)) == expected


@pytest.mark.parametrize("settings", [{}, STACK_25_HZ, {"intermediate_size": 64}], ids=str)
def test_its_arithmetic_is_what_torch_counts(settings: dict[str, Any]) -> None:
    model = small_model("group", num_conv_pos_embeddings=31, **settings)  # even ones: a frame more
    model.set_attn_implementation("eager")
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(1, 23_456))
    assert architecture_of(model).flops(23_456) == counter.get_total_flops()


def test_attention_costs_what_the_linear_layers_do_where_the_plan_says_so() -> None:
    """Of HuBERT-base's formula: 12 layers of 4 D D + 2 D F, and 2 T D for attention, times 2."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    large = hubert.architecture(sizes)
    for architecture in (hubert.architecture({}), large):
        width, wide, frames = architecture.width, architecture.wide, 50 * architecture.quadratic_s
        linear, attention = 4 * width * width + 2 * width * wide, 2 * frames * width
        assert attention == pytest.approx(linear, rel=0.01)
    half = hubert.architecture({**STACK_25_HZ, "conv_dim": (512,) * 8})
    assert half.quadratic_s == pytest.approx(2 * QUADRATIC_S, abs=1)
    assert TINY.quadratic_s == QUADRATIC_S, "as ever: its batches are not made smaller"


def test_hubert_base_has_the_plans_that_it_always_had() -> None:
    """Plans decide which batches an interrupted run computes again."""
    assert hubert.architecture({}).quadratic_s == QUADRATIC_S == 92.0
    seconds = [1 + 0.37 * number % 50 for number in range(3_000)]
    before = plan_batches(seconds, 60)
    after = plan_batches(seconds, 60, hubert.architecture({}).quadratic_s)
    assert [batch.tolist() for batch in before] == [batch.tolist() for batch in after]


OTHER: dict[str, Any] = {
    "conv": (*TINY.conv[:-1], (16, 2, 1)),
    "conv_bias": True,
    "conv_norm": "layer",
    "projection_norm": False,
    "positions": Positions(kernel=32, groups=8),
    "width": 64,
    "wide": 128,
    "heads": 4,
    "layers": 3,
    "pre_norm": True,
    "eps": 1e-6,
    "relative_bias": RelativeBias(32, 64),
}


@pytest.mark.parametrize("field", [field.name for field in fields(Architecture)])
def test_a_field_shows_in_the_fingerprint_or_is_refused(field: str) -> None:
    """Two architectures that give other features are two kinds of store."""
    if field == "sample_rate":
        with pytest.raises(ValueError, match="sample_rate is 8000; waveforms are 16000 Hz"):
            replace(TINY, sample_rate=8_000)
        return
    other = replace(TINY, **{field: OTHER[field]})
    assert (feature_settings(other), weight_shapes(other)) != (
        feature_settings(TINY),
        weight_shapes(TINY),
    )


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_norm_of_positions_shows_in_the_names_of_weights(norm: PositionNorm) -> None:
    other = replace(TINY, positions=replace(TINY.positions, norm=norm))
    assert set(weight_shapes(other)) != set(weight_shapes(TINY))


def test_the_distance_of_a_bias_shows_in_the_fingerprint() -> None:
    near, far = (replace(TINY, relative_bias=RelativeBias(32, n)) for n in (64, 128))
    assert weight_shapes(near) == weight_shapes(far)
    assert feature_settings(near) != feature_settings(far)


def test_several_convolutions_of_another_norm_are_refused() -> None:
    with pytest.raises(ValueError, match="positions are 2 convolutions of norm weight"):
        Positions(kernel=3, groups=1, depth=2)
