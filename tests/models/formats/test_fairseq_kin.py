"""wav2vec 2.0, WavLM and data2vec, as fairseq and its kin name their parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from extract.models.formats import fairseq
from support.checkpoints import (
    fairseq_args_file,
    fairseq_config,
    fairseq_state,
)
from support.models import small_model


def as_json(settings: Any) -> Any:
    return json.loads(json.dumps(dict(settings)))


def settings_of(path: Path, held: Any) -> dict[str, Any]:
    torch.save(held, path)
    return as_json(fairseq.read(path).settings)


def data2vec_state(model: Data2VecAudioModel) -> dict[str, Tensor]:
    ours = model.state_dict()
    state = {}
    for name, weight in ours.items():
        for transformers, theirs in (
            ("feature_projection.projection", "post_extract_proj"),
            ("feature_projection.layer_norm", "layer_norm"),
            (".conv.", ".0."),
            (".attention.", ".self_attn."),
            ("pos_conv_embed.layers", "pos_conv"),
            ("feed_forward.intermediate_dense", "fc1"),
            ("feed_forward.output_dense", "fc2"),
        ):
            name = name.replace(transformers, theirs)
        if name.startswith("encoder.layers.") and ".layer_norm." in name:
            name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
        if name.startswith("feature_extractor") and ".layer_norm." in name:
            name = name.replace(".layer_norm.", ".2.1.")
        state[name] = weight
    return state


def test_data2vec_is_read_with_its_several_positional_convolutions(tmp_path: Path) -> None:
    config = Data2VecAudioConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        conv_dim=(32,) * 7,
        num_conv_pos_embedding_groups=4,
    )
    model = Data2VecAudioModel(config)
    said = {
        "_name": "data2vec_audio",
        "extractor_mode": "layer_norm",
        "encoder_layers": 2,
        "encoder_embed_dim": 48,
        "encoder_ffn_embed_dim": 96,
        "encoder_attention_heads": 3,
        "layer_norm_first": False,
        "conv_feature_layers": "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32,2,2)] + [(32,2,2)]",
        "conv_bias": False,
        "conv_pos": 95,
        "conv_pos_groups": 4,
        "pos_conv_depth": 5,
        "layer_type": "transformer",
    }
    state = {**data2vec_state(model), "_ema": {"encoder.layer_norm.weight": torch.zeros(48)}}
    assert "encoder.pos_conv.4.0.weight" in state
    assert "encoder.layers.1.self_attn.k_proj.weight" in state
    task = {"normalize": True}
    torch.save({"cfg": {"model": said, "task": task}, "model": state}, tmp_path / "a.pt")
    found = fairseq.read(tmp_path / "a.pt")
    assert found.input_norm is True
    ours = as_json(config.to_dict())
    same = {name for name, value in as_json(found.settings).items() if ours.get(name) == value}
    assert found.settings["model_type"] == "data2vec-audio"
    assert set(found.settings) - same == {  # of which transformers' data2vec has one kind
        "do_stable_layer_norm",
        "feat_extract_norm",
        "feat_proj_layer_norm",
    }
    expected = model.state_dict()
    assert set(expected) - set(found.weights) == set()
    assert all(torch.equal(found.weights[name], weight) for name, weight in expected.items())

    said["layer_norm_first"] = True  # transformers has no such data2vec
    torch.save({"cfg": {"model": said, "task": task}, "model": state}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="do_stable_layer_norm is True; this encoder computes Fal"):
        fairseq.read(tmp_path / "a.pt")


def test_wavlm_is_read_with_its_relative_positions(tmp_path: Path) -> None:
    config = WavLMConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        conv_dim=(32,) * 7,
        num_conv_pos_embedding_groups=4,
        num_buckets=64,
        max_bucket_distance=200,
    )
    model = WavLMModel(config)
    state = fairseq_state(model)
    for i in range(2):
        ours = f"encoder.layers.{i}.attention"
        theirs = f"encoder.layers.{i}.self_attn"
        weights = model.state_dict()
        state[f"{theirs}.grep_linear.weight"] = weights[f"{ours}.gru_rel_pos_linear.weight"]
        state[f"{theirs}.grep_linear.bias"] = weights[f"{ours}.gru_rel_pos_linear.bias"]
        state[f"{theirs}.grep_a"] = weights[f"{ours}.gru_rel_pos_const"]
    name = "encoder.layers.0.self_attn.relative_attention_bias.weight"
    state[name] = weights["encoder.layers.0.attention.rel_attn_embed.weight"]
    said = fairseq_config(model)
    del said["_name"]
    said |= {"normalize": False, "relative_position_embedding": True, "gru_rel_pos": True}
    said |= {"num_buckets": 64, "max_distance": 200}
    torch.save({"cfg": said, "model": state}, tmp_path / "WavLM-Base.pt")
    found = fairseq.read(tmp_path / "WavLM-Base.pt")
    assert found.settings["model_type"] == "wavlm"
    assert found.settings["num_buckets"] == 64
    assert found.settings["max_bucket_distance"] == 200
    assert found.input_norm is False
    expected = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): weight
        for name, weight in weights.items()
        if name != "masked_spec_embed"
    }
    assert set(expected) - set(found.weights) == set()
    assert all(torch.equal(found.weights[name], weight) for name, weight in expected.items())


def test_a_quantizer_or_a_name_says_wav2vec2(tmp_path: Path) -> None:
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "conv_dim": (32,) * 7}
    sizes |= {"num_attention_heads": 3, "num_conv_pos_embedding_groups": 4}
    model = Wav2Vec2Model(Wav2Vec2Config(**sizes))
    held = fairseq_args_file(model)
    held["args"].arch = "wav2vec2"
    assert settings_of(tmp_path / "a.pt", held)["model_type"] == "wav2vec2"
    held["args"].arch = None
    assert settings_of(tmp_path / "a.pt", held)["model_type"] == "hubert"
    held["model"]["quantizer.vars"] = torch.zeros(1, 640, 128)
    assert settings_of(tmp_path / "a.pt", held)["model_type"] == "wav2vec2"


def test_batch_norm_before_the_positional_convolution_is_read(tmp_path: Path) -> None:
    model = small_model("group", conv_pos_batch_norm=True)
    weights = model.state_dict()
    plain = small_model("group")
    state = {k: v for k, v in fairseq_state(plain).items() if not k.startswith("encoder.pos_conv")}
    for part in ("weight", "bias", "running_mean", "running_var"):
        state[f"encoder.pos_conv.0.{part}"] = weights[f"encoder.pos_conv_embed.batch_norm.{part}"]
    for part in ("weight", "bias"):
        state[f"encoder.pos_conv.1.{part}"] = weights[f"encoder.pos_conv_embed.conv.{part}"]
    said = {**fairseq_config(model), "conv_pos_batch_norm": True}
    torch.save({"cfg": {"model": said}, "model": state}, tmp_path / "a.pt")
    found = fairseq.read(tmp_path / "a.pt")
    assert found.settings["conv_pos_batch_norm"] is True
    for name in weights:
        if name.startswith("encoder.pos_conv_embed") and "num_batches" not in name:
            assert torch.equal(found.weights[name], weights[name]), name
