"""An encoder's weights: their names and shapes, and `Checkpoint`.

Names are those of transformers' `HubertModel.state_dict()`. Files may add a prefix and the weights
of heads, which features do not need, and may use torch's earlier names for a weight norm's parts.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from extract.models.architecture import Architecture
from extract.text import count

POSITIONS = "encoder.pos_conv_embed"
CONV = f"{POSITIONS}.conv"  # the positional convolution, in most models with a weight norm
NORM, DIRECTION = (f"{CONV}.parametrizations.weight.original{part}" for part in (0, 1))
EARLIER_NAMES = {f"{CONV}.weight_g": NORM, f"{CONV}.weight_v": DIRECTION}
BATCH_NORM = f"{POSITIONS}.batch_norm"
FINAL_PROJECTION = "final_proj"
BIAS_TABLE = "encoder.layers.0.attention.rel_attn_embed"  # layer 0's table serves all layers
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


Projection = tuple[Tensor, Tensor]  # weight (P, D) and bias (P,)


@dataclass(frozen=True)
class Checkpoint:
    """What features are made of: an architecture and float32 weights, `weight_shapes` of them.

    `projection` is the model's `final_proj` where its file has one that fits.
    """

    architecture: Architecture
    weights: Mapping[str, Tensor]
    projection: Projection | None = None
    input_norm: bool | None = None  # trained on zero mean and unit variance; None: no file says so

    @property
    def wants_unit_variance(self) -> bool:
        """Whether the model was trained on waveforms of zero mean and unit variance.

        Where no file says so, as fairseq trained every published model of this kind: those with a
        norm behind each convolution were, those with one behind the first were not.
        """
        if self.input_norm is not None:
            return self.input_norm
        return self.architecture.conv_norm == "layer"


def weight_shapes(of: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that features depend on, in the order of the forward."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *weight: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]

    inputs = 1
    for number, (channels, kernel, _stride) in enumerate(of.conv):
        name = f"feature_extractor.conv_layers.{number}"
        add(f"{name}.conv", channels, inputs, kernel, bias=of.conv_bias)
        if of.conv_norm == "layer" or number == 0:
            add(f"{name}.layer_norm", channels)
        inputs = channels
    if of.projection_norm:
        add("feature_projection.layer_norm", inputs)
    add("feature_projection.projection", of.width, inputs)
    shapes |= _position_shapes(of)
    add("encoder.layer_norm", of.width)
    for number in range(of.layers):
        name = f"encoder.layers.{number}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            add(f"{name}.attention.{projection}", of.width, of.width)
        add(f"{name}.layer_norm", of.width)
        add(f"{name}.feed_forward.intermediate_dense", of.wide, of.width)
        add(f"{name}.feed_forward.output_dense", of.width, of.wide)
        add(f"{name}.final_layer_norm", of.width)
    return shapes | _bias_shapes(of)


def _position_shapes(of: Architecture) -> dict[str, tuple[int, ...]]:
    positions, width = of.positions, of.width
    weight = width, width // positions.groups, positions.kernel
    if positions.norm == "weight":
        return {NORM: (1, 1, positions.kernel), DIRECTION: weight, f"{CONV}.bias": (width,)}
    if positions.norm == "batch":
        parts = ("weight", "bias", "running_mean", "running_var")
        norm = {f"{BATCH_NORM}.{part}": (width,) for part in parts}
        return {**norm, f"{CONV}.weight": weight, f"{CONV}.bias": (width,)}
    names = [f"{POSITIONS}.layers.{number}.conv" for number in range(positions.depth)]
    weights = {f"{name}.weight": weight for name in names}
    return weights | {f"{name}.bias": (width,) for name in names}


def _bias_shapes(of: Architecture) -> dict[str, tuple[int, ...]]:
    if of.relative_bias is None:
        return {}
    shapes: dict[str, tuple[int, ...]] = {
        f"{BIAS_TABLE}.weight": (of.relative_bias.buckets, of.heads)
    }
    for number in range(of.layers):
        name = f"encoder.layers.{number}.attention.gru_rel_pos"
        shapes[f"{name}_const"] = (1, of.heads, 1, 1)
        shapes[f"{name}_linear.weight"] = (8, of.width // of.heads)
        shapes[f"{name}_linear.bias"] = (8,)
    return shapes


def checkpoint(
    of: Architecture, found: Mapping[Any, Any], prefix: str, said_by: str = "config.json"
) -> Checkpoint:
    """A `Checkpoint` of a file's tensors `found`, named with or without `prefix`; float32 copies.

    Shapes are compared with the config's before anything is allocated.

    Raises:
        ValueError: a weight is missing, has another shape than the config says, or is not a tensor
            with as many floats in memory as its shape says.
    """
    renamed = {
        _name(name, prefix): weight
        for name, weight in found.items()
        if isinstance(name, str) and isinstance(weight, Tensor)
    }
    _require_layers(of.layers, renamed)
    shapes = weight_shapes(of)
    missing = sorted(set(shapes) - set(renamed))
    if missing:
        first = ", ".join(missing[:3])
        raise ValueError(f"{count(len(missing), 'missing weight')}, first {first}")
    for name, shape in shapes.items():
        if renamed[name].shape != shape:
            raise ValueError(f"{name} is {tuple(renamed[name].shape)}; {said_by} says {shape}")
        if not _is_plain(renamed[name]):
            raise ValueError(f"{name} is a {renamed[name].dtype} tensor without all of its numbers")
    owned = {name: _owned(renamed[name]) for name in shapes}
    projection = find_projection(of, renamed)
    return Checkpoint(of, owned, projection and (_owned(projection[0]), _owned(projection[1])))


def find_projection(of: Architecture, weights: Mapping[str, Tensor]) -> Projection | None:
    """A model's `final_proj`, a linear layer behind the last; None where there is none that fits.

    Pretraining of HuBERT compares its output with the units' embeddings. Most tools drop it.
    """
    weight, bias = (weights.get(f"{FINAL_PROJECTION}.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or not (_is_plain(weight) and _is_plain(bias)):
        return None
    fits = weight.dim() == 2 and weight.shape[1] == of.width and bias.shape == weight.shape[:1]
    return (weight, bias) if fits and len(weight) else None


def _owned(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.float32, copy=True)


def _require_layers(number: int, names: Iterable[str]) -> None:
    """Raise ValueError if the config has more layers than the weights; bounds later loops."""
    held = {match[1] for match in map(_LAYER.match, names) if match}
    if number > len(held):
        raise ValueError(f"num_hidden_layers is {number}; the weights hold {len(held)} layers")


def _is_plain(weight: Tensor) -> bool:
    """Whether a tensor has a float in memory for each element; a pickle may claim more."""
    if weight.layout != torch.strided or weight.is_meta or not weight.is_floating_point():
        return False
    return weight.numel() * weight.element_size() <= weight.untyped_storage().nbytes()


def _name(name: str, prefix: str) -> str:
    name = name.removeprefix(prefix)
    return EARLIER_NAMES.get(name, name)


def random_checkpoint(of: Architecture, seed: int) -> Checkpoint:
    """Random weights from `seed`, drawn about as transformers does."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(of).items():
        if name.endswith(".bias"):
            weights[name] = torch.zeros(shape)
        elif "layer_norm" in name or name == NORM:
            weights[name] = torch.ones(shape)
        else:
            fan_in = torch.Size(shape[1:]).numel()
            weights[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
    return Checkpoint(of, weights)


def position_weights(
    of: Architecture, weights: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Weight (D, D / groups, kernel) and bias (D,) of each positional convolution."""
    if of.positions.norm == "weight":
        return [(_folded(weights), weights[f"{CONV}.bias"])]
    names = [CONV]
    if of.positions.norm == "layer":
        names = [f"{POSITIONS}.layers.{number}.conv" for number in range(of.positions.depth)]
    return [(weights[f"{name}.weight"].float(), weights[f"{name}.bias"]) for name in names]


def batch_norm(of: Architecture, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Scale and shift (D,) of the BatchNorm before the positional convolution, or None.

    Made of its running statistics with torch's default eps, which transformers uses.
    """
    if of.positions.norm != "batch":
        return None
    parts = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, variance = (weights[f"{BATCH_NORM}.{part}"].double() for part in parts)
    scale = gamma / torch.sqrt(variance + 1e-5)
    return scale.float(), (beta - mean * scale).float()


def _folded(weights: Mapping[str, Tensor]) -> Tensor:
    """The positional convolution's weight (D, D / groups, kernel), its weight norm folded in."""
    norm, direction = weights[NORM].double(), weights[DIRECTION].float()
    lengths = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True, dtype=torch.float64)
    folded: Tensor = direction * (norm / lengths).float()
    return folded
