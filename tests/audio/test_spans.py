"""A span of a recording: the very samples that the whole one decodes to, and gates of its own."""

import math
import shutil
from itertools import pairwise

import numpy as np
import pytest

from extract.audio import decode as decode_module
from extract.audio import ffmpeg
from extract.audio.faults import AudioError
from extract.audio.spans import WHOLE, Span, taken
from extract.values import AudioSettings
from support.decoding import decode, prepare
from support.recordings import DEMO, PCM, pack, signal, wav_bytes, write_coded, write_pcm

DEFAULTS = AudioSettings()
CLIPS = ["fr_queue-quantity2.flac", "en_something-terribly-wrong.mp3", "es_vm-savemessage.ogg"]
KINDS = [*(f"{kind}-{rate_hz}.wav" for kind in PCM for rate_hz in (32000, 44100)), *CLIPS]
KINDS += ["a.m4a", "a.aac", "a.mp3"]


def write_kind(path):
    if path.name in CLIPS:
        shutil.copy(DEMO / path.name, path)
    elif path.suffix == ".wav":
        kind, rate_hz = path.stem.split("-")
        write_pcm(path, kind, int(rate_hz), 1 if rate_hz == "32000" else 2, duration_s=2.3)
    else:
        write_coded(path, duration_s=2.3)
    return path


@pytest.mark.parametrize("name", KINDS)
def test_a_span_is_cut_out_of_what_the_whole_decodes_to_bit_for_bit(tmp_path, name):
    path = write_kind(tmp_path / name)
    whole = decode(path)
    ends = [0, 1, 799, 16_000, 16_384, 16_385, 32_768, 40_001, 65_536, len(whole) - 1, len(whole)]
    for start, stop in [*pairwise(ends), (0, 40_001), (7, 50_000), (16_384, 32_768)]:
        samples = decode(path, span=Span(start, stop))
        assert np.array_equal(samples, whole[start:stop]), (start, stop)
        samples *= 2  # writable
    for start in (0, 5, 33_333, len(whole) - 1):
        assert np.array_equal(decode(path, span=Span(start)), whole[start:])
        assert np.array_equal(decode(path, span=Span(start, 10**9)), whole[start:])


def test_seconds_become_samples_by_rounding_each_end():
    assert Span.of(0.0, None) == WHOLE
    assert Span.of(1.5, None) == Span(48_000)
    assert Span.of(0.1, 0.2) == Span(3200, round((0.1 + 0.2) * 32000))
    assert Span.of(1.00001, 1.00001) == Span(32_000, 64_001), "not 32,000 and 32,000 more"
    assert str(Span.of(1.5, None)) == "from 1.5 s to the end"
    assert str(Span.of(1.5, 0.75)) == "from 1.5 s to 2.25 s"


def test_parts_behind_the_span_are_not_asked_for():
    closed = []

    def parts():
        try:
            yield from np.arange(50, dtype=np.float32).reshape(5, 10)
        finally:
            closed.append(True)

    for start, stop in [(0, 50), (3, 7), (9, 11), (10, 20), (0, 60), (33, 50), (5, 5), (49, 50)]:
        source = parts()
        samples, num_samples = taken(source, Span(start, stop))
        assert closed.pop()
        assert samples.tolist() == list(range(start, min(stop, 50)))
        assert num_samples == min(50, math.ceil(max(stop, 1) / 10) * 10)
    assert taken(parts(), Span(70, 80))[0].size == 0


@pytest.fixture
def decoded_s(monkeypatch):
    seconds, really = [], ffmpeg.Frames._decoded

    def counted(self, packet):
        frames = really(self, packet)
        seconds.extend(frame.samples / frame.sample_rate for frame in frames)
        return frames

    monkeypatch.setattr(ffmpeg.Frames, "_decoded", counted)
    return seconds


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a"])
def test_decoding_ends_with_the_span(tmp_path, name, decoded_s):
    path = write_coded(tmp_path / name, duration_s=20)
    assert len(decode(path, span=Span.of(1.0, 2.0))) == 64_000
    assert 3 < sum(decoded_s) < 3 + 1.5, "a block of the resampler, of half a second, is ahead"


def test_of_a_wav_that_is_not_resampled_its_part_alone_is_read(tmp_path, monkeypatch):
    read, really = [], decode_module.read_blocks
    path = write_pcm(tmp_path / "a.wav", "s16", 32000, 1, 30)

    def counted(*arguments):
        for block in really(*arguments):
            read.append(block.shape[1])
            yield block

    monkeypatch.setattr(decode_module, "read_blocks", counted)
    decode(path, span=Span.of(20.0, 0.5))
    assert sum(read) == 16_000


# --- gates ---------------------------------------------------------------------------------------

GATED = ["s16-32000.wav", "s16-44100.wav", "a.mp3", "a.m4a"]


def refusal(path, span, **settings) -> tuple[str, str]:
    with pytest.raises(AudioError) as caught:
        prepare(path, AudioSettings(**settings), span)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize("name", GATED)
def test_the_longest_allowed_is_asked_of_the_span(tmp_path, name):
    path = write_kind(tmp_path / name)  # 2.3 s
    for offset_s, duration_s in [(0.5, 1.0), (0.00001, 1.0), (0.70004, 1.0), (1.4, None), (2, 9.0)]:
        span = Span.of(offset_s, duration_s)
        assert prepare(path, AudioSettings(max_duration_s=1.0), span).duration_s <= 1.0 + 1 / 32000
    span = Span.of(0.3 / 32_000, 32_000.4 / 32_000)
    assert span == Span(0, 32_001), "a sample more, by rounding its ends"
    assert prepare(path, AudioSettings(max_duration_s=32_000.4 / 32_000), span)
    for offset_s, duration_s in [(0.5, 1.1), (1.0, None), (0.0, 9.0)]:
        reason, said = refusal(path, Span.of(offset_s, duration_s), max_duration_s=1.0)
        assert reason == "too_long"
        assert "at most 1 s (max_duration_s) are wanted" in said
        found_s = float(said.split(" s; ")[0].split()[-1])
        assert 1.0 <= found_s <= min(duration_s or 2.4, 2.4 - offset_s)


@pytest.mark.parametrize("name", GATED)
def test_a_span_that_is_too_long_ends_the_decoding(tmp_path, name, decoded_s):
    path = write_coded(tmp_path / "a.mp3", duration_s=20)
    assert refusal(path, Span.of(1.0, 15.0), max_duration_s=2.0)[0] == "too_long"
    assert sum(decoded_s) < 3.1


@pytest.mark.parametrize("name", GATED)
def test_the_shortest_allowed_is_asked_of_the_span(tmp_path, name):
    path = write_kind(tmp_path / name)
    for offset_s in (0.0, 0.00001, 0.50001, 1.3):
        prepared = prepare(path, AudioSettings(min_duration_s=0.9), Span.of(offset_s, 0.9))
        assert prepared.duration_s == pytest.approx(0.9, abs=1 / 32000)
    span = Span.of(0.6 / 32_000, 32_000.7 / 32_000)
    assert span == Span(1, 32_001), "a sample less, by rounding its ends"
    assert prepare(path, AudioSettings(min_duration_s=32_000.7 / 32_000), span)
    assert refusal(path, Span.of(0.5, 0.8), min_duration_s=0.9)[0] == "too_short"
    assert refusal(path, Span.of(1.9, 0.9), min_duration_s=0.9)[0] == "too_short", "past the end"
    assert refusal(path, Span.of(0.5, 0.01))[0] == "too_short"


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("duration_s", [None, 1.0])
def test_a_span_past_the_end_is_empty_and_says_where_the_end_is(tmp_path, name, duration_s):
    path = write_kind(tmp_path / name)
    end_s = len(decode(path)) / 32000
    reason, said = refusal(path, Span.of(5.0, duration_s))
    assert reason == "empty"
    assert said == f"{path}: the recording ends at {end_s:g} s; at least one is needed"
    reason, said = refusal(path, Span.of(1.0, 0.0))
    assert (reason, said) == ("empty", f"{path}: no samples; at least one is needed")


def test_another_stream_is_not_asked_for_what_lies_past_the_end(tmp_path, monkeypatch):
    path = write_coded(tmp_path / "a.m4a", layouts=("stereo", "mono"))
    asked, really = [], decode_module.best_stream
    monkeypatch.setattr(
        decode_module, "best_stream", lambda *some: asked.append(1) or really(*some)
    )
    with pytest.raises(AudioError):
        decode(path, span=Span.of(5.0, 1.0))
    assert len(asked) == 1


def test_peak_gain_and_silence_are_those_of_the_span(tmp_path):
    samples = signal(96_000) * 0.1
    samples[:32_000] *= 30
    samples[64_000:] = 0
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(pack(samples, "f32"), "f32"))
    assert refusal(path, WHOLE)[0] == refusal(path, Span.of(0.0, 1.0))[0] == "peak_above_gate"
    assert prepare(path, DEFAULTS, Span.of(1.0, 1.0)).peak < 0.1
    assert refusal(path, Span.of(2.0, 1.0))[0] == "silent"


@pytest.mark.parametrize("kind", ["u8", "s16", "f32"])
@pytest.mark.parametrize("rate_hz", [32000, 44100])
def test_channels_that_cancel_elsewhere_do_not_cancel_in_a_silent_span(tmp_path, kind, rate_hz):
    left = np.round(signal(3 * rate_hz) * 100) / 128
    left[rate_hz : 2 * rate_hz] = 0
    path = tmp_path / "a.wav"
    stereo = np.stack([left, -left], 1).ravel()
    path.write_bytes(wav_bytes(pack(stereo, kind), kind, rate_hz, num_channels=2))
    silent = Span.of(1.2, 0.6)
    assert "only zeros" in refusal(path, silent)[1]
    for span in (WHOLE, Span.of(0.2, 0.5), Span.of(2.2, None), Span.of(1.9, 0.2)):
        assert "sound in its 2 channels" in refusal(path, span)[1]
