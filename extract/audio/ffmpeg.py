"""FFmpeg through PyAV: opens containers, chooses the best audio stream, decodes its frames.

Streams are chosen as the ffmpeg program chooses them. A recording cannot make FFmpeg open anything
else: FFmpeg never sees a file's name, which it would parse for protocols, patterns and formats, and
all its protocols are switched off.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError, PatchWelcomeError
from av.stream import Disposition

UNKNOWN_BIT_RATE = 128_000  # bit/s, to estimate a duration if the file states no bit rate

# Up to PyAV 18 metadata that is not UTF-8 raises without this argument. PyAV 19 does not know it.
METADATA: dict[str, Any] = (
    {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}
)

# Containers whose header counts samples. In others FFmpeg may guess the duration: from the bit rate
# (an MP3 without a header, an Ogg with something behind it) or from timestamps that jump (MPEG-TS).
COUNTED_CONTAINERS = frozenset(
    {"aiff", "au", "caf", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "tta", "w64", "wav", "wv"}
)

# How far the ffmpeg program reads before it chooses a stream: the defaults of its options
# `probesize` and `analyzeduration`.
PROBE_BYTES = 5_000_000
PROBE_S = 5.0

MAX_POSITION = 2**63 - 1  # bytes; a seek past it overflows
MAX_TAGS = 16  # ID3v2 tags in a row; one is usual


class _Unnamed:
    """A file from byte `start` on, without its name, from which FFmpeg would guess a format.

    Each has a position of its own, so that several containers can read one file.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self.file = file
        self.start = start
        self.position = start

    def read(self, num_bytes: int) -> bytes:
        self.file.seek(self.position)
        content = self.file.read(num_bytes)
        self.position += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The new position, or a negative errno as FFmpeg's own seek returns it."""
        origin = {os.SEEK_SET: self.start, os.SEEK_CUR: self.position}.get(whence)
        if origin is None:
            origin = self.file.seek(0, os.SEEK_END)
        position = origin + offset
        if not self.start <= position <= MAX_POSITION:
            return -errno.EINVAL
        try:
            self.position = self.file.seek(position)
        except OSError as error:  # past the file system's largest file
            return -(error.errno or errno.EINVAL)
        return self.tell()

    def tell(self) -> int:
        return self.position - self.start


def open_container(file: BinaryIO) -> InputContainer:
    """Read the headers of an open file; raises FFmpegError or OSError.

    An ID3v2 tag may stand before any format. FFmpeg skips it where such tags are usual (MP3, FLAC).
    FFmpeg 7 and later refuse other formats behind a tag, so those are opened from the tag's end.
    """
    try:
        return _open_from(file, 0)
    except InvalidDataError:
        start = end_of_tags(file)
        if not start:
            raise
        return _open_from(file, start)


def _open_from(file: BinaryIO, start: int) -> InputContainer:
    options = {"protocol_whitelist": "none"}  # a playlist opens nothing, here or in the network
    container: InputContainer = av.open(
        _Unnamed(file, start), "r", container_options=options, **METADATA
    )
    return container


def end_of_tags(file: BinaryIO) -> int:
    """Bytes of the ID3v2 tags that a file begins with; 0 if there are none.

    Source: id3.org, "ID3 tag version 2.4.0 - Main Structure", 3.1 and 3.4.
    """
    end = 0
    for _ in range(MAX_TAGS):
        file.seek(end)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:]) > 0x7F:
            break
        has_footer = bool(head[5] & 0x10)
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        end += 10 + length + 10 * has_footer
    return end


def best_stream(
    container: InputContainer, file: BinaryIO, tried: frozenset[int] = frozenset()
) -> av.AudioStream | None:
    """The audio stream that the ffmpeg program chooses; None if there is none.

    A stream with packets comes before one without, then the default stream, then the one with the
    most channels, then the first. Streams without a decoder and those of `tried`, which gave no
    sample, are left out. Once one was tried, only streams with a packet anywhere in the file count.
    """
    streams = [stream for stream in decodable(container) if stream.index not in tried]
    filled: frozenset[int] = frozenset()
    if tried and streams:
        filled = streams_with_packets(file, whole=True)
        streams = [stream for stream in streams if stream.index in filled]
    elif len(streams) > 1:
        filled = streams_with_packets(file)
    return max(
        streams,
        key=lambda stream: (
            stream.index in filled,
            bool(stream.disposition & Disposition.default),
            stream.channels,
        ),
        default=None,
    )


def decodable(container: InputContainer) -> list[av.AudioStream]:
    """The audio streams that FFmpeg has a decoder for."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def streams_with_packets(file: BinaryIO, whole: bool = False) -> frozenset[int]:
    """Indices of the decodable streams that have a packet.

    Reads the `whole` file, or as far as the ffmpeg program: to PROBE_BYTES or PROBE_S.
    """
    found: set[int] = set()
    num_bytes = 0
    with open_container(file) as container, suppress(FFmpegError):
        wanted = {stream.index for stream in decodable(container)}
        for packet in container.demux():
            if packet.size and packet.stream_index in wanted:
                found.add(packet.stream_index)
            num_bytes += packet.size
            past = num_bytes > PROBE_BYTES or _time_s(packet) > PROBE_S
            if found == wanted or (past and not whole):
                break
    return frozenset(found)


def _time_s(packet: Any) -> float:
    """Seconds from the stream's start to the packet; 0 if the packet has no timestamp."""
    if packet.pts is None or not packet.time_base:
        return 0.0
    return float((packet.pts - (packet.stream.start_time or 0)) * packet.time_base)


def holds_past(file: BinaryIO, index: int, duration_s: float) -> bool:
    """Whether stream `index` has a packet that starts after `duration_s`.

    A file that was cut short keeps the duration of the whole in its header; its packets decide.
    """
    with open_container(file) as container, suppress(FFmpegError):
        stream = container.streams[index]
        assert stream.time_base
        start = stream.start_time or 0
        container.seek(start + round(duration_s / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            if packet.size and _time_s(packet) > duration_s:
                return True
    return False


def counted_duration_s(container: InputContainer, stream: av.AudioStream) -> float | None:
    """Seconds of `stream` if its header counts samples; None if FFmpeg may have guessed them."""
    if container.format.name not in COUNTED_CONTAINERS:
        return None
    if stream.duration is None or not stream.time_base:
        return None
    return float(stream.duration * stream.time_base)


def likely_duration_s(container: InputContainer, stream: av.AudioStream) -> float:
    """Seconds as the stream states them, else the container, else estimated from the bit rate."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / av.time_base
    return (container.size or 0) * 8 / (container.bit_rate or UNKNOWN_BIT_RATE)


class Frames:
    """Iterates over the frames of a stream; goes on after a decoding error, as ffmpeg does.

    `problem` is the last error met, or None. MemoryError is raised: the file is not damaged.
    """

    def __init__(self, container: InputContainer, stream: av.AudioStream) -> None:
        self.container = container
        self.stream = stream
        self.problem: FFmpegError | None = None

    def __iter__(self) -> Iterator[av.AudioFrame]:
        try:
            self.stream.codec_context.open(strict=False)
            for packet in self.container.demux(self.stream):
                yield from self._decoded(packet)
        except (MemoryError, PatchWelcomeError):  # the second: a joined Ogg would lose its 2nd part
            raise
        except FFmpegError as error:  # no more packets; the decoder may still hold frames
            self.problem = error
            if self.stream.codec_context.is_open:
                yield from self._decoded(None)

    def _decoded(self, packet: Any) -> list[av.AudioFrame]:
        try:
            return self.stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except FFmpegError as error:
            self.problem = error
            return []
