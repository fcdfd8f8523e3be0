"""The whole command against the reference's formula, written out here once more on its own.

Source: GPT-SoVITS, `2-get-hubert-wav32k.py` (what is computed) and `AR/data/dataset.py`,
`module/data_utils.py` (how its trainers read it back). Nothing here calls the package but to run
the command.
"""

import subprocess
import wave
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertModel

from support.models import folder_of, small_model
from support.recordings import DEMO, FFMPEG

CLIPS = sorted(path.name for path in DEMO.glob("*.wav"))
MAXX, ALPHA = 0.95, 0.5


def decode(path: Path) -> np.ndarray:
    """The reference's `load_audio`: 32 kHz mono float32, by ffmpeg where there is one."""
    if FFMPEG is not None:
        command = [FFMPEG, "-nostdin", "-v", "error", "-i", str(path)]
        command += ["-f", "f32le", "-ac", "1", "-ar", "32000", "-"]
        return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4")
    samples, rate = soundfile.read(path, dtype="float32")
    return librosa.resample(samples, orig_sr=rate, target_sr=32_000)


def reference(samples: np.ndarray, model: HubertModel) -> tuple[torch.Tensor, np.ndarray]:
    """(1, D, T) features and the int16 training audio: the reference's `name2go`."""
    peak = np.abs(samples).max()
    assert peak <= 2.2
    loud = (samples / peak * (MAXX * ALPHA * 32768)) + ((1 - ALPHA) * 32768) * samples
    heard = (samples / peak * (MAXX * ALPHA * 1145.14)) + ((1 - ALPHA) * 1145.14) * samples
    heard = librosa.resample(heard, orig_sr=32_000, target_sr=16_000)
    with torch.no_grad():
        features = model(torch.from_numpy(heard)[None])["last_hidden_state"]
    return features.transpose(1, 2), loud.astype("int16")


@pytest.fixture(scope="module", params=["group", "layer"])
def extracted(request, tmp_path_factory) -> tuple[Path, HubertModel]:
    """The demo's WAV clips through the command with a model of each kind, from its folder."""
    import sys

    from extract.app import main

    folder = tmp_path_factory.mktemp(f"parity_{request.param}")
    model = small_model(request.param, seed=3, initializer_range=0.2)  # each step shows in features
    folder_of(model, folder / "model")
    (folder / "clips").mkdir()
    for name in CLIPS:
        (folder / "clips" / name).symlink_to(DEMO / name)
    argv = ["dataset=folder", f"dataset.path={folder}/clips", f"store.dir={folder}/out"]
    argv += ["model=local", f"model.path={folder}/model", "device=cpu", "loader.batch_seconds=20"]
    argv += [f"audio.maxx={MAXX}", f"audio.alpha={ALPHA}", f"hydra.run.dir={folder}/run"]
    before = sys.argv
    sys.argv = ["extract"]
    try:
        assert main(argv) == 0
    finally:
        sys.argv = before
    return folder / "out", model


def test_features_and_training_audio_are_the_references(extracted):
    store, model = extracted
    assert len(CLIPS) >= 5
    for name in CLIPS:
        features, wav = reference(decode(DEMO / name), model)
        found = torch.load(store / "4-cnhubert" / f"{name}.pt", weights_only=True)
        assert found.dtype == torch.float32
        assert features.std() > 0.1  # a model whose features are all alike would prove nothing
        torch.testing.assert_close(found, features, atol=1e-4, rtol=0)
        samples, rate = soundfile.read(store / "5-wav32k" / name, dtype="int16")
        assert rate == 32_000
        assert samples.shape == wav.shape
        if FFMPEG is not None:
            assert np.array_equal(samples, wav)
        assert np.abs(samples.astype(int) - wav).max() <= 1


def test_what_is_written_passes_the_rules_of_gpt_sovits_loaders(extracted):
    store, model = extracted
    for name in CLIPS:
        features = torch.load(store / "4-cnhubert" / f"{name}.pt", map_location="cpu")
        with wave.open(str(store / "5-wav32k" / name)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 32_000)
            num_samples = file.getnframes()
        assert features.shape[:2] == (1, model.config.hidden_size)
        assert abs(features.shape[2] - num_samples // 640) < 3
        assert features.is_contiguous()
        assert not features.requires_grad
    assert sorted(path.name for path in (store / "5-wav32k").iterdir()) == CLIPS
