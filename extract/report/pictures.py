"""Arrays as small PNGs: spectrograms, feature maps, strips of colours."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS, MAX_ROWS = 400, 96  # of a picture, which the page scales to its width

Floats = NDArray[np.floating]
Bytes = NDArray[np.uint8]


def png(pixels: Bytes, palette: Bytes | None = None) -> bytes:
    """(rows, columns) of indices into a palette (256, 3), or (rows, columns, 3) of RGB, as a PNG.

    Source: the PNG specification (ISO/IEC 15948): 8 bits a sample, no filter.
    """
    rows, columns = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2 if palette is None else 3, 0, 0, 0)
    lines = np.zeros((rows, 1 + pixels[0].size), np.uint8)
    lines[:, 1:] = pixels.reshape(rows, -1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    if palette is not None:
        chunks.insert(1, (b"PLTE", palette.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def palette(*colours: tuple[int, int, int]) -> Bytes:
    """(256, 3): the colours at even distances, with a straight line between two."""
    places = np.linspace(0, 255, len(colours))
    channels = [
        np.interp(np.arange(256), places, channel) for channel in zip(*colours, strict=True)
    ]
    return np.stack(channels, 1).astype(np.uint8)


HEAT = palette(
    (0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)
)
COLD_AND_WARM = palette(
    (33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43)
)


def thinned(values: Floats, most: int) -> Floats:
    """At most so many rows of `values`, at even distances; all where there are fewer."""
    if len(values) <= most:
        return values
    rows: Floats = values[np.linspace(0, len(values) - 1, most).astype(int)]
    return rows


def heat_map(values: Floats) -> bytes:
    """(columns, rows) as a PNG from the smallest value to the largest; the first row is lowest."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low or 1)
    return png(_upright(scaled), HEAT)


def feature_map(features: Floats) -> bytes:
    """(num_frames, hidden_size) as a PNG: time to the right, channels upwards, zero is white.

    Of many frames and channels those at even distances. Colours end at the 98th percentile of
    magnitudes: a few channels of most models are a hundred times as large as the others.
    """
    few = thinned(thinned(features, MAX_COLUMNS).T, MAX_ROWS).T
    bound = float(np.percentile(np.abs(few), 98)) or 1.0
    return png(_upright(np.clip(few / (2 * bound) + 0.5, 0, 1)), COLD_AND_WARM)


def _upright(values: Floats) -> Bytes:
    """(columns, rows) within 0 to 1 as (rows, columns) of 0 to 255, the last row on top."""
    pixels: Bytes = np.ascontiguousarray(values.T[::-1] * 255).astype(np.uint8)
    return pixels


def similarity_strip(features: Floats) -> bytes:
    """(num_frames, hidden_size) as a PNG of one row: frames that are alike have like colours.

    Red, green and blue are the frames' first three principal components, each from its 2nd to its
    98th percentile. One colour throughout: all frames are alike.
    """
    few = thinned(features, MAX_COLUMNS).astype(np.float64)
    few = few - few.mean(0)
    spread = float(np.abs(few).max())
    colours = np.full((len(few), 3), 0.5)
    if spread > 1e-6:
        left, strength, _right = np.linalg.svd(few / spread, full_matrices=False)
        parts = (left * strength)[:, :3]
        low, high = np.percentile(parts, [2, 98], axis=0)
        scaled = (parts - low) / np.where(high > low, high - low, 1)
        colours[:, : parts.shape[1]] = np.clip(scaled, 0, 1)
    return png((colours[None] * 255).astype(np.uint8))
