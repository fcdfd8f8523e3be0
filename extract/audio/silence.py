"""Why a recording is silent: its channels are, or they cancel in the mix to mono."""

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import BinaryIO

import av

from extract.audio.faults import AudioError, faults_of_the_file
from extract.audio.ffmpeg import Frames, best_stream, open_container
from extract.audio.seeking import frames_from, seek
from extract.audio.spans import WHOLE, Span


def channels_cancel(file: BinaryIO, span: Span = WHOLE) -> int:
    """How many channels cancel in the mix to mono, for a span whose mix is silent.

    0 if the channels are silent themselves, if there is one channel, or if decoding fails.
    """
    with suppress(AudioError), faults_of_the_file(""), open_container(file) as container:
        if stream := best_stream(container, file):
            second, frames = seek(container, stream, span), Frames(container, stream)
            return _num_sounding(frames_from(frames, second), second, span)
    return 0


def _num_sounding(frames: Iterable[av.AudioFrame], time_s: float, span: Span) -> int:
    """The channels of the first frame that sounds in `span`, if several; 0 if there is none."""
    for frame in frames:
        if len(frame.layout.channels) > 1 and _sounds(frame, time_s, span):
            return len(frame.layout.channels)
        time_s += frame.samples / frame.sample_rate
        if time_s > span.stop_s:
            break
    return 0


def _sounds(frame: av.AudioFrame, time_s: float, span: Span) -> bool:
    """Whether a frame has a sample other than silence in `span`; `time_s` is the frame's start."""
    first = max(0, math.ceil((span.start_s - time_s) * frame.sample_rate))
    last = max(0, math.floor((span.stop_s - time_s) * frame.sample_rate))
    values, name = frame.to_ndarray(), frame.format.name
    by_time = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    return bool((by_time[first:last] != (128 if name.startswith("u8") else 0)).any())
