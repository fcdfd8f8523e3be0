"""Pictures of features, read back by FFmpeg."""

import io

import av
import numpy as np

from extract.report import pictures


def pixels(png: bytes) -> np.ndarray:
    """(rows, columns, 3), by FFmpeg."""
    with av.open(io.BytesIO(png), format="png_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)


def test_the_feature_map_is_red_above_zero_and_blue_below_the_first_channel_lowest():
    features = np.zeros((50, 8), np.float32)
    features[:25, 0], features[25:, 7] = 1, -1
    image = pixels(pictures.feature_map(features))
    assert image.shape == (8, 50, 3)
    (red, _green, blue), (other, _g, cold) = image[7, 3], image[0, 40]
    assert red > 150 > blue
    assert cold > 150 > other
    assert image[4].std() == 0


def test_a_long_feature_map_is_thinned():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5000, 768)).astype(np.float32)
    assert pixels(pictures.feature_map(features)).shape == (96, 400, 3)
    assert pixels(pictures.similarity_strip(features)).shape == (1, 400, 3)


def test_frames_that_are_alike_have_like_colours():
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((3, 64))
    order = np.repeat([0, 1, 0, 2], 20)
    features = kinds[order] + 0.01 * rng.standard_normal((80, 64))
    strip = pixels(pictures.similarity_strip(features))[0]
    assert np.abs(strip[:20].mean(0) - strip[40:60].mean(0)).max() < 20
    assert np.abs(strip[:20].mean(0) - strip[20:40].mean(0)).max() > 100
    same = pixels(pictures.similarity_strip(np.tile(kinds[:1], (30, 1))))[0]
    assert np.ptp(same, axis=0).max() == 0
