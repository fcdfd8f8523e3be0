"""FFmpeg through PyAV: containers, their best audio stream, its frames, and filter graphs.

Like the ffmpeg program, but in this process, and closed to the world: FFmpeg never sees a file's
name, out of which it would read protocols, patterns and formats, and nothing that a file says can
make it open another.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import groupby
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, PatchWelcomeError
from av.filter import Graph
from av.filter.context import FilterContext
from av.stream import Disposition
from numpy.typing import NDArray

from extract.frames import RECORDING_RATE_HZ

BLOCK_SAMPLES = 16_384  # resampled at once, per channel: twice as fast as a whole minute at once
UNKNOWN_BIT_RATE = 128_000  # assumed for a duration where a file names none

# Containers whose header counts samples. Elsewhere FFmpeg may have guessed a duration from the bit
# rate (a bare MP3, an Ogg with something behind it) or read it off timestamps that jump (MPEG-TS).
COUNTED_CONTAINERS = frozenset(
    {"aiff", "au", "caf", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "tta", "w64", "wav", "wv"}
)

# Container and codec where a packet holds one frame, for FFmpeg's movie source asks for no second.
AT_ONCE = frozenset({("aac", "aac"), ("mov,mp4,m4a,3gp,3g2,mj2", "aac"), ("mp3", "mp3")})
AT_ONCE_FROM_S = 2.5  # shorter ones lose by it: their file is opened twice
AT_ONCE_BYTES = 64_000_000  # of a copy in memory: an hour

Samples = NDArray[np.float32]


class _Unnamed:
    """A file without its name, from which FFmpeg would guess a format."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self.read: Callable[[int], bytes] = file.read
        self.seek: Callable[..., int] = file.seek
        self.tell: Callable[[], int] = file.tell


def open_container(file: BinaryIO) -> InputContainer:
    """Read the headers of an open file; raises FFmpegError, OSError or ValueError."""
    options = {"protocol_whitelist": "none"}  # a playlist opens nothing, here or in the network
    return av.open(_Unnamed(file), "r", container_options=options, metadata_errors="replace")


def best_stream(container: InputContainer) -> av.AudioStream | None:
    """The ffmpeg program's choice: the default stream, then the most channels, then the first.

    Of those that FFmpeg has a decoder for; None if there are none.
    """
    return max(
        (stream for stream in container.streams.audio if stream.codec_context is not None),
        key=lambda stream: (bool(stream.disposition & Disposition.default), stream.channels),
        default=None,
    )


def counted_duration_s(container: InputContainer, stream: av.AudioStream) -> float | None:
    """Seconds of `stream` where its header counts samples, else None: a guess rejects nothing."""
    if container.format.name not in COUNTED_CONTAINERS:
        return None
    if stream.duration is None or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)


def likely_duration_s(container: InputContainer, stream: av.AudioStream) -> float:
    """Seconds by the header, or the best guess: of the stream, of the file, by the bit rate."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / av.time_base
    return container.size * 8 / (container.bit_rate or UNKNOWN_BIT_RATE)


class Frames:
    """The decodable frames of a stream; like the ffmpeg program, it goes on after an error.

    `problem` is the last error met, or None.
    """

    def __init__(self, container: InputContainer, stream: av.AudioStream) -> None:
        self.container = container
        self.stream = stream
        self.problem: FFmpegError | None = None

    def __iter__(self) -> Iterator[av.AudioFrame]:
        try:
            for packet in self.container.demux(self.stream):
                yield from self._decoded(packet)
        except PatchWelcomeError:  # a joined Ogg whose parts differ: half of it would be lost
            raise
        except FFmpegError as error:  # the file ends here; the decoder may still hold something
            self.problem = error
            yield from self._decoded(None)

    def _decoded(self, packet: Any) -> list[av.AudioFrame]:
        try:
            return self.stream.codec_context.decode(packet)
        except FFmpegError as error:
            self.problem = error
            return []


class Resampler:
    """FFmpeg's swresample, to 32 kHz mono float32, as the ffmpeg program sets it up."""

    def __init__(self, sample_format: str, layout: str, rate_hz: int) -> None:
        self.graph = _graph()
        self.source = self.graph.add_abuffer(
            format=sample_format, layout=layout, sample_rate=rate_hz, time_base=Fraction(1, rate_hz)
        )
        self.sink = _resampling(self.graph, self.source)
        self.num_waiting = 0

    def __call__(self, frame: av.AudioFrame | None) -> list[Samples]:
        """What `frame` lets out, in pieces; None for the rest."""
        self.source.push(frame)
        if frame is not None:
            self.num_waiting += frame.samples
            if self.num_waiting < BLOCK_SAMPLES:
                return []
            self.num_waiting %= BLOCK_SAMPLES
        pieces: list[Samples] = []
        with suppress(BlockingIOError):  # no more for now
            pieces.extend(_pulled(self.sink))
        return pieces


def at_once(file: BinaryIO, stream: av.AudioStream) -> Iterator[Samples]:
    """A stream at 32 kHz mono, in pieces; read, decoded and resampled in one filter graph.

    As `resample` gives it, and 1.2 times as fast, but only for what `goes_at_once`. From a copy in
    memory, since to FFmpeg's movie source a failing disk is the end of the file.
    Raises FFmpegError at the first damage and where the format changes on the way, OSError where
    there can be no copy.
    """
    graph = _graph()
    with _copy(file) as descriptor:
        options = f"fd={descriptor}:protocol_whitelist=fd"
        source = graph.add(
            "amovie", filename="fd:", format_opts=options, stream_index=str(stream.index)
        )
        yield from _pulled(_resampling(graph, source))


def goes_at_once(container: InputContainer, stream: av.AudioStream) -> bool:
    """Whether `at_once` is for such a stream: its packets hold one frame each, and it is faster."""
    kind = container.format.name, stream.codec_context.codec.canonical_name
    long_enough = likely_duration_s(container, stream) >= AT_ONCE_FROM_S
    return kind in AT_ONCE and long_enough and hasattr(os, "memfd_create")


@contextmanager
def _copy(file: BinaryIO) -> Iterator[int]:
    """A descriptor of the file's content in memory; raises OSError where it cannot be read."""
    descriptor = os.memfd_create("recording")
    try:
        size, done = os.fstat(file.fileno()).st_size, 0
        if size > AT_ONCE_BYTES:
            raise OSError(f"{size} bytes are too many for a copy")
        while done < size:
            sent = os.sendfile(descriptor, file.fileno(), done, size - done)
            if not sent:
                raise OSError("cut short while it was read")
            done += sent
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _graph() -> Graph:
    """An empty filter graph; its filters die with it. Left alone it starts a thread a core."""
    graph = Graph()
    graph.threads = 1
    return graph


def _resampling(graph: Graph, source: FilterContext) -> FilterContext:
    """The sink behind `source`, for 32 kHz mono float32.

    The frames between are as large as fits the processor's cache, whatever the codec's size.
    """
    blocks = graph.add("asetnsamples", f"nb_out_samples={BLOCK_SAMPLES}:pad=0")
    wanted = f"sample_fmts=flt:channel_layouts=mono:sample_rates={RECORDING_RATE_HZ}"
    sink = graph.add("abuffersink")
    graph.link_nodes(source, blocks, graph.add("aformat", wanted), sink)
    graph.configure(auto_buffer=False)
    return sink


def _pulled(sink: FilterContext) -> Iterator[Samples]:
    """What comes out, in pieces, to the end; raises BlockingIOError where more must go in first."""
    while True:
        try:
            piece = sink.pull()
        except EOFError:
            return
        assert isinstance(piece, av.AudioFrame)
        yield np.frombuffer(memoryview(piece.planes[0]), np.float32, piece.samples)


def resample(frames: Iterable[av.AudioFrame], check: Callable[[float, int], None]) -> Samples:
    """Concatenate `frames` as (num_samples,) float32 at 32 kHz mono.

    `check(duration_s, rate_hz)` may raise: it is asked before each frame is kept, so that a
    recording without end costs no memory.

    A stream may change its rate or layout on the way (a broadcast, joined files). A new resampler
    takes over, as in FFmpeg; the old one gives back its last half millisecond, which FFmpeg 5.1
    dropped.
    """
    parts: list[Samples] = []
    duration_s = 0.0
    for (sample_format, layout, rate_hz), run in groupby(frames, key=_kind):
        check(duration_s, rate_hz)
        resampler = Resampler(sample_format, layout, rate_hz)
        for frame in run:
            duration_s += frame.samples / rate_hz
            check(duration_s, rate_hz)
            parts += resampler(frame)
        parts += resampler(None)
    return joined(parts)


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def joined(parts: list[Samples]) -> Samples:
    """(num_samples,) float32, its own memory; empty if there are no parts."""
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
