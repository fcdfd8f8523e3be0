"""A file in, 32 kHz mono samples out: what `ffmpeg -i path -f f32le -ac 1 -ar 32000 -` writes.

The samples are FFmpeg's to the last bit, for PyAV carries its libraries, at a fraction of its
cost: a canonical WAV is read straight from the disk (`wav.py`), and whatever is decoded reaches the
resampler in blocks that fit the processor's cache instead of codec frames of some 20 ms.
"""

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from extract.audio.ffmpeg import (
    Frames,
    best_stream,
    counted_duration_s,
    holds_past,
    likely_duration_s,
    open_container,
)
from extract.audio.resampling import (
    BLOCK_SAMPLES,
    Samples,
    UnmixableError,
    joined,
    resample,
    resampler,
)
from extract.audio.wav import LAYOUTS, WavHeader, read_blocks, read_header, to_float
from extract.frames import RECORDING_RATE_HZ
from extract.text import printable
from extract.values import Reason

READ_SAMPLES = 262_144  # at once where nothing is resampled: 8 s
MAX_RATE_HZ = 3_072_000  # a header may claim 2 GHz, for which the filter alone takes gigabytes


class AudioError(Exception):
    """A recording that cannot be used: `reason` is the ledger's word, `str()` the detail.

    The detail reads *where: what was found; what was needed*.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # both in `args`, so that it pickles
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True)
class _Gate:
    """Lets a recording through up to `max_duration_s`; `where` names it in errors."""

    where: str
    max_duration_s: float

    def check(self, duration_s: float, rate_hz: int, found: str = "decoded") -> None:
        if not 0 < rate_hz <= MAX_RATE_HZ:
            raise AudioError(
                "undecodable", f"{self.where}: {rate_hz} Hz; 1 to {MAX_RATE_HZ} Hz are needed"
            )
        if duration_s > self.max_duration_s:
            raise AudioError(
                "too_long",
                f"{self.where}: {found} {duration_s:.1f} s; "
                f"at most {self.max_duration_s:g} s (max_duration_s) are wanted",
            )


def decode(path: str | os.PathLike[str], max_duration_s: float = math.inf) -> Samples:
    """Read a recording as 32 kHz mono.

    Stereo is mixed as FFmpeg does, 0.7071 * (left + right), not as the mean. Of several audio
    streams the default one is taken, or the one with the most channels. Damage is skipped, and what
    could be decoded is returned.

    Args:
        path: any audio or video file; its content alone decides how it is read.
        max_duration_s: longest recording wanted, in seconds. Decoding stops there.

    Returns:
        (num_samples,) float32 at 32 kHz, full scale 1.0, at least one sample, writable.

    Raises:
        AudioError: `missing`, `undecodable`, `empty` or `too_long`.
    """
    where = printable(os.fsdecode(path))
    with _faults_of_the_file(where), _open(path, where) as file:
        gate = _Gate(where, max_duration_s)
        header = read_header(file)
        samples = _decode_wav(file, header, gate) if header else _decode_any(file, gate)
    if not len(samples):
        raise AudioError("empty", f"{where}: no samples; at least one is needed")
    return samples


def probe_duration_s(path: str | os.PathLike[str]) -> float:
    """Seconds of audio by the header, without decoding.

    An estimate: exact for PCM and FLAC, to a packet for MP4 and Ogg, by bit rate for a bare MP3.

    Raises:
        AudioError: `missing`, `undecodable` or `empty`.
    """
    where = printable(os.fsdecode(path))
    with _faults_of_the_file(where), _open(path, where) as file:
        header = read_header(file, samples=False)
        if header:
            return header.duration_s
        with open_container(file) as container:
            stream = _audio_stream(best_stream(container, file), where)
            return likely_duration_s(container, stream)


def channels_cancel(path: str | os.PathLike[str]) -> int:
    """How many channels hold sound that is gone in their mix to one, as of a silent recording.

    0 where the channels are silent themselves, or where none is left to look at.
    """
    where = printable(os.fsdecode(path))
    with (
        suppress(AudioError),
        _faults_of_the_file(where),
        _open(path, where) as file,
        open_container(file) as container,
    ):
        stream = _audio_stream(best_stream(container, file), where)
        for frame in Frames(container, stream):
            if len(frame.layout.channels) > 1 and frame.to_ndarray().any():
                return len(frame.layout.channels)
    return 0


@contextmanager
def _faults_of_the_file(where: str) -> Iterator[None]:
    """What FFmpeg and the operating system raise, as `undecodable`; MemoryError where they ran out.

    All else is a fault of this program, and goes on.
    """
    try:
        yield
    except UnmixableError as error:
        raise AudioError(
            "undecodable",
            f"{where}: {error}, for which FFmpeg has no mix to mono; usual speakers in the header "
            "or a single channel is needed (ffmpeg -i IN -af 'pan=mono|c0=c0' OUT)",
        ) from error
    except (FFmpegError, OSError) as error:
        if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
            raise MemoryError(f"{where}: {error}") from error
        raise _undecodable(where, error) from error


def _undecodable(where: str, error: Exception) -> AudioError:
    problem = getattr(error, "strerror", None) or error
    return AudioError("undecodable", f"{where}: {problem}; a file FFmpeg can decode is needed")


def _open(path: str | os.PathLike[str], where: str) -> BinaryIO:
    """Open a regular file that holds something; look first, for opening a FIFO waits for ever."""
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError("missing", f"{where}: no such file; a recording is needed") from error
    except ValueError as error:  # a name that no file can have
        raise _undecodable(where, error) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise AudioError("undecodable", f"{where}: {kind}; a regular file is needed")
    if status.st_size == 0:
        raise AudioError("empty", f"{where}: zero bytes; a recording is needed")
    return Path(path).open("rb")


def _decode_wav(file: BinaryIO, header: WavHeader, gate: _Gate) -> Samples:
    gate.check(header.duration_s, header.rate_hz, "the header declares")
    if header.rate_hz == RECORDING_RATE_HZ and header.num_channels == 1:
        samples = np.empty(header.num_samples, np.float32)
        num_samples = 0
        for block in read_blocks(file, header, READ_SAMPLES):
            end = num_samples + block.shape[1]
            to_float(block[0], out=samples[num_samples:end])
            num_samples = end
        return samples[:num_samples]
    layout = LAYOUTS[header.num_channels]
    parts: list[Samples] = []
    with resampler(header.sample_format, layout, header.rate_hz) as resampled:
        for block in read_blocks(file, header, BLOCK_SAMPLES):
            frame = av.AudioFrame.from_ndarray(block, header.sample_format, layout)
            frame.sample_rate = header.rate_hz
            parts += resampled(frame)
        parts += resampled(None)
    return joined(parts)


def _decode_any(file: BinaryIO, gate: _Gate) -> Samples:
    """The samples of the first stream, in the order of FFmpeg's choice, that has any."""
    tried: frozenset[int] = frozenset()
    problem: FFmpegError | None = None
    while True:
        with open_container(file) as container:
            stream = best_stream(container, file, tried)
            if stream is None and tried:
                break
            stream = _audio_stream(stream, gate.where)
            samples, met = _decode_stream(file, container, stream, gate)
            tried |= {stream.index}
        if len(samples):
            return samples
        problem = problem or met
    if problem:
        raise _undecodable(gate.where, problem)
    return samples


def _decode_stream(
    file: BinaryIO, container: InputContainer, stream: av.AudioStream, gate: _Gate
) -> tuple[Samples, FFmpegError | None]:
    """All samples of one stream, and the last damage met."""
    counted_s = counted_duration_s(container, stream)
    if counted_s is not None:
        gate.check(0, stream.sample_rate)
        longest_s = gate.max_duration_s
        if counted_s > longest_s and holds_past(file, stream.index, longest_s):
            gate.check(counted_s, stream.sample_rate, "the header declares")
    frames = Frames(container, stream)
    return resample(frames, gate.check), frames.problem


def _audio_stream(stream: av.AudioStream | None, where: str) -> av.AudioStream:
    if stream is None:
        raise AudioError("undecodable", f"{where}: no audio stream; one is needed")
    return stream
