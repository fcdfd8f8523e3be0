"""Pictures of sounds and features, read back by FFmpeg and held against librosa."""

import io

import av
import librosa
import numpy as np

from extract.report import pictures, sounds


def pixels(png: bytes) -> np.ndarray:
    """(rows, columns, 3), by FFmpeg."""
    with av.open(io.BytesIO(png), format="png_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)


def test_mel_bands_are_librosas():
    weights = librosa.filters.mel(
        sr=32_000, n_fft=1024, n_mels=64, fmin=0, fmax=8000, htk=True, norm=None
    )
    np.testing.assert_allclose(sounds._bands(), weights, atol=1e-6)


def test_a_rising_tone_rises_in_the_picture():
    t = np.arange(64_000) / 32_000
    samples = np.sin(2 * np.pi * (300 + 1000 * t) * t).astype(np.float32)
    image = pixels(pictures.heat_map(sounds.mel_db(samples, 100))).sum(2)
    loudest = image.argmax(0)  # rows from the top
    assert image.shape == (64, 100)
    assert loudest[10] > loudest[50] + 5 > loudest[90] + 10


def test_a_sound_shorter_than_a_window_and_silence_have_a_picture():
    for samples in (np.ones(10, np.float32), np.zeros(5000, np.float32)):
        assert pixels(pictures.heat_map(sounds.mel_db(samples, 3))).shape == (64, 3, 3)


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
