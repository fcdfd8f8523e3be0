"""FFmpeg's filter graphs through PyAV: whatever is decoded becomes 32 kHz mono float32.

What FFmpeg's swresample gives in the ffmpeg program, to the last bit.
"""

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import groupby
from typing import BinaryIO

import av
import numpy as np
from av.error import ArgumentError
from av.filter import Graph
from av.filter.context import FilterContext
from numpy.typing import NDArray

from extract.frames import RECORDING_RATE_HZ

BLOCK_SAMPLES = 16_384  # resampled at once, per channel: twice as fast as a whole minute at once
AT_ONCE_BYTES = 64_000_000  # of a copy in memory: an hour

Samples = NDArray[np.float32]


class UnmixableError(Exception):
    """Channels that FFmpeg cannot mix to one; `str()` names them."""


class Resampler:
    """FFmpeg's swresample, to 32 kHz mono float32, as the ffmpeg program sets it up."""

    def __init__(self, graph: Graph, sample_format: str, layout: str, rate_hz: int) -> None:
        self.source = graph.add_abuffer(
            format=sample_format, layout=layout, sample_rate=rate_hz, time_base=Fraction(1, rate_hz)
        )
        try:
            self.sink = _resampling(graph, self.source)
        except ArgumentError as error:  # swresample has no matrix for these speakers
            raise UnmixableError(layout) from error
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


@contextmanager
def resampler(sample_format: str, layout: str, rate_hz: int) -> Iterator[Resampler]:
    """A `Resampler` whose memory is freed at the end; raises UnmixableError."""
    with _graph() as graph:
        yield Resampler(graph, sample_format, layout, rate_hz)


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
        with resampler(sample_format, layout, rate_hz) as resampled:
            for frame in run:
                duration_s += frame.samples / rate_hz
                check(duration_s, rate_hz)
                parts += resampled(frame)
            parts += resampled(None)
    return joined(parts)


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def at_once(file: BinaryIO, stream: av.AudioStream) -> Iterator[Samples]:
    """A stream at 32 kHz mono, in pieces; read, decoded and resampled in one filter graph.

    As `resample` gives it, and 1.2 times as fast, but only for what `goes_at_once`. From a copy in
    memory, since to FFmpeg's movie source a failing disk is the end of the file.
    Raises FFmpegError at the first damage and where the format changes on the way, OSError where
    there can be no copy.
    """
    with _graph() as graph, _copy(file) as descriptor:
        options = f"fd={descriptor}:protocol_whitelist=fd"
        source = graph.add(
            "amovie", filename="fd:", format_opts=options, stream_index=str(stream.index)
        )
        yield from _pulled(_resampling(graph, source))


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


@contextmanager
def _graph() -> Iterator[Graph]:
    """An empty filter graph, freed at the end. Left alone it starts a thread a core.

    In PyAV 19 a graph and its filters refer to one another. Without the loop below, Python's
    garbage collector frees them, many recordings later: 0.2 to 1.3 MB each, and an MP3's copy in
    memory with its descriptor.
    """
    graph = Graph()
    graph.threads = 1
    try:
        yield graph
    finally:
        for held in gc.get_referents(graph):
            if isinstance(held, dict):  # the graph's filters, by name and by address
                held.clear()


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


def joined(parts: list[Samples]) -> Samples:
    """(num_samples,) float32, its own memory; empty if there are no parts."""
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
