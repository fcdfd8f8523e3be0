"""A single file that cannot be used is refused by what is wrong with it."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from extract.models.formats import fairseq
from extract.models.load import load_model
from support.checkpoints import (
    fairseq_args_file,
    fairseq_file,
)
from support.models import refusal, small_model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        ("<!doctype html><title>404</title>", "is a web page, saved in place of the file;"),
        ("", "is empty; download it again"),
        ('{"error": "not found"}', "is no file of weights: it starts b'{"),
    ],
)
def test_what_stands_in_for_a_file_is_called_what_it_is(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "hubert_base.pt").write_text(text)
    assert refusal(tmp_path / "hubert_base.pt").startswith(f"hubert_base.pt {words}")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("size", [100, 50_000, -1])
def test_a_file_that_is_cut_off_says_so(tmp_path: Path, zipped: bool, size: int) -> None:
    path = tmp_path / "a.pt"
    held = fairseq_file(small_model("group"))
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:size])
    assert "cut off or damaged, download it again" in refusal(path)


CHANGES: list[tuple[str, Any, str]] = [
    ("encoder_layers", 12, "num_hidden_layers is 12; the weights hold 3 layers"),
    ("encoder_embed_dim", 96, r"is \(32,\)|is \(48, 32\); a.pt's config says \(96, 32\)"),
    ("encoder_ffn_embed_dim", 64, r"is \(96, 48\); a.pt's config says \(64, 48\)"),
    ("encoder_attention_heads", 7, "num_attention_heads is 7; a divisor of hidden_size, 48,"),
    ("encoder_attention_heads", "3", "num_attention_heads is 3; "),
    ("extractor_mode", "layer_norm", "missing weight"),
    ("extractor_mode", "conformer", "feat_extract_norm is conformer;"),
    ("activation_fn", "relu", "hidden_act is relu;"),
    ("layer_type", "conformer", "layer_type is conformer; this encoder computes 'transformer'"),
    ("quantize_input", True, "quantize_input is True; this encoder computes False"),
    ("pos_enc_type", "rel_pos", "pos_enc_type is rel_pos; this encoder computes 'abs'"),
    ("conv_feature_layers", "__import__('os').mkdir('x')", "conv_feature_layers is __import__"),
    ("conv_bias", "no", "conv_bias is no;"),
    ("layer_norm_first", 2, "do_stable_layer_norm is 2;"),
]


@pytest.mark.parametrize(("name", "value", "words"), CHANGES, ids=lambda value: repr(value)[:30])
def test_a_config_that_does_not_fit_is_refused_by_name_and_value(
    tmp_path: Path, name: str, value: Any, words: str
) -> None:
    held = fairseq_file(small_model("group"))
    held["cfg"]["model"][name] = value
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=words):
        load_model(str(tmp_path / "a.pt"))
    refusal(tmp_path / "a.pt")


def test_another_sample_rate_is_refused(tmp_path: Path) -> None:
    held = fairseq_file(small_model("group"))
    held["cfg"]["task"]["sample_rate"] = 24_000
    torch.save(held, tmp_path / "a.pt")
    assert "sample_rate is 24000; this encoder computes 16000" in refusal(tmp_path / "a.pt")


def test_normalize_that_is_neither_true_nor_false_is_refused(tmp_path: Path) -> None:
    held = fairseq_file(small_model("group"))
    held["cfg"]["task"]["normalize"] = "yes"
    torch.save(held, tmp_path / "a.pt")
    assert "normalize is yes; true or false is needed" in refusal(tmp_path / "a.pt")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    held = fairseq_file(small_model("group"))
    del held["model"]["encoder.layers.1.fc2.weight"]
    torch.save(held, tmp_path / "a.pt")
    name = "encoder.layers.1.feed_forward.output_dense.weight"
    assert f"1 missing weight, first {name}" in refusal(tmp_path / "a.pt")
    del held["model"]["post_extract_proj.weight"]
    torch.save(held, tmp_path / "a.pt")
    assert "feature_projection.projection.weight" in refusal(tmp_path / "a.pt")


def test_two_tensors_for_one_weight_are_refused(tmp_path: Path) -> None:
    held = fairseq_file(small_model("group"))
    held["model"]["module.layer_norm.weight"] = torch.zeros(32)
    torch.save(held, tmp_path / "a.pt")
    words = "module.layer_norm.weight and another tensor both stand for feature_projection"
    assert words in refusal(tmp_path / "a.pt")


def test_another_kind_of_model_is_refused_by_its_first_tensor(tmp_path: Path) -> None:
    torch.save({"weight": {"a": torch.zeros(2)}, "config": "x"}, tmp_path / "s2G.pth")
    assert "holds no model that is known here: it holds no tensors by name" in refusal(
        tmp_path / "s2G.pth"
    )
    torch.save({"encoder.blocks.0.attn.weight": torch.zeros(2)}, tmp_path / "a.pt")
    words = "holds no model that is known here: its first tensor is encoder.blocks.0.attn.weight"
    assert words in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize("prefix", ["", "hubert.", "wav2vec2."])
def test_a_file_of_transformers_alone_asks_for_its_folder(tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}{k}": v for k, v in small_model("group").state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    words = "a file; name the folder that holds it with its config.json"
    assert refusal(tmp_path / "model.safetensors") == words
    torch.save(state, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt") == words


def test_settings_may_be_a_namespace_of_anything(tmp_path: Path) -> None:
    held = fairseq_args_file(small_model("group"))
    held["args"] = argparse.Namespace(**{**vars(held["args"]), "encoder_layers": [10**6] * 9})
    torch.save(held, tmp_path / "a.pt")
    assert "num_hidden_layers is [1000000, " in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["encoder_layers", "layer_type", "conv_feature_layers", "_name"])
@pytest.mark.parametrize("value", ["tensor", "deep"])
def test_a_hostile_value_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A pickle holds what JSON cannot."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    held = fairseq_file(small_model("group"))
    held["cfg"]["model"][name] = {"tensor": torch.zeros(3), "deep": deep}[value]
    monkeypatch.setattr(fairseq, "read_tensors", lambda path: held)
    (tmp_path / "a.pt").touch()
    if name == "_name":
        assert fairseq.read(tmp_path / "a.pt").settings["model_type"] == "hubert"
    else:
        said = refusal(tmp_path / "a.pt")
        assert {"encoder_layers": "num_hidden_layers"}.get(name, name) + " is " in said
    while deep:  # Python's own way to free it is recursive
        [deep] = deep
