"""Decodes a recording to 32 kHz mono: what `ffmpeg -i path -f f32le -ac 1 -ar 32000 -` writes.

The samples are FFmpeg's to the last bit, since PyAV brings FFmpeg's libraries. They cost less time
than an ffmpeg process: a canonical WAV is read without FFmpeg (`wav.py`), and decoded frames of
about 20 ms are joined into blocks that fit the processor's cache before they are resampled.

A recording is a seekable binary file object (`faults.opened` opens one) and a name for errors.
"""

import math
import os
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from extract.audio.faults import AudioError, faults_of_the_file, undecodable
from extract.audio.ffmpeg import (
    Frames,
    best_stream,
    counted_duration_s,
    holds_past,
    likely_duration_s,
    open_container,
)
from extract.audio.resampling import BLOCK_SAMPLES, resample, resampler
from extract.audio.spans import WHOLE, Samples, Span, taken
from extract.audio.wav import LAYOUTS, WavHeader, read_blocks, read_header, to_float
from extract.frames import RECORDING_RATE_HZ

READ_SAMPLES = 262_144  # 8 s: read at once from a WAV that needs no resampling
MAX_RATE_HZ = 3_072_000  # a header may claim 2 GHz: swresample's filter would take gigabytes


@dataclass(frozen=True)
class _Gate:
    """Rejects a span longer than `max_duration_s`; `where` names the recording in errors."""

    where: str
    max_duration_s: float
    span: Span

    @cached_property
    def limit_s(self) -> float:
        """Seconds of the longest recording whose span is not too long."""
        return self.span.limit_s(self.max_duration_s)

    def check(self, duration_s: float, rate_hz: int, found: str = "decoded") -> None:
        if not 0 < rate_hz <= MAX_RATE_HZ:
            raise AudioError(
                "undecodable", f"{self.where}: {rate_hz} Hz; 1 to {MAX_RATE_HZ} Hz are needed"
            )
        if duration_s > self.limit_s:
            held_s = min(duration_s, self.span.stop_s) - self.span.start_s
            raise AudioError(
                "too_long",
                f"{self.where}: {found} {held_s:.1f} s; "
                f"at most {self.max_duration_s:g} s (max_duration_s) are wanted",
            )


def decode(
    file: BinaryIO, where: str, max_duration_s: float = math.inf, span: Span = WHOLE
) -> Samples:
    """Decode a recording, or a span of it, to 32 kHz mono.

    FFmpeg mixes stereo as 0.7071 * (left + right), which is not the mean. `ffmpeg.best_stream`
    chooses among several audio streams. Damaged packets are skipped.

    Args:
        file: any audio or video file; its content alone decides how it is read.
        where: its name in errors.
        max_duration_s: longest span wanted, in seconds. Decoding stops there.
        span: the samples to return, counted in the whole recording. Decoding runs from the
            recording's beginning to the span's end; of a 32 kHz mono WAV only the span is read.

    Returns:
        (num_samples,) float32 at 32 kHz, full scale 1.0, at least one sample, writable.

    Raises:
        AudioError: `undecodable`, `empty` or `too_long`.
    """
    with faults_of_the_file(where):
        gate = _Gate(where, max_duration_s, span)
        header = _wav_header(file, where)
        samples, end = _decode_wav(file, header, gate) if header else _decode_any(file, gate)
    if not len(samples):
        found = "no samples"
        if 0 < end <= span.start < span.stop:
            found = f"the recording ends at {end / RECORDING_RATE_HZ:g} s"
        raise AudioError("empty", f"{where}: {found}; at least one is needed")
    return samples


def probe_duration_s(file: BinaryIO, where: str) -> float:
    """Seconds of audio as the header gives them, without decoding.

    Exact for PCM and FLAC, off by at most a packet for MP4 and Ogg. For an MP3 without a header
    FFmpeg estimates it from the bit rate.

    Raises:
        AudioError: `undecodable` or `empty`.
    """
    with faults_of_the_file(where):
        header = _wav_header(file, where, samples=False)
        if header:
            return header.duration_s
        with open_container(file) as container:
            stream = _audio_stream(best_stream(container, file), where)
            return likely_duration_s(container, stream)


def channels_cancel(file: BinaryIO, span: Span = WHOLE) -> int:
    """How many channels cancel in the mix to mono, for a span whose mix is silent.

    0 if the channels are silent themselves, if there is one channel, or if decoding fails.
    """
    time_s = 0.0
    with suppress(AudioError), faults_of_the_file(""), open_container(file) as container:
        stream = _audio_stream(best_stream(container, file), "")
        for frame in Frames(container, stream):
            if len(frame.layout.channels) > 1 and _sounds(frame, time_s, span):
                return len(frame.layout.channels)
            time_s += frame.samples / frame.sample_rate
    return 0


def _sounds(frame: av.AudioFrame, time_s: float, span: Span) -> bool:
    """Whether a frame has a sample other than silence in `span`; `time_s` is the frame's start."""
    first = max(0, math.ceil((span.start_s - time_s) * frame.sample_rate))
    last = max(0, math.floor((span.stop_s - time_s) * frame.sample_rate))
    values, name = frame.to_ndarray(), frame.format.name
    by_time = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    return bool((by_time[first:last] != (128 if name.startswith("u8") else 0)).any())


def _wav_header(file: BinaryIO, where: str, *, samples: bool = True) -> WavHeader | None:
    if not file.seek(0, os.SEEK_END):
        raise AudioError("empty", f"{where}: zero bytes; a recording is needed")
    return read_header(file, samples=samples)


# `_decode_wav`, `_read_wav` and `_decode_any` return the samples of the gate's span, and how many
# 32 kHz samples of the recording lie before the end of the span or of the recording.


def _decode_wav(file: BinaryIO, header: WavHeader, gate: _Gate) -> tuple[Samples, int]:
    gate.check(header.duration_s, header.rate_hz, "the header declares")
    if header.rate_hz == RECORDING_RATE_HZ and header.num_channels == 1:
        return _read_wav(file, header, gate.span)
    return taken(_resampled_wav(file, header), gate.span)


def _read_wav(file: BinaryIO, header: WavHeader, span: Span) -> tuple[Samples, int]:
    start, stop = min(span.start, header.num_samples), min(span.stop, header.num_samples)
    samples = np.empty(stop - start, np.float32)
    num_samples = 0
    for block in read_blocks(file, header, READ_SAMPLES, start, stop):
        end = num_samples + block.shape[1]
        to_float(block[0], out=samples[num_samples:end])
        num_samples = end
    return samples[:num_samples], start + num_samples


def _resampled_wav(file: BinaryIO, header: WavHeader) -> Generator[Samples, None, None]:
    layout = LAYOUTS[header.num_channels]
    with resampler(header.sample_format, layout, header.rate_hz) as resampled:
        for block in read_blocks(file, header, BLOCK_SAMPLES):
            frame = av.AudioFrame.from_ndarray(block, header.sample_format, layout)
            frame.sample_rate = header.rate_hz
            yield from resampled(frame)
        yield from resampled(None)


def _decode_any(file: BinaryIO, gate: _Gate) -> tuple[Samples, int]:
    """Decodes by FFmpeg: the best stream, and the next best if that one has no samples."""
    tried: frozenset[int] = frozenset()
    problem: FFmpegError | None = None
    while True:
        with open_container(file) as container:
            stream = best_stream(container, file, tried)
            if stream is None and tried:
                break
            stream = _audio_stream(stream, gate.where)
            frames = _frames(file, container, stream, gate)
            samples, end = taken(resample(frames, gate.check), gate.span)
            tried |= {stream.index}
        if end:
            return samples, end
        problem = problem or frames.problem
    if problem:
        raise undecodable(gate.where, problem)
    return samples, 0


def _frames(
    file: BinaryIO, container: InputContainer, stream: av.AudioStream, gate: _Gate
) -> Frames:
    """The frames of a stream; raises `too_long` if both its header and its packets say so."""
    counted_s = counted_duration_s(container, stream)
    if counted_s is not None:
        gate.check(0, stream.sample_rate)
        if counted_s > gate.limit_s and holds_past(file, stream.index, gate.limit_s):
            gate.check(counted_s, stream.sample_rate, "the header declares")
    return Frames(container, stream)


def _audio_stream(stream: av.AudioStream | None, where: str) -> av.AudioStream:
    if stream is None:
        raise AudioError("undecodable", f"{where}: no audio stream; one is needed")
    return stream
