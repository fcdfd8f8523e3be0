"""FFmpeg's filter graphs through PyAV: whatever is decoded becomes mono float32 at one rate.

What FFmpeg's swresample gives in the ffmpeg program, to the last bit; the mean of channels aside,
which FFmpeg does not offer without naming them.
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
from extract.values import Mix

FLOATS = "sample_fmts=flt"  # interleaved float32, full scale 1
REFERENCE = f"{FLOATS}:channel_layouts=mono:sample_rates={RECORDING_RATE_HZ}"
BLOCK_SAMPLES = 16_384  # resampled at once, per channel: twice as fast as a whole minute at once


class UnmixableError(Exception):
    """Channels that FFmpeg cannot mix to one; `str()` names them."""


class Resampler:
    """FFmpeg's swresample, as the ffmpeg program sets it up.

    `wanted` says in its words what comes out: `FLOATS`, and perhaps a rate and speakers.
    """

    def __init__(
        self, graph: Graph, sample_format: str, layout: str, rate_hz: int, wanted: str
    ) -> None:
        self.source = graph.add_abuffer(
            format=sample_format, layout=layout, sample_rate=rate_hz, time_base=Fraction(1, rate_hz)
        )
        try:
            self.sink = _resampling(graph, self.source, wanted)
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
def resampler(
    sample_format: str, layout: str, rate_hz: int, wanted: str = REFERENCE
) -> Iterator[Resampler]:
    """A `Resampler` whose memory is freed at the end; raises UnmixableError."""
    with _graph() as graph:
        yield Resampler(graph, sample_format, layout, rate_hz, wanted)


def resample(
    frames: Iterable[av.AudioFrame],
    check: Callable[[float, int], None],
    rate_hz: int = RECORDING_RATE_HZ,
    mix: Mix = Mix.ffmpeg,
) -> Generator[Samples, None, None]:
    """Yield `frames` as float32 mono at `rate_hz`, in parts of (num_samples,).

    `check(duration_s, rate_hz)` is called before each frame is resampled. It may raise, so that an
    endless recording costs no memory.

    A stream may change its rate or layout midway (a broadcast, joined files). As in FFmpeg a new
    resampler takes over. The old one is flushed: FFmpeg 5.1 lost its last half millisecond.
    """
    if mix is Mix.mean:
        frames = _means(frames)
    wanted = f"{FLOATS}:channel_layouts=mono:sample_rates={rate_hz}"
    yield from _converted(frames, check, wanted)


def _converted(
    frames: Iterable[av.AudioFrame], check: Callable[[float, int], None], wanted: str
) -> Generator[Samples, None, None]:
    """What `wanted` makes of `frames`, in parts of (num_samples * channels,)."""
    duration_s = 0.0
    for kind, run in groupby(frames, key=_kind):
        rate_hz = kind[2]
        check(duration_s, rate_hz)
        with resampler(*kind, wanted) as converted:
            for frame in run:
                duration_s += frame.samples / rate_hz
                check(duration_s, rate_hz)
                yield from converted(frame)
            yield from converted(None)


def _means(frames: Iterable[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """The mean of the channels of `frames`, summed as librosa's `to_mono` sums: the same bits."""
    for (layout, rate_hz), run in groupby(frames, key=_speakers):
        num_channels = len(av.AudioLayout(layout).channels)
        for part in _converted(run, _unchecked, FLOATS):
            mean = _mean(part.reshape(-1, num_channels))
            frame = av.AudioFrame.from_ndarray(mean[None], "flt", "mono")
            frame.sample_rate = rate_hz
            yield frame


def _mean(by_time: Samples) -> Samples:
    """`by_time.mean(axis=1)` of (num_samples, channels), the same bits, several times as fast.

    Below eight numbers numpy's sum takes one after the other too.
    """
    num_channels = by_time.shape[1]
    if num_channels >= 8:
        return np.asarray(by_time.mean(axis=1))
    total = by_time[:, 0].copy()
    for channel in range(1, num_channels):
        total += by_time[:, channel]
    total /= np.float32(num_channels)
    return total


def _speakers(frame: av.AudioFrame) -> tuple[str, int]:
    return frame.layout.name, frame.sample_rate


def _unchecked(_duration_s: float, _rate_hz: int) -> None:
    """`resample`'s own check sees each frame after its channels are one."""


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


def _resampling(graph: Graph, source: FilterContext, wanted: str) -> FilterContext:
    """The sink behind `source`, for what `wanted` says.

    `asetnsamples` joins the codec's frames into blocks that fit the processor's cache.
    """
    blocks = graph.add("asetnsamples", f"nb_out_samples={BLOCK_SAMPLES}:pad=0")
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
        num_values = piece.samples * len(piece.layout.channels)
        yield np.frombuffer(memoryview(piece.planes[0]), np.float32, num_values)
