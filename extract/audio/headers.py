"""What a recording's header says: how long it is, its rate, channels and codec."""

from __future__ import annotations

from dataclasses import dataclass

import av
from av.container import InputContainer

from extract.audio.ffmpeg import counted_duration_s, likely_duration_s
from extract.audio.wav import WavHeader

_WAV_CODECS = {  # (sample format, its bytes): FFmpeg's name of the codec
    ("u8", 1): "pcm_u8",
    ("s16", 2): "pcm_s16le",
    ("s32", 3): "pcm_s24le",
    ("s32", 4): "pcm_s32le",
    ("flt", 4): "pcm_f32le",
    ("dbl", 8): "pcm_f64le",
}


@dataclass(frozen=True)
class Header:
    """What a recording's header says of the stream that decoding takes."""

    duration_s: float
    rate_hz: int
    num_channels: int
    codec: str  # FFmpeg's name: pcm_s16le, mp3
    counted: bool  # whether the header counts samples; else FFmpeg may have guessed the duration


def of_wav(header: WavHeader) -> Header:
    """Of a canonical WAV. A coded stream that its header declares as PCM is called PCM."""
    codec = _WAV_CODECS[header.sample_format, header.sample_bytes]
    return Header(header.duration_s, header.rate_hz, header.num_channels, codec, counted=True)


def of_stream(container: InputContainer, stream: av.AudioStream) -> Header:
    """Of an audio stream, as FFmpeg found it when it opened the container."""
    return Header(
        likely_duration_s(container, stream),
        stream.sample_rate or 0,
        stream.channels,
        stream.codec_context.codec.canonical_name,
        counted_duration_s(container, stream) is not None,
    )
