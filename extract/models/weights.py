"""HuBERT's weights: their names and shapes, and a model as nothing but config and weights.

Names are those of transformers' `HubertModel.state_dict()`. Files differ from them by a prefix, by
heads that features have no use for, and by what torch called the parts of a weight norm earlier.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from extract.machine import cores
from extract.text import count

POSITIONS = "encoder.pos_conv_embed.conv"  # the positional convolution, under a weight norm
NORM, DIRECTION = (f"{POSITIONS}.parametrizations.weight.original{part}" for part in (0, 1))
EARLIER_NAMES = {f"{POSITIONS}.weight_g": NORM, f"{POSITIONS}.weight_v": DIRECTION}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
PREFIX = "hubert."  # in the file of a model with a head

# What changes features beside the weights; the rest of a config is training or shows in a shape.
FEATURE_SETTINGS = (
    "conv_kernel",
    "conv_stride",
    "do_stable_layer_norm",
    "feat_extract_activation",
    "feat_extract_norm",
    "feat_proj_layer_norm",
    "hidden_act",
    "layer_norm_eps",
    "num_attention_heads",
    "num_conv_pos_embedding_groups",
)


class Model(Protocol):
    """A `Checkpoint`, or transformers' own HubertModel."""

    @property
    def config(self) -> Any:
        """A HubertConfig."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Weights by transformers' names."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """What features are made of: a HubertConfig and float32 weights, `weight_shapes` of them."""

    config: Any
    weights: Mapping[str, Tensor]

    def state_dict(self) -> Mapping[str, Tensor]:
        """The weights, as a HubertModel gives them."""
        return self.weights


def weight_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Every weight that a feature depends on, in the order of the forward."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *weight: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]

    inputs = 1
    kernels = zip(config.conv_dim, config.conv_kernel, strict=True)
    for number, (channels, kernel) in enumerate(kernels):
        name = f"feature_extractor.conv_layers.{number}"
        add(f"{name}.conv", channels, inputs, kernel, bias=config.conv_bias)
        if config.feat_extract_norm == "layer" or number == 0:
            add(f"{name}.layer_norm", channels)
        inputs = channels
    width, wide = config.hidden_size, config.intermediate_size
    if config.feat_proj_layer_norm:
        add("feature_projection.layer_norm", inputs)
    add("feature_projection.projection", width, inputs)
    kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    shapes |= {NORM: (1, 1, kernel), DIRECTION: (width, width // groups, kernel)}
    shapes[f"{POSITIONS}.bias"] = (width,)
    add("encoder.layer_norm", width)
    for number in range(config.num_hidden_layers):
        name = f"encoder.layers.{number}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            add(f"{name}.attention.{projection}", width, width)
        add(f"{name}.layer_norm", width)
        add(f"{name}.feed_forward.intermediate_dense", wide, width)
        add(f"{name}.feed_forward.output_dense", width, wide)
        add(f"{name}.final_layer_norm", width)
    return shapes


def checkpoint(config: Any, found: Mapping[str, Any], said_by: str = "config.json") -> Checkpoint:
    """The weights that a file holds under whatever names, in float32 and in memory of their own.

    Raises ValueError for one that is missing, of another shape than the config's, or no tensor of
    as many floats as its shape says. A config's sizes are compared before anything is made of them.
    """
    renamed = {
        _name(name): weight
        for name, weight in found.items()
        if isinstance(name, str) and isinstance(weight, Tensor)
    }
    _require_layers(config.num_hidden_layers, renamed)
    shapes = weight_shapes(config)
    missing = sorted(set(shapes) - set(renamed))
    if missing:
        first = ", ".join(missing[:3])
        raise ValueError(f"{count(len(missing), 'missing weight')}, first {first}")
    for name, shape in shapes.items():
        if renamed[name].shape != shape:
            raise ValueError(f"{name} is {tuple(renamed[name].shape)}; {said_by} says {shape}")
        if not _is_plain(renamed[name]):
            raise ValueError(f"{name} is a {renamed[name].dtype} tensor without all of its numbers")
    owned = {name: renamed[name].detach().to(torch.float32, copy=True) for name in shapes}
    return Checkpoint(config, owned)


def _require_layers(number: int, names: Iterable[str]) -> None:
    """ValueError if a config has more layers than the weights: before a loop over its number."""
    held = {match[1] for match in map(_LAYER.match, names) if match}
    if number > len(held):
        raise ValueError(f"num_hidden_layers is {number}; the weights hold {len(held)} layers")


def _is_plain(weight: Tensor) -> bool:
    """Whether a tensor holds floats in memory, one for each element; a pickle may say otherwise."""
    if weight.layout != torch.strided or weight.is_meta or not weight.is_floating_point():
        return False
    return weight.numel() * weight.element_size() <= weight.untyped_storage().nbytes()


def _name(name: str) -> str:
    name = name.removeprefix(PREFIX)
    return EARLIER_NAMES.get(name, name)


def random_checkpoint(config: Any, seed: int) -> Checkpoint:
    """Weights drawn as transformers would, about: to try things on."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith(".bias"):
            weights[name] = torch.zeros(shape)
        elif "layer_norm" in name or name == NORM:
            weights[name] = torch.ones(shape)
        else:
            fan_in = torch.Size(shape[1:]).numel()
            weights[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
    return Checkpoint(config, weights)


def folded_positions(weights: Mapping[str, Tensor]) -> Tensor:
    """The positional convolution's weight (D, D / groups, kernel), its weight norm folded in."""
    norm, direction = weights[NORM].double(), weights[DIRECTION].float()
    lengths = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True, dtype=torch.float64)
    folded: Tensor = direction * (norm / lengths).float()
    return folded


def fingerprint(model: Model) -> str:
    """64 hex digits of all that decides features: float32 weights and the settings that matter.

    The same for the same weights whatever file format they came from.
    """
    settings = {name: getattr(model.config, name) for name in FEATURE_SETTINGS}
    whole = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=32)
    weights = model.state_dict()
    with ThreadPoolExecutor(cores()) as pool:  # hashing lets other threads run
        named = ((name, weights[name]) for name in sorted(weight_shapes(model.config)))
        for digest in pool.map(_digest, named):
            whole.update(digest)
    return whole.hexdigest()


def _digest(item: tuple[str, Tensor]) -> bytes:
    name, weight = item
    digest = hashlib.blake2b(f"{name} {tuple(weight.shape)}".encode(), digest_size=32)
    digest.update(weight.detach().cpu().float().contiguous().numpy().data)
    return digest.digest()
