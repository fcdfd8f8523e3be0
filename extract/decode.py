"""A file in, 32 kHz mono samples out: what `ffmpeg -i path -f f32le -ac 1 -ar 32000 -` writes.

The samples are FFmpeg's to the last bit (PyAV carries its libraries), at a fraction of its cost: a
canonical WAV is read straight from the disk, and whatever is decoded reaches the resampler in
blocks that fit the processor's cache instead of codec frames of 20 ms.

FFmpeg never sees a file name. It would read protocols, patterns and formats out of one, so it gets
an open file, and nothing that file says makes it open another.
"""

import math
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from extract.frames import RECORDING_RATE_HZ

BLOCK_SAMPLES = 16_384  # resampled at once, per channel: input and output stay in the cache
MAX_RATE_HZ = 3_072_000  # a header may claim 2 GHz, for which the filter alone takes gigabytes

Samples = NDArray[np.float32]


class AudioError(Exception):
    """A recording that cannot be used: `reason` is the ledger's word, `str()` the detail.

    The detail reads *where: what was found; what was needed*.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both in `args`, so that it pickles
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


def decode(path: str | os.PathLike[str], max_duration_s: float = math.inf) -> Samples:
    """Read a recording as 32 kHz mono.

    Stereo is mixed as FFmpeg does, 0.7071 * (left + right), not as the mean. Of several audio
    streams the default one with the most channels is taken; damage inside the file is skipped.

    Args:
        path: any audio or video file; only its content decides how it is read.
        max_duration_s: longest recording wanted, in seconds. Decoding stops there.

    Returns:
        (num_samples,) float32 at 32 kHz, full scale 1.0, at least one sample.

    Raises:
        AudioError: `missing`, `undecodable`, `empty` or `too_long`.
    """
    with _open(path) as file:
        gate = _Gate(_shown(path), max_duration_s)
        header = read_wav_header(file)
        samples = _decode_wav(file, header, gate) if header else _decode_any(file, gate)
    if not len(samples):
        raise AudioError("empty", f"{gate.where}: no samples; at least one is needed")
    return samples


def probe_duration_s(path: str | os.PathLike[str]) -> float:
    """Seconds of audio by the header alone, without decoding.

    An estimate: exact for PCM and FLAC, to a packet for MP4 and Ogg, by bit rate for a bare MP3.

    Raises:
        AudioError: `missing`, `undecodable` or `empty`.
    """
    with _open(path) as file:
        header = read_wav_header(file)
        if header:
            return header.duration_s
        where = _shown(path)
        with _container(file, where) as container:
            stream = _best_stream(container, where)
            if stream.duration is not None and stream.time_base is not None:
                return float(stream.duration * stream.time_base)
            if container.duration is not None:
                return container.duration / av.time_base
            bit_rate = container.bit_rate or stream.bit_rate or 128_000
            return container.size * 8 / bit_rate


# --- opening --------------------------------------------------------------------------------------


def _shown(path: str | os.PathLike[str]) -> str:
    """The path as text that any terminal and any encoding can take."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _open(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file of at least one byte; look before opening, a FIFO would wait for ever."""
    where = _shown(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise AudioError("undecodable", f"{where}: {kind}; a regular file is needed")
        if status.st_size == 0:
            raise AudioError("empty", f"{where}: zero bytes; a recording is needed")
        return open(path, "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError("missing", f"{where}: no such file; a recording is needed") from error
    except (OSError, ValueError) as error:  # permission, loop of links, name too long, NUL in it
        problem = getattr(error, "strerror", None) or error
        raise AudioError("undecodable", f"{where}: {problem}; a readable file is needed") from error


@dataclass(frozen=True)
class _Gate:
    """Lets a recording through up to `max_duration_s`; `where` names it in errors."""

    where: str
    max_duration_s: float

    def check(self, duration_s: float, found: str) -> None:
        if duration_s > self.max_duration_s:
            raise AudioError(
                "too_long",
                f"{self.where}: {found} {duration_s:.1f} s; "
                f"at most {self.max_duration_s:g} s (max_duration_s) are wanted",
            )


# --- PCM WAV, without FFmpeg's demuxer ------------------------------------------------------------


@dataclass(frozen=True)
class WavHeader:
    """A canonical WAV: one PCM `data` chunk, whole, of one or two channels."""

    sample_format: str  # FFmpeg's name of what its own decoder would emit
    num_channels: int
    rate_hz: int
    sample_bytes: int
    data_offset: int
    num_samples: int  # per channel

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.rate_hz


_WAV_FORMATS = {  # (format tag, bits): what FFmpeg's decoder emits
    (1, 8): "u8",
    (1, 16): "s16",
    (1, 24): "s32",  # in the upper three bytes
    (1, 32): "s32",
    (3, 32): "flt",
    (3, 64): "dbl",
}
_DTYPES = {"u8": "u1", "s16": "<i2", "s32": "<i4", "flt": "<f4", "dbl": "<f8"}
_LAYOUTS = {1: "mono", 2: "stereo"}
_USUAL_MASKS = {1: (0, 4), 2: (0, 3)}  # front centre; front left and right
_SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def read_wav_header(file: BinaryIO) -> WavHeader | None:
    """Header of a canonical WAV, or None for all else, which is FFmpeg's to read.

    Canonical: RIFF, `fmt ` before one complete `data` chunk, PCM or IEEE float, usual speakers.
    """
    size = file.seek(0, os.SEEK_END)
    chunks: dict[bytes, tuple[int, int]] = {}
    for name, offset, length in _riff_chunks(file, size):
        if name in chunks and name in (b"fmt ", b"data"):
            return None
        chunks[name] = (offset, length)
    if b"fmt " not in chunks or b"data" not in chunks:
        return None
    offset, length = chunks[b"fmt "]
    data_offset, data_length = chunks[b"data"]
    if not 16 <= length <= 64 or offset > data_offset or data_length == 0:
        return None
    if data_offset + data_length > size:
        return None
    return _wav_header(_read_at(file, offset, length), data_offset, data_length)


def _riff_chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and length of each chunk of a RIFF/WAVE file of `size` bytes."""
    head = _read_at(file, 0, 12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    offset = 12
    for _ in range(64):  # more chunks than any recorder writes: leave it to FFmpeg
        head = _read_at(file, offset, 8)
        if len(head) < 8:
            return
        (length,) = struct.unpack("<I", head[4:])
        yield head[:4], offset + 8, length
        offset += 8 + length + length % 2
        if offset >= size:
            return


def _wav_header(fmt: bytes, data_offset: int, data_length: int) -> WavHeader | None:
    tag, channels, rate, _, block_bytes, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == 0xFFFE:  # WAVE_FORMAT_EXTENSIBLE: the real tag opens the sub-format
        if len(fmt) < 40 or fmt[26:40] != _SUBFORMAT_TAIL:
            return None
        valid_bits, mask, tag = struct.unpack("<HIH", fmt[18:26])
        if valid_bits not in (0, bits) or mask not in _USUAL_MASKS.get(channels, ()):
            return None
    sample_format = _WAV_FORMATS.get((tag, bits))
    if sample_format is None or channels not in _LAYOUTS:
        return None
    if block_bytes != channels * bits // 8 or not 0 < rate <= MAX_RATE_HZ:
        return None
    return WavHeader(
        sample_format, channels, rate, bits // 8, data_offset, data_length // block_bytes
    )


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _decode_wav(file: BinaryIO, header: WavHeader, gate: _Gate) -> Samples:
    gate.check(header.duration_s, "the header declares")
    file.seek(header.data_offset)
    if header.rate_hz == RECORDING_RATE_HZ and header.num_channels == 1:
        return _to_float(_read_samples(file, header, header.num_samples))
    return _resample(_wav_frames(file, header))


def _wav_frames(file: BinaryIO, header: WavHeader) -> Iterator[av.AudioFrame]:
    left = header.num_samples
    layout = _LAYOUTS[header.num_channels]
    while left > 0:
        samples = _read_samples(file, header, min(left, BLOCK_SAMPLES))
        if not len(samples):
            return
        left -= len(samples) // header.num_channels
        frame = av.AudioFrame.from_ndarray(samples[None], header.sample_format, layout)
        frame.sample_rate = header.rate_hz
        yield frame


def _read_samples(file: BinaryIO, header: WavHeader, num_samples: int) -> NDArray[np.generic]:
    """(num_samples * channels,) interleaved, in the type FFmpeg's own decoder would emit."""
    raw = np.empty(num_samples * header.num_channels * header.sample_bytes, np.uint8)
    num_bytes = file.readinto(raw)  # type: ignore[attr-defined]
    raw = raw[: num_bytes - num_bytes % (header.num_channels * header.sample_bytes)]
    if header.sample_bytes != 3:
        return raw.view(_DTYPES[header.sample_format])
    wide = np.zeros((len(raw) // 3, 4), np.uint8)
    wide[:, 1:] = raw.reshape(-1, 3)
    return wide.view("<i4").reshape(-1)


def _to_float(samples: NDArray[np.generic]) -> Samples:
    """FFmpeg's own conversion to float; a power of two, so only the integer's rounding counts."""
    if samples.dtype == np.float32:
        return samples.view(np.float32)
    if samples.dtype == np.float64:
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            return samples.astype(np.float32)
    result = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        result -= 128
    result *= np.float32(2.0 ** (1 - 8 * samples.itemsize))
    return result


# --- everything else, through FFmpeg --------------------------------------------------------------


def _container(file: BinaryIO, where: str) -> av.container.InputContainer:
    file.seek(0)
    try:
        return av.open(
            _Unnamed(file), metadata_errors="replace", io_open=_refuse_other_files, mode="r"
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise AudioError(
            "undecodable", f"{where}: {_problem(error)}; a file FFmpeg can decode is needed"
        ) from error


class _Unnamed:
    """The file without its name, from which FFmpeg would guess a format."""

    def __init__(self, file: BinaryIO) -> None:
        self.read: Callable[[int], bytes] = file.read
        self.seek: Callable[..., int] = file.seek
        self.tell: Callable[[], int] = file.tell


def _refuse_other_files(url: str, flags: int, options: dict[str, str]) -> BinaryIO:
    """What FFmpeg asks when a playlist sends it to another file or to the network."""
    raise PermissionError("it refers to other files")


def _problem(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _best_stream(container: av.container.InputContainer, where: str) -> av.AudioStream:
    """FFmpeg's choice: the default stream first, then the most channels, then the first."""
    if not container.streams.audio:
        raise AudioError("undecodable", f"{where}: no audio stream; one is needed")
    return max(container.streams.audio, key=lambda stream: stream.channels)


def _decode_any(file: BinaryIO, gate: _Gate) -> Samples:
    with _container(file, gate.where) as container:
        stream = _best_stream(container, gate.where)
        return _resample(_blocks(_frames(container, stream), gate))


def _frames(
    container: av.container.InputContainer, stream: av.AudioStream
) -> Iterator[av.AudioFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
            yield from packet.decode()
        except StopIteration:
            return
        except FFmpegError:
            continue


def _blocks(frames: Iterable[av.AudioFrame], gate: _Gate) -> Iterator[av.AudioFrame]:
    fifo = av.AudioFifo()
    duration_s = 0.0
    for frame in frames:
        duration_s += frame.samples / frame.sample_rate
        gate.check(duration_s, "decoded")
        frame.pts = None
        fifo.write(frame)
        if fifo.samples >= BLOCK_SAMPLES:
            yield fifo.read()
    if duration_s:
        rest = fifo.read()
        if rest is not None:
            yield rest


def _resample(frames: Iterable[av.AudioFrame]) -> Samples:
    """Concatenate what swresample makes of `frames`: (num_samples,) float32, 32 kHz mono."""
    resampler = av.AudioResampler("flt", "mono", RECORDING_RATE_HZ)
    parts = [
        np.frombuffer(part.planes[0], np.float32, part.samples)
        for frame in chain(frames, [None])
        for part in resampler.resample(frame)
        if part is not None
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
