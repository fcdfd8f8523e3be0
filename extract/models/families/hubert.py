"""HuBERT and ContentVec (Hsu et al. 2021; Qian et al. 2022), as transformers' `HubertModel`."""

from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from typing import Any

from extract.frames import ENCODER_RATE_HZ, HUBERT_STACK
from extract.models.architecture import Architecture, Positions
from extract.models.settings import (
    Rule,
    are_counts,
    is_count,
    is_one_of,
    is_small_number,
    is_switch,
    require,
    require_divisor,
)

MODEL_TYPES = ("hubert",)
PREFIX = "hubert."  # of weights in the file of a model with a head

# Of transformers' HubertConfig: a config.json need not name what it leaves as it is.
DEFAULTS: dict[str, Any] = {
    "conv_kernel": tuple(kernel for kernel, _stride in HUBERT_STACK.layers),
    "conv_stride": tuple(stride for _kernel, stride in HUBERT_STACK.layers),
    "conv_dim": (512,) * len(HUBERT_STACK.layers),
    "conv_bias": False,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "do_stable_layer_norm": False,
    "conv_pos_batch_norm": False,
    "adapter_attn_dim": None,
}
MAX_CONV_LAYERS = 16  # a bound for hostile files; models have 7 or 8

_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
)


def architecture(settings: Mapping[str, Any]) -> Architecture:
    """The encoder that a HubertConfig's settings describe.

    Raises:
        ValueError: a setting is not one that is computed here; names it with its value.
    """
    found = DEFAULTS | {name: settings[name] for name in DEFAULTS if name in settings}
    require(found, _rules(found))
    for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
        require_divisor(found, name, of="hidden_size")
    sizes = zip(found["conv_dim"], found["conv_kernel"], found["conv_stride"], strict=True)
    kernel, groups = found["num_conv_pos_embeddings"], found["num_conv_pos_embedding_groups"]
    return Architecture(
        conv=tuple(sizes),
        conv_bias=found["conv_bias"],
        conv_norm=found["feat_extract_norm"],
        projection_norm=found["feat_proj_layer_norm"],
        positions=Positions(kernel, groups),
        width=found["hidden_size"],
        wide=found["intermediate_size"],
        heads=found["num_attention_heads"],
        layers=found["num_hidden_layers"],
        pre_norm=found["do_stable_layer_norm"],
        eps=found["layer_norm_eps"],
    )


def _rules(found: Mapping[str, Any]) -> Iterator[Rule]:
    yield Rule(
        ("conv_kernel", "conv_stride"),
        f"1 to {MAX_CONV_LAYERS} of each, whole numbers, with a frame a second or more",
        _are_convolutions,
    )
    layers = len(found["conv_kernel"])  # a list, as the rule before says
    widths = f"{layers} widths of at least 1"
    yield Rule(("conv_dim",), widths, partial(are_counts, number=layers))
    yield Rule(("conv_bias",), "true or false", is_switch)
    yield Rule(("feat_extract_norm",), "group or layer", is_one_of("group", "layer"))
    yield Rule(("feat_extract_activation",), "gelu", is_one_of("gelu"))
    yield Rule(("feat_proj_layer_norm",), "true or false", is_switch)
    for name in _COUNTS:
        yield Rule((name,), "a whole number of at least 1", is_count)
    yield Rule(("hidden_act",), "gelu", is_one_of("gelu"))
    yield Rule(("layer_norm_eps",), "a number above 0", is_small_number)
    yield Rule(("do_stable_layer_norm",), "true or false", is_switch)
    yield Rule(("conv_pos_batch_norm",), "False", is_one_of(None, False))
    yield Rule(("adapter_attn_dim",), "None", is_one_of(None))


def _are_convolutions(kernels: Any, strides: Any) -> bool:
    if not isinstance(kernels, list | tuple) or not 1 <= len(kernels) <= MAX_CONV_LAYERS:
        return False
    counted = all(are_counts(sizes, len(kernels)) for sizes in (kernels, strides))
    return counted and prod(strides) <= ENCODER_RATE_HZ
