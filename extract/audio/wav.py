"""Reads canonical WAV files without FFmpeg, which is faster.

Only files that FFmpeg certainly reads in the same way are read here. For anything unusual (a wrong
size, odd speakers, two `data` chunks, compressed samples, a coded stream declared as PCM)
`read_header` returns None, and FFmpeg decodes the file. Samples have the type that FFmpeg's decoder
emits, so that its resampler receives the same bits.
"""

import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MAX_CHUNKS = 64  # more than any recorder writes

SAMPLE_FORMATS = {  # (format tag, bits per sample): FFmpeg's name of what its decoder emits
    (1, 8): "u8",
    (1, 16): "s16",
    (1, 24): "s32",  # in the upper three bytes
    (1, 32): "s32",
    (3, 32): "flt",
    (3, 64): "dbl",
}
LAYOUTS = {1: "mono", 2: "stereo"}

# DTS CDs and S/PDIF captures are WAVs that declare a coded stream as PCM. FFmpeg searches the first
# packets for these sync words, and their start for frames of other codecs.
PROBED_BYTES = 131_072
_DTS = ("7ffe8001", "fe7f0180", "1fffe800", "ff1f00e8")  # 16 and 14 bits, big and little endian
_SPDIF = ("72f81f4e", "f8724e1f")  # IEC 61937, which carries AC-3, DTS and MPEG audio
_TRUEHD = ("f8726fba",)
_SYNC_WORDS = [struct.unpack("<HH", bytes.fromhex(word)) for word in _DTS + _SPDIF + _TRUEHD]

_DTYPES = {"u8": "u1", "s16": "<i2", "s32": "<i4", "flt": "<f4", "dbl": "<f8"}
_EXTENSIBLE = 0xFFFE  # the real format tag is the start of a GUID whose tail is always this:
_SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_USUAL_SPEAKERS = {1: (0, 4), 2: (0, 3)}  # masks: none or front centre; none or front left, right


@dataclass(frozen=True)
class WavHeader:
    """Format, position and number of a canonical WAV file's samples."""

    sample_format: str
    num_channels: int
    rate_hz: int
    sample_bytes: int
    data_offset: int
    num_samples: int  # per channel

    @property
    def duration_s(self) -> float:
        """Seconds; exact, since `read_header` checked that the `data` chunk is whole."""
        return self.num_samples / self.rate_hz


def read_header(file: BinaryIO, *, samples: bool = True) -> WavHeader | None:
    """Header of a canonical WAV, or None for anything else.

    With `samples` the first 128 KiB of them are searched for a coded stream. That costs a read and
    does not change the duration.
    """
    num_bytes = file.seek(0, os.SEEK_END)
    found: dict[bytes, tuple[int, int]] = {}
    for name, offset, length in _chunks(file, num_bytes):
        if name in found and name in (b"fmt ", b"data"):
            return None
        found[name] = (offset, length)
    if b"fmt " not in found or b"data" not in found:
        return None
    (fmt_offset, fmt_length), (data_offset, data_length) = found[b"fmt "], found[b"data"]
    whole = 0 < data_length <= num_bytes - data_offset
    if not whole or fmt_offset > data_offset or not 16 <= fmt_length <= 64:
        return None
    if samples and may_be_coded(_read_at(file, data_offset, min(data_length, PROBED_BYTES))):
        return None
    return _parse_format(_read_at(file, fmt_offset, fmt_length), data_offset, data_length)


def may_be_coded(head: bytes) -> bool:
    """Whether samples that begin with `head` may be a coded stream, which FFmpeg must decode.

    FFmpeg wants several frames to be sure. One sync word is enough here: after a false alarm FFmpeg
    reads the file as PCM, only slower.
    """
    words = np.frombuffer(head, "<u2", len(head) // 2)
    for first, second in _SYNC_WORDS:
        at = np.flatnonzero(words[:-1] == first)
        if (words[at + 1] == second).any():
            return True
    return _begins_a_frame(head)


def _begins_a_frame(head: bytes) -> bool:
    """Whether `head` begins a frame of AC-3, or, after any zeros, of AAC or MPEG audio."""
    if head[:2] in (b"\x0b\x77", b"\x77\x0b"):  # AC-3 and E-AC-3, big and little endian
        return True
    word = int.from_bytes(head.lstrip(b"\0")[:4], "big")
    layer, bit_rate, rate = word >> 17 & 3, word >> 12 & 15, word >> 10 & 3
    is_mpeg = word >> 21 == 0x7FF and layer != 0 and bit_rate not in (0, 15) and rate != 3
    is_adts, is_loas = word >> 16 & 0xFFF6 == 0xFFF0, word >> 21 == 0x2B7
    return is_mpeg or is_adts or is_loas


def _chunks(file: BinaryIO, num_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, offset and length of each chunk; nothing if this is no RIFF/WAVE file."""
    head = _read_at(file, 0, 12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    offset = 12
    for _ in range(MAX_CHUNKS):
        head = _read_at(file, offset, 8)
        if len(head) < 8:
            return
        (length,) = struct.unpack("<I", head[4:])
        yield head[:4], offset + 8, length
        offset += 8 + length + length % 2
        if offset >= num_bytes:
            return


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _parse_format(fmt: bytes, data_offset: int, data_length: int) -> WavHeader | None:
    tag, num_channels, rate_hz, _, block_bytes, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == _EXTENSIBLE:
        if len(fmt) < 40 or fmt[26:40] != _SUBFORMAT_TAIL:
            return None
        valid_bits, speakers, tag = struct.unpack("<HIH", fmt[18:26])
        if valid_bits not in (0, bits) or speakers not in _USUAL_SPEAKERS.get(num_channels, ()):
            return None
    if (tag, bits) not in SAMPLE_FORMATS or num_channels not in LAYOUTS:
        return None
    if block_bytes != num_channels * bits // 8 or rate_hz == 0:
        return None
    return WavHeader(
        sample_format=SAMPLE_FORMATS[tag, bits],
        num_channels=num_channels,
        rate_hz=rate_hz,
        sample_bytes=bits // 8,
        data_offset=data_offset,
        num_samples=data_length // block_bytes,
    )


def read_blocks(
    file: BinaryIO, header: WavHeader, block_samples: int, first: int = 0, last: int = sys.maxsize
) -> Iterator[NDArray[Any]]:
    """Yield samples `first` to `last` in blocks of (1, num_samples * num_channels), interleaved.

    `first`, `last` and `block_samples` count samples of each channel.
    """
    frame_bytes = header.num_channels * header.sample_bytes
    last = min(last, header.num_samples)
    file.seek(header.data_offset + first * frame_bytes)
    for start in range(first, last, block_samples):
        raw = file.read(min(block_samples, last - start) * frame_bytes)
        whole = len(raw) // frame_bytes * frame_bytes  # less where a file or tar is cut short
        if not whole:
            return
        yield _typed(np.frombuffer(raw, np.uint8, whole), header)[None]


def _typed(raw: NDArray[np.uint8], header: WavHeader) -> NDArray[Any]:
    if header.sample_bytes == 3:
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = raw.reshape(-1, 3)
        raw = wide.reshape(-1)
    return raw.view(_DTYPES[header.sample_format])


def to_float(samples: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Converts to float32, full scale 1, as FFmpeg does bit for bit: times a power of two."""
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a float64 past float32 becomes inf: non_finite_audio
            out[:] = samples
        return
    scale = np.float32(2.0 ** (1 - 8 * samples.itemsize))
    if samples.dtype.kind == "u":
        samples = np.subtract(samples, 128, out=out, dtype=np.float32)
    np.multiply(samples, scale, out=out, dtype=np.float32)
