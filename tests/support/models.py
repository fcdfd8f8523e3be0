"""Small models, as transformers' own modules and as folders."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel, PreTrainedModel

from extract.models.architecture import Architecture
from extract.models.family import Model, as_checkpoint
from extract.models.fingerprint import fingerprint
from extract.models.load import load_model
from extract.models.weights import Checkpoint


def tiny_model() -> HubertModel:
    """What `model=tiny_random` is, as transformers' own module."""
    tiny = load_model("tiny_random")
    model = HubertModel(hubert_config(tiny.architecture)).eval().requires_grad_(False)
    missing = model.load_state_dict(tiny.weights, strict=False)
    assert missing.missing_keys == ["masked_spec_embed"]
    assert not missing.unexpected_keys
    return model


def hubert_config(of: Architecture) -> HubertConfig:
    """Transformers' settings of a HuBERT."""
    dims, kernels, strides = zip(*of.conv, strict=True)
    return HubertConfig(
        conv_dim=dims,
        conv_kernel=kernels,
        conv_stride=strides,
        conv_bias=of.conv_bias,
        feat_extract_norm=of.conv_norm,
        feat_proj_layer_norm=of.projection_norm,
        num_conv_pos_embeddings=of.positions.kernel,
        num_conv_pos_embedding_groups=of.positions.groups,
        hidden_size=of.width,
        intermediate_size=of.wide,
        num_attention_heads=of.heads,
        num_hidden_layers=of.layers,
        do_stable_layer_norm=of.pre_norm,
        layer_norm_eps=of.eps,
    )


def fingerprint_of(model: Model) -> str:
    """The fingerprint of a model's weights; also takes transformers' own modules."""
    return fingerprint(as_checkpoint(model))


SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def small_model(norm: str, *, seed: int = 0, lively: bool = True, **settings: Any) -> HubertModel:
    """Group norm and post-norm layers as in HuBERT base, or layer norm and pre-norm as in large.

    `lively` draws norms and biases at random: with the ones and zeros that they start with, a
    mistake would not show.
    """
    sizes = SIZES | (LARGE if norm == "layer" else {})
    torch.manual_seed(seed)
    model = HubertModel(HubertConfig(**{**sizes, **settings})).eval().requires_grad_(False)
    for weight in model.parameters():
        if lively and weight.dim() == 1:
            weight += 0.1 * torch.randn_like(weight)
    return model


# A small model of each family: transformers' class, and settings beside SIZES.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mhubert": ("Hubert", {"conv_pos_batch_norm": True}),
    "distilhubert": ("Hubert", {"feat_proj_layer_norm": False, "num_hidden_layers": 2}),
    "wav2vec2": ("Wav2Vec2", {}),
    "xls_r": ("Wav2Vec2", LARGE),
    "unispeech_sat": ("UniSpeechSat", {}),
    "unispeech_sat_large": ("UniSpeechSat", LARGE),
    "wavlm": ("WavLM", {}),
    "wavlm_large": ("WavLM", LARGE),
    "data2vec_audio": ("Data2VecAudio", {}),
}


def family_model(name: str) -> PreTrainedModel:
    """A model of a family whose norms, biases, statistics and positions all show in features."""
    kind, settings = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **settings})
    model = getattr(transformers, f"{kind}Model")(config).eval().requires_grad_(False)
    for key, weight in model.state_dict().items():
        if "rel_attn_embed" in key or "gru_rel_pos" in key:
            weight += torch.randn_like(weight)
        elif "running_var" in key:
            weight *= 1 + torch.rand_like(weight)
        elif weight.is_floating_point() and weight.dim() == 1:
            weight += 0.1 * torch.randn_like(weight)
    return model


def refusal(path: Path) -> str:
    """What `load_model` says against a file or folder, less its name: printable and short."""
    with pytest.raises(ValueError, match=str(path)) as caught:
        load_model(str(path))
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1_000
    return message.removeprefix(f"{path}: ")


def folder_of(
    model: HubertModel | Checkpoint, folder: Path, file_format: str = "safetensors"
) -> Path:
    """A model's folder as model hubs hold them."""
    is_ours = isinstance(model, Checkpoint)
    config = hubert_config(model.architecture) if is_ours else model.config
    config.save_pretrained(folder)
    weights = model.weights if is_ours else model.state_dict()
    weights = {name: weight.clone() for name, weight in weights.items()}
    if file_format == "safetensors":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return folder


class Payload:
    """An object whose pickle makes the folder `proof` when `pickle.load` loads it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)
