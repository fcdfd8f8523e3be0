"""Integrated loudness in LUFS (EBU R 128, ITU-R BS.1770), as FFmpeg's filter `ebur128` has it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import av.filter
import numpy as np
from numpy.typing import NDArray

FLOOR_LUFS = -70.0  # the absolute gate: what the filter says where no block of 400 ms passes it
BLOCK = 1 << 16  # samples that the filter is given at a time

_KEY = "lavfi.r128.I"


def loudness_lufs(samples: NDArray[np.float32], rate_hz: int) -> float | None:
    """The integrated loudness of a mono recording; None if it is too short or too quiet for one.

    Args:
        samples: (num_samples,) full scale 1.
        rate_hz: of the samples.
    """
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=rate_hz, format="flt", layout="mono", time_base=Fraction(1, rate_hz)
    )
    meter, sink = graph.add("ebur128", "metadata=1"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    measured = FLOOR_LUFS
    for frame in _frames(samples, rate_hz):
        source.push(frame)
        measured = _latest(sink, measured)
    return measured if np.isfinite(measured) and measured > FLOOR_LUFS else None


def _frames(samples: NDArray[np.float32], rate_hz: int) -> Iterator[av.AudioFrame]:
    """The samples as frames. The filter holds none back: the stream needs no end."""
    for start in range(0, len(samples), BLOCK):
        block = np.ascontiguousarray(samples[None, start : start + BLOCK], np.float32)
        frame = av.AudioFrame.from_ndarray(block, "flt", "mono")
        frame.sample_rate, frame.pts = rate_hz, start
        yield frame


def _latest(sink: av.filter.FilterContext, measured: float) -> float:
    """The loudness up to the last frame that left the filter; `measured` if none did."""
    while True:
        try:
            frame = sink.pull()
        except BlockingIOError:
            return measured
        if isinstance(frame, av.AudioFrame):
            measured = float(dict(frame.metadata).get(_KEY, measured))
