"""What the page shows and plays of an utterance: its training audio, or its recording."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from extract.audio.decode import decode
from extract.audio.faults import AudioError, opened
from extract.audio.spans import WHOLE, Span
from extract.frames import RECORDING_RATE_HZ
from extract.opener import MISSING, LocalFiles
from extract.store.store import Store
from extract.text import printable
from extract.urls import is_url

RATE_HZ = RECORDING_RATE_HZ
SHOWN_S = 12.0  # of each utterance
MAX_WHOLE_S = 600.0  # a longer recording is decoded only as far as it is shown
MAX_FILE = 64 << 20  # bytes of training audio that are read
BIT_RATE = 48_000  # of the page's sounds
FASTEST = "9"  # of libmp3lame's ways to choose bits, 0 to 9

Samples = NDArray[np.float32]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Sound:
    """(num_samples,) mono at 32 kHz, full scale 1; None of them, and why, where there are none."""

    samples: Samples | None
    why: str = ""


def recording(record: Record, *, whole: bool) -> Sound:
    """The recording that a line names, if it is still there as it was.

    Args:
        record: the line. That of a cut gives nothing: it does not say where the cut is, and its
            stamp is not the file's (`extract.data.dataset.stamp`).
        whole: give nothing of one longer than `MAX_WHOLE_S`, else its first `SHOWN_S` seconds.
    """
    path, duration_s = str(record.get("path") or ""), record.get("duration_s")
    if not path or is_url(path):
        return Sound(None, "the recording is not on this machine")
    stamp = LocalFiles().stamp(path)
    if stamp == MISSING:
        return Sound(None, "the recording is no longer there")
    if stamp != (record.get("source_size"), record.get("source_mtime_ns")):
        return Sound(None, "the recording has changed since, or this is a cut of it")
    is_long = duration_s is None or duration_s > MAX_WHOLE_S
    if is_long and whole:
        return Sound(None, "the recording is too long to be read again")
    span = Span.of(0.0, SHOWN_S) if is_long else WHOLE
    try:
        with opened(LocalFiles(), path, printable(path)) as file:
            return Sound(decode(file, printable(path), span=span).samples)
    except AudioError:
        return Sound(None, "the recording cannot be decoded")


def training_audio(store: Store, record: Record) -> Sound:
    """The copy that GPT-SoVITS trains on, from the store; whole."""
    for file in record.get("files") or ():
        name, _offset, size, _crc = file
        if size > MAX_FILE:
            continue
        try:
            data = _wav_in(store.files.read(tuple(file)))
            if data:
                return Sound(decode(io.BytesIO(data), printable(name)).samples)
        except (OSError, ValueError, AudioError, tarfile.TarError):
            return Sound(None, "its training audio is gone or damaged")
    return Sound(None, "no training audio")


def _wav_in(data: bytes) -> bytes:
    """The WAV file that a file of a store is, or that a part of a tar holds; empty without one."""
    if data[:4] == b"RIFF":
        return data
    if data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            found = (tar.extractfile(one) for one in tar if one.name.endswith(".wav"))
            return next((file.read() for file in found if file is not None), b"")
    return b""


def encoded(samples: Samples) -> tuple[str, bytes]:
    """A sound as browsers play it, and its media type: MP3; WAV where FFmpeg has no encoder."""
    whole = np.ascontiguousarray(np.clip(samples, -1, 1) * 32767).astype(np.int16)[None]
    try:
        return "audio/mpeg", _written(whole, "mp3", "libmp3lame")
    except (FFmpegError, ValueError):
        return "audio/wav", _written(whole, "wav", "pcm_s16le")


def _written(samples: NDArray[np.int16], form: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=RECORDING_RATE_HZ, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = BIT_RATE
        stream.options = {"compression_level": FASTEST}
        frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        frame.sample_rate = RECORDING_RATE_HZ
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()
