"""Cuts of PCM and FLAC: decoded from shortly before them, and the bits of the whole recording."""

import functools
import io
import struct

import numpy as np
import pytest
import soundfile

from extract.audio import decode as decode_module
from extract.audio import ffmpeg, silence
from extract.audio.decode import decode
from extract.audio.faults import AudioError
from extract.audio.seeking import begin_s
from extract.audio.spans import WHOLE, Span
from extract.values import Mix, RatePath
from support.recordings import signal

DURATION_S = 9
FLAC = ("flac", "PCM_16", 44100, 2)
KINDS = {
    "wav": ("wav", "PCM_16", 44100, 2),
    "wav, an odd rate": ("wav", "PCM_16", 44099, 1),
    "wav, 8 kHz": ("wav", "FLOAT", 8000, 2),
    "wav, six channels": ("wav", "PCM_24", 48000, 6),
    "rf64": ("rf64", "PCM_16", 22050, 2),
    "w64": ("w64", "PCM_16", 44100, 1),
    "aiff": ("aiff", "PCM_24", 48000, 2),
    "caf": ("caf", "PCM_16", 16000, 1),
    "au": ("au", "FLOAT", 44100, 2),
    "flac": FLAC,
    "flac, 24 bits": ("flac", "PCM_24", 96000, 1),
    "flac, 16 kHz": ("flac", "PCM_16", 16000, 1),
}
WAYS = [(RatePath.via_32k, Mix.ffmpeg), (RatePath.direct, Mix.mean)]


@functools.cache
def content(kind):
    """A recording's bytes."""
    container, subtype, rate_hz, num_channels = kind
    values = signal(DURATION_S * rate_hz * num_channels + 77 * num_channels)
    samples = values.reshape(-1, num_channels) * np.linspace(0.1, 0.5, num_channels)
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype, format=container)
    return file.getvalue()


def decoded(path, span=WHOLE, rate_path=RatePath.via_32k, mix=Mix.ffmpeg):
    with open(path, "rb") as file:
        return decode(file, "a", span=span, rate_path=rate_path, mix=mix)


@pytest.fixture
def decoded_s(monkeypatch):
    """Seconds that were decoded or read."""
    seconds, really, read = [], ffmpeg.Frames._decoded, decode_module.read_blocks

    def frames(self, packet):
        found = really(self, packet)
        seconds.extend(frame.samples / frame.sample_rate for frame in found)
        return found

    def blocks(file, header, *some):
        for block in read(file, header, *some):
            seconds.append(block.shape[1] / header.num_channels / header.rate_hz)
            yield block

    monkeypatch.setattr(ffmpeg.Frames, "_decoded", frames)
    monkeypatch.setattr(decode_module, "read_blocks", blocks)
    return seconds


@pytest.fixture(params=KINDS)
def path(request, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(content(KINDS[request.param]))
    return path


@pytest.mark.parametrize(("rate_path", "mix"), WAYS)
def test_a_cut_is_the_samples_of_the_whole_wherever_it_begins(path, rate_path, mix, decoded_s):
    whole = decoded(path, WHOLE, rate_path, mix)
    rng = np.random.default_rng(3)
    starts = [*rng.uniform(2, DURATION_S, 4), 0.7, 3, 7.99999, DURATION_S]
    for start_s in starts:
        span = Span.of(start_s, rng.uniform(0.001, 1.5)).at(whole.rate_hz)
        decoded_s.clear()
        cut = decoded(path, span, rate_path, mix)
        assert np.array_equal(cut.samples, whole.samples[span.start : span.stop]), span
        assert cut.rate_hz == whole.rate_hz
        # two seconds and a half before it, and a block of the resampler behind it
        assert sum(decoded_s) < 2.5 + span.stop_s - span.start_s + 16_384 / 8000
    to_end = decoded(path, Span.of(5.3, None).at(whole.rate_hz), rate_path, mix)
    assert np.array_equal(to_end.samples, whole.samples[round(5.3 * whole.rate_hz) :])


def test_decoding_begins_on_a_whole_second_with_room_for_the_resamplers_filter():
    for start_s, second in [(0.0, 0), (1.9, 0), (2.0, 0), (2.1, 1), (3600.0, 3598)]:
        assert begin_s(Span.of(start_s, 1.0), 44100, 1e6) == second
    assert begin_s(Span.of(500.0, 1.0), 44100, 60.0) == 58, "the last second says where the end is"
    assert begin_s(Span.of(10.0, 1.0), 10, 1e6) == 2, "of a low rate the filter is seconds long"


def test_the_resampler_of_a_low_rate_has_room_too(tmp_path):
    path = tmp_path / "a.wav"
    for rate_hz in (50, 1000):
        soundfile.write(path, signal(30 * rate_hz), rate_hz, "FLOAT")
        whole = decoded(path).samples
        for start_s in (3.1, 8.0, 20.5):
            span = Span.of(start_s, 1.0)
            assert np.array_equal(decoded(path, span).samples, whole[span.start : span.stop])


def test_how_long_a_cut_may_be_counts_from_the_recordings_beginning(tmp_path, monkeypatch):
    path = tmp_path / "a.flac"
    path.write_bytes(content(FLAC))
    monkeypatch.setattr(decode_module, "counted_duration_s", lambda *_some: None)
    with open(path, "rb") as file, pytest.raises(AudioError) as caught:
        decode(file, "a", 1.5, Span.of(6.0, 3.0))
    assert caught.value.reason == "too_long"
    assert "decoded 1.5 s; at most 1.5 s" in str(caught.value)


# --- files that lead astray ----------------------------------------------------------------------


def with_seek_table(flac, offsets):
    """A FLAC with a point a second. Source: RFC 9639, 8.5."""
    points = [struct.pack(">QQH", 44100 * n, offset, 4096) for n, offset in enumerate(offsets)]
    body = b"".join(points)
    return flac[:42] + b"\x03" + len(body).to_bytes(3, "big") + body + flac[42:]


def without_length(flac):
    """A FLAC that was streamed: its header counts no samples (36 bits from byte 21.5 on)."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def second_flac():
    """Five seconds, other samples."""
    file = io.BytesIO()
    soundfile.write(file, signal(5 * 44100)[::-1], 44100, format="flac")
    return file.getvalue()


def hostile_flacs():
    flac, length = content(FLAC), len(content(FLAC))
    return {
        "joined": content(("flac", "PCM_16", 44100, 1)) + second_flac(),
        "cut short": flac[: length * 2 // 3],
        "no length": without_length(flac),
        "behind a tag": b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + flac,
        "a seek table": with_seek_table(flac, [length * n // 10 for n in range(9)]),
        "offsets all 0": with_seek_table(flac, [0] * 9),
        "offsets turned round": with_seek_table(flac, [length * (9 - n) // 10 for n in range(9)]),
        "offsets past the end": with_seek_table(flac, [10**12] * 9),
    }


@pytest.mark.parametrize("name", hostile_flacs())
def test_a_flac_that_leads_astray_gives_what_its_whole_gives(tmp_path, name):
    path = tmp_path / "a.flac"
    path.write_bytes(hostile_flacs()[name])
    whole = decoded(path).samples
    for start_s in (2.2, 3.0, 4.7, 6.6, 8.9):
        span = Span.of(start_s, 0.3)
        expected = whole[span.start : span.stop]
        if len(expected):
            assert np.array_equal(decoded(path, span).samples, expected), start_s


# --- silent cuts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["wav", "flac"])
def test_why_a_cut_is_silent_is_found_in_the_cut_alone(tmp_path, container, decoded_s):
    path = tmp_path / "a"
    left = signal(20 * 16000)
    right = -left
    left[12 * 16000 : 14 * 16000] = right[12 * 16000 : 14 * 16000] = 0
    soundfile.write(path, np.stack([left, right], 1), 16000, "PCM_16", format=container)
    with open(path, "rb") as file:
        assert silence.channels_cancel(file, Span.of(10.1, 0.5)) == 2
        assert silence.channels_cancel(file, Span.of(12.1, 1.5)) == 0
        assert silence.channels_cancel(file, Span.of(14.1, 0.5)) == 2
    assert sum(decoded_s) < 3 * 4, "of 20 s"
