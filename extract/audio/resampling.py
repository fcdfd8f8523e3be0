"""Resamples and mixes decoded frames to 32 kHz mono float32, by FFmpeg's filter graph through PyAV.

The samples are those of swresample in the ffmpeg program, to the last bit.
"""

import gc
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import groupby

import av
import numpy as np
from av.error import ArgumentError
from av.filter import Graph
from av.filter.context import FilterContext

from extract.audio.spans import Samples
from extract.frames import RECORDING_RATE_HZ

BLOCK_SAMPLES = 16_384  # per channel, resampled at once: twice as fast as a minute at once


class UnmixableError(Exception):
    """Channels that FFmpeg cannot mix to one; `str()` names them."""


class FFmpegResampler:
    """Resamples frames of one format to 32 kHz mono float32 with the ffmpeg program's settings."""

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
        """Takes a frame and returns the pieces that are ready; None flushes the rest."""
        self.source.push(frame)
        if frame is not None:
            self.num_waiting += frame.samples
            if self.num_waiting < BLOCK_SAMPLES:
                return []
            self.num_waiting %= BLOCK_SAMPLES
        pieces: list[Samples] = []
        with suppress(BlockingIOError):  # the graph needs more input first
            pieces.extend(_pulled(self.sink))
        return pieces


@contextmanager
def resampler(sample_format: str, layout: str, rate_hz: int) -> Iterator[FFmpegResampler]:
    """A `FFmpegResampler` whose memory is freed at the end; raises UnmixableError."""
    with _graph() as graph:
        yield FFmpegResampler(graph, sample_format, layout, rate_hz)


def resample(
    frames: Iterable[av.AudioFrame], check: Callable[[float, int], None]
) -> Generator[Samples, None, None]:
    """Yield `frames` as float32 at 32 kHz mono, in parts of (num_samples,).

    `check(duration_s, rate_hz)` is called before each frame is resampled. It may raise, so that an
    endless recording costs no memory.

    A stream may change its rate or layout midway (a broadcast, joined files). As in FFmpeg a new
    resampler takes over. The old one is flushed: FFmpeg 5.1 lost its last half millisecond.
    """
    duration_s = 0.0
    for (sample_format, layout, rate_hz), run in groupby(frames, key=_kind):
        check(duration_s, rate_hz)
        with resampler(sample_format, layout, rate_hz) as resampled:
            for frame in run:
                duration_s += frame.samples / rate_hz
                check(duration_s, rate_hz)
                yield from resampled(frame)
            yield from resampled(None)


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


@contextmanager
def _graph() -> Iterator[Graph]:
    """An empty filter graph with one thread (FFmpeg's default is one a core), freed at the end.

    In PyAV 19 a graph and its filters form a reference cycle of 0.2 to 1.3 MB. Without the loop
    below it lives until Python's garbage collector runs, many recordings later.
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
    """Builds the graph from `source` to a sink of 32 kHz mono float32, and returns the sink.

    `asetnsamples` joins the codec's frames into blocks that fit the processor's cache.
    """
    blocks = graph.add("asetnsamples", f"nb_out_samples={BLOCK_SAMPLES}:pad=0")
    wanted = f"sample_fmts=flt:channel_layouts=mono:sample_rates={RECORDING_RATE_HZ}"
    sink = graph.add("abuffersink")
    graph.link_nodes(source, blocks, graph.add("aformat", wanted), sink)
    graph.configure(auto_buffer=False)
    return sink


def _pulled(sink: FilterContext) -> Iterator[Samples]:
    """Yields the pieces that the graph has ready; raises BlockingIOError if it needs more input."""
    while True:
        try:
            piece = sink.pull()
        except EOFError:
            return
        assert isinstance(piece, av.AudioFrame)
        yield np.frombuffer(memoryview(piece.planes[0]), np.float32, piece.samples)
