"""A recording in, mono samples out: what `ffmpeg -i path -f f32le -ac 1 -ar 32000 -` writes.

The samples are FFmpeg's to the last bit, for PyAV carries its libraries, at a fraction of its
cost: a canonical WAV is read as it lies (`wav.py`), and whatever is decoded reaches the resampler
in blocks that fit the processor's cache instead of codec frames of some 20 ms. Without `-ar 32000`
they are what librosa and soundfile read.

A recording is a seekable binary file object (`faults.opened` opens one) and a name for errors.
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
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
    open_container,
)
from extract.audio.gate import Gate
from extract.audio.headers import Header, of_stream, of_wav
from extract.audio.resampling import BLOCK_SAMPLES, resample
from extract.audio.seeking import begin_s, frames_from, seek
from extract.audio.spans import WHOLE, Samples, Span, taken
from extract.audio.wav import LAYOUTS, WavHeader, read_blocks, read_header, to_float
from extract.frames import RECORDING_RATE_HZ
from extract.values import Mix, RatePath

READ_SAMPLES = 262_144  # 8 s: read at once from a WAV that needs no resampling


@dataclass(frozen=True)
class Decoded:
    """The samples of a recording, or of a span of it."""

    samples: Samples  # (num_samples,) mono, float32, full scale 1.0, writable
    rate_hz: int
    end: int  # how many samples the recording gave, up to the span's end or its own
    as_it_lies: bool = False  # read from a WAV that holds them, with nothing to resample or mix

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate_hz


@dataclass(frozen=True)
class _Wanted:
    """What is made of a recording: at which rate, mixed how, which span."""

    rate_path: RatePath
    mix: Mix
    gate: Gate

    def rate_hz(self, own_hz: int) -> int:
        return RECORDING_RATE_HZ if self.rate_path is RatePath.via_32k else own_hz

    def of_frames(self, frames: Iterable[av.AudioFrame], second: int = 0) -> Decoded:
        """At the rate of the first frame, if not at 32 kHz: a stream may change it on the way.

        `frames` begin with that `second` of the recording.
        """
        frames = iter(frames)
        first = next(frames, None)
        if first is None:
            return Decoded(np.empty(0, np.float32), RECORDING_RATE_HZ, 0)
        rate_hz = self.rate_hz(first.sample_rate)
        check = self.gate.begun_at(second)
        parts = resample(chain([first], frames), check, rate_hz, self.mix)
        del first  # held on to, it makes the allocator take new memory for the frames after it
        samples, end = taken(parts, self.gate.span.at(rate_hz), second * rate_hz)
        return Decoded(samples, rate_hz, end)


def decode(
    file: BinaryIO,
    where: str,
    max_duration_s: float = math.inf,
    span: Span = WHOLE,
    *,
    rate_path: RatePath = RatePath.via_32k,
    mix: Mix = Mix.ffmpeg,
) -> Decoded:
    """Read a recording as mono, or a span of it.

    Of several audio streams the default one is taken, or the one with the most channels. Damage is
    skipped, and what could be decoded is returned.

    Args:
        file: any audio or video file; its content alone decides how it is read.
        where: its name in errors.
        max_duration_s: longest span wanted, in seconds. Decoding stops there.
        span: the samples to return, counted in the whole recording. Decoding begins shortly before
            them in PCM and FLAC, else at the recording's beginning, and ends with the span.
        rate_path: to 32 kHz with `via_32k`, else at the recording's own rate.
        mix: how channels become one: as FFmpeg does, stereo as 0.7071 * (left + right), or as their
            mean.

    Returns:
        At least one sample.

    Raises:
        AudioError: `undecodable`, `empty` or `too_long`.
    """
    with faults_of_the_file(where):
        wanted = _Wanted(rate_path, mix, Gate(where, max_duration_s, span))
        header = _wav_header(file, where)
        decoded = _decode_wav(file, header, wanted) if header else _decode_any(file, wanted)
    if not len(decoded.samples):
        found, span = "no samples", span.at(decoded.rate_hz)
        if 0 < decoded.end <= span.start < span.stop:
            found = f"the recording ends at {decoded.end / decoded.rate_hz:g} s"
        raise AudioError("empty", f"{where}: {found}; at least one is needed")
    return decoded


def probe_duration_s(file: BinaryIO, where: str) -> float:
    """Seconds of audio as the header gives them: the `duration_s` of `probe`."""
    return probe(file, where).duration_s


def probe(file: BinaryIO, where: str) -> Header:
    """What the header says, without decoding.

    The duration is exact for PCM and FLAC, off by at most a packet for MP4 and Ogg. For an MP3
    without a header FFmpeg estimates it from the bit rate.

    Raises:
        AudioError: `undecodable` or `empty`.
    """
    with faults_of_the_file(where):
        header = _wav_header(file, where, samples=False)
        if header:
            return of_wav(header)
        with open_container(file) as container:
            return of_stream(container, _audio_stream(best_stream(container, file), where))


def _wav_header(file: BinaryIO, where: str, *, samples: bool = True) -> WavHeader | None:
    if not file.seek(0, os.SEEK_END):
        raise AudioError("empty", f"{where}: zero bytes; a recording is needed")
    return read_header(file, samples=samples)


def _decode_wav(file: BinaryIO, header: WavHeader, wanted: _Wanted) -> Decoded:
    wanted.gate.check(header.duration_s, header.rate_hz, "the header declares")
    if header.num_channels == 1 and wanted.rate_hz(header.rate_hz) == header.rate_hz:
        return _read_wav(file, header, wanted.gate.span.at(header.rate_hz))
    second = begin_s(wanted.gate.span, header.rate_hz, header.duration_s)
    return wanted.of_frames(_wav_frames(file, header, second * header.rate_hz), second)


def _read_wav(file: BinaryIO, header: WavHeader, span: Span) -> Decoded:
    start, stop = min(span.start, header.num_samples), min(span.stop, header.num_samples)
    samples = np.empty(stop - start, np.float32)
    num_samples = 0
    for block in read_blocks(file, header, READ_SAMPLES, start, stop):
        end = num_samples + block.shape[1]
        to_float(block[0], out=samples[num_samples:end])
        num_samples = end
    return Decoded(samples[:num_samples], header.rate_hz, start + num_samples, as_it_lies=True)


def _wav_frames(file: BinaryIO, header: WavHeader, begin: int) -> Iterator[av.AudioFrame]:
    layout = LAYOUTS[header.num_channels]
    for block in read_blocks(file, header, BLOCK_SAMPLES, begin):
        frame = av.AudioFrame.from_ndarray(block, header.sample_format, layout)
        frame.sample_rate = header.rate_hz
        yield frame


def _decode_any(file: BinaryIO, wanted: _Wanted) -> Decoded:
    """Of the first stream, in the order of FFmpeg's choice, that has any samples."""
    tried: frozenset[int] = frozenset()
    problem: FFmpegError | None = None
    decoded: Decoded | None = None
    gate, may_seek = wanted.gate, True
    while True:
        with open_container(file) as container:
            stream = best_stream(container, file, tried)
            if stream is None and decoded:
                break
            stream = _audio_stream(stream, gate.where)
            frames = _frames(file, container, stream, gate)
            second = seek(container, stream, gate.span) if may_seek else 0
            decoded = wanted.of_frames(frames_from(frames, second), second)
            index = stream.index
        if decoded.end:
            return decoded
        if second:  # nothing where the span should be: from the beginning
            may_seek = False
            continue
        tried |= {index}
        problem = problem or frames.problem
    if problem:
        raise undecodable(gate.where, problem)
    return decoded


def _frames(
    file: BinaryIO, container: InputContainer, stream: av.AudioStream, gate: Gate
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
