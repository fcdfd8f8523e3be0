"""Settings of a single file are those of transformers; what it leaves out is asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    HubertConfig,
    HubertModel,
)

from extract.models.formats import fairseq
from extract.models.load import load_model
from support.checkpoints import (
    fairseq_args_file,
    fairseq_file,
    fairseq_state,
    finetuned_file,
    s3prl_file,
    torchaudio_state,
)
from support.models import small_model

SETTINGS = {
    "model_type",
    "conv_bias",
    "conv_dim",
    "conv_kernel",
    "conv_pos_batch_norm",
    "conv_stride",
    "do_stable_layer_norm",
    "feat_extract_activation",
    "feat_extract_norm",
    "feat_proj_layer_norm",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_conv_pos_embedding_groups",
    "num_conv_pos_embeddings",
    "num_hidden_layers",
}


def as_json(settings: Any) -> Any:
    return json.loads(json.dumps(dict(settings)))


def settings_of(path: Path, held: Any) -> dict[str, Any]:
    torch.save(held, path)
    return as_json(fairseq.read(path).settings)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_settings_are_those_of_transformers(tmp_path: Path, norm: str) -> None:
    model = small_model(norm, num_conv_pos_embeddings=31)
    found = settings_of(tmp_path / "a.pt", fairseq_file(model))
    assert found.pop("classifier_proj_size") == 8
    ours = as_json(model.config.to_dict())
    assert {name: value for name, value in found.items() if ours[name] != value} == {}
    assert set(found) == SETTINGS
    del found["model_type"]
    assert HubertConfig(**found).to_diff_dict() == model.config.to_diff_dict()


PUBLISHED = {
    "hubert-base": HubertConfig(),
    "hubert-large": HubertConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    ),
    "wav2vec2-large": HubertConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    ),
    "hubert-xlarge": HubertConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=48,
        num_attention_heads=16,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("state", [fairseq_state, torchaudio_state])
def test_a_slim_file_of_a_published_model_needs_no_config(
    tmp_path: Path, name: str, state: Callable[[HubertModel], dict[str, Tensor]]
) -> None:
    """Every tensor here is one number, repeated: shapes are all that counts."""
    config = PUBLISHED[name]
    with torch.device("meta"):
        model = HubertModel(config)
        tensors = state(model)
    torch.save({k: torch.zeros(1).expand(v.shape) for k, v in tensors.items()}, tmp_path / "a.pth")
    found = as_json(fairseq.read(tmp_path / "a.pth").settings)
    found.pop("classifier_proj_size", None)
    ours = as_json(config.to_dict())
    assert {name: value for name, value in found.items() if ours[name] != value} == {}
    assert set(found) == SETTINGS


def test_a_slim_file_that_shapes_do_not_settle_says_what_is_missing(tmp_path: Path) -> None:
    model = small_model("group")
    torch.save(fairseq_state(model), tmp_path / "slim.pt")
    words = "does not say num_attention_heads and do_stable_layer_norm, which no shape shows;"
    with pytest.raises(ValueError, match=f"slim.pt: .*{words} .*config.json that does"):
        load_model(str(tmp_path / "slim.pt"))
    kernels = small_model("group", conv_kernel=(10, 3, 3, 3, 3, 2, 3)).state_dict()
    last = "feature_extractor.conv_layers.6.conv.weight"
    state = {**fairseq_state(model), "feature_extractor.conv_layers.6.0.weight": kernels[last]}
    torch.save(state, tmp_path / "slim.pt")
    with pytest.raises(ValueError, match="does not say conv_stride and num_attention_heads"):
        load_model(str(tmp_path / "slim.pt"))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("file", [fairseq_file, fairseq_args_file, s3prl_file])
def test_what_waveforms_were_in_training_is_read(
    tmp_path: Path, file: Callable[..., dict[str, Any]], normalize: bool
) -> None:
    torch.save(file(small_model("group"), normalize=normalize), tmp_path / "a.pt")
    assert fairseq.read(tmp_path / "a.pt").input_norm is normalize


def test_a_fine_tuned_models_own_task_says_what_waveforms_are(tmp_path: Path) -> None:
    torch.save(finetuned_file(small_model("group")), tmp_path / "a.pt")
    assert fairseq.read(tmp_path / "a.pt").input_norm is True


def test_nothing_is_said_of_waveforms_where_there_is_no_config(tmp_path: Path) -> None:
    held = fairseq_file(small_model("group"))
    del held["cfg"]["task"]
    torch.save(held, tmp_path / "a.pt")
    assert fairseq.read(tmp_path / "a.pt").input_norm is None
