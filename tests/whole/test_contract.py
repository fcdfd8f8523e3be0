"""What a model is fed: `audio=plain`, `model.input_norm`, through the whole command."""

import json
import re
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from transformers import HubertModel, Wav2Vec2FeatureExtractor

from extract.data.plan import plan_batches
from extract.run import work
from support.models import folder_of, small_model
from support.recordings import DEMO
from support.stores import contents, ledger

CLIPS = ("es_dir-welcome.wav", "fr_queue-quantity2.flac")
# librosa.load imports audioread, and that what Python 3.13 has dropped.
pytestmark = pytest.mark.filterwarnings("ignore:'(aifc|audioop|sunau)':DeprecationWarning")


@pytest.fixture
def run(command, tmp_path):
    """Extracts two clips with a small model; returns the exit code."""
    (tmp_path / "in").mkdir()
    for name in CLIPS:
        (tmp_path / "in" / name).symlink_to(DEMO / name)

    def run(model: Path, *options: str) -> int:
        argv = ["dataset=folder", "dataset.path=in", "model=local", f"model.path={model}"]
        return command(*argv, "device=cpu", "loader.num_workers=1", "store.dir=out", *options)

    return run


def model_in(folder: Path, norm: str, do_normalize: bool | None = None) -> HubertModel:
    model = small_model(norm)
    folder_of(model, folder)
    if do_normalize is not None:
        Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return model


def fed(model: HubertModel, name: str, do_normalize: bool) -> torch.Tensor:
    """The features by transformers' own preprocessor and model of what librosa loads."""
    waveform = librosa.load(DEMO / name, sr=16_000, mono=True)[0]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=do_normalize, sampling_rate=16_000)
    values = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_values
    return model(values).last_hidden_state.mT


def saved(tmp_path: Path, name: str) -> torch.Tensor:
    return torch.load(tmp_path / "out" / "4-cnhubert" / f"{name}.pt", weights_only=True)


def identity(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "metadata.json").read_text())["identity"]


def said(capfd) -> str:
    return " ".join(capfd.readouterr().err.split())


# Norms of the convolutions, what the preprocessor's file says, the option: is it normalised?
NORMS = [
    ("layer", True, "auto", True),
    ("layer", False, "auto", False),
    ("layer", None, "auto", True),
    ("group", True, "auto", True),
    ("group", False, "auto", False),
    ("group", None, "auto", False),
    ("layer", True, "none", False),
    ("group", False, "unit_variance", True),
]


@pytest.mark.parametrize(("norm", "file_says", "option", "normalised"), NORMS)
def test_plain_features_are_those_of_transformers_own_preprocessor_and_model(
    run, tmp_path, capfd, norm, file_says, option, normalised
):
    model = model_in(tmp_path / "model", norm, file_says)
    assert run(tmp_path / "model", "audio=plain", f"model.input_norm={option}") == 0
    for name in CLIPS:
        expected = fed(model, name, normalised)
        assert (saved(tmp_path, name) - expected).abs().max() <= 1e-5
        assert (fed(model, name, not normalised) - expected).abs().max() > 1e-3
    assert identity(tmp_path).get("model.input_norm", "none") == (
        "unit_variance" if normalised else "none"
    )
    assert ("zero mean and unit variance" in said(capfd)) is normalised


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_normalise_however_they_start(run, tmp_path, start_method):
    model = model_in(tmp_path / "model", "layer", True)
    assert run(tmp_path / "model", "audio=plain", f"loader.start_method={start_method}") == 0
    assert (saved(tmp_path, CLIPS[0]) - fed(model, CLIPS[0], True)).abs().max() <= 1e-5


def test_a_plain_store_has_no_training_audio_and_goes_on(run, tmp_path, capfd):
    model_in(tmp_path / "model", "group")
    assert run(tmp_path / "model", "audio=plain") == 0
    first = contents(tmp_path / "out")
    assert sorted(first) == sorted(f"4-cnhubert/{name}.pt" for name in CLIPS)
    for record in ledger(tmp_path / "out"):
        assert [name for name, *_ in record["files"]] == [f"4-cnhubert/{record['id']}.pt"]
        samples = librosa.load(DEMO / record["id"], sr=None)[0]
        assert record["peak"] == pytest.approx(np.abs(samples).max())
        assert record["duration_s"] == librosa.get_duration(path=DEMO / record["id"])
        assert record["clipped_samples"] == 0
    capfd.readouterr()
    assert run(tmp_path / "model", "audio=plain", "store.verify=checksum") == 0
    assert "0 of 2 recordings to do" in said(capfd)
    (tmp_path / "out" / f"4-cnhubert/{CLIPS[0]}.pt").unlink()
    assert run(tmp_path / "model", "audio=plain") == 0
    assert sorted(contents(tmp_path / "out")) == sorted(first)


def test_two_contracts_do_not_share_a_store(run, tmp_path, capfd):
    model_in(tmp_path / "model", "layer", True)
    assert run(tmp_path / "model") == 0
    before = contents(tmp_path / "out")
    assert len(before) == 4
    assert run(tmp_path / "model", "audio=plain") == 2
    message = said(capfd)
    for row in (
        r"audio.rate_path via_32k direct",
        r"audio.mix ffmpeg mean",
        r"audio.gain peak_blend none",
        r"audio.scale 1145.14 1.0",
        r"audio.max_peak 2.2 None",
        r"model.input_norm none unit_variance",
    ):
        assert row in message
    assert contents(tmp_path / "out") == before
    assert run(tmp_path / "model", "audio=plain", "overwrite=true") == 0
    assert len(contents(tmp_path / "out")) == 2, "the training audio is gone with its features"


def test_a_store_made_before_there_was_a_choice_goes_on(run, tmp_path, capfd):
    model_in(tmp_path / "model", "layer", True)
    assert run(tmp_path / "model") == 0
    assert [key for key in identity(tmp_path) if key.startswith(("audio.", "model."))] == [
        *("model.weights", "model.layer", "audio.max_peak", "audio.maxx", "audio.alpha"),
        *("audio.min_duration_s", "audio.max_duration_s", "audio.resampler"),
    ]
    capfd.readouterr()
    for option in ("auto", "none"):
        assert run(tmp_path / "model", f"model.input_norm={option}") == 0
        assert "0 of 2 recordings to do" in said(capfd)


@pytest.mark.parametrize(
    ("norm", "file_says", "option", "is_told"),
    [
        ("layer", True, "auto", True),
        ("layer", None, "auto", True),
        ("layer", False, "auto", False),
        ("layer", True, "none", False),
        ("group", True, "auto", False),  # its features are the same at GPT-SoVITS's scale
    ],
)
def test_a_model_that_gpt_sovits_feeds_otherwise_than_it_was_trained_is_met_with_a_line(
    run, tmp_path, capfd, norm, file_says, option, is_told
):
    model_in(tmp_path / "model", norm, file_says)
    assert run(tmp_path / "model", f"model.input_norm={option}") == 0
    lines = re.findall(r"trained on waveforms of zero mean.*?audio=plain", said(capfd))
    assert len(lines) == is_told


def test_the_other_gates_drop_nothing_where_there_is_no_gate_of_the_peak(run, tmp_path):
    model_in(tmp_path / "model", "group")
    assert run(tmp_path / "model", "audio=plain") == 0
    files = sorted((tmp_path / "out" / "4-cnhubert").iterdir())
    before = [path.stat().st_mtime_ns for path in files]
    gates = ("audio=plain", "audio.max_duration_s=100", "overwrite=true")
    assert run(tmp_path / "model", *gates) == 0
    assert [path.stat().st_mtime_ns for path in files] == before, "none is written again"


def test_batches_are_planned_with_the_zeros_that_are_put_around(command, monkeypatch):
    planned = []

    def noted(seconds, *arguments):
        planned.append(seconds)
        return plan_batches(seconds, *arguments)

    monkeypatch.setattr(work, "plan_batches", noted)
    options = ["dataset=demo", "audio=plain", "device=cpu", "loader.num_workers=0"]
    assert command(*options, "store.dir=a") == 0
    assert command(*options, "store.dir=b", "audio.pad_samples=[8000,16000]") == 0
    assert command(*options, "store.dir=c", "audio.min_samples=16000") == 0
    np.testing.assert_allclose(planned[1], planned[0] + 1.5)
    np.testing.assert_allclose(planned[2], np.maximum(planned[0], 1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["audio.alpha=0.3"], "audio.alpha=0.3: it has no effect with audio.gain=none; needed"),
        (["audio.resampler_width=128"], "it has no effect with audio.resampler=soxr; needed"),
        (["audio.pad_samples=[40]"], "audio.pad_samples: [40]; needed two numbers, before and"),
        (["audio.pad_samples=[40,-1]"], "audio.pad_samples: -1; needed 0 to 16000"),
        (["audio.mix=loudest"], "expected one of [ffmpeg, mean]"),
        (["model.input_norm=mean"], "expected one of [auto, none, unit_variance]"),
    ],
)
def test_a_mistake_is_said_and_leaves_nothing(command, tmp_path, capfd, options, message):
    assert command("dataset=demo", "audio=plain", "store.dir=out", *options) == 2
    assert message in said(capfd)
    assert not (tmp_path / "out").exists()


def test_ddsp_svcs_and_slamkits_settings_are_there(command, tmp_path):
    options = ["dataset=demo", "audio=plain", "device=cpu", "loader.num_workers=0"]
    ddsp = ["audio.resampler=torchaudio", "audio.resampler_width=128", "audio.min_samples=400"]
    assert command(*options, *ddsp, "store.dir=out") == 0
    assert identity(tmp_path)["audio.resampler_width"] == 128
    assert command(*options, "audio.pad_samples=[40,40]", "store.dir=other") == 0
    frames = {record["id"]: record["num_frames"] for record in ledger(tmp_path / "other")}
    assert len(frames) == 12
    samples = round(16_000 * librosa.get_duration(path=DEMO / CLIPS[0]))
    assert frames[CLIPS[0]] == (samples + 80 - 400) // 320 + 1


def test_a_run_of_each_contract_has_a_folder_of_its_own(command, tmp_path):
    options = ["dataset=demo", "device=cpu", "loader.num_workers=0"]
    assert command(*options) == command(*options, "audio=plain") == 0
    assert {path.name for path in (tmp_path / "outputs" / "demo").iterdir()} == {
        "tiny_random-maxx0.95-alpha0.5",
        "tiny_random-max_peak_none-direct-mean-gain_none-scale1",
    }
