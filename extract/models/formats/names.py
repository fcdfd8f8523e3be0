"""Renames tensors from fairseq's and torchaudio's names to transformers'.

Names that are transformers' already do not change, so the tool that wrote a file need not be known.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_STATES = ("model", "model_weight", "state_dict")  # fairseq's, s3prl's, many trainers'

# Added by modules around the encoder: DataParallel, a fine-tuned model, a sequence model.
_PREFIX = re.compile(r"^(?:module\.|model\.|w2v_encoder\.|(?:encoder\.)?w2v_model\.)+")

_CONV = r"feature_extractor\.conv_layers\.(\d+)"
_Rules = tuple[tuple[str, str], ...]  # (pattern of a name's start, replacement)
_FAIRSEQ: _Rules = (  # s3prl keeps its names
    (rf"{_CONV}\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (rf"{_CONV}\.2\.(?:1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
)
_TORCHAUDIO: _Rules = (
    (r"encoder\.feature_projection\.", "feature_projection."),
    (r"encoder\.transformer\.", "encoder."),
)
_POSITIONS: _Rules = (  # one convolution with a weight norm; data2vec's several
    (r"encoder\.pos_conv\.0\.(?!0\.)", "encoder.pos_conv_embed.conv."),
    (r"encoder\.pos_conv\.(\d+)\.0\.", r"encoder.pos_conv_embed.layers.\1.conv."),
)
_POSITIONS_AFTER_BATCH_NORM: _Rules = (
    (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.batch_norm."),
    (r"encoder\.pos_conv\.1\.", "encoder.pos_conv_embed.conv."),
)
_LAYER = re.compile(r"encoder\.layers\.\d+\.")
_OF_A_LAYER: _Rules = (
    (r"self_attn\.grep_linear\.", "attention.gru_rel_pos_linear."),
    (r"self_attn\.grep_a$", "attention.gru_rel_pos_const"),
    (r"self_attn\.relative_attention_bias\.", "attention.rel_attn_embed."),
    (r"self_attn\.", "attention."),
    (r"self_attn_layer_norm\.", "layer_norm."),
    (r"fc1\.", "feed_forward.intermediate_dense."),
    (r"fc2\.", "feed_forward.output_dense."),
)


def named(found: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a file by transformers' names.

    Raises:
        ValueError: two tensors have the same name in transformers.
    """
    tensors = {
        name: tensor
        for name, tensor in found.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }
    after_batch_norm = any(name.endswith("pos_conv.0.running_mean") for name in tensors)
    positions = _POSITIONS_AFTER_BATCH_NORM if after_batch_norm else _POSITIONS
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = _renamed(name, (*_FAIRSEQ, *_TORCHAUDIO, *positions))
        if ours in renamed:
            raise ValueError(f"{name} and another tensor both stand for {ours}; needed one")
        renamed[ours] = tensor
    return renamed


def _renamed(name: str, rules: _Rules) -> str:
    name = _replaced(_PREFIX.sub("", name), rules)
    if layer := _LAYER.match(name):
        return layer[0] + _replaced(name[layer.end() :], _OF_A_LAYER)
    return name


def _replaced(name: str, rules: _Rules) -> str:
    """`name` with its start replaced by the first rule that matches, if any."""
    for start, instead in rules:
        renamed, number = re.subn(f"^{start}", instead, name)
        if number:
            return renamed
    return name


def state_of(held: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A model's state dict: the part of a file's mapping that is one, else all of it."""
    parts = [held.get(name) for name in _STATES]
    return next((part for part in parts if isinstance(part, Mapping)), held)
