"""A sweep over alpha and maxx, and numbers of its stores by NumPy, torch and the ffmpeg program."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from extract.app import main
from support.command import TINY
from support.recordings import FFMPEG, speech_like

ALPHAS, MAXXS = (0.3, 0.5, 0.7), (0.9, 0.95)
HOSTILE = "<script>alert(1)<!--.wav"
RATE = 16_000
SUMMARY = re.compile(r"I:\s+(\S+) LUFS")


def write_recordings(folder: Path) -> Path:
    """Of different lengths and levels: one that clips, a quiet one, a rejected and a failed one."""
    folder.mkdir()
    for number in range(4):
        level = (0.2, 0.6, 1.0, 1.5)[number]
        samples = level * speech_like(0.45 + 0.3 * number, number)
        soundfile.write(folder / f"{number}.wav", samples, RATE, subtype="FLOAT")
    soundfile.write(folder / HOSTILE, 0.002 * speech_like(0.9, 7), RATE, subtype="FLOAT")
    soundfile.write(folder / "clips.wav", 3.8 * speech_like(1.1, 8), RATE, subtype="FLOAT")
    soundfile.write(folder / "above.wav", 9 * speech_like(1.0), RATE, subtype="FLOAT")
    (folder / "text.wav").write_text("no sound")
    return folder


def run(*argv: str | Path) -> int:
    """`python -m extract ...` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["extract"])
        patch.setenv("HYDRA_FULL_ERROR", "0")  # `main` changes it
        return main(list(map(str, argv)))


def sweep(recordings: Path, stores: str | Path, *options: str) -> int:
    """Runs a sweep of the tiny model, a store below `stores` for each job.

    Each job computes its features, so that they drift, unless the options say otherwise.
    """
    where = ["dataset=folder", f"dataset.path={recordings}", *TINY]
    if not any(option.startswith("share_features=") for option in options):
        where.append("share_features=false")
    return run("-m", *where, "loader.num_workers=0", "store.fsync=false", *options, stores)


def over_levels(recordings: Path, stores: Path, *options: str) -> int:
    """Runs the sweep over alpha and maxx into `stores/ALPHA-MAXX`."""
    swept = (f"audio.alpha={_listed(ALPHAS)}", f"audio.maxx={_listed(MAXXS)}")
    where = f"store.dir={stores}/${{audio.alpha}}-${{audio.maxx}}"
    return sweep(recordings, where, *swept, *options)


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(map(str, values))


def training_audio(store: Path, id_: str) -> np.ndarray:
    """(num_samples,) int16 of a store of GPT-SoVITS's layout, by libsndfile."""
    samples, rate = soundfile.read(store / "5-wav32k" / id_, dtype="int16")
    assert rate == 32_000
    return samples


def features(store: Path, id_: str) -> np.ndarray:
    """(1, hidden_size, num_frames) as `torch.load` reads it."""
    return torch.load(store / "4-cnhubert" / f"{id_}.pt", weights_only=True).double().numpy()


def loudness_lufs(path: Path) -> float:
    """What the ffmpeg program says, in tenths."""
    command = [str(FFMPEG), "-hide_banner", "-nostats", "-i", f"file:{path}"]
    command += ["-af", "ebur128", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return float(SUMMARY.findall(said)[-1])
