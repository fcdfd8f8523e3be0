"""Models that are not HuBERT's usual one through the whole command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import extract
from extract.app import main
from extract.data import plan
from extract.encoder.encoder import Encoder
from extract.models.architecture import Architecture
from extract.values import AudioSettings
from support.decoding import prepare
from support.models import folder_of, small_model
from support.recordings import DEMO, write_wav
from support.stores import contents, ledger

CLIP = "es_dir-welcome.wav"


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_model_of_25_frames_a_second_needs_no_code(tmp_path, start_method):
    model = small_model(
        "group",
        conv_kernel=(10, 3, 3, 3, 3, 2, 2, 2),
        conv_stride=(5, 2, 2, 2, 2, 2, 2, 2),
        conv_dim=(32,) * 8,
    )
    folder_of(model, tmp_path / "model")
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    (recordings / CLIP).symlink_to(DEMO / CLIP)
    write_wav(recordings / "short.wav", 0.04)  # 640 samples at 16 kHz
    argv = ["dataset=folder", "model=local", "device=cpu", f"loader.start_method={start_method}"]
    argv += [f"dataset.path={recordings}", f"model.path={tmp_path / 'model'}"]
    assert main([*argv, f"store.dir={tmp_path / 'store'}"]) == 0
    saved, short = sorted(ledger(tmp_path / "store"), key=lambda record: record["id"])
    assert (short["status"], short["reason"]) == ("rejected", "too_short")
    assert short["detail"].endswith("640 samples; the encoder needs at least 720")

    waveform = torch.from_numpy(prepare(DEMO / CLIP, AudioSettings()).waveform)
    expected = model(waveform[None]).last_hidden_state.mT
    found = torch.load(tmp_path / "store" / "4-cnhubert" / f"{CLIP}.pt", weights_only=True)
    assert (found - expected).abs().max() <= 1e-5
    assert found.shape[2] == saved["num_frames"] == (len(waveform) - 720) // 640 + 1

    frames = json.loads((tmp_path / "store" / "metadata.json").read_text())["frames"]
    assert (frames["sample_rate"], frames["hop"]) == (16_000, 640)
    kernels, strides = zip(*frames["conv_layers"], strict=True)
    assert (kernels, strides) == (model.config.conv_kernel, model.config.conv_stride)


def test_a_run_plans_and_splits_batches_by_its_models_attention(tmp_path, monkeypatch):
    """Three clips of 19.5 s fit 60 s where attention is next to nothing; of HuBERT-base two do."""
    monkeypatch.setattr(Architecture, "quadratic_s", 1e9)
    monkeypatch.setattr(plan, "MIN_BATCHES", 1)
    sizes = []
    submit = Encoder.submit

    def noted(encoder, waveforms, lengths):
        sizes.append(len(lengths))
        return submit(encoder, waveforms, lengths)

    monkeypatch.setattr(Encoder, "submit", noted)
    for name in "abc":
        write_wav(tmp_path / "recordings" / f"{name}.wav", 19.5)
    argv = ["dataset=folder", f"dataset.path={tmp_path / 'recordings'}", "loader.num_workers=0"]
    argv += ["model=tiny_random", "device=cpu", f"store.dir={tmp_path / 'store'}"]
    assert main([*argv, "loader.batch_seconds=60"]) == 0
    assert sizes == [3]


MYBERT = '''
"""HuBERT under another name."""

from extract.models.families import hubert

MODEL_TYPES = ("mybert",)
PREFIX = "mybert."


def architecture(settings):
    return hubert.architecture(settings)
'''


@pytest.fixture
def mybert(tmp_path: Path) -> Path:
    """Where a package lies that adds a family, as installers leave it."""
    site = tmp_path / "site"
    (site / "mybert-1.0.dist-info").mkdir(parents=True)
    (site / "mybert.py").write_text(MYBERT)
    (site / "mybert-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mybert\nVersion: 1.0\n"
    )
    (site / "mybert-1.0.dist-info" / "entry_points.txt").write_text(
        "[extract.families]\nmybert = mybert\n"
    )
    return site


def words(folder: Path) -> list[str]:
    """Of the command that does the demo with the model in a folder."""
    options = [f"model.path={folder}", f"store.dir={folder}.store"]
    return ["dataset=demo", "model=local", "device=cpu", *options]


def extracted(folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """The demo in a process of its own, with packages from `paths` too."""
    command = [sys.executable, "-m", "extract", *words(folder)]
    ours = Path(extract.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ours)))}
    environment["OMP_NUM_THREADS"] = "1"  # as here, for the same bits
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_package_adds_a_family_without_a_change_here(tmp_path, mybert, command, capfd):
    hubert = folder_of(small_model("layer"), tmp_path / "hubert")
    other = folder_of(small_model("layer"), tmp_path / "other")
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "model_type": "mybert"}))
    weights = load_file(other / "model.safetensors")
    renamed = {f"mybert.{name}": weight for name, weight in weights.items()}
    save_file(renamed, other / "model.safetensors")

    assert command(*words(other)) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "config.json says model_type mybert; 'data2vec-audio' or 'hubert' or " in said
    assert command(*words(hubert)) == 0
    done = extracted(other, mybert)
    assert done.returncode == 0, done.stderr
    stores = [contents(Path(f"{folder}.store")) for folder in (hubert, other)]
    assert len(stores[0]) == 24
    assert stores[0] == stores[1]
