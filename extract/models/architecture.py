"""Which HuBERTs are computed here: every setting that features depend on, checked before use."""

import math
import reprlib
from collections.abc import Callable
from typing import Any

from extract.frames import CONV_LAYERS
from extract.text import shortened

_REPR = reprlib.Repr()  # a hostile value may be deep or long
_REPR.maxlist = _REPR.maxtuple = len(CONV_LAYERS)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _are_our_convolutions(*kernels_and_strides: Any) -> bool:
    if not all(isinstance(sizes, list | tuple) for sizes in kernels_and_strides):
        return False
    same_length = len(set(map(len, kernels_and_strides))) == 1
    return same_length and tuple(zip(*kernels_and_strides, strict=True)) == CONV_LAYERS


def _are_widths(value: Any) -> bool:
    is_sequence = isinstance(value, list | tuple) and len(value) == len(CONV_LAYERS)
    return is_sequence and all(map(_is_count, value))


def _is_small_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0


def _is(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: any(value is choice or value == choice for choice in choices)


# Settings, or two that go together; what this encoder computes; whether their values are that.
_NEEDED: tuple[tuple[str, str, Callable[..., bool]], ...] = (
    ("model_type", "hubert", _is("hubert")),
    ("conv_kernel and conv_stride", f"{CONV_LAYERS}", _are_our_convolutions),
    ("conv_dim", f"{len(CONV_LAYERS)} widths of at least 1", _are_widths),
    ("conv_bias", "true or false", _is_switch),
    ("feat_extract_norm", "group or layer", _is("group", "layer")),
    ("feat_extract_activation", "gelu", _is("gelu")),
    ("feat_proj_layer_norm", "true or false", _is_switch),
    ("hidden_size", "a whole number of at least 1", _is_count),
    ("intermediate_size", "a whole number of at least 1", _is_count),
    ("num_hidden_layers", "a whole number of at least 1", _is_count),
    ("num_attention_heads", "a whole number of at least 1", _is_count),
    ("num_conv_pos_embeddings", "a whole number of at least 1", _is_count),
    ("num_conv_pos_embedding_groups", "a whole number of at least 1", _is_count),
    ("hidden_act", "gelu", _is("gelu")),
    ("layer_norm_eps", "a number above 0", _is_small_number),
    ("do_stable_layer_norm", "true or false", _is_switch),
    ("conv_pos_batch_norm", "False", _is(None, False)),
    ("adapter_attn_dim", "None", _is(None)),
)
_DIVISORS = ("num_attention_heads", "num_conv_pos_embedding_groups")  # of hidden_size

SETTINGS = tuple(name for names, _, _ in _NEEDED for name in names.split(" and "))


def require_supported(config: Any) -> None:
    """Raise ValueError, naming setting and value, where a model is not the HuBERT computed here.

    Looks at no more than the values: nothing is allocated or repeated as often as they say.
    """
    for names, needed, fits in _NEEDED:
        values = [getattr(config, name, None) for name in names.split(" and ")]
        if not fits(*values):
            found = " and ".join(map(_shown, values))
            raise ValueError(f"model: {names} is {found}; this encoder computes {needed}")
    for name in _DIVISORS:
        if config.hidden_size % getattr(config, name):
            raise ValueError(
                f"model: {name} is {getattr(config, name)}; a divisor of hidden_size,"
                f" {config.hidden_size}, is needed"
            )


def _shown(value: Any) -> str:
    return shortened(value if isinstance(value, str) else _REPR.repr(value))
