"""Small models, as transformers' own modules and as folders."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel

from extract.models.load import load_model
from extract.models.weights import Checkpoint


def tiny_model() -> HubertModel:
    """What `model=tiny_random` is, as transformers' own module."""
    tiny = load_model("tiny_random")
    model = HubertModel(tiny.config).eval().requires_grad_(False)
    missing = model.load_state_dict(tiny.state_dict(), strict=False)
    assert missing.missing_keys == ["masked_spec_embed"]
    assert not missing.unexpected_keys
    return model


def small_model(norm: str, *, seed: int = 0, lively: bool = True, **settings: Any) -> HubertModel:
    """Group norm and post-norm layers as in HuBERT base, or layer norm and pre-norm as in large.

    Norms and biases are drawn where it is `lively`: as they start, they would hide a mistake.
    """
    layer_norm = norm == "layer"
    sizes: dict[str, Any] = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "conv_dim": (32,) * 7,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": layer_norm,
        "conv_bias": layer_norm,
    }
    torch.manual_seed(seed)
    model = HubertModel(HubertConfig(**{**sizes, **settings})).eval().requires_grad_(False)
    for weight in model.parameters():
        if lively and weight.dim() == 1:
            weight += 0.1 * torch.randn_like(weight)
    return model


def folder_of(
    model: HubertModel | Checkpoint, folder: Path, file_format: str = "safetensors"
) -> Path:
    """A model's folder as model hubs hold them."""
    model.config.save_pretrained(folder)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    if file_format == "safetensors":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return folder


class Payload:
    """A pickle that runs a command when it is loaded without care."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)
