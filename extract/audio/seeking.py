"""Where the decoding of a cut may begin, so that its samples stay those of the whole recording.

Decoders of PCM and FLAC keep no state from one frame to the next, and their containers are sought
to the sample. Others, MP3, Ogg and M4A among them, are decoded from their beginning: a decoder that
begins midway gives other bits for a while, and their timestamps are not exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain

import av
from av.container import InputContainer
from av.error import FFmpegError

from extract.audio.ffmpeg import Frames, counted_duration_s
from extract.audio.spans import Span

SOUGHT_CONTAINERS = frozenset({"aiff", "au", "caf", "flac", "w64", "wav"})

# Before the whole second at which a resampler begins it knows no samples, so that its first ones
# differ: by half of swresample's filter, whose 32 taps lie at the lower of both rates.
LEAD_S = 1
LEAD_SAMPLES = 64


def begin_s(span: Span, rate_hz: int, duration_s: float) -> int:
    """The whole second at which the decoding of `span` may begin; 0 is the recording's beginning.

    A whole second, since a second holds a whole number of samples of both rates: swresample's
    filters then have the phases that they have if it begins at the recording's beginning.

    Args:
        span: the samples wanted. If it begins behind the end, the last second is decoded.
        rate_hz: of the recording.
        duration_s: of the recording.
    """
    return max(0, math.floor(min(span.start_s, duration_s) - LEAD_S - LEAD_SAMPLES / rate_hz))


def seek(container: InputContainer, stream: av.AudioStream, span: Span) -> int:
    """Moves a container, just opened, towards `span`; returns the second that decoding begins at.

    0 if it must begin at the recording's beginning. The frames that follow a seek may begin
    earlier: `frames_from` drops those.
    """
    codec, duration_s = stream.codec_context.name, counted_duration_s(container, stream)
    exact = codec == "flac" or codec.startswith("pcm_")
    if not exact or duration_s is None or container.format.name not in SOUGHT_CONTAINERS:
        return 0
    second = begin_s(span, stream.sample_rate, duration_s)
    if second and codec == "flac" and not _is_one_stream(container, stream):
        second = 0
        _seek_to(container, stream, 0)
    elif second:
        _seek_to(container, stream, second)
    return second


def _seek_to(container: InputContainer, stream: av.AudioStream, time_s: float) -> None:
    assert stream.time_base
    offset = round(time_s / stream.time_base) + (stream.start_time or 0)
    with suppress(FFmpegError):  # then it stands where it stood: `frames_from` looks
        container.seek(offset, stream=stream)


def _is_one_stream(container: InputContainer, stream: av.AudioStream) -> bool:
    """Whether the last frame of a FLAC ends where the header says.

    In two files joined to one a seek may find the time it looks for in the second.
    """
    assert stream.duration
    assert stream.time_base
    _seek_to(container, stream, float(stream.duration * stream.time_base))
    end = 0
    with suppress(FFmpegError):
        for packet in container.demux(stream):
            if packet.size:
                end = (packet.pts or 0) + (packet.duration or 0)
    return end - (stream.start_time or 0) == stream.duration


def frames_from(frames: Frames, second: int) -> Iterable[av.AudioFrame]:
    """The frames of a stream that was sought, from the sample on with which `second` begins.

    Nothing where they begin behind it or do not say where they are: the stream was not sought well,
    and must be decoded from its beginning.
    """
    if not second:
        return frames
    decoded = iter(frames)
    first = next(decoded, None)
    position = None if first is None else _position(first, frames.stream)
    if first is None or position is None or position > second * first.sample_rate:
        return ()
    return _behind(chain([first], decoded), second * first.sample_rate - position)


def _position(frame: av.AudioFrame, stream: av.AudioStream) -> int | None:
    """The number of a frame's first sample, counted from the stream's beginning."""
    if frame.pts is None or not stream.time_base:
        return None
    at = (frame.pts - (stream.start_time or 0)) * stream.time_base * frame.sample_rate
    return int(at) if at.denominator == 1 else None


def _behind(frames: Iterable[av.AudioFrame], num_dropped: int) -> Iterator[av.AudioFrame]:
    """`frames` without their first `num_dropped` samples."""
    for frame in frames:
        if num_dropped <= 0:
            yield frame
        elif num_dropped < frame.samples:
            yield _without_start(frame, num_dropped)
        num_dropped -= frame.samples


def _without_start(frame: av.AudioFrame, num_dropped: int) -> av.AudioFrame:
    values = frame.to_ndarray()  # (channels, samples), or (1, samples * channels) interleaved
    width = values.shape[1] // frame.samples
    rest = values[:, num_dropped * width :].copy()
    cut = av.AudioFrame.from_ndarray(rest, frame.format.name, frame.layout.name)
    cut.sample_rate = frame.sample_rate
    return cut
