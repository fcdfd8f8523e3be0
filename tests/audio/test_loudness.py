"""Loudness, against the `ffmpeg` program's own summary."""

import re
import subprocess

import numpy as np
import pytest
import soundfile

from extract.audio.loudness import loudness_lufs
from support.recordings import FFMPEG, speech_like

SUMMARY = re.compile(r"I:\s+(\S+) LUFS")


@pytest.mark.skipif(FFMPEG is None, reason="needs the ffmpeg program")
@pytest.mark.parametrize(("seconds", "level", "rate"), [(3, 0.5, 32000), (7.3, 0.02, 44100)])
def test_loudness_is_what_ffmpegs_summary_says(tmp_path, seconds, level, rate):
    fades = np.linspace(0.1, 1, round(seconds * rate), dtype=np.float32)  # so that it is gated
    samples = level * speech_like(seconds, rate=rate) * fades
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    command = [FFMPEG, "-hide_banner", "-nostats", "-i", str(tmp_path / "a.wav")]
    command += ["-af", "ebur128", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert loudness_lufs(samples, rate) == pytest.approx(
        float(SUMMARY.findall(said)[-1]), abs=0.051
    )


def test_what_is_silent_or_shorter_than_a_block_has_no_loudness():
    assert loudness_lufs(np.zeros(96_000, np.float32), 32_000) is None
    assert loudness_lufs(speech_like(0.1, rate=32_000), 32_000) is None
