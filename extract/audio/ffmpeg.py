"""FFmpeg through PyAV: containers, their best audio stream and its frames.

Like the ffmpeg program, but in this process, and closed to the world: FFmpeg never sees a file's
name, out of which it would read protocols, patterns and formats, and nothing that a file says can
make it open another.
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

UNKNOWN_BIT_RATE = 128_000  # assumed for a duration where a file names none

# PyAV 19 keeps text that is no UTF-8 by itself and has lost the argument.
METADATA: dict[str, Any] = (
    {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}
)

# Containers whose header counts samples. Elsewhere FFmpeg may have guessed a duration from the bit
# rate (a bare MP3, an Ogg with something behind it) or read it off timestamps that jump (MPEG-TS).
COUNTED_CONTAINERS = frozenset(
    {"aiff", "au", "caf", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "tta", "w64", "wav", "wv"}
)

# How far FFmpeg looks for packets before the ffmpeg program chooses among streams: its `probesize`
# and `analyzeduration`.
PROBE_BYTES = 5_000_000
PROBE_S = 5.0

MAX_POSITION = 2**63 - 1  # of a file
MAX_TAGS = 16  # ID3v2 tags in a row; one is usual


class _Unnamed:
    """A file from byte `start` on, without its name, from which FFmpeg would guess a format.

    It has a position of its own, so that several may read one file.
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
        """The new position; like a seek of FFmpeg's own, negative where there can be none."""
        origin = {os.SEEK_SET: self.start, os.SEEK_CUR: self.position}.get(whence)
        if origin is None:
            origin = self.file.seek(0, os.SEEK_END)
        position = origin + offset
        if not self.start <= position <= MAX_POSITION:
            return -errno.EINVAL
        try:
            self.position = self.file.seek(position)
        except OSError as error:  # more than the file system knows
            return -(error.errno or errno.EINVAL)
        return self.tell()

    def tell(self) -> int:
        return self.position - self.start


def open_container(file: BinaryIO) -> InputContainer:
    """Read the headers of an open file; raises FFmpegError or OSError.

    An ID3v2 tag may stand before any format. FFmpeg reads on behind it where such tags are usual
    (MP3, FLAC); since version 7 it refuses the others, so that they are opened from there.
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
    """The ffmpeg program's choice: one with packets, the default, the most channels, the first.

    Of those that FFmpeg has a decoder for. After `tried` ones without a sample, of those that hold
    a packet anywhere. None if there are none.
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
    """Indices of the decodable streams with a packet: in all of the file, or where FFmpeg looks.

    The ffmpeg program reads to the limits below, or less, before it chooses a stream.
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
    """Seconds from the stream's start to the packet; 0 where a time is unknown."""
    if packet.pts is None or not packet.time_base:
        return 0.0
    return float((packet.pts - (packet.stream.start_time or 0)) * packet.time_base)


def holds_past(file: BinaryIO, index: int, duration_s: float) -> bool:
    """Whether stream `index` has a packet that starts after `duration_s`.

    Asked where a header counts more than is wanted: of a file cut short, what it holds decides.
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
    """Seconds of `stream` where its header counts samples, else None: a guess rejects nothing."""
    if container.format.name not in COUNTED_CONTAINERS:
        return None
    if stream.duration is None or not stream.time_base:
        return None
    return float(stream.duration * stream.time_base)


def likely_duration_s(container: InputContainer, stream: av.AudioStream) -> float:
    """Seconds by the header, or the best guess: of the stream, of the file, by the bit rate."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / av.time_base
    return (container.size or 0) * 8 / (container.bit_rate or UNKNOWN_BIT_RATE)


class Frames:
    """The decodable frames of a stream; like the ffmpeg program, it goes on after an error.

    `problem` is the last error met, or None. Out of memory is no damage: it is raised.
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
        except (MemoryError, PatchWelcomeError):  # of a joined Ogg whose parts differ, half is lost
            raise
        except FFmpegError as error:  # the file ends here; the decoder may still hold something
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
