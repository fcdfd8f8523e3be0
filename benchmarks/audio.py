"""Measures decoding and preparing of recordings: `python -m benchmarks.audio`.

One core, no GPU. Speeds are times real time: seconds of audio per second of processor time, the
best of 15 runs. *frame by frame* is PyAV's plain loop (frame, resampler, `to_ndarray`, list); it is
timed with a list of arrays and, as it is often written, with a list of samples.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeVar

import av
import numpy as np

from benchmarks.common import Row, run_alone, work_dir
from extract.audio.decode import decode
from extract.audio.prepare import prepare
from extract.opener import LocalFiles
from extract.values import AudioSettings

T = TypeVar("T")

FORMATS = {  # row: (file name, codec, rate in Hz, layout, seconds)
    "WAV 32 kHz mono, 5 s": ("a.wav", "pcm_s16le", 32000, "mono", 5),
    "WAV 44.1 kHz stereo, 5 s": ("b.wav", "pcm_s16le", 44100, "stereo", 5),
    "WAV 44.1 kHz stereo, 60 s": ("c.wav", "pcm_s16le", 44100, "stereo", 60),
    "WAV 48 kHz 24-bit mono, 60 s": ("d.wav", "pcm_s24le", 48000, "mono", 60),
    "FLAC 44.1 kHz stereo, 60 s": ("e.flac", "flac", 44100, "stereo", 60),
    "MP3 44.1 kHz stereo, 60 s": ("f.mp3", "libmp3lame", 44100, "stereo", 60),
    "M4A 44.1 kHz stereo, 60 s": ("g.m4a", "aac", 44100, "stereo", 60),
    "Opus 48 kHz mono, 60 s": ("h.opus", "libopus", 48000, "mono", 60),
}
PREPARE_GOALS = {"WAV 32 kHz mono, 5 s": 2500, "WAV 44.1 kHz stereo, 60 s": 900}
DECODE_GOALS = {"MP3 44.1 kHz stereo, 60 s": 1.5, "M4A 44.1 kHz stereo, 60 s": 1.5}
REPEATS = 15


def write_recording(path: Path, codec: str, rate_hz: int, layout: str, duration_s: int) -> None:
    """Writes noise with speech-like pauses and a falling spectrum."""
    num_samples = rate_hz * duration_s
    noise = np.random.default_rng(0).standard_normal((2, num_samples)).cumsum(axis=1)
    noise -= np.repeat(noise[:, ::rate_hz], rate_hz, axis=1)
    envelope = np.abs(np.sin(np.arange(num_samples) * (3 * np.pi / rate_hz)))
    sound = (noise / np.abs(noise).max() * envelope * 0.8).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(sound, "fltp", "stereo")
        frame.sample_rate = rate_hz
        to_codec = av.AudioResampler(
            stream.codec_context.format, layout, rate_hz, stream.codec_context.frame_size
        )
        for piece in (*to_codec.resample(frame), *to_codec.resample(None), None):
            container.mux(stream.encode(piece))


def read(path: Path, work: Callable[[BinaryIO, str], T]) -> T:
    """Opens a recording and returns the result of `work` on it."""
    with LocalFiles().open(str(path)) as file:
        return work(file, str(path))


def frame_by_frame(path: Path, as_samples: bool) -> np.ndarray:
    """Decodes with PyAV's plain loop; `decode` must give the same samples bit for bit."""
    resampler = av.AudioResampler("flt", "mono", 32000)
    kept: list = []
    with av.open(str(path)) as container:
        for frame in chain(container.decode(audio=0), [None]):
            for piece in resampler.resample(frame):
                array = piece.to_ndarray()[0]
                kept += array.tolist() if as_samples else [array]
    return np.array(kept, np.float32) if as_samples else np.concatenate(kept)


def best_times_s(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Least processor seconds of each work; in turns, so that load on the machine slows all."""
    best_s = [float("inf")] * len(works)
    for _ in range(repeats):
        for index, work in enumerate(works):
            start_s = time.process_time()
            work()
            best_s[index] = min(best_s[index], time.process_time() - start_s)
    return best_s


def measure() -> list[Row]:
    """Rows for a dataset item in every format, and for decoding the compressed formats."""
    rows = []
    with work_dir() as folder:
        for title, (name, codec, rate_hz, layout, duration_s) in FORMATS.items():
            path = Path(folder) / name
            write_recording(path, codec, rate_hz, layout, duration_s)
            assert np.array_equal(
                read(path, decode).samples, frame_by_frame(path, as_samples=False)
            )
            works = [
                partial(read, path, partial(prepare, settings=AudioSettings())),
                partial(read, path, decode),
                partial(frame_by_frame, path, as_samples=False),
                partial(frame_by_frame, path, as_samples=True),
            ]
            prepared, decoded, arrays, samples = best_times_s(works, REPEATS)
            what, speed = f"CPU stage, {title}, one core", duration_s / prepared
            rows.append(_row(what, speed, PREPARE_GOALS.get(title), "x real time"))
            if codec.startswith("pcm"):
                continue
            what = f"decode, {title}, against frame by frame"
            note = f"{samples / decoded:.1f}x against a list of samples"
            rows.append(_row(what, arrays / decoded, DECODE_GOALS.get(title), "x", note))
    return rows


def _row(what: str, value: float, goal: float | None, unit: str, note: str = "") -> Row:
    if goal is None:
        return Row.plain(what, value, unit, note)
    return Row.at_least(what, value, goal, unit, note)


if __name__ == "__main__":
    run_alone(__doc__, measure)
