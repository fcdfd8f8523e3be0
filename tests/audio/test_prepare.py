"""A recording becomes what the reference makes of it, or an `AudioError` that says why not."""

import math
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest

from extract.audio import prepare as prepare_module
from extract.audio.faults import AudioError
from extract.audio.prepare import resample_to_16k, scaled, to_int16
from extract.values import AudioSettings
from support.decoding import decode, prepare
from support.recordings import DEMO, PCM, pack, signal, wav_bytes, write_floats, write_pcm

CLIPS = sorted(path.name for path in DEMO.glob("*_*"))
SPEECH = DEMO / "en_tt-weasels.wav"
DEFAULTS = AudioSettings()


def reason_of(path: Path, **settings: float) -> str:
    with pytest.raises(AudioError) as caught:
        prepare(path, AudioSettings(**settings))  # type: ignore[arg-type]
    assert str(caught.value).startswith(str(path))
    return caught.value.reason


def reference(samples: np.ndarray, maxx: float, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """GPT-SoVITS's lines, as they stand: the encoder's input and the WAV, where nothing wraps."""
    tmp_max = np.abs(samples).max()
    tmp_audio32 = (samples / tmp_max * (maxx * alpha * 32768)) + ((1 - alpha) * 32768) * samples
    tmp_audio32b = (samples / tmp_max * (maxx * alpha * 1145.14)) + (
        (1 - alpha) * 1145.14
    ) * samples
    tmp_audio = librosa.resample(tmp_audio32b, orig_sr=32000, target_sr=16000)
    return tmp_audio, tmp_audio32.astype("int16")


# --- the reference's arithmetic ------------------------------------------------------------------


@pytest.mark.parametrize(("maxx", "alpha"), [(0.95, 0.5), (0.9, 0.0), (0.8, 1.0), (0.5, 0.25)])
@pytest.mark.parametrize("name", CLIPS[::3])
def test_both_waveforms_are_those_of_the_reference_bit_for_bit(name, maxx, alpha):
    prepared = prepare(DEMO / name, AudioSettings(maxx=maxx, alpha=alpha))
    waveform, wav32k = reference(decode(DEMO / name), maxx, alpha)
    assert np.array_equal(prepared.waveform, waveform)
    assert np.array_equal(prepared.wav32k, wav32k)


def test_the_gain_is_the_references_formula():
    one = np.ones(1, np.float32)
    assert scaled(one, 0.5, DEFAULTS, 32768) == pytest.approx(32768 * (0.95 * 0.5 / 0.5 + 0.5))
    assert scaled(one, 0.7, AudioSettings(alpha=1), 1) * 0.7 == pytest.approx(0.95)
    assert scaled(one, 0.7, AudioSettings(alpha=0), 1) == 1


def test_what_is_prepared_has_the_promised_shapes_and_types():
    prepared = prepare(SPEECH, DEFAULTS)
    samples = decode(SPEECH)
    assert prepared.waveform.dtype == np.float32
    assert prepared.waveform.flags.c_contiguous
    assert prepared.waveform.shape == (math.ceil(len(samples) / 2),)
    assert prepared.wav32k.dtype == np.int16
    assert prepared.wav32k.shape == samples.shape
    assert prepared.peak == np.abs(samples).max()
    assert prepared.duration_s == len(samples) / 32000
    assert prepared.clipped_samples == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_the_peak_is_the_largest_magnitude_of_either_sign(tmp_path, sign):
    samples = signal(4000) * 0.1
    samples[1234] = sign * 0.75
    assert prepare(write_floats(tmp_path / "a.wav", samples), DEFAULTS).peak == 0.75


# --- int16 ---------------------------------------------------------------------------------------


def test_int16_truncates_toward_zero_and_saturates():
    samples = [
        0.9,
        -0.9,
        1.5,
        -1.5,
        32767.0,
        32767.99,
        32768,
        40000,
        -32768,
        -32768.9,
        -32769,
        -9e9,
    ]
    expected = [0, 0, 1, -1, 32767, 32767, 32767, 32767, -32768, -32768, -32768, -32768]
    values, clipped_samples = to_int16(np.array(samples, np.float32))
    assert values.dtype == np.int16
    assert values.tolist() == expected
    assert clipped_samples == 4


def test_int16_leaves_its_input_alone():
    samples = np.array([1e6, -1e6, 3.7], np.float32)
    to_int16(samples)
    assert samples.tolist() == np.array([1e6, -1e6, 3.7], np.float32).tolist()


@pytest.mark.parametrize(("peak", "clips"), [(1.0, False), (1.04, False), (1.1, True), (2.2, True)])
def test_loud_recordings_are_held_at_full_scale_and_counted(tmp_path, peak, clips):
    samples = signal(8000) / 0.9
    samples *= peak / np.abs(samples).max()
    path = write_floats(tmp_path / "a.wav", samples)
    prepared = prepare(path, AudioSettings(max_peak=2.3))
    loud = scaled(decode(path), prepared.peak, DEFAULTS, 32768)
    assert (prepared.clipped_samples > 0) is clips
    expected_clipped = (np.trunc(loud) > 32767).sum() + (np.trunc(loud) < -32768).sum()
    assert prepared.clipped_samples == expected_clipped
    assert (np.sign(prepared.wav32k) * np.sign(loud) >= 0).all(), "nothing wrapped around"
    assert np.array_equal(prepared.wav32k, np.clip(np.trunc(loud), -32768, 32767))


# --- 32 to 16 kHz --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 2, 3, 799, 800, 801, 31999, 32000, 100_001])
def test_resampling_is_librosas_bit_for_bit(num_samples):
    samples = (signal(num_samples) * 500).astype(np.float32)
    resampled = resample_to_16k(samples)
    expected = librosa.resample(samples, orig_sr=32000, target_sr=16000)
    assert resampled.dtype == expected.dtype == np.float32
    assert np.array_equal(resampled, expected)


def test_torchaudios_resampler_is_a_choice_and_near():
    """On speech, which has little at the filters' edge; they are not the same filter."""
    soxr_waveform = prepare(SPEECH, DEFAULTS).waveform
    waveform = prepare(SPEECH, AudioSettings(resampler="torchaudio")).waveform
    assert waveform.dtype == np.float32
    assert waveform.shape == soxr_waveform.shape
    assert not np.array_equal(waveform, soxr_waveform)
    error = np.linalg.norm(waveform - soxr_waveform) / np.linalg.norm(soxr_waveform)
    assert error < 1e-2


def test_an_unknown_resampler_is_named_with_the_choices():
    with pytest.raises(ValueError, match=r"resampler.*'sox'.*soxr or torchaudio"):
        AudioSettings(resampler="sox")


# --- what is refused -----------------------------------------------------------------------------


def test_silence_is_refused_before_it_is_divided_by(tmp_path):
    assert reason_of(write_floats(tmp_path / "a.wav", [0.0] * 9000)) == "silent"
    assert reason_of(write_floats(tmp_path / "a.wav", [-0.0] * 9000)) == "silent"
    assert reason_of(write_floats(tmp_path / "a.wav", [1e-40] * 9000)) == "silent"


def detail_of(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        prepare(path, DEFAULTS)
    assert caught.value.reason == "silent"
    return str(caught.value)


@pytest.mark.parametrize("kind", PCM)
@pytest.mark.parametrize("rate_hz", [32000, 44100])
def test_channels_that_cancel_in_the_mix_are_not_called_silent(tmp_path, kind, rate_hz):
    left = np.round(signal(9000) * 100) / 128  # as exact negatives in every format
    path = tmp_path / "a.wav"
    path.write_bytes(
        wav_bytes(pack(np.stack([left, -left], 1).ravel(), kind), kind, rate_hz, num_channels=2)
    )
    detail = detail_of(path)
    assert "sound in its 2 channels, but none in their mix to mono" in detail
    assert "only zeros" not in detail


def test_what_a_mix_leaves_out_is_not_called_silent(tmp_path):
    """FFmpeg mixes no low-frequency channel in."""
    samples = np.zeros((9000, 6))
    samples[:, 3] = signal(9000)
    (tmp_path / "a.wav").write_bytes(wav_bytes(pack(samples.ravel(), "s16"), num_channels=6))
    assert "sound in its 6 channels, but none in their mix" in detail_of(tmp_path / "a.wav")


@pytest.mark.parametrize("num_channels", [1, 2, 6])
def test_channels_of_zeros_are_only_zeros(tmp_path, num_channels):
    (tmp_path / "a.wav").write_bytes(wav_bytes(bytes(36000), num_channels=num_channels))
    assert "only zeros" in detail_of(tmp_path / "a.wav")


def test_the_faintest_recording_is_no_silence(tmp_path):
    samples = np.zeros(9000)
    samples[5] = 2.0**-31
    prepared = prepare(write_floats(tmp_path / "a.wav", samples), DEFAULTS)
    assert prepared.wav32k[5] == int(32768 * 0.95 * 0.5)
    assert np.isfinite(prepared.waveform).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3.5e38])
@pytest.mark.parametrize("position", [0, 4567, 8999])
def test_a_single_non_finite_sample_is_found(tmp_path, bad, position):
    samples = signal(9000)
    samples[position] = bad
    with np.errstate(over="ignore"):
        path = write_floats(tmp_path / "a.wav", samples)
    assert reason_of(path) == "non_finite_audio"


def test_a_non_finite_sample_is_found_after_resampling_too(tmp_path):
    samples = signal(9000)
    samples[4567] = math.nan
    assert reason_of(write_floats(tmp_path / "a.wav", samples, 44100)) == "non_finite_audio"


@pytest.mark.parametrize(("peak", "passes"), [(2.19, True), (2.21, False), (3.0, False)])
def test_a_peak_above_the_gate_is_refused(tmp_path, peak, passes):
    samples = signal(9000)
    samples[10] = -peak
    path = write_floats(tmp_path / "a.wav", samples)
    if passes:
        assert prepare(path, DEFAULTS).clipped_samples > 0
    else:
        assert reason_of(path) == "peak_above_gate"
        assert prepare(path, AudioSettings(max_peak=4)).clipped_samples > 0


@pytest.mark.parametrize(("num_samples", "passes"), [(100, False), (798, False), (799, True)])
def test_the_shortest_recording_fills_one_window(tmp_path, num_samples, passes):
    """799 samples at 32 kHz are 400 at 16 kHz, rounded up: one frame."""
    path = write_floats(tmp_path / "a.wav", signal(num_samples))
    if passes:
        assert len(prepare(path, DEFAULTS).waveform) == 400
    else:
        assert reason_of(path) == "too_short"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"min_duration_s": 1.0, "max_duration_s": 1.0}, None),
        ({"min_duration_s": 1.01}, "too_short"),
        ({"max_duration_s": 0.99}, "too_long"),
    ],
)
def test_durations_are_gated_at_both_ends(tmp_path, settings, reason):
    path = write_pcm(tmp_path / "a.wav", "s16", 44100, 2, duration_s=1.0)
    if reason:
        assert reason_of(path, **settings) == reason
    else:
        assert prepare(path, AudioSettings(**settings)).duration_s == 1.0


def test_what_decoding_refuses_comes_through(tmp_path):
    assert reason_of(tmp_path / "none.wav") == "missing"
    assert reason_of(tmp_path) == "undecodable"
    (tmp_path / "nothing").touch()
    assert reason_of(tmp_path / "nothing") == "empty"


# --- the module ----------------------------------------------------------------------------------


def test_workers_start_without_torch():
    code = "import sys, extract.audio.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_that_is_exported_exists():
    assert all(hasattr(prepare_module, name) for name in prepare_module.__all__)


@pytest.mark.parametrize("name", CLIPS)
def test_every_demo_clip_can_be_prepared(name):
    prepared = prepare(DEMO / name, DEFAULTS)
    assert 1 < prepared.duration_s < 5
    assert 0.2 < prepared.peak < 1
    assert prepared.clipped_samples == 0


def test_the_demo_is_small_and_licensed():
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 1_000_000
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in CLIPS)
    assert "CC BY-SA 3.0" in readme
    assert "Definitions" in (DEMO / "LICENSE").read_text(encoding="utf-8")
