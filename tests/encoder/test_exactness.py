"""The matrix of exactness: family, norm, precision and layers against transformers alone.

Five lengths in one batch, models of three layers (DistilHuBERT: two) whose every weight shows. The
yardstick is transformers' own forward of one waveform, and what its layers give a hook.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from extract.encoder.encoder import Encoder
from extract.models.family import as_checkpoint
from extract.models.wanted import Layer
from extract.models.weights import Checkpoint
from support.models import FAMILIES, family_model, small_model

LENGTHS = [400, 64_000, 1_234, 720, 16_000]
MODELS = ("hubert", "hubert_large", *FAMILIES)
PRE_NORM = ("hubert_large", "xls_r", "unispeech_sat_large", "wavlm_large")
LAYERS: list[Layer] = [0, 1, 2, -1, None, [2, 0, 1], "all"]
# Of float32 the absolute error; of the others relative to the features' size.
BOUNDS = {"fp32": 1e-5, "fp16": 0.04, "bf16": 0.2}


@cache
def model_named(name: str) -> PreTrainedModel:
    hubert = {"hubert": "group", "hubert_large": "layer"}
    return small_model(hubert[name]) if name in hubert else family_model(name)


@cache
def batch() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    waveforms = torch.randn(len(LENGTHS), max(LENGTHS), generator=generator) * 190
    for row, length in zip(waveforms, LENGTHS, strict=True):
        row[length:] = 0
    return waveforms


def alone(model: PreTrainedModel, waveform: Tensor) -> tuple[list[Tensor], Tensor]:
    """What enters the first layer and leaves each, and `last_hidden_state`; (T, D) each."""
    seen: list[Tensor] = []

    def entering(_module: object, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append((args[0] if args else named["hidden_states"])[0].clone())

    def leaving(_module: object, _args: object, out: Tensor | tuple[Tensor, ...]) -> None:
        seen.append((out if isinstance(out, Tensor) else out[0])[0].clone())

    layers = model.encoder.layers
    hooks = [layers[0].register_forward_pre_hook(entering, with_kwargs=True)]
    hooks += [layer.register_forward_hook(leaving) for layer in layers]
    try:
        last = model(waveform[None]).last_hidden_state[0]
    finally:
        for hook in hooks:
            hook.remove()
    return seen, last


@cache
def truth(name: str) -> list[tuple[list[Tensor], Tensor]]:
    """Of each utterance of the batch, without the others and without their padding."""
    pairs = zip(batch(), LENGTHS, strict=True)
    return [alone(model_named(name), waveform[:length]) for waveform, length in pairs]


def expected(name: str, layers: Sequence[int], *, normed: bool = True) -> list[Tensor]:
    """(layers, T, D) of each utterance; a pre-norm model's last layer behind its norm or not."""
    num = model_named(name).config.num_hidden_layers
    return [
        torch.stack([last if n == num and normed else seen[n] for n in layers])
        for seen, last in truth(name)
    ]


def worst(encoder: Encoder, wanted: list[Tensor]) -> float:
    found = [one.values.float() for one in encoder.encode(batch(), LENGTHS)]
    assert [one.shape for one in found] == [one.shape for one in wanted]
    return max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))


def numbers(layer: Layer, num: int) -> list[int]:
    """The layers that `layer` names, counted as transformers counts `hidden_states`."""
    every = list(range(num + 1))
    if layer == "all":
        return every
    named = layer if isinstance(layer, list) else [-1 if layer is None else layer]
    return [every[number] for number in named]


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_gives_what_each_utterance_gives_alone(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 and fp16 are emulated where the processor has none."""
    monkeypatch.setattr("extract.encoder.encoder.arithmetic", lambda dtype, device: dtype)
    model = model_named(name)
    num = model.config.num_hidden_layers
    for layer in LAYERS:
        wanted = expected(name, numbers(layer, num))
        scale = 1 if precision == "fp32" else max(float(x.square().mean().sqrt()) for x in wanted)
        encoder = Encoder(model, precision=precision, layer=layer)
        assert worst(encoder, wanted) <= BOUNDS[precision] * scale, layer
        assert len(encoder.exact.layers) == max(numbers(layer, num)), "none past the last wanted"


@pytest.mark.parametrize("name", MODELS)
def test_fairseq_has_no_norm_behind_a_layer_that_is_named(name: str) -> None:
    model = model_named(name)
    num = model.config.num_hidden_layers
    for layer in (-1, num, [num, 1], "all"):
        named = numbers(layer, num)
        encoder = Encoder(model, layer=layer, final_norm="fairseq")
        assert worst(encoder, expected(name, named, normed=False)) <= 1e-5
        differs = worst(encoder, expected(name, named)) > 1e-2
        assert differs == (name in PRE_NORM) == (not encoder.wanted.final_norm)
    for layer in (None, 1):
        encoder = Encoder(model, layer=layer, final_norm="fairseq")
        assert worst(encoder, expected(name, numbers(layer, num))) <= 1e-5
        assert encoder.wanted.final_norm


def zeros(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight)


def ones(weight: Tensor) -> Tensor:
    return torch.ones_like(weight)


# What a family has of its own: part of the names of its weights, and what leaves them out.
OWN: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
    *((name, "conv.bias", zeros) for name in PRE_NORM),
    *((name, "conv_layers.3.layer_norm.weight", ones) for name in (*PRE_NORM, "data2vec_audio")),
    *((name, "encoder.layer_norm.weight", ones) for name in MODELS),
    *((name, "feature_projection.layer_norm.weight", ones) for name in MODELS),
    ("mhubert", "batch_norm.running_mean", zeros),
    ("mhubert", "batch_norm.running_var", ones),
    ("mhubert", "batch_norm.weight", ones),
    ("mhubert", "batch_norm.bias", zeros),
    ("data2vec_audio", "pos_conv_embed.layers.4.conv.bias", zeros),
    *((name, "rel_attn_embed", zeros) for name in ("wavlm", "wavlm_large")),
    *((name, "gru_rel_pos_const", zeros) for name in ("wavlm", "wavlm_large")),
    *((name, "gru_rel_pos_linear.bias", zeros) for name in ("wavlm", "wavlm_large")),
]
OWN = [row for row in OWN if row[:2] != ("distilhubert", "feature_projection.layer_norm.weight")]


@pytest.mark.parametrize(("name", "part", "without"), OWN)
def test_the_matrix_would_show_a_part_that_is_left_out(
    name: str, part: str, without: Callable[[Tensor], Tensor]
) -> None:
    model = as_checkpoint(model_named(name))
    names = [weight for weight in model.weights if part in weight]
    assert names
    left_out = {weight: without(model.weights[weight]) for weight in names}
    other = Checkpoint(model.architecture, {**model.weights, **left_out})
    assert worst(Encoder(other), expected(name, [model.architecture.layers])) > 1e-3


def test_the_matrix_would_show_data2vecs_inner_norm_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = Encoder(model_named("data2vec_audio"))
    for convolution in encoder.exact.positions.convolutions:
        monkeypatch.setattr(convolution, "normed", False)
    assert worst(encoder, expected("data2vec_audio", [3])) > 1e-3


def with_projection(name: str) -> Checkpoint:
    """A model whose file also holds a `final_proj`, as ContentVec's does."""
    generator = torch.Generator().manual_seed(2)
    width = model_named(name).config.hidden_size
    weight = torch.randn(16, width, generator=generator) * width**-0.5
    projection = weight, torch.randn(16, generator=generator)
    return replace(as_checkpoint(model_named(name)), projection=projection)


@pytest.mark.parametrize("name", ["hubert", "hubert_large", "wavlm"])
@pytest.mark.parametrize("layer", [2, [3, 0]])
def test_a_projection_is_applied_to_each_layer(name: str, layer: Layer) -> None:
    """fairseq's formula, as RVC v1 has it: `model.final_proj(extract_features(x, layer))`."""
    model = with_projection(name)
    assert model.projection is not None
    weight, bias = model.projection
    hidden = expected(name, numbers(layer, 3))
    encoder = Encoder(model, layer=layer, projection=True)
    assert encoder.hidden_size == 16
    assert worst(encoder, [x @ weight.T + bias for x in hidden]) <= 1e-5
    assert worst(Encoder(model, layer=layer, projection="auto"), hidden) <= 1e-5
    assert worst(Encoder(model, layer=layer, projection=False), hidden) <= 1e-5
