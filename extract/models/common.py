"""Settings, defaults and checks that the configs of HuBERT, wav2vec 2.0 and others share.

A family (`extract.models.families`) lists its settings with transformers' defaults and makes an
`Architecture` of them.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from typing import Any

from extract.frames import ENCODER_RATE_HZ, HUBERT_STACK
from extract.models.architecture import Architecture, PositionNorm, Positions
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

# transformers' defaults: a config.json may leave out a setting that has its default.
DEFAULTS: dict[str, Any] = {
    "conv_kernel": tuple(kernel for kernel, _stride in HUBERT_STACK.layers),
    "conv_stride": tuple(stride for _kernel, stride in HUBERT_STACK.layers),
    "conv_dim": (512,) * len(HUBERT_STACK.layers),
    "conv_bias": False,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "do_stable_layer_norm": False,
    "adapter_attn_dim": None,
}
MAX_CONV_LAYERS = 16  # a bound for hostile files; models have 7 or 8

_COUNT = "a whole number of at least 1", is_count
_SWITCH = "true or false", is_switch
_GELU = "gelu", is_one_of("gelu")
_RULES: dict[str, tuple[str, Any]] = {
    "conv_bias": _SWITCH,
    "feat_extract_norm": ("group or layer", is_one_of("group", "layer")),
    "feat_extract_activation": _GELU,
    "feat_proj_layer_norm": _SWITCH,
    "hidden_size": _COUNT,
    "intermediate_size": _COUNT,
    "num_hidden_layers": _COUNT,
    "num_attention_heads": _COUNT,
    "num_conv_pos_embeddings": _COUNT,
    "num_conv_pos_embedding_groups": _COUNT,
    "hidden_act": _GELU,
    "layer_norm_eps": ("a number above 0", is_small_number),
    "do_stable_layer_norm": _SWITCH,
    "conv_pos_batch_norm": ("true or false", is_one_of(None, False, True)),
    "conv_pos_kernel_size": _COUNT,
    "adapter_attn_dim": ("None", is_one_of(None)),
    "add_adapter": ("False", is_one_of(None, False)),
}


def checked(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the settings that `defaults` lists, checked.

    Raises:
        ValueError: this encoder cannot compute one of them; names it with its value.
    """
    found = {name: settings.get(name, default) for name, default in defaults.items()}
    require(found, _rules(found))
    for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
        require_divisor(found, name, of="hidden_size")
    return found


def described(
    found: Mapping[str, Any], position_norm: PositionNorm = "weight", **own: Any
) -> Architecture:
    """The `Architecture` of checked settings; `own` are fields that the family sets itself."""
    sizes = zip(found["conv_dim"], found["conv_kernel"], found["conv_stride"], strict=True)
    fields: dict[str, Any] = {
        "conv": tuple(sizes),
        "conv_bias": found["conv_bias"],
        "conv_norm": found["feat_extract_norm"],
        "projection_norm": True,
        "positions": Positions(
            found["num_conv_pos_embeddings"],
            found["num_conv_pos_embedding_groups"],
            norm=position_norm,
        ),
        "width": found["hidden_size"],
        "wide": found["intermediate_size"],
        "heads": found["num_attention_heads"],
        "layers": found["num_hidden_layers"],
        "pre_norm": found["do_stable_layer_norm"],
        "eps": found["layer_norm_eps"],
    }
    return Architecture(**{**fields, **own})


def _rules(found: Mapping[str, Any]) -> Iterator[Rule]:
    yield Rule(
        ("conv_kernel", "conv_stride"),
        f"1 to {MAX_CONV_LAYERS} of each, whole numbers, with a frame a second or more",
        _are_convolutions,
    )
    layers = len(found["conv_kernel"])  # a list, as the rule before says
    widths = f"{layers} widths of at least 1"
    yield Rule(("conv_dim",), widths, partial(are_counts, number=layers))
    for name, (needed, fits) in _RULES.items():
        if name in found:
            yield Rule((name,), needed, fits)


def _are_convolutions(kernels: Any, strides: Any) -> bool:
    if not isinstance(kernels, list | tuple) or not 1 <= len(kernels) <= MAX_CONV_LAYERS:
        return False
    counted = all(are_counts(sizes, len(kernels)) for sizes in (kernels, strides))
    return counted and prod(strides) <= ENCODER_RATE_HZ
