"""Infers a model's settings from the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from extract.frames import HUBERT_STACK

FIRST_CONVOLUTION = "feature_extractor.conv_layers.0.conv.weight"

_POSITIONS = "encoder.pos_conv_embed"
_DIRECTIONS = ("weight_v", "parametrizations.weight.original1", "weight")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")

_STRIDES = {  # kernels: strides of the convolutions that all published models share
    tuple(kernel for kernel, _ in HUBERT_STACK.layers): [
        stride for _, stride in HUBERT_STACK.layers
    ]
}
# (width, feed-forward, layers, norm of the convolutions, number of positional convolutions) of the
# published models: attention heads, and whether layers begin with their norms.
_PUBLISHED = {
    (768, 3072, 12, "group", 1): (12, False),  # HuBERT, wav2vec 2.0, WavLM base; ContentVec
    (768, 3072, 12, "layer", 5): (12, False),  # data2vec base
    (1024, 4096, 24, "group", 1): (16, False),  # wav2vec 2.0 large of LibriSpeech
    (1024, 4096, 24, "layer", 1): (16, True),  # HuBERT, wav2vec 2.0, WavLM large; XLSR-53, XLS-R
    (1024, 4096, 24, "layer", 5): (16, False),  # data2vec large
    (1280, 5120, 48, "layer", 1): (16, True),  # HuBERT extra large, XLS-R of 1 billion
    (1920, 7680, 48, "layer", 1): (16, True),  # XLS-R of 2 billion
}


def seen(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings, by the names of a `config.json`, that follow from the tensors' names and shapes.

    Raises:
        ValueError: a tensor that this needs is missing or has another number of dimensions.
    """
    kernels = _convolutions(weights)
    width, _ = _shape(weights, "feature_projection.projection.weight", 2)
    wide, _ = _shape(weights, "encoder.layers.0.feed_forward.intermediate_dense.weight", 2)
    return {
        "conv_dim": [channels for channels, _ in kernels],
        "conv_kernel": [kernel for _, kernel in kernels],
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in weights,
        "feat_extract_norm": _norm(weights),
        "feat_proj_layer_norm": "feature_projection.layer_norm.weight" in weights,
        "hidden_size": width,
        "intermediate_size": wide,
        "num_hidden_layers": len({layer[1] for layer in map(_LAYER.match, weights) if layer}),
        **_positions(weights),
        **_relative_positions(weights),
        **_projection(weights),
    }


def complete(said: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file says them, else as shapes show them, else the published model's.

    Raises:
        ValueError: a setting is neither said nor seen, and no published model has these shapes.
    """
    of = {**seen, **said}
    if (strides := _STRIDES.get(tuple(seen["conv_kernel"]))) is not None:
        of.setdefault("conv_stride", list(strides))
    several = seen["num_conv_pos_embeddings"] if "conv_pos_kernel_size" in seen else 1
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "feat_extract_norm")
    published = _PUBLISHED.get((*(seen[name] for name in names), several))
    if published is not None:
        of.setdefault("num_attention_heads", published[0])
        of.setdefault("do_stable_layer_norm", published[1])
    unseen = ("conv_stride", "num_attention_heads", "do_stable_layer_norm")
    if missing := [name for name in unseen if name not in of]:
        raise ValueError(
            f"the file does not say {' and '.join(missing)}, which no shape shows; put it as"
            " pytorch_model.bin into a folder, beside a config.json that does, and name the folder"
        )
    return of


def _convolutions(weights: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while (name := f"feature_extractor.conv_layers.{len(found)}.conv.weight") in weights:
        channels, _inputs, kernel = _shape(weights, name, 3)
        found.append((channels, kernel))
    return found


def _norm(weights: Mapping[str, Tensor]) -> str:
    """The norm: "layer" (over channels, each convolution) or "group" (over time, the first)."""
    has_second = "feature_extractor.conv_layers.1.layer_norm.weight" in weights
    return "layer" if has_second else "group"


def _positions(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    if f"{_POSITIONS}.layers.0.conv.weight" in weights:  # data2vec's
        width, each, kernel = _shape(weights, f"{_POSITIONS}.layers.0.conv.weight", 3)
        several = sum(f"{_POSITIONS}.layers.{i}.conv.weight" in weights for i in range(100))
        kernels = {"conv_pos_kernel_size": kernel, "num_conv_pos_embeddings": several}
        return {**kernels, "num_conv_pos_embedding_groups": width // max(1, each)}
    names = [f"{_POSITIONS}.conv.{part}" for part in _DIRECTIONS]
    name = next((name for name in names if name in weights), names[0])
    width, each, kernel = _shape(weights, name, 3)
    return {
        "num_conv_pos_embeddings": kernel,
        "num_conv_pos_embedding_groups": width // max(1, each),
        "conv_pos_batch_norm": f"{_POSITIONS}.batch_norm.running_mean" in weights,
    }


def _relative_positions(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    name = "encoder.layers.0.attention.rel_attn_embed.weight"  # WavLM's
    if name not in weights:
        return {}
    buckets, heads = _shape(weights, name, 2)
    return {"num_buckets": buckets, "num_attention_heads": heads, "max_bucket_distance": 800}


def _projection(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The size of ContentVec's final projection, which features do not need."""
    if "final_proj.weight" not in weights:
        return {}
    return {"classifier_proj_size": _shape(weights, "final_proj.weight", 2)[0]}


def _shape(weights: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in weights:
        raise ValueError(f"1 missing weight, first {name}")
    shape = tuple(weights[name].shape)
    if len(shape) != dimensions:
        raise ValueError(f"{name} is {shape}; needed {dimensions} dimensions")
    return shape
