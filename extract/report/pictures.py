"""Features as small PNGs, by Pillow: maps of channels over time, strips of colours."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_COLUMNS, MAX_ROWS = 400, 96  # of a picture, which the page scales to its width
# Blue below zero, white at zero, red above: ColorBrewer's RdBu with five colours, reversed.
COLD_AND_WARM = (
    (33, 102, 172),
    (146, 197, 222),
    (247, 247, 247),
    (244, 165, 130),
    (178, 24, 43),
)

Floats = NDArray[np.floating]
Bytes = NDArray[np.uint8]


def png(image: Image.Image) -> bytes:
    """A picture as a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _palette() -> bytes:
    """256 colours with a straight line between two of `COLD_AND_WARM`."""
    places = np.linspace(0, 255, len(COLD_AND_WARM))
    channels = [np.interp(np.arange(256), places, one) for one in zip(*COLD_AND_WARM, strict=True)]
    return np.stack(channels, 1).astype(np.uint8).tobytes()


def thinned(values: Floats, most: int) -> Floats:
    """At most so many rows of `values`, at even distances; all where there are fewer."""
    if len(values) <= most:
        return values
    rows: Floats = values[np.linspace(0, len(values) - 1, most).astype(int)]
    return rows


def feature_map(features: Floats) -> bytes:
    """(num_frames, hidden_size) as a PNG: time to the right, channels upwards, zero is white.

    Of many frames and channels those at even distances. Colours end at the 98th percentile of
    magnitudes: a few channels of most models are a hundred times as large as the others.
    """
    few = thinned(thinned(features, MAX_COLUMNS).T, MAX_ROWS)[::-1]
    bound = float(np.percentile(np.abs(few), 98)) or 1.0
    image = Image.fromarray((np.clip(few / (2 * bound) + 0.5, 0, 1) * 255).astype(np.uint8))
    image.putpalette(_palette())
    return png(image)


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
    return png(Image.fromarray((colours[None] * 255).astype(np.uint8)))
