"""A model is the same from whatever file it comes; what a file leaves out is asked for."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from extract.encoder.encoder import Encoder
from extract.models.formats import fairseq
from extract.models.load import load_model
from extract.models.weights import fingerprint
from support.checkpoints import (
    fairseq_args_file,
    fairseq_config,
    fairseq_dictionary,
    fairseq_file,
    fairseq_state,
    finetuned_file,
    s3prl_file,
    torchaudio_state,
)
from support.models import folder_of, small_model

Writer = Callable[[HubertModel, Path], Path]


def exact_in_half(norm: str, **settings: Any) -> HubertModel:
    """A random model whose every weight is a float16."""
    model = small_model(norm, **settings)
    for weight in model.parameters():
        weight.copy_(weight.half())
    return model


# --- every way to save one model ---------------------------------------------------------------


def _folder(kind: str) -> Writer:
    return lambda model, where: folder_of(model, where / "model", kind)


def _half_folder(model: HubertModel, where: Path) -> Path:
    folder = folder_of(model, where / "model", "bin")
    torch.save({k: v.half() for k, v in model.state_dict().items()}, folder / "pytorch_model.bin")
    return folder


def _sharded_safetensors(model: HubertModel, where: Path) -> Path:
    model.save_pretrained(where / "model", max_shard_size="100KB")
    assert len(list((where / "model").glob("model-*.safetensors"))) > 2
    return where / "model"


def _sharded_bin(model: HubertModel, where: Path) -> Path:
    folder = folder_of(model, where / "model", "bin")
    (folder / "pytorch_model.bin").unlink()
    names = list(model.state_dict())
    weight_map = {}
    for number in range(3):
        shard = f"pytorch_model-0000{number + 1}-of-00003.bin"
        torch.save({name: model.state_dict()[name] for name in names[number::3]}, folder / shard)
        weight_map |= dict.fromkeys(names[number::3], shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def _contentvec(model: HubertModel, where: Path) -> Path:
    with fairseq_dictionary() as dictionary:
        task_state = {"dictionaries": [dictionary]}
        path = where / "checkpoint_best_legacy_500.pt"
        torch.save({**fairseq_file(model), "task_state": task_state}, path)
    return path


def _contentvec_half(model: HubertModel, where: Path) -> Path:
    held = fairseq_file(model)
    held["model"] = {name: weight.half() for name, weight in held["model"].items()}
    torch.save(held, where / "hubert_base.pt")
    return where / "hubert_base.pt"


def _facebook(model: HubertModel, where: Path) -> Path:
    """Named by an ending that says nothing."""
    with fairseq_dictionary() as dictionary:
        held = {**fairseq_args_file(model), "task_state": {"dictionaries": [dictionary]}}
        torch.save(held, where / "hubert_base_ls960.model")
    return where / "hubert_base_ls960.model"


def _before_zip(model: HubertModel, where: Path) -> Path:
    held = fairseq_args_file(model)
    torch.save(held, where / "old.pth", _use_new_zipfile_serialization=False)
    return where / "old.pth"


def _finetuned(model: HubertModel, where: Path) -> Path:
    torch.save(finetuned_file(model), where / "ctc.pt")
    return where / "ctc.pt"


def _s3prl(model: HubertModel, where: Path) -> Path:
    torch.save(s3prl_file(model), where / "s3prl.pt")
    return where / "s3prl.pt"


def _beside_config(state: Callable[[HubertModel], dict[str, Tensor]]) -> Writer:
    """Tensors alone, in a folder whose config.json says what their shapes do not."""

    def write(model: HubertModel, where: Path) -> Path:
        folder = folder_of(model, where / "model", "bin")
        torch.save(state(model), folder / "pytorch_model.bin")
        return folder

    return write


WRITERS: dict[str, Writer] = {
    "safetensors": _folder("safetensors"),
    "bin": _folder("bin"),
    "float16": _half_folder,
    "safetensors in shards": _sharded_safetensors,
    "bin in shards": _sharded_bin,
    "ContentVec": _contentvec,
    "ContentVec in float16": _contentvec_half,
    "Facebook": _facebook,
    "before torch 1.6": _before_zip,
    "fine-tuned": _finetuned,
    "s3prl": _s3prl,
    "torchaudio": _beside_config(torchaudio_state),
    "slim": _beside_config(fairseq_state),
    "several processes'": _beside_config(
        lambda model: {f"module.{name}": weight for name, weight in fairseq_state(model).items()}
    ),
}


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_model_is_the_same_from_every_file(tmp_path: Path, kind: str, norm: str) -> None:
    model = exact_in_half(norm)
    plain = load_model(str(folder_of(model, tmp_path / "plain")))
    loaded = load_model(str(WRITERS[kind](model, tmp_path)))
    assert fingerprint(loaded) == fingerprint(plain)

    generator = torch.Generator().manual_seed(3)
    waveforms = [torch.randn(size, generator=generator) * 200 for size in (400, 9_000)]
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    found = Encoder(loaded, precision="fp32").encode(batch, [400, 9_000])
    for features, waveform in zip(found, waveforms, strict=True):
        expected = model(waveform[None]).last_hidden_state[0]
        assert float((features.values - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("kind", ["ContentVec", "before torch 1.6"])
def test_loaded_weights_are_none_of_the_files_memory(tmp_path: Path, kind: str) -> None:
    model = exact_in_half("group")
    path = WRITERS[kind](model, tmp_path)
    loaded = load_model(str(path))
    before = fingerprint(loaded)
    path.write_bytes(bytes(path.stat().st_size))
    assert fingerprint(loaded) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says how much it was")
def test_an_optimizer_stays_on_the_disk(tmp_path: Path) -> None:
    model = exact_in_half("group")
    state = {number: torch.zeros(15_000_000) for number in range(5)}
    held = {**fairseq_file(model), "last_optimizer_state": {"state": state}}
    torch.save(held, tmp_path / "whole.pt")
    assert (tmp_path / "whole.pt").stat().st_size > 300_000_000
    torch.save(fairseq_file(model), tmp_path / "slim.pt")
    code = (  # VmHWM begins anew with a program; getrusage's begins with the parent's
        "import sys; from extract.models.load import load_model\n"
        "def peak():\n"
        "    [line] = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "    return int(line.split()[1])\n"
        "load_model(sys.argv[1])\n"
        "before = peak()\n"
        "load_model(sys.argv[2])\n"
        "print(peak() - before)"
    )
    command = [sys.executable, "-c", code, tmp_path / "slim.pt", tmp_path / "whole.pt"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) < 30_000  # KiB, of an optimizer of 293,000


# --- settings ----------------------------------------------------------------------------------


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


# --- files that are none -----------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=str(path)) as caught:
        load_model(str(path))
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1_000
    return message.removeprefix(f"{path}: ")


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
