"""A model that cannot be used is refused by what is wrong with it; its fingerprint stays."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerModel,
)

from extract.encoder.encoder import Encoder
from extract.models.families import hubert
from extract.models.fingerprint import feature_settings, fingerprint
from extract.models.load import TINY, load_model
from extract.models.weights import Checkpoint, weight_shapes
from support.models import SIZES, fingerprint_of, folder_of, refusal

AS_ANYONE = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as its folder holds it."""
    return folder_of(load_model("tiny_random"), tmp_path / "model")


def change_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


# --- what a model is ---------------------------------------------------------------------------


def test_the_tiny_models_settings_stay_what_they_are():
    settings = {
        "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
        "conv_stride": (5, 2, 2, 2, 2, 2, 2),
        "conv_dim": (16,) * 7,
        "conv_bias": False,
        "feat_extract_norm": "group",
        "feat_extract_activation": "gelu",
        "feat_proj_layer_norm": True,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_conv_pos_embeddings": 32,
        "num_conv_pos_embedding_groups": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "do_stable_layer_norm": False,
        "conv_pos_batch_norm": False,
        "adapter_attn_dim": None,
    }
    assert set(settings) == set(hubert.DEFAULTS)
    assert hubert.architecture(settings) == load_model("tiny_random").architecture == TINY


KNOWN: dict[str, dict[str, Any]] = {
    "5961e81608ccfd813c94633af2f3950fe0c86e26f792edf185dc4c8858b13898": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 32,
    },
    "fd694309680b628be3d992f71635371dd270fb7332fd11858641c6dda1b0c0f6": {},
    "ee52d012deaad608ae109e85c84c3b9abfa8904253988bd888b6fa2b25dfada1": {
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    },
    "5b5cd502fc1eb7212cb1f0e1d2ce2e0ee2358490427c0bf2bb38e0fc495f82f8": {
        "feat_proj_layer_norm": False,
        "layer_norm_eps": 1e-3,
        "num_attention_heads": 4,
        "num_conv_pos_embedding_groups": 6,
        "num_conv_pos_embeddings": 31,
        "conv_dim": (16, 24, 32, 8, 16, 24, 32),
    },
}


@pytest.mark.parametrize("known", KNOWN)
def test_the_fingerprint_of_known_weights_stays_what_it_is(known):
    """A store made by any version goes on only while this holds."""
    architecture = hubert.architecture(SIZES | KNOWN[known])
    weights = {
        name: (torch.arange(torch.Size(shape).numel()) % 251 / 256 - 0.5).view(shape)
        for name, shape in weight_shapes(architecture).items()
    }
    assert fingerprint(Checkpoint(architecture, weights)) == known


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="without AVX torch draws numbers that differ in their last bits",
)
def test_the_fingerprint_of_the_tiny_model_stays_what_it_is():
    """Torch 2.11 and 2.14.1 draw the same numbers for a seed."""
    known = "1a51b8776aba68e348bb9cdd9d4b15cfb9da624ba78143b0607ec8748c8ee033"
    assert fingerprint(load_model("tiny_random")) == known


def test_every_setting_of_a_fingerprint_is_checked_and_kept(folder):
    assert set(feature_settings(TINY)) <= set(hubert.DEFAULTS)
    change_config(folder, layer_norm_eps=1e-3, vocab_size="none", to_dict=1, attribute_map={"a": 1})
    assert load_model(str(folder)).architecture.eps == 1e-3


@pytest.mark.parametrize("settings", [{}, {"feat_extract_norm": "layer", "conv_bias": True}])
def test_transformers_own_models_are_supported(settings):
    architecture = hubert.architecture(HubertConfig(**settings).to_dict())
    assert architecture == hubert.architecture(settings)


def test_a_setting_that_a_config_leaves_out_has_transformers_default():
    config = HubertConfig()
    assert {name: getattr(config, name, None) for name in hubert.DEFAULTS} == hubert.DEFAULTS
    assert hubert.architecture({}) == hubert.architecture(config.to_dict())


def test_a_home_folder_may_be_meant(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert fingerprint(load_model("~/model")) == fingerprint(load_model(str(folder)))


# --- files that are none -----------------------------------------------------------------------

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 188811417\n"
)
STAND_INS = {
    POINTER: "is a Git LFS pointer, .*git lfs pull.*download it again",
    "<!doctype html><title>404</title>": "is a web page, .*download it again",
    "\ufeff\n  <?xml version='1.0'?><Error>": "is a web page, .*download it again",
    "": "is empty; download it again",
}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("text", STAND_INS, ids=["pointer", "page", "xml", "empty"])
def test_what_stands_in_for_a_file_is_called_what_it_is(folder, name, text):
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(text, "utf8")
    with pytest.raises(ValueError, match=f"^{folder}: {name} {STAND_INS[text]}"):
        load_model(str(folder))


def test_a_file_that_is_no_weights_is_not_taken_for_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text('{"error": "not found"}')
    assert refusal(folder).startswith("pytorch_model.bin is no file of weights: it starts b'{")


@pytest.mark.parametrize("size", [100, 50_000, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_cut_off_say_so(folder, name, size):
    if name == "pytorch_model.bin":
        torch.save(dict(load_model("tiny_random").weights), folder / name)
        (folder / "model.safetensors").unlink()
    (folder / name).write_bytes((folder / name).read_bytes()[:size])
    assert "cut off or damaged, download it again" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model_type": "hubert",\n  hidden_size: 1}', "is no JSON: .*line 2 column 3"),
        (b"\xff\xfe\x00", "is no JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ("[1, 2]", "is a list; a mapping of settings is needed"),
        ("null", "is a NoneType; a mapping"),
        ('{"hidden_size": ' + "9" * 5_000 + "}", "is no JSON"),
        (" " * (1 << 24) + "{}", "has more than 16,777,216 bytes"),
        ("{}", "says model_type None; 'data2vec-audio' or 'hubert' or .* is needed"),
        ('{"model_type": "bert"}', "says model_type bert; .* or 'hubert' or .* is needed"),
        ('{"model_type": ["\\u001b[2J"]}', "says model_type .*; .*'hubert' or .* is needed"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_broken_config_says_what_is_broken(folder, text, words):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"config.json {words}"):
        load_model(str(folder))
    refusal(folder)


@pytest.mark.skipif(AS_ANYONE != [] and not shutil.which("setpriv"), reason="root reads all")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "."])
def test_a_model_without_the_right_to_read_it_says_so(folder, name):
    (folder / name).chmod(0)
    code = (
        "import sys; from extract.models.load import load_model\n"
        "try: load_model(sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.run(
        [*AS_ANYONE, sys.executable, "-c", code, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / name).chmod(0o700)
    hidden = "config.json" if name == "." else name
    assert said.stdout == f"{folder}: {hidden} cannot be read: Permission denied\n", said.stderr


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_a_model_says_what_is_missing(folder, name):
    (folder / name).unlink()
    said = refusal(folder)
    assert f"which holds no {name}" in said
    assert "model=local model.path=DIR" in said
    os.mkfifo(folder / name)  # whoever opened it would wait for ever
    assert refusal(folder) == said


def test_a_model_named_by_its_file_says_what_to_name(folder):
    with pytest.raises(ValueError, match="a file; name the folder that holds"):
        load_model(str(folder / "model.safetensors"))


# --- hostile settings and weights --------------------------------------------------------------

HOSTILE: list[tuple[str, Any, str]] = [
    ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000; the weights hold 2 layers"),
    ("num_hidden_layers", 0, "num_hidden_layers is 0;"),
    ("num_hidden_layers", -1, "num_hidden_layers is -1;"),
    ("num_hidden_layers", 2.0, "num_hidden_layers is 2.0;"),
    ("num_hidden_layers", True, "num_hidden_layers is True;"),
    ("num_attention_heads", 0, "num_attention_heads is 0;"),
    ("num_attention_heads", 7, "num_attention_heads is 7; a divisor of hidden_size, 32,"),
    ("num_conv_pos_embedding_groups", 0, "num_conv_pos_embedding_groups is 0;"),
    ("num_conv_pos_embedding_groups", 5, "num_conv_pos_embedding_groups is 5; a divisor"),
    ("num_conv_pos_embeddings", 10**9, r"config\.json says \(1, 1, 1000000000\)"),
    ("num_conv_pos_embeddings", [32], r"num_conv_pos_embeddings is \[32\];"),
    ("hidden_size", 32 * 10**15, "config.json says .*32000000000000000"),
    ("hidden_size", "32", "hidden_size is 32; this encoder computes a whole number"),
    ("hidden_size", None, "hidden_size is None;"),
    ("intermediate_size", 10**30, "config.json says .*1000000000000000000000000000000"),
    ("conv_dim", "x", "conv_dim is x; this encoder computes 7 widths"),
    ("conv_dim", [16] * 6, "conv_dim is .16, 16, 16, 16, 16, 16.;"),
    ("conv_dim", [16] * 6 + ["16"], "conv_dim is .*'16'.;"),
    ("conv_dim", [16] * 6 + [10**12], "config.json says .*1000000000000"),
    ("conv_dim", [16] * 100_000, r"conv_dim is \[16, 16, 16, 16, 16, 16, 16, \.\.\.\];"),
    ("conv_kernel", 10, "conv_kernel and conv_stride is 10 and "),
    ("conv_kernel", [10, 3], r"conv_kernel and conv_stride is \[10, 3\] and "),
    ("conv_stride", ["5"] * 7, "conv_kernel and conv_stride is "),
    ("conv_stride", [5] + [10**9] * 6, "conv_kernel and conv_stride is .* and .5, 1000000000, "),
    ("conv_kernel", [], r"conv_kernel and conv_stride is \[\] and "),
    ("conv_bias", "no", "conv_bias is no; this encoder computes true or false"),
    ("feat_proj_layer_norm", 1, "feat_proj_layer_norm is 1;"),
    ("do_stable_layer_norm", None, "do_stable_layer_norm is None;"),
    ("feat_extract_norm", "batch", "feat_extract_norm is batch;"),
    ("feat_extract_norm", ["group"], r"feat_extract_norm is \['group'\];"),
    ("feat_extract_activation", "relu", "feat_extract_activation is relu;"),
    ("layer_norm_eps", "a", "layer_norm_eps is a; this encoder computes a number above 0"),
    ("layer_norm_eps", float("nan"), "layer_norm_eps is nan;"),
    ("layer_norm_eps", float("inf"), "layer_norm_eps is inf;"),
    ("layer_norm_eps", -1e-5, "layer_norm_eps is -1e-05;"),
    ("layer_norm_eps", 0.0, "layer_norm_eps is 0.0;"),
    ("hidden_act", {"a": [[[[[[[[[]]]]]]]]]}, "hidden_act is "),
    ("hidden_act", "\u202e" + "x" * 10_000, r"hidden_act is \\u202exx.*characters more;"),
    ("adapter_attn_dim", 16, "adapter_attn_dim is 16;"),
]


@pytest.mark.parametrize(("name", "value", "words"), HOSTILE, ids=lambda value: repr(value)[:30])
def test_a_hostile_setting_is_refused_by_name_and_value(folder, name, value, words):
    change_config(folder, **{name: value})
    with pytest.raises(ValueError, match=words):
        load_model(str(folder))
    refusal(folder)


def hostile_weights() -> dict[str, Callable[[torch.Tensor], Any]]:
    return {
        "whole numbers": lambda weight: weight.int(),
        "complex": lambda weight: weight.to(torch.complex64),
        "sparse": lambda weight: weight.to_sparse(),
        "nowhere": lambda weight: weight.to("meta"),
        "one number for all": lambda weight: torch.zeros(1).expand(weight.shape),
    }


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("kind", hostile_weights())
def test_a_tensor_that_only_claims_to_be_weights_is_refused(folder, kind):
    weights = dict(load_model("tiny_random").weights)
    name = "encoder.layers.1.feed_forward.output_dense.weight"
    weights[name] = hostile_weights()[kind](weights[name])
    weights |= {5: torch.zeros(1), "a": "no tensor"}
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert refusal(folder).startswith(f"{name} is a torch.")


def test_another_familys_model_is_refused_by_its_type():
    sizes = {"num_hidden_layers": 1, "hidden_size": 48, "conv_dim": (8,) * 7}
    model = Wav2Vec2ConformerModel(Wav2Vec2ConformerConfig(**sizes))
    words = "model_type is wav2vec2-conformer; this encoder computes .* or hubert or .*wavlm"
    with pytest.raises(ValueError, match=words):
        Encoder(model)


def test_a_model_that_is_refused_is_a_sentence_and_exit_2(extract_folder, folder, capfd):
    change_config(folder, num_attention_heads=7)
    (folder.parent / "w").mkdir()
    (folder.parent / "w" / "a.wav").touch()
    assert extract_folder(folder.parent / "w", "model=local", f"model.path={folder}") == 2
    said = capfd.readouterr().err
    assert "num_attention_heads is 7" in said
    assert "Traceback" not in said


def test_a_transformers_model_and_its_file_have_one_fingerprint(folder):
    model = HubertModel.from_pretrained(folder)
    assert fingerprint_of(model) == fingerprint(load_model(str(folder)))
