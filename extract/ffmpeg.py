"""FFmpeg through PyAV: containers, their best audio stream, its frames, and swresample.

Like the ffmpeg program, but in this process, and closed to the world: FFmpeg never sees a file's
name, out of which it would read protocols, patterns and formats, and nothing that a file says can
make it open another.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import groupby
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, PatchWelcomeError
from av.filter import Graph
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
    """The ffmpeg program's choice: the default stream, then the most channels, then the first."""
    return max(
        container.streams.audio,
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
    """FFmpeg's swresample, to 32 kHz mono float32, as the ffmpeg program sets it up.

    It resamples blocks that fit the processor's cache, whatever the size of the frames. A filter
    graph of its own, since that of PyAV's `AudioResampler` starts a thread for every core.
    """

    def __init__(self, sample_format: str, layout: str, rate_hz: int) -> None:
        self.graph = graph = Graph()  # kept: its filters die with it
        graph.threads = 1
        self.source = graph.add_abuffer(
            format=sample_format, layout=layout, sample_rate=rate_hz, time_base=Fraction(1, rate_hz)
        )
        blocks = graph.add("asetnsamples", f"nb_out_samples={BLOCK_SAMPLES}:pad=0")
        wanted = f"sample_fmts=flt:channel_layouts=mono:sample_rates={RECORDING_RATE_HZ}"
        self.sink = graph.add("abuffersink")
        graph.link_nodes(self.source, blocks, graph.add("aformat", wanted), self.sink)
        graph.configure(auto_buffer=False)
        self.num_waiting = 0

    def __call__(self, frame: av.AudioFrame | None) -> list[Samples]:
        """What `frame` lets out, in pieces; None for the rest."""
        self.source.push(frame)
        if frame is not None:
            self.num_waiting += frame.samples
            if self.num_waiting < BLOCK_SAMPLES:
                return []
            self.num_waiting %= BLOCK_SAMPLES
        return list(self._pulled())

    def _pulled(self) -> Iterator[Samples]:
        while True:
            try:
                piece = self.sink.pull()
            except (BlockingIOError, EOFError):  # no more for now, and no more at all
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
    for kind, run in groupby(frames, key=_kind):
        check(duration_s, kind[-1])
        resampler = Resampler(*kind)
        for frame in run:
            duration_s += frame.samples / frame.sample_rate
            check(duration_s, frame.sample_rate)
            parts += resampler(frame)
        parts += resampler(None)
    return joined(parts)


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def joined(parts: list[Samples]) -> Samples:
    """(num_samples,) float32, its own memory; empty if there are no parts."""
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
