"""`audio=plain`: what librosa, soundfile and the model's own preprocessor make of a recording."""

import shutil
import subprocess

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from transformers import Wav2Vec2FeatureExtractor

from extract.audio import decode as decode_module
from extract.audio import prepare as prepare_module
from extract.audio.faults import AudioError, opened
from extract.audio.prepare import normalized
from extract.audio.rates import resample_to_16k
from extract.audio.spans import WHOLE, Span
from extract.frames import ConvStack
from extract.opener import LocalFiles
from extract.values import AudioSettings, Gain, Mix, RatePath
from support.decoding import decode, prepare
from support.recordings import (
    DEMO,
    FFMPEG,
    PCM,
    RATES_HZ,
    ffmpeg_convert,
    pack,
    signal,
    speech_like,
    wav_bytes,
    write_coded,
    write_floats,
    write_pcm,
    write_wav,
)

PLAIN = {"rate_path": "direct", "mix": "mean", "gain": "none", "scale": 1.0, "max_peak": None}
SPEECH = DEMO / "en_tt-weasels.wav"
# librosa.load imports audioread, and that what Python 3.13 has dropped.
pytestmark = pytest.mark.filterwarnings("ignore:'(aifc|audioop|sunau)':DeprecationWarning")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="needs the ffmpeg program")


def plain(path, span=WHOLE, **settings):
    return prepare(path, AudioSettings(**{**PLAIN, **settings}), span)


def decode_as(path, rate_path="direct", mix="mean", span=WHOLE):
    with opened(LocalFiles(), str(path), str(path)) as file:
        ways = {"rate_path": RatePath[rate_path], "mix": Mix[mix]}
        return decode_module.decode(file, str(path), span=span, **ways)


def loaded(path):
    return librosa.load(path, sr=16_000, mono=True)[0]


# --- librosa.load(path, sr=16000, mono=True) -----------------------------------------------------


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("kind", PCM)
def test_a_16_khz_recording_is_librosas_and_soundfiles_bit_for_bit(tmp_path, kind, num_channels):
    path = write_pcm(tmp_path / "a.wav", kind, 16_000, num_channels, duration_s=2.6)
    waveform = plain(path).waveform
    assert waveform.dtype == np.float32
    assert waveform.flags.c_contiguous
    assert np.array_equal(waveform, loaded(path))
    by_time, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate_hz == 16_000
    assert np.array_equal(waveform, by_time.mean(axis=1))


@pytest.mark.parametrize("num_channels", [3, 4, 6, 7, 8, 9, 12])
def test_the_mean_of_many_channels_is_librosas_bit_for_bit(tmp_path, num_channels):
    path = tmp_path / "a.wav"
    samples = signal(16_385 * num_channels).reshape(-1, num_channels)
    soundfile.write(path, samples, 16_000, "FLOAT")
    assert np.array_equal(plain(path).waveform, loaded(path))


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_other_rates_are_resampled_once_as_librosa_does(tmp_path, ending, rate_hz, num_channels):
    path = tmp_path / f"a.{ending}"
    samples = signal(round(1.7 * rate_hz) * num_channels).reshape(-1, num_channels)
    soundfile.write(path, samples, rate_hz)
    prepared = plain(path)
    expected = loaded(path)
    assert prepared.waveform.shape == expected.shape
    assert np.abs(prepared.waveform - expected).max() <= 1e-6
    assert prepared.duration_s == soundfile.info(path).duration
    native = librosa.load(path, sr=None)[0]
    assert prepared.peak == np.abs(native).max()
    assert prepared.clipped_samples == 0


@pytest.mark.parametrize("num_samples", [601, 1102, 44_100, 44_101, 66_151, 88_200])
def test_the_number_of_samples_is_librosas(tmp_path, num_samples):
    path = write_floats(tmp_path / "a.wav", signal(num_samples), 22_050)
    assert plain(path).waveform.shape == loaded(path).shape


@pytest.mark.parametrize("name", ["fr_queue-quantity2.flac", "en_tt-weasels.wav"])
def test_the_demos_lossless_clips_are_librosas(name):
    assert np.array_equal(plain(DEMO / name).waveform, loaded(DEMO / name))


# --- each key ------------------------------------------------------------------------------------


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "b.wav"])
def test_the_mix_of_ffmpeg_at_the_recordings_own_rate_is_the_ffmpeg_programs(tmp_path, name):
    path = tmp_path / name
    if name == "a.wav":
        write_pcm(path, "s16", 44_100, 2, 2.3)
    elif name == "b.wav":
        soundfile.write(path, signal(6 * 40_000).reshape(-1, 6), 22_050, "PCM_24")
    else:
        write_coded(path)
    decoded = decode_as(path, mix="ffmpeg")
    command = [
        FFMPEG,
        "-nostdin",
        "-v",
        "quiet",
        "-i",
        str(path),
        *("-f", "f32le", "-ac", "1", "-"),
    ]
    expected = np.frombuffer(subprocess.run(command, capture_output=True).stdout, "<f4")
    assert decoded.rate_hz == (22_050 if name == "b.wav" else 44_100)
    np.testing.assert_array_equal(decoded.samples, expected)


@pytest.mark.parametrize("kind", PCM)
def test_ffmpegs_mix_and_the_mean_of_stereo(tmp_path, kind):
    path = write_pcm(tmp_path / "a.wav", kind, 16_000, 2, 1.1)
    by_time = soundfile.read(path, dtype="float32")[0]
    assert np.array_equal(plain(path).waveform, by_time.mean(axis=1))
    mixed = plain(path, mix="ffmpeg").waveform
    np.testing.assert_allclose(mixed, by_time.sum(axis=1) * np.sqrt(0.5), atol=1e-4)
    assert np.abs(mixed - by_time.mean(axis=1)).max() > 0.1


@needs_ffmpeg
@pytest.mark.parametrize("num_channels", [1, 2, 6])
def test_the_mean_goes_over_32_khz_too(tmp_path, num_channels):
    path, mono = tmp_path / "a.wav", tmp_path / "mono.wav"
    soundfile.write(path, signal(90_000 * num_channels).reshape(-1, num_channels), 44_100, "FLOAT")
    soundfile.write(mono, librosa.load(path, sr=None)[0], 44_100, "FLOAT")
    decoded = decode_as(path, rate_path="via_32k")
    assert decoded.rate_hz == 32_000
    assert np.array_equal(decoded.samples, decode(mono))


def test_channels_without_speakers_have_a_mean(tmp_path):
    """FFmpeg knows no way to mix three channels that no header places."""
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(pack(signal(7 * 16_000), "s16"), "s16", 16_000, 7, speakers=0))
    assert np.array_equal(plain(path).waveform, loaded(path))


def test_over_32_khz_and_back_is_another_waveform_and_the_training_audio_comes_with_it(tmp_path):
    path = write_pcm(tmp_path / "a.wav", "s16", 16_000, 1, 1.0)
    direct, over = plain(path), plain(path, rate_path="via_32k")
    assert (len(direct.wav32k), len(over.wav32k)) == (0, 32_000)
    assert direct.wav32k.dtype == np.int16
    assert np.array_equal(over.wav32k, np.clip(np.trunc(decode(path) * 32_768), -32_768, 32_767))
    assert over.clipped_samples == (np.abs(decode(path)) >= 1).sum() > 0 == direct.clipped_samples
    assert np.abs(direct.waveform - over.waveform).max() > 0.01


def test_the_gain_is_blended_at_the_decoded_rate_too(tmp_path):
    path = write_pcm(tmp_path / "a.wav", "s16", 16_000, 1, 1.0)
    x = loaded(path)
    peak = np.abs(x).max()
    blended = plain(path, gain="peak_blend", maxx=0.8, alpha=0.25).waveform
    np.testing.assert_allclose(blended, x * (0.8 * 0.25 / peak + 0.75), rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5, 1145.14])
def test_the_scale_is_a_factor(tmp_path, scale):
    path = write_pcm(tmp_path / "a.wav", "s16", 16_000, 1, 1.0)
    assert np.array_equal(plain(path, scale=scale).waveform, loaded(path) * np.float32(scale))
    blended = prepare(path, AudioSettings(scale=scale)).waveform
    np.testing.assert_allclose(
        blended / scale, prepare(path, AudioSettings()).waveform / 1145.14, atol=1e-6
    )


@pytest.mark.parametrize("width", [6, 128])
@pytest.mark.parametrize("rate_hz", [8000, 22_050, 44_100])
def test_torchaudio_with_a_width_is_its_own_resampler(tmp_path, rate_hz, width):
    """As ddsp_svc makes it: `torchaudio.transforms.Resample(rate, 16000, width)`."""
    path = write_pcm(tmp_path / "a.wav", "s16", rate_hz, 1, 1.01)
    own = torchaudio.transforms.Resample(rate_hz, 16_000, lowpass_filter_width=width)
    expected = own(torch.from_numpy(librosa.load(path, sr=None)[0])).numpy()
    waveform = plain(path, resampler="torchaudio", resampler_width=width).waveform
    assert waveform.shape == expected.shape
    assert np.abs(waveform - expected).max() <= 1e-6


def test_torchaudio_without_a_width_is_kaiser_best_as_it_always_was():
    samples = (signal(31_999) * 500).astype(np.float32)
    expected = torchaudio.functional.resample(
        torch.from_numpy(samples),
        32_000,
        16_000,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    resampled = resample_to_16k(samples, AudioSettings(resampler="torchaudio").resampler)
    assert np.array_equal(resampled, expected.numpy())


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("width", [None, 128])
def test_over_44_khz_is_what_so_vits_svc_and_ddsp_svc_load(tmp_path, rate_hz, num_channels, width):
    path = tmp_path / "a.wav"
    samples = signal(round(1.01 * rate_hz) * num_channels).reshape(-1, num_channels)
    soundfile.write(path, samples, rate_hz)
    at_44k = librosa.load(path, sr=44_100)[0]
    if width:
        resample = torchaudio.transforms.Resample(44_100, 16_000, lowpass_filter_width=width)
        expected = resample(torch.from_numpy(at_44k)).numpy()
    else:
        expected = librosa.resample(at_44k, orig_sr=44_100, target_sr=16_000)
    resampler = {"resampler": "torchaudio", "resampler_width": width} if width else {}
    prepared = plain(path, rate_path="via_44k", **resampler)
    assert prepared.waveform.shape == expected.shape
    assert np.abs(prepared.waveform - expected).max() <= 1e-6
    assert prepared.duration_s == len(at_44k) / 44_100
    assert prepared.peak == np.abs(at_44k).max()
    assert len(prepared.wav32k) == 0
    at_once = plain(path, **resampler).waveform
    assert np.array_equal(prepared.waveform, at_once) == (rate_hz == 44_100)


def test_a_cut_goes_over_44_khz_as_librosa_loads_it(tmp_path):
    path = write_floats(tmp_path / "a.wav", signal(48_000), 24_000)
    at_44k = librosa.load(path, sr=44_100, offset=0.5, duration=0.75)[0]
    expected = librosa.resample(at_44k, orig_sr=44_100, target_sr=16_000)
    prepared = plain(path, Span.of(0.5, 0.75), rate_path="via_44k")
    assert np.array_equal(prepared.waveform, expected)
    assert prepared.duration_s == len(at_44k) / 44_100


@pytest.mark.parametrize(("before", "after"), [(40, 40), (0, 7), (1, 0)])
def test_zeros_go_before_and_after(tmp_path, before, after):
    path = write_pcm(tmp_path / "a.wav", "s16", 16_000, 1, 1.0)
    whole = plain(path).waveform
    waveform = plain(path, pad_samples=(before, after)).waveform
    assert np.array_equal(waveform, np.concatenate([np.zeros(before), whole, np.zeros(after)]))
    assert plain(path, pad_samples=(before, after)).duration_s == 1.0


@pytest.mark.parametrize(("num_samples", "pads"), [(399, 0), (1, 0), (400, 0), (401, 0), (390, 4)])
def test_a_short_recording_is_padded_up_to_the_least(tmp_path, num_samples, pads):
    path = write_floats(tmp_path / "a.wav", signal(num_samples), 16_000)
    prepared = plain(path, min_samples=400, pad_samples=(pads, pads))
    assert len(prepared.waveform) == max(400, num_samples)
    assert np.array_equal(prepared.waveform[pads : pads + num_samples], loaded(path))
    assert not prepared.waveform[:pads].any()
    assert not prepared.waveform[pads + num_samples :].any()
    assert prepared.duration_s == num_samples / 16_000


def reason_of(path, **settings):
    with pytest.raises(AudioError) as caught:
        plain(path, **settings)
    return caught.value.reason


def test_too_short_is_what_is_too_short_with_its_zeros(tmp_path):
    path = write_floats(tmp_path / "a.wav", signal(320), 16_000)
    assert reason_of(path) == "too_short"
    assert reason_of(path, pad_samples=(40, 39)) == "too_short"
    assert reason_of(path, min_samples=399) == "too_short"
    assert len(plain(path, pad_samples=(40, 40)).waveform) == 400
    assert reason_of(path, min_samples=400, min_duration_s=0.5) == "too_short"


@pytest.mark.parametrize(("num_samples", "passes"), [(1099, False), (1100, True)])
def test_the_shortest_at_its_own_rate_fills_one_window(tmp_path, num_samples, passes):
    """1,100 samples at 44.1 kHz are 399.1 at 16 kHz: 400, as librosa has it."""
    path = write_floats(tmp_path / "a.wav", signal(num_samples), 44_100)
    if passes:
        assert len(plain(path).waveform) == len(loaded(path)) == 400
    else:
        assert len(loaded(path)) == 399
        assert reason_of(path) == "too_short"


# --- gates ---------------------------------------------------------------------------------------


def test_neither_loud_nor_silent_recordings_are_rejected(tmp_path):
    loud = signal(16_000)
    loud[10] = -3.5
    path = write_floats(tmp_path / "a.wav", loud, 16_000)
    assert plain(path).peak == 3.5
    assert reason_of(path, max_peak=3.4) == "peak_above_gate"
    silent = write_floats(tmp_path / "b.wav", [0.0] * 16_000, 16_000)
    prepared = plain(silent)
    assert not prepared.waveform.any()
    assert prepared.peak == 0
    assert not normalized(prepared.waveform).any()
    assert reason_of(silent, gain=Gain.peak_blend) == "silent"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_failed(tmp_path, bad):
    samples = signal(16_000)
    samples[4567] = bad
    assert reason_of(write_floats(tmp_path / "a.wav", samples, 16_000)) == "non_finite_audio"
    assert reason_of(write_floats(tmp_path / "a.wav", samples, 22_050)) == "non_finite_audio"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"min_duration_s": 1.0, "max_duration_s": 1.0}, None),
        ({"min_duration_s": 1.01}, "too_short"),
        ({"max_duration_s": 0.99}, "too_long"),
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_durations_are_gated_at_the_recordings_own_rate(tmp_path, name, settings, reason):
    path = tmp_path / name
    soundfile.write(path, speech_like(1.0, rate=22_050), 22_050)
    if reason:
        assert reason_of(path, **settings) == reason
    else:
        assert plain(path, **settings).duration_s == 1.0


# --- cuts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 22_050, 44_100])
@pytest.mark.parametrize(("ending", "num_channels"), [("wav", 1), ("wav", 2), ("flac", 2)])
def test_a_cut_is_counted_in_the_recordings_own_samples(tmp_path, rate_hz, ending, num_channels):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, signal(2 * rate_hz * num_channels).reshape(-1, num_channels), rate_hz)
    for first, stop in [(0, 5000), (1, 7778), (4321, 2 * rate_hz), (777, 12_346), (3, 5000)]:
        span = Span.of(first / rate_hz, (stop - first) / rate_hz)
        expected = soundfile.read(path, dtype="float32", always_2d=True, start=first, stop=stop)[0]
        decoded = decode_as(path, span=span)
        assert np.array_equal(decoded.samples, expected.mean(axis=1)), (first, stop)
        assert decoded.duration_s == len(expected) / rate_hz
    with pytest.raises(AudioError, match="the recording ends at 2 s"):
        plain(path, Span.of(5.0, 1.0))


def test_a_span_at_another_rate_is_rounded_from_its_seconds():
    span = Span.of(1 / 44_100, 2 / 44_100)
    assert span == Span(1, 2)
    assert span.at(44_100) == Span(1, 3, 44_100)
    assert span.at(44_100).at(32_000) == span
    assert span.at(32_000) is span
    assert Span(16_000, 32_000).at(8000) == Span(4000, 8000, 8000)
    assert Span(16_000).at(8000).is_open


# --- streams -------------------------------------------------------------------------------------


@needs_ffmpeg
def test_a_stream_that_changes_its_rate_stays_at_its_first(tmp_path):
    parts = []
    for number, rate_hz in enumerate((44_100, 22_050)):
        wav = write_wav(tmp_path / f"{number}.wav", 1.5, rate=rate_hz)
        parts.append(ffmpeg_convert(wav, tmp_path / f"{number}.aac"))
    path = tmp_path / "joined.aac"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    decoded = decode_as(path)
    assert decoded.rate_hz == 44_100
    assert decoded.duration_s == pytest.approx(3.1, abs=0.2)


def test_a_lossy_recording_is_resampled_from_its_own_rate(tmp_path):
    path = shutil.copy(DEMO / "en_something-terribly-wrong.mp3", tmp_path / "a.mp3")
    decoded = decode_as(path)
    expected = librosa.resample(decoded.samples, orig_sr=decoded.rate_hz, target_sr=16_000)
    assert np.array_equal(plain(path).waveform, expected)


# --- the model's own preprocessor ----------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.025, 0.73, 9.1])
@pytest.mark.parametrize("level", [1.0, 1e-3, 1145.14])
def test_the_input_norm_is_transformers_own(seconds, level):
    waveform = (speech_like(seconds) * level + 0.1).astype(np.float32)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, sampling_rate=16_000)
    [expected] = extractor(waveform, sampling_rate=16_000, return_tensors="np").input_values
    found = normalized(waveform)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("level", [1.0, 1e-3])
def test_the_input_norm_with_another_eps_is_fairseqs(tmp_path, level):
    path = write_floats(tmp_path / "a.wav", speech_like(0.73) * level, 16_000)
    x = torch.from_numpy(loaded(path))
    expected = torch.nn.functional.layer_norm(x, x.shape).numpy()
    with opened(LocalFiles(), str(path), "a") as file:
        settings = AudioSettings(**PLAIN, norm_eps=1e-5)
        found = prepare_module.prepare(file, "a", settings, unit_variance=True).waveform
    assert np.abs(found - expected).max() <= 1e-5
    assert np.abs(normalized(loaded(path)) - expected).max() > 1e-4


def test_the_input_norm_is_over_an_utterances_own_samples_before_zeros_are_put(tmp_path):
    path = write_pcm(tmp_path / "a.wav", "s16", 16_000, 1, 1.0)
    settings = AudioSettings(**PLAIN, pad_samples=(40, 41), min_samples=16_100)
    with opened(LocalFiles(), str(path), "a") as file:
        prepared = prepare_module.prepare(file, "a", settings, unit_variance=True)
    assert len(prepared.waveform) == 16_100
    assert np.array_equal(prepared.waveform[40:16_040], normalized(loaded(path)))
    assert prepared.peak == np.abs(loaded(path)).max()


def test_another_stack_says_what_is_too_short(tmp_path):
    path = write_floats(tmp_path / "a.wav", signal(99), 16_000)
    with opened(LocalFiles(), str(path), "a") as file:
        stack = ConvStack(((10, 5), (8, 4)))
        assert (
            len(prepare_module.prepare(file, "a", AudioSettings(**PLAIN), stack=stack).waveform)
            == 99
        )
