"""Reads a single file of fairseq, or of a tool that took over its models, by its content.

    fairseq      {"model": tensors, "cfg": {"model": ..., "task": ...}}; "args" before 2021
    WavLM        {"model": tensors, "cfg": settings of model and task in one}
    s3prl        {"model_weight": tensors, "model_cfg": ..., "task_cfg": ...}
    torchaudio   tensors alone, under names of its own
    slim files   tensors alone: settings show in their shapes, or are a published model's

A setting that the file says is used before one that its shapes show. If the two differ, the checks
of `weights` refuse the file, as for a wrong `config.json`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from extract.models.formats.conv_layers import parse
from extract.models.formats.files import read_tensors
from extract.models.formats.found import Found
from extract.models.formats.names import named, state_of
from extract.models.formats.pickles import Stub
from extract.models.formats.shapes import FIRST_CONVOLUTION, complete, seen
from extract.models.settings import shown

_WORDS = {  # fairseq's name of a setting: that of a `config.json`
    "activation_fn": "hidden_act",
    "conv_bias": "conv_bias",
    "conv_pos": "num_conv_pos_embeddings",
    "conv_pos_batch_norm": "conv_pos_batch_norm",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
    "encoder_attention_heads": "num_attention_heads",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_layers": "num_hidden_layers",
    "layer_norm_first": "do_stable_layer_norm",
    "max_distance": "max_bucket_distance",
    "num_buckets": "num_buckets",
}
_NORMS = {"default": "group", "layer_norm": "layer"}
_ONLY: dict[str, tuple[Any, ...]] = {  # settings that no tensor shows: the values computed here
    "attn_type": ("", None),
    "layer_type": ("transformer", None),
    "pos_enc_type": ("abs", None),
    "quantize_input": (False, None),
    "sample_rate": (16_000, None),
}
# transformers' data2vec has no such settings and always computes these values.
_ONLY_OF_DATA2VEC = {"do_stable_layer_norm": (False,), "feat_extract_norm": ("layer",)}
_ALWAYS = {"feat_extract_activation": "gelu", "hidden_act": "gelu", "layer_norm_eps": 1e-5}
_OF_TRANSFORMERS = re.compile(r"(?!encoder\.)(?:\w+\.)?feature_projection\.projection\.weight")


def read(path: Path) -> Found:
    """The model in a file.

    Raises:
        ValueError: it cannot be read, is damaged, holds more than tensors, or no model that is
            known here.
    """
    held = read_tensors(path)
    weights = _weights(path, state_of(held))
    model, task = _configs(held)
    said = _said(model)
    _require({**task, **model}, _ONLY)
    settings = complete({**_ALWAYS, **said}, seen(weights))
    settings["model_type"] = _model_type(weights, model)
    if settings["model_type"] == "data2vec-audio":
        _require(settings, _ONLY_OF_DATA2VEC)
    said_by = f"{path.name}'s config" if said else path.name
    return Found(settings, weights, _input_norm(task), said_by)


def _weights(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    if any(isinstance(name, str) and _OF_TRANSFORMERS.fullmatch(name) for name in state):
        raise ValueError("a file; name the folder that holds it with its config.json")
    weights = named(state)
    if FIRST_CONVOLUTION not in weights:
        first = next(iter(weights), None)
        what = f"its first tensor is {shown(first)}" if first else "it holds no tensors by name"
        raise ValueError(
            f"{path.name} holds no model that is known here: {what}; needed is a file of fairseq's,"
            " s3prl's or torchaudio's, or a folder"
        )
    return weights


def _configs(held: Mapping[Any, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Settings of the model and of its training task by fairseq's names; {} if not in the file."""
    if "model_weight" in held:
        return _mapping(held.get("model_cfg")), _mapping(held.get("task_cfg"))
    whole = _mapping(held.get("cfg")) or _mapping(held.get("args"))
    model = _mapping(whole.get("model")) or whole
    task = _mapping(whole.get("task")) or whole
    if inner := _mapping(model.get("w2v_args")):  # of the model that a fine-tuned one began from
        model = _mapping(inner.get("model")) or inner
    return model, task


def _mapping(value: Any) -> Mapping[str, Any]:
    """A namespace or mapping as a dict of its named values; {} for anything else."""
    if isinstance(value, Stub):
        value = vars(value)
    if not isinstance(value, Mapping):
        return {}
    return {name: _plain(value) for name, value in value.items() if isinstance(name, str)}


def _plain(value: Any) -> Any:
    """`value`, but a tensor as its type's name, which can be compared and shown."""
    return f"a {type(value).__name__}" if isinstance(value, Tensor) else value


def _said(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that fairseq's config says, by the names of a `config.json`."""
    said = {ours: model[theirs] for theirs, ours in _WORDS.items() if model.get(theirs) is not None}
    if (mode := model.get("extractor_mode")) is not None:
        said["feat_extract_norm"] = _NORMS.get(mode, mode) if isinstance(mode, str) else mode
    if (written := model.get("conv_feature_layers")) is not None:
        channels, kernels, strides = map(list, zip(*parse(written), strict=True))
        said |= {"conv_dim": channels, "conv_kernel": kernels, "conv_stride": strides}
    depth, kernel = model.get("pos_conv_depth"), model.get("conv_pos")
    if isinstance(depth, int) and isinstance(kernel, int) and depth > 1:
        said |= {"num_conv_pos_embeddings": depth, "conv_pos_kernel_size": max(3, kernel // depth)}
    return said


def _require(said: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]]) -> None:
    for name, known in only.items():
        value = said.get(name)
        if not any(value is choice or value == choice for choice in known):
            raise ValueError(f"model: {name} is {shown(value)}; this encoder computes {known[0]!r}")


def _model_type(weights: Mapping[str, Tensor], model: Mapping[str, Any]) -> str:
    """The `model_type` in transformers, from weights that only one type has.

    HuBERT and wav2vec 2.0 are the same network. A file is wav2vec 2.0's if its config says so or it
    holds the quantizer of wav2vec 2.0's training.
    """
    if "encoder.layers.0.attention.gru_rel_pos_linear.weight" in weights:
        return "wavlm"
    if "encoder.pos_conv_embed.layers.0.conv.weight" in weights:
        return "data2vec-audio"
    name = model.get("_name") or model.get("arch")
    says_so = isinstance(name, str) and name.startswith("wav2vec")
    is_wav2vec2 = says_so or "quantizer.vars" in weights
    return "wav2vec2" if is_wav2vec2 else "hubert"


def _input_norm(task: Mapping[str, Any]) -> bool | None:
    """Whether training waveforms had zero mean and unit variance (`normalize`); None: unknown."""
    found = task.get("normalize")
    if not (found is None or isinstance(found, bool)):
        raise ValueError(f"normalize is {shown(found)}; true or false is needed")
    return found
