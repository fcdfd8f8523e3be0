"""Loading a model, and features of batches in every precision."""

import json
import logging
import pickle
import socket
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import HubertConfig, HubertForCTC, HubertModel

from extract.encoder.encoder import Encoder, Pending
from extract.encoder.forward import ExactForward
from extract.frames import num_frames
from extract.models.families import hubert
from extract.models.load import load_model
from extract.models.weights import weight_shapes
from extract.values import Features
from support.models import (
    Payload,
    fingerprint_of,
    folder_of,
    hubert_config,
    small_model,
    tiny_model,
)

LENGTHS = [400, 9_000, 16_000]


@pytest.fixture(scope="module")
def model() -> HubertModel:
    return tiny_model()


@pytest.fixture
def waveforms() -> Tensor:
    """Three utterances of LENGTHS samples at speech's level, zero-padded."""
    batch = torch.randn(3, 16_000, generator=torch.Generator().manual_seed(0)) * 200
    for row, length in zip(batch, LENGTHS, strict=True):
        row[length:] = 0
    return batch


# ---------------------------------------------------------------------- encoding


def test_encode_gives_one_features_an_utterance(model: HubertModel, waveforms: Tensor) -> None:
    found = Encoder(model).encode(waveforms, LENGTHS)
    assert [tuple(one.values.shape) for one in found] == [(1, num_frames(n), 32) for n in LENGTHS]
    for one, waveform, length in zip(found, waveforms, LENGTHS, strict=True):
        alone = model(waveform[None, :length]).last_hidden_state[0]
        assert (one.values - alone).abs().max() <= 1e-5
        assert one.finite
        assert not one.retried_fp32


def test_features_own_their_memory(model: HubertModel, waveforms: Tensor) -> None:
    for one in Encoder(model).encode(waveforms, LENGTHS):
        assert one.values.untyped_storage().nbytes() == one.values.numel() * 4


@pytest.mark.parametrize("shape", [(0, 0), (0, 500)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_waveform_gives_no_features(
    model: HubertModel, shape: tuple[int, ...], precision: str
) -> None:
    assert Encoder(model, precision=precision).encode(torch.zeros(shape), []) == []


def assert_trainable(values: Tensor) -> None:
    assert not values.is_inference()
    assert not values.requires_grad
    values = values.float()
    linear = torch.nn.Linear(values.shape[2], 1)
    linear(values).sum().backward()
    assert torch.allclose(linear.weight.grad[0], values.sum((0, 1)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_model_can_be_trained_on_features(
    model: HubertModel, waveforms: Tensor, half_arithmetic: None, precision: str
) -> None:
    for one in Encoder(model, precision=precision).encode(waveforms, LENGTHS):
        assert_trainable(one.values)


def test_a_model_can_be_trained_on_features_that_were_redone(
    overflowing_model: HubertModel, waveforms: Tensor, redone: list[int]
) -> None:
    found = Encoder(overflowing_model, precision="fp16").encode(waveforms, LENGTHS)
    overflowing_model.encoder.layer_norm.weight *= 1e6
    found += Encoder(overflowing_model, precision="fp16").encode(waveforms, LENGTHS)
    assert redone == LENGTHS * 2
    assert {one.values.dtype for one in found} == {torch.float16, torch.float32}
    for one in found:
        assert_trainable(one.values)
        assert one.values.mT.is_contiguous()


def test_the_forward_itself_records_nothing_for_a_gradient(
    waveforms: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model().requires_grad_(True)
    modes = []
    forward = ExactForward.forward

    def noted(*arguments: Any) -> Tensor:
        features = forward(*arguments)
        modes.append((features.is_inference(), features.requires_grad))
        return features

    monkeypatch.setattr(ExactForward, "forward", noted)
    for one in Encoder(model).encode(waveforms, LENGTHS):
        assert_trainable(one.values)
    assert modes == [(True, False)]


def test_features_of_an_earlier_batch_stay_as_they_were(
    model: HubertModel, waveforms: Tensor
) -> None:
    encoder = Encoder(model)
    first, second = encoder.submit(waveforms, LENGTHS), encoder.submit(-waveforms, LENGTHS)
    expected = Encoder(model).encode(waveforms, LENGTHS)
    assert all(
        torch.equal(a.values, b.values) for a, b in zip(first.result(), expected, strict=True)
    )
    assert not torch.equal(second.result()[2].values, expected[2].values)


def test_a_length_is_too_short_by_the_models_own_convolutions() -> None:
    kernels, strides = (10, 3, 3, 3, 3, 2, 2, 2), (5, 2, 2, 2, 2, 2, 2, 2)
    sizes = {"conv_kernel": kernels, "conv_stride": strides, "conv_dim": (32,) * 8}
    encoder = Encoder(small_model("group", **sizes))
    found = encoder.encode(torch.zeros(2, 1_360), [1_360, 720])
    assert [one.values.shape[1] for one in found] == [2, 1]
    with pytest.raises(ValueError, match="719 to 719 samples; the encoder needs at least 720"):
        encoder.encode(torch.zeros(1, 719), [719])


@pytest.fixture
def half_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision is computed as on a GPU, emulated where this processor has none."""
    every = dict.fromkeys(("avx512_bf16", "avx512_fp16"), True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: every)


# Relative, per utterance; 8 bits of mantissa in bfloat16 and 11 in float16, a few roundings deep.
@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 5e-3), ("bf16", 4e-2)])
def test_half_precision_is_near_float32(
    model: HubertModel, waveforms: Tensor, half_arithmetic: None, precision: str, tolerance: float
) -> None:
    exact = Encoder(model).encode(waveforms, LENGTHS)
    encoder = Encoder(model, precision=precision)
    for half, full in zip(encoder.encode(waveforms, LENGTHS), exact, strict=True):
        assert half.values.dtype == encoder.dtype
        assert not half.retried_fp32
        assert (half.values.float() - full.values).norm() / full.values.norm() <= tolerance


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_cpu_without_half_arithmetic_computes_in_float32_and_rounds_once(
    model: HubertModel, waveforms: Tensor, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    exact = Encoder(model).encode(waveforms, LENGTHS)
    encoder = Encoder(model, precision=precision)
    for rounded, full in zip(encoder.encode(waveforms, LENGTHS), exact, strict=True):
        assert torch.equal(rounded.values, full.values.to(encoder.dtype))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": 1, "amx_fp16": 1})
    assert Encoder(model, precision=precision).exact.dtype == encoder.dtype


def test_no_level_overflows_float16_in_a_group_norm_model(
    model: HubertModel, half_arithmetic: None
) -> None:
    loud = torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0)) * 60_000
    [one] = Encoder(model, precision="fp16").encode(loud, [8_000])
    assert one.finite
    assert not one.retried_fp32


@pytest.fixture
def overflowing_model() -> HubertModel:
    """Noise overflows float16 in the second convolution; silence does not, and float32 never.

    That convolution's large weights are all undone by the norm that follows it.
    """
    model = small_model("layer", lively=False, num_hidden_layers=2)
    weight = model.feature_extractor.conv_layers[1].conv.weight
    weight *= 6e4 / weight.abs().max()
    torch.nn.init.normal_(model.feature_projection.projection.bias)  # silence gives features too
    return model


@pytest.fixture
def redone(monkeypatch: pytest.MonkeyPatch, half_arithmetic: None) -> list[int]:
    """Sample counts of the waveforms that are computed again."""
    seen: list[int] = []
    redo = Encoder.redo

    def spy(self: Encoder, again: list[Tensor]) -> list[Tensor]:
        seen.extend(len(waveform) for waveform in again)
        return redo(self, again)

    monkeypatch.setattr(Encoder, "redo", spy)
    return seen


def test_only_what_overflows_is_redone_and_from_the_float32_weights(
    overflowing_model: HubertModel, waveforms: Tensor, redone: list[int]
) -> None:
    waveforms[1] = 0
    found = Encoder(overflowing_model, precision="fp16").encode(waveforms, LENGTHS)
    assert [one.retried_fp32 for one in found] == [True, False, True]
    assert redone == [400, 16_000]
    assert all(one.finite for one in found)
    assert [one.values.dtype for one in found] == [torch.float16] * 3
    exact = Encoder(overflowing_model)
    for index in (0, 2):
        length = LENGTHS[index]
        [alone] = exact.encode(waveforms[index : index + 1, :length], [length])
        assert torch.equal(found[index].values, alone.values.half())
    whole = exact.encode(waveforms, LENGTHS)[1].values
    assert (found[1].values.float() - whole).norm() / whole.norm() <= 5e-3


def test_a_redo_is_of_the_layer_that_was_asked_for(
    overflowing_model: HubertModel, waveforms: Tensor, redone: list[int]
) -> None:
    [one] = Encoder(overflowing_model, precision="fp16", layer=1).encode(waveforms[2:], [16_000])
    assert redone == [16_000]
    _, first, last = overflowing_model(waveforms[2:], output_hidden_states=True).hidden_states
    assert (one.values.float() - first[0]).abs().max() <= 2e-3
    assert (last - first).abs().max() > 2e-2


def test_a_redo_that_does_not_fit_float16_stays_float32(
    overflowing_model: HubertModel, waveforms: Tensor
) -> None:
    overflowing_model.encoder.layer_norm.weight *= 1e6
    [one] = Encoder(overflowing_model, precision="fp16").encode(waveforms[2:], [16_000])
    assert one.values.dtype == torch.float32
    assert one.finite
    assert one.values.abs().max() > 65_504


@pytest.mark.parametrize(("precision", "kept"), [("fp32", False), ("bf16", True)])
def test_weights_as_loaded_stay_only_where_a_redo_needs_them(
    precision: str, kept: bool, half_arithmetic: None
) -> None:
    checkpoint = load_model("tiny_random")
    weight = checkpoint.weights["encoder.layers.0.feed_forward.output_dense.weight"]
    loaded = weakref.ref(weight)
    encoder = Encoder(checkpoint, precision=precision)
    del checkpoint, weight
    assert (loaded() is not None) == kept
    assert encoder.encode(torch.ones(1, 400), [400])[0].finite


@pytest.mark.parametrize(
    ("precision", "retried"), [("fp32", False), ("bf16", True), ("fp16", True)]
)
def test_what_stays_non_finite_says_so_and_spares_its_neighbours(
    model: HubertModel, waveforms: Tensor, redone: list[int], precision: str, retried: bool
) -> None:
    expected = Encoder(model, precision=precision).encode(waveforms, LENGTHS)
    waveforms[1, 5_000] = torch.nan
    found = Encoder(model, precision=precision).encode(waveforms, LENGTHS)
    assert [one.finite for one in found] == [True, False, True]
    assert [one.retried_fp32 for one in found] == [False, retried, False]
    assert redone == ([9_000] if retried else [])
    for index in (0, 2):
        assert torch.equal(found[index].values, expected[index].values)


def test_a_result_is_worked_out_once(
    overflowing_model: HubertModel, waveforms: Tensor, redone: list[int]
) -> None:
    pending: Pending = Encoder(overflowing_model, precision="fp16").submit(waveforms, LENGTHS)
    first: list[Features] = pending.result()
    assert pending.result() is first
    assert redone == LENGTHS


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "fp8"}, "precision=fp8.*auto, fp32, fp16, bf16"),
        ({"layer": 3}, "layer=3.*1 to 2"),
        ({"device": "gpu"}, "device=gpu"),
        ({"device": "mps"}, "device=mps"),
        ({"device": "cuda:99"}, "device=cuda:99.*CUDA devices"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(model: HubertModel, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Encoder(model, **settings)


@pytest.mark.parametrize(
    ("shape", "lengths", "words"),
    [
        ((1, 500), [399], "399.*at least 400"),
        ((1, 500), [501], "501.*hold 500"),
        ((2, 500), [500], "1 for 2 waveforms"),
        ((500,), [500], "batch, time"),
    ],
    ids=str,
)
def test_a_wrong_batch_is_named(
    model: HubertModel, shape: tuple[int, ...], lengths: list[int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Encoder(model).submit(torch.zeros(shape), lengths)


def test_auto_precision_is_float32_on_the_cpu(model: HubertModel) -> None:
    encoder = Encoder(model)
    assert (encoder.dtype, encoder.device.type) == (torch.float32, "cpu")
    assert encoder.hidden_size == 32


# ---------------------------------------------------------------------- loading


def test_tiny_random_follows_its_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_model("tiny_random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert fingerprint_of(load_model("tiny_random", seed=3)) == fingerprint_of(first)
    assert fingerprint_of(load_model("tiny_random", seed=4)) != fingerprint_of(first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_a_loaded_model_is_float32_and_needs_its_file_no_more(
    tmp_path: Path, dtype: torch.dtype, file_format: str
) -> None:
    stored = tiny_model().to(dtype)
    folder = folder_of(stored, tmp_path, file_format)
    loaded = load_model(str(folder))
    for path in folder.iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    expected = stored.state_dict()
    for name, weight in loaded.weights.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected[name].float())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
        {"feat_proj_layer_norm": False, "num_hidden_layers": 3, "hidden_size": 48},
    ],
    ids=str,
)
def test_the_weights_are_those_of_transformers(settings: dict[str, Any]) -> None:
    sizes = {**hubert_config(load_model("tiny_random").architecture).to_dict(), **settings}
    model = HubertModel(HubertConfig(**sizes))
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    del expected["masked_spec_embed"]  # masks spans in training; never part of a feature
    assert weight_shapes(hubert.architecture(model.config.to_dict())) == expected


def test_loading_a_folder_does_not_import_transformers(tmp_path: Path, model: HubertModel) -> None:
    """It takes a second."""
    code = (
        "import sys; from extract.models.load import load_model; load_model(sys.argv[1]); "
        "assert 'transformers' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(folder_of(model, tmp_path))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_fingerprint_is_of_the_weights_and_not_of_their_file(
    tmp_path: Path, model: HubertModel
) -> None:
    safe = load_model(str(folder_of(model, tmp_path / "safe")))
    pickled = load_model(str(folder_of(model, tmp_path / "bin", "bin")))
    assert fingerprint_of(safe) == fingerprint_of(pickled) == fingerprint_of(model)


@pytest.mark.parametrize("change", ["weight", "setting"])
def test_the_fingerprint_shows_every_change(change: str) -> None:
    model = tiny_model()
    before = fingerprint_of(model)
    if change == "weight":
        model.encoder.layers[1].final_layer_norm.bias[3] += 1e-7
    else:
        model.config.num_attention_heads = 4
    assert fingerprint_of(model) != before


def old_weight_norm_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the files of models published before torch's parametrizations."""
    renamed = {}
    for name, weight in weights.items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        renamed[name.replace("parametrizations.weight.original1", "weight_v")] = weight
    return renamed


def test_old_names_extra_heads_and_prefixes_load(
    tmp_path: Path,
    model: HubertModel,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = folder_of(model, tmp_path / "old", "bin")
    weights = old_weight_norm_names(model.state_dict())
    assert len(set(weights) - set(model.state_dict())) == 2
    weights["final_proj.weight"] = torch.zeros(8, 32)  # as ContentVec has it
    torch.save(weights, old / "pytorch_model.bin")
    assert fingerprint_of(load_model(str(old))) == fingerprint_of(model)

    ctc = HubertForCTC(model.config)
    ctc.hubert.load_state_dict(model.state_dict())
    ctc.save_pretrained(tmp_path / "ctc")
    said: list[logging.LogRecord] = []
    for name in ("", ".modeling_utils", ".utils.loading_report"):
        monkeypatch.setattr(logging.getLogger(f"transformers{name}"), "handle", said.append)
    capfd.readouterr()
    assert fingerprint_of(load_model(str(tmp_path / "ctc"))) == fingerprint_of(model)
    assert capfd.readouterr() == ("", "")
    assert said == []


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_the_hubs_cache_is_read_without_a_network(
    tmp_path: Path, model: HubertModel, file_format: str
) -> None:
    """Most published HuBERTs hold `pytorch_model.bin` alone."""
    repository = tmp_path / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    folder_of(model, repository / "snapshots" / "abc", file_format)
    assert fingerprint_of(load_model("some/model", cache_dir=tmp_path)) == fingerprint_of(model)


def test_a_missing_weight_is_named(tmp_path: Path, model: HubertModel) -> None:
    folder = folder_of(model, tmp_path, "bin")
    weights = dict(model.state_dict())
    del weights["encoder.layers.1.attention.q_proj.weight"]
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"missing.*layers\.1\.attention\.q_proj\.weight"):
        load_model(str(folder))


def test_a_missing_training_only_weight_is_no_matter(tmp_path: Path, model: HubertModel) -> None:
    folder = folder_of(model, tmp_path, "bin")
    weights = dict(model.state_dict())
    weights.pop("masked_spec_embed")
    torch.save(weights, folder / "pytorch_model.bin")
    assert fingerprint_of(load_model(str(folder))) == fingerprint_of(model)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    tmp_path: Path, model: HubertModel, how: str
) -> None:
    folder = folder_of(model, tmp_path / "model", "bin")
    proof = tmp_path / "ran"
    weights = {**model.state_dict(), "extra": Payload(proof)}
    if how == "torch":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(weights, protocol=2))
    with pytest.raises(ValueError, match="a pickle with more in it than tensors"):
        load_model(str(folder))
    assert not proof.exists()
    if how == "pickle":  # the payload is live: loaded without care it does run
        pickle.loads((folder / "pytorch_model.bin").read_bytes())
        assert proof.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 0]}, "conv_kernel and conv_stride"),
        ({"model_type": "wav2vec2-bert"}, "model_type wav2vec2-bert"),
    ],
    ids=str,
)
def test_another_architecture_is_refused(
    tmp_path: Path, model: HubertModel, settings: dict[str, Any], words: str
) -> None:
    config = folder_of(model, tmp_path) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    with pytest.raises(ValueError, match=words):
        load_model(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "text", "other shapes", "no weights"])
def test_damaged_weights_are_one_clear_error(
    tmp_path: Path, model: HubertModel, damage: str
) -> None:
    weights = folder_of(model, tmp_path) / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1_000])
    elif damage == "text":
        weights.write_text("not tensors")
    elif damage == "other shapes":
        config = tmp_path / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 48}))
    else:
        weights.unlink()
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_model(str(tmp_path))


def test_a_model_out_of_reach_says_what_to_do_without_trying_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tries = []

    def no_network(*target: Any, **_: Any) -> None:
        tries.append(target)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(ValueError, match=r"nobody/nothing.*hf download.*model\.path=DIR"):
        load_model("nobody/nothing", cache_dir=tmp_path)
    assert len(tries) <= 2  # the model, and the hub library's own statistics; a retry makes six
    assert capfd.readouterr() == ("", "")


def test_importing_the_encoder_does_not_import_transformers() -> None:
    code = "import sys, extract.encoder.encoder; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
